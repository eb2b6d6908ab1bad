"""Gradient flow of many networks at once."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._precision import require_x64
from ..compilation import compile_nested
from ..loss import AbstractLoss, EmpiricalLoss, SquaredError
from ..network import RealArray, ShallowReLU, hidden_vectors
from ..parallel import Progress, chunk_size, map_chunks, map_first
from .boundaries import SharedBoundaries
from .checks import Times, check_flow, check_stops
from .follow import Method, Plan
from .integrate import Limits
from .observe import Observable, named
from .pieces import AbstractPieces, RungeKuttaPieces, Taylor
from .relaxation import STEEP
from .result import Ensemble
from .steppers import AbstractStepper, RungeKutta, one_tableau

Observables = Mapping[str, Observable] | Sequence[Observable]

# kinks are located for so many pairs of neurons and data at most: for more they cost more than they gain
_LOCATES_FOR = 200_000
# relaxation saves a step a kink; with fewer pairs of neurons and data, compiling it takes longer than all those steps
_RELAXES_FROM = 1_000
# an explicit method does not bring the gradient norm much below this many times its tolerance
_FLOOR = 10.0


def flow_ensemble(
    loss: AbstractLoss,
    nets: ShallowReLU,
    *,
    end_time: float | Float[RealArray, " B"] | Sequence[float] = math.inf,
    gradient_norm: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    solver: diffrax.AbstractSolver | AbstractStepper | AbstractPieces | None = None,
    kinks: Literal["auto", "step", "locate"] = "auto",
    max_steps: int = 100_000,
    save_at: Times | None = None,
    observe: Observables = (),
    loss_levels: Float[RealArray, " l"] | Sequence[float] | None = None,
    record_events: int = 0,
    progress: Progress | None = None,
    block: int | None = None,
) -> Ensemble:
    """Follow the gradient flow of every network of a stack, each with its own step sizes and its own stop.

    **Arguments:**

    - `nets`: a stack of B networks.
    - `end_time`: flow time at which to stop, one for all or one a network; time is that of `dθ/dt = −∇L`.
    - `gradient_norm`: stop a network when `|∇L|` over its trained parameters is below this and no neuron grows or turns any
      more (`Field.is_settled`); with neither a finite `end_time` nor this, `10 (rtol + atol)` is taken. Smaller ones are
      reached by a finish, on data up to an error of third order in what was left to go that is within the tolerance, in the
      activation state. The network is then where the flow ends, `stats["finish_distance"]` away, and the time when `|∇L|`
      falls to `gradient_norm`, to first order.
    - `rtol`, `atol`: the local error of parameter θ_i may be `rtol |θ_i| + atol |its neuron|`; in root mean square where
      kinks are stepped over, in the largest neuron where they are located.
    - `solver`: an explicit diffrax Runge–Kutta solver, or `flow.Chebyshev()` for the slow approach to a smooth minimum, or
      `flow.Taylor()` where kinks are located. By default `diffrax.Tsit5()`, and Taylor series for located kinks of the
      squared error.
    - `kinks`: of an empirical loss. `"locate"` finds every crossing of a boundary, changes the activation there and lets
      neurons slide along boundaries that push them back from both sides (the flow is the Filippov solution of the
      differential inclusion); `"step"` steps over kinks and leaves them to the error control, which cannot tell a step
      that jumps over a slide from one that does not: the answer may then lie in another basin. `"auto"` locates in double
      precision, unless neurons times data exceed 200 000; `Ensemble.kinks` says which it was.
    - `save_at`: ascending times at which the loss and the observables are recorded; beyond the time that a network reaches they
      are those of its end where it rests there, and otherwise not a number, −1 where they are integers.
    - `observe`: callables of one network, by name or in a sequence (then named by themselves).
    - `loss_levels`: levels whose first passage is timed, by root finding inside the step, in `level_times`.
    - `record_events`: how many events a network are kept in `events`; needs located kinks.
    - `progress`: called as `progress(finished, total)` while networks finish.
    - `block`: networks that step together in one batch; chosen by device and size when not given. Results do not depend on
      it beyond rounding.

    **Returns:** an `Ensemble`. A network that fails says so in its `status`; nothing is raised for it.

    **Raises:** `ValueError` for an unstacked network, for times, tolerances or levels out of range, for solvers that are not
    explicit Runge–Kutta methods, and for located kinks in single precision or of a loss that has none.

    On a CPU, chunks of the ensemble go to one worker thread a core; with several devices, each chunk goes to the next
    device, through the same compiled function.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(2), jnp.ones(2)))
    >>> nets = rj.ShallowReLU(jax.random.normal(jax.random.key(0), (3, 2, 2)), jnp.ones((3, 2)), train=("weights",))
    >>> ends = rj.flow_ensemble(loss, nets, gradient_norm=1e-5)
    >>> [rj.FlowStatus(s).words for s in ends.status]
    ['converged', 'converged', 'converged']

    ```
    """
    options = {"end_time": end_time, "rtol": rtol, "atol": atol, "max_steps": max_steps, "save_at": save_at}
    times = check_flow(nets, stacked=True, loss=loss, **options)
    check_stops(end_time=end_time, gradient_norm=gradient_norm, loss_levels=loss_levels, block=block)
    # a network that the loss has no use for is refused before anything compiles
    jax.eval_shape(jax.vmap(loss), nets)
    number, dtype = nets.weights.shape[0], jnp.asarray(nets.weights).dtype
    if gradient_norm is None:
        gradient_norm = 0.0 if np.all(np.isfinite(end_time)) else _FLOOR * (rtol + atol)
    method = _method(loss, nets, kinks, solver, rtol, atol, gradient_norm, record_events)
    levels = jnp.asarray([] if loss_levels is None else loss_levels, dtype)
    block = _block(loss, nets, method) if block is None else block
    ends = np.broadcast_to(np.asarray(end_time, dtype), number)
    limits = [jnp.asarray(value, dtype) for value in (gradient_norm, rtol, atol)] + [jnp.asarray(max_steps)]
    plan = Plan(loss, method, times, levels, named(loss, observe) if times.size else ())
    solve = _solve_chunk if method.pieces is None else _solve_nested_chunk

    def run(part, count):
        return solve(plan, part, count, limits, block)

    chunk = chunk_size(number, block=block)
    followed = map_chunks(run, (jax.tree.map(np.asarray, nets), ends), chunk=chunk, progress=progress)
    return Ensemble(
        networks=followed.network,
        times=followed.time,
        losses=followed.loss,
        gradient_norms=followed.gradient_norm,
        status=followed.status,
        stats=followed.stats,
        observed=followed.observed,
        save_times=None if save_at is None else np.asarray(times),
        level_times=None if loss_levels is None else followed.level_times,
        events=followed.events,
        kinks="none" if not isinstance(loss, EmpiricalLoss) else "stepped over" if method.pieces is None else "located",
    )


def _follow_chunk(plan, given, count, limits, block):
    def solve(member):
        net, end_time = member
        return plan.follow(net, Limits(end_time, *limits))

    return map_first(solve, given, count, block=block)


_solve_chunk, _solve_nested_chunk = eqx.filter_jit(_follow_chunk), compile_nested(_follow_chunk)


def _method(loss, nets, kinks, solver, rtol, atol, gradient_norm, record_events):
    if kinks not in ("auto", "step", "locate"):
        raise ValueError(f"kinks is {kinks!r}: choose auto, step or locate.")
    if solver is not None and not isinstance(solver, AbstractStepper | AbstractPieces):
        one_tableau(solver)
    empirical, double = isinstance(loss, EmpiricalLoss), jnp.asarray(nets.weights).dtype == jnp.float64
    if kinks == "locate":
        if not empirical:
            raise ValueError(f"kinks are located for an empirical loss and this is {type(loss).__name__}: leave kinks out.")
        if isinstance(solver, AbstractStepper):
            raise ValueError(f"{type(solver).__name__} steps over kinks: give a diffrax solver or flow.Taylor() to locate them.")
        require_x64("locating kinks", nets)
    locates = kinks == "locate" or (
        kinks == "auto"
        and empirical
        and double
        and not isinstance(solver, AbstractStepper)
        and (len(loss.targets) * nets.width <= _LOCATES_FOR or isinstance(solver, AbstractPieces))
    )
    if isinstance(solver, AbstractPieces) and not locates:
        raise ValueError(
            f"{type(solver).__name__} locates kinks and kinks is {kinks!r}: give a diffrax solver to step over them."
        )
    if record_events < 0 or record_events != int(record_events):
        raise ValueError(f"record_events is {record_events}: give how many events to keep.")
    if record_events and not locates:
        raise ValueError(f"record_events is {record_events} and kinks are stepped over: give kinks='locate' as well.")
    finishes = double and 0 < gradient_norm < _FLOOR * (rtol + atol)
    pieces = _pieces(loss, solver) if locates or (finishes and empirical) else None
    aligns = locates and not record_events and _is_small(loss, nets)
    return Method(
        stepper=None if locates else _stepper(solver),
        pieces=pieces,
        aligns=aligns,
        relaxes=aligns and len(loss.targets) * nets.width >= _RELAXES_FROM,
        finishes=finishes and not isinstance(solver, AbstractStepper),
        log_size=int(record_events),
        shared=None if pieces is None else _shared_boundaries(loss, nets),
    )


def _shared_boundaries(loss, nets):
    inputs = np.asarray(loss.inputs, float)
    return SharedBoundaries.of(inputs if nets.biases is None else np.c_[inputs, np.ones(len(inputs))])


def _is_small(loss, nets):
    """Whether the outputs of some network may be so small that neurons hardly see each other."""
    hidden, amplitudes = np.asarray(hidden_vectors(nets)), np.asarray(nets.amplitudes)
    outputs = np.sum(np.linalg.norm(hidden, axis=2) * np.abs(amplitudes), axis=1)
    return bool(np.any(outputs <= STEEP * np.max(np.abs(loss.targets))))


def _stepper(solver):
    return solver if isinstance(solver, AbstractStepper) else RungeKutta(diffrax.Tsit5() if solver is None else solver)


def _pieces(loss, solver):
    if isinstance(solver, AbstractPieces):
        return solver
    # a stepper leaves only the finish to pieces
    if solver is None or isinstance(solver, AbstractStepper):
        return Taylor() if isinstance(loss.criterion, SquaredError) else RungeKuttaPieces(diffrax.Tsit5())
    return RungeKuttaPieces(solver)


def _block(loss, nets, method):
    """Networks that step together: a batch runs until its slowest member stops, but spreads the cost of small operations."""
    if jax.default_backend() != "cpu":
        return chunk_size(nets.weights.shape[0])
    large = isinstance(loss, EmpiricalLoss) and loss.targets.size * nets.width >= 256
    return 1 if large or method.stepper is None else 16
