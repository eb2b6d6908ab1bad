"""Gradient flow of many networks at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..loss import AbstractLoss, EmpiricalLoss
from ..network import RealArray, ShallowReLU, ravel, unravel
from ..parallel import Progress, chunk_size, map_chunks
from .checks import check_flow
from .field import Field
from .integrate import Limits, integrate
from .result import Ensemble
from .steppers import AbstractStepper, RungeKutta

Observables = Mapping[str, Callable[[ShallowReLU], Any]] | Sequence[Callable[[ShallowReLU], Any]]


def flow_ensemble(
    loss: AbstractLoss,
    nets: ShallowReLU,
    *,
    end_time: float | Float[RealArray, " B"] = math.inf,
    gradient_norm: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    solver: diffrax.AbstractERK | AbstractStepper | None = None,
    kinks: Literal["auto", "step"] = "auto",
    max_steps: int = 100_000,
    save_at: Float[RealArray, " s"] | None = None,
    observe: Observables = (),
    progress: Progress | None = None,
    block: int | None = None,
) -> Ensemble:
    """Follow the gradient flow of every network of a stack, each with its own step sizes and its own stop.

    **Arguments:**

    - `nets`: a stack of B networks.
    - `end_time`: flow time at which to stop, one for all or one a network; time is that of `dθ/dt = −∇L`.
    - `gradient_norm`: stop a network when `|∇L|` over its trained parameters is below this and no neuron grows or turns any
      more (`Field.is_settled`); with neither a finite `end_time` nor this, `10 rtol` is taken. An explicit method cannot
      reach much less than `rtol`: finish with `polish`.
    - `rtol`, `atol`: the local error of parameter θ_i may be `rtol |θ_i| + atol |its neuron|`, in root mean square.
    - `solver`: an explicit diffrax Runge–Kutta solver, `diffrax.Tsit5()` unless said otherwise, or `flow.Chebyshev()` for
      the slow approach to a minimum.
    - `kinks`: `"step"`, which is what `"auto"` chooses: steps go over the kinks of an empirical loss, and the error control
      shortens those that cross one.
    - `save_at`: ascending times at which the loss and the observables are recorded.
    - `observe`: callables of one network, by name or in a sequence (then named by themselves).
    - `progress`: called as `progress(finished, total)` while networks finish.
    - `block`: networks that step together in one batch; chosen by device and size when not given. Results do not depend on
      it beyond rounding.

    **Returns:** an `Ensemble`. A network that fails says so in its `status`; nothing is raised for it.

    **Raises:** `ValueError` for an unstacked network, times or tolerances out of range, and implicit solvers.

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
    if kinks not in ("auto", "step"):
        raise ValueError(f"kinks is {kinks!r}: choose auto or step.")
    times = check_flow(nets, stacked=True, end_time=end_time, rtol=rtol, atol=atol, max_steps=max_steps, save_at=save_at)
    number, dtype = nets.weights.shape[0], jnp.asarray(nets.weights).dtype
    stepper = solver if isinstance(solver, AbstractStepper) else RungeKutta(diffrax.Tsit5() if solver is None else solver)
    if gradient_norm is None:
        gradient_norm = 0.0 if np.all(np.isfinite(end_time)) else 10 * rtol
    observables = _named(observe)
    block = _block(loss, nets) if block is None else block
    chunk = chunk_size(number, block=block)
    ends = np.broadcast_to(np.asarray(end_time, dtype), number)
    common = [jnp.asarray(value, dtype) for value in (gradient_norm, rtol, atol)] + [jnp.asarray(max_steps)]

    def run(part):
        part_nets, part_ends = part
        return _solve_chunk(loss, part_nets, part_ends, common, times, stepper, observables, block)

    joined = map_chunks(run, (jax.tree.map(np.asarray, nets), ends), chunk=chunk, progress=progress)
    networks, gradient_norms, time, losses, status, steps, rejected, evaluations, saved = joined
    return Ensemble(
        networks=networks,
        times=time,
        losses=losses,
        gradient_norms=gradient_norms,
        status=status,
        stats={"steps": steps, "rejected": rejected, "field_evaluations": evaluations},
        observed=saved,
        save_times=None if save_at is None else np.asarray(times),
    )


@eqx.filter_jit
def _solve_chunk(loss, nets, end_times, common, save_times, stepper, observables, block):
    def solve(given):
        net, end_time = given
        field = Field(loss, net)
        limits = Limits(end_time, *common)

        with_loss = (("loss", loss), *(pair for pair in observables if pair[0] != "loss"))
        observables_now = with_loss if save_times.size else ()

        def observe(state):
            here = unravel(net, state)
            return {name: jnp.asarray(function(here)) for name, function in observables_now}

        end = integrate(field, stepper, ravel(net), limits, save_times, observe)
        last = unravel(net, end.state)
        return (
            last,
            jnp.linalg.norm(end.velocity),
            end.time,
            loss(last),
            end.status,
            end.steps,
            end.rejected,
            end.evaluations,
            end.saved,
        )

    return jax.lax.map(solve, (nets, end_times), batch_size=block)


def _named(observe: Observables):
    if isinstance(observe, Mapping):
        return tuple(observe.items())
    return tuple((function.__name__, function) for function in observe)


def _block(loss, nets):
    """Networks that step together: a batch runs until its slowest member stops, but spreads the cost of small operations."""
    if jax.default_backend() != "cpu":
        return chunk_size(nets.weights.shape[0])
    large = isinstance(loss, EmpiricalLoss) and loss.targets.size * nets.width >= 256
    return 1 if large else 16
