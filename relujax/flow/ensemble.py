"""Gradient flow of many networks at once."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..loss import AbstractLoss, EmpiricalLoss
from ..network import RealArray, ShallowReLU, ravel, take, unravel
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
    max_steps: int = 100_000,
    save_at: Float[RealArray, " s"] | None = None,
    observe: Observables = (),
    progress: Callable[[int, int], None] | None = None,
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
    - `save_at`: ascending times at which the loss and the observables are recorded.
    - `observe`: callables of one network, by name or in a sequence (then named by themselves).
    - `progress`: called as `progress(finished, total)` while networks finish.
    - `block`: networks that step together in one batch; chosen by device and size when not given. Results do not depend on
      it beyond rounding.

    **Returns:** an `Ensemble`. A network that fails says so in its `status`; nothing is raised for it.

    **Raises:** `ValueError` for an unstacked network, times or tolerances out of range, and implicit solvers.

    Networks step over the kinks of an empirical loss. On a CPU, chunks of the ensemble go to one worker thread a core; with
    several devices, each chunk goes to the next device, through the same compiled function.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(2), jnp.ones(2)))
    >>> nets = rj.ShallowReLU(jax.random.normal(jax.random.key(0), (3, 2, 2)), jnp.ones((3, 2)), train=("weights",))
    >>> ends = rj.flow_ensemble(loss, nets, gradient_norm=1e-5)
    >>> [rj.FlowStatus(s).words for s in ends.status]
    ['converged', 'converged', 'converged']

    ```
    """
    times = check_flow(nets, stacked=True, end_time=end_time, rtol=rtol, atol=atol, max_steps=max_steps, save_at=save_at)
    number, dtype = nets.weights.shape[0], jnp.asarray(nets.weights).dtype
    stepper = solver if isinstance(solver, AbstractStepper) else RungeKutta(diffrax.Tsit5() if solver is None else solver)
    if gradient_norm is None:
        gradient_norm = 0.0 if np.all(np.isfinite(end_time)) else 10 * rtol
    observables = _named(observe)
    block, chunk = _block_and_chunk(loss, nets, block)
    ends = np.broadcast_to(np.asarray(end_time, dtype), number)
    common = [jnp.asarray(value, dtype) for value in (gradient_norm, rtol, atol)] + [jnp.asarray(max_steps)]

    def run(start, device):
        index = np.minimum(np.arange(start, start + chunk), number - 1)
        given = (loss, take(nets, index), ends[index], common, times)
        arrays, static = eqx.partition(given, eqx.is_array_like)
        placed = eqx.combine(jax.device_put(arrays, device), static)
        out = _solve_chunk(*placed, stepper, observables, block)
        kept = min(chunk, number - start)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:kept], out)

    parts = _in_parallel(run, range(0, number, chunk), number, chunk, progress)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    state, velocity_norm, time, losses, status, steps, rejected, evaluations, saved = joined
    return Ensemble(
        networks=unravel_each(nets, jnp.asarray(state)),
        times=time,
        losses=losses,
        gradient_norms=velocity_norm,
        status=status,
        stats={"steps": steps, "rejected": rejected, "field_evaluations": evaluations},
        observed=saved,
        save_times=None if save_at is None else np.asarray(times),
    )


def unravel_each(nets: ShallowReLU, vectors: Float[RealArray, "B p"]) -> ShallowReLU:
    """`unravel` of every row of `vectors` with the member of the stack that it belongs to."""
    return jax.vmap(unravel)(jax.tree.map(jnp.asarray, nets), vectors)


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
        return (
            end.state,
            jnp.linalg.norm(end.velocity),
            end.time,
            loss(unravel(net, end.state)),
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


def _block_and_chunk(loss, nets, block):
    """Networks that step together, and networks that make one call: a power of two of blocks, so that few sizes compile."""
    number = nets.weights.shape[0]
    if jax.default_backend() != "cpu":
        block = block or min(2 ** math.ceil(math.log2(max(number, 1))), 16384)
        return block, block
    if block is None:
        # a batch runs until its slowest member stops, but spreads the cost of starting small operations
        large = isinstance(loss, EmpiricalLoss) and loss.targets.size * nets.width >= 256
        block = 1 if large else 16
    eighth = max(number / 8, 1)
    return block, block * 2 ** max(0, math.ceil(math.log2(min(eighth, 512) / block)))


def _in_parallel(run, starts, number, chunk, progress):
    """`run(start, device)` for every start, on all devices, or on one worker thread a core of a CPU; results in order."""
    devices = jax.local_devices()
    workers = len(devices)
    if devices[0].platform == "cpu":
        workers = max(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers)
    try:
        futures = [pool.submit(run, start, devices[i % len(devices)]) for i, start in enumerate(starts)]
        parts = []
        for start, future in zip(starts, futures, strict=True):
            parts.append(future.result())
            if progress is not None:
                progress(min(start + chunk, number), number)
        return parts
    finally:
        # on an interrupt the chunks that have not begun are dropped
        pool.shutdown(wait=True, cancel_futures=True)
