"""Flows with inertia: the limits of heavy ball and of Nesterov's method for small steps."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from ..loss import AbstractLoss
from ..network import ShallowReLU, ravel, unravel
from ..parallel import Progress, chunk_size, map_chunks, map_first
from .checks import Times, check_flow
from .ensemble import Observables
from .observe import gradient_norm, named
from .result import Ensemble
from .status import FlowStatus


def momentum_flow(
    loss: AbstractLoss,
    nets: ShallowReLU,
    *,
    friction: float,
    vanishing: bool = False,
    end_time: float,
    save_at: Times | None = None,
    observe: Observables = (),
    rtol: float = 1e-7,
    atol: float = 1e-9,
    max_steps: int = 100_000,
    progress: Progress | None = None,
) -> Ensemble:
    """Follow `θ'' + b θ' + ∇L(θ) = 0` from rest, the limit of heavy ball, or `θ'' + (r/t) θ' + ∇L(θ) = 0`, that of Nesterov.

    **Arguments:**

    - `nets`: a stack of B networks.
    - `friction`: b, or with `vanishing` the r of the friction r/t.
    - `end_time`, `save_at`, `observe`, `progress`: as in `flow_ensemble`.
    - `rtol`, `atol`: of positions and velocities.

    The friction r/t is infinite at 0: the flow starts just after, with the velocity `−∇L t/(1 + r)` that it has there.

    Sources: Su, Boyd, Candès 2016; Bu, Xu, Chen 2020.

    **Returns:** an `Ensemble`; a loss along it need not fall.

    **Raises:** `ValueError` for times, tolerances or a friction out of range.

    ```python
    >>> import relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([1.0]))
    >>> nets = rj.ShallowReLU(jnp.array([[[0.1]]]), jnp.array([[1.0]]), train=("weights",))
    >>> end = momentum_flow(loss, nets, friction=2.0, end_time=1.0)
    >>> bool(jnp.isclose(1 - end.networks.weights[0, 0, 0], 0.9 * 2 / jnp.e, rtol=1e-5))
    True

    ```
    """
    times = check_flow(nets, stacked=True, end_time=end_time, rtol=rtol, atol=atol, max_steps=max_steps, save_at=save_at)
    if not (np.isfinite(friction) and friction >= 0):
        raise ValueError(f"the friction is {friction}: give a finite number that is not negative.")
    if times.size and times[-1] > end_time:
        raise ValueError(f"save_at goes up to {float(times[-1])} and end_time is {end_time}: save within the flow.")
    observables = named(loss, observe)
    settings = [jnp.asarray(value, times.dtype) for value in (friction, end_time, rtol, atol)]

    def run(part, count):
        return _solve(loss, part, count, settings, times, observables, vanishing, max_steps)

    given = jax.tree.map(np.asarray, nets)
    networks, losses, norms, steps, rejected, status, saved = map_chunks(
        run, given, chunk=chunk_size(nets.weights.shape[0]), progress=progress
    )
    return Ensemble(
        networks=networks,
        times=np.full(losses.shape, end_time, losses.dtype),
        losses=losses,
        gradient_norms=norms,
        status=status,
        stats={"steps": steps, "rejected": rejected},
        observed=saved if save_at is not None else {},
        save_times=None if save_at is None else np.asarray(times),
        level_times=None,
        events=None,
    )


@eqx.filter_jit
def _solve(loss, nets, count, settings, times, observables, vanishing, max_steps):
    friction, end_time, rtol, atol = settings

    def one(net):
        def slope(position):
            return ravel(loss.gradient(unravel(net, position)))

        def field(t, state, _):
            position, velocity = state
            return velocity, -(friction / t if vanishing else friction) * velocity - slope(position)

        position = ravel(net)
        start = 1e-6 * end_time if vanishing else jnp.zeros_like(end_time)
        pull = slope(position) / (1 + friction)
        begin = (position - pull * start**2 / 2, -pull * start) if vanishing else (position, jnp.zeros_like(position))

        def watch(t, state, _):
            here = unravel(net, state[0])
            return {name: jnp.asarray(function(here)) for name, function in observables}

        subs = {"end": diffrax.SubSaveAt(t1=True)}
        if times.size:
            subs["path"] = diffrax.SubSaveAt(ts=jnp.maximum(times, start), fn=watch)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=start,
            t1=end_time,
            dt0=None,
            y0=begin,
            saveat=diffrax.SaveAt(subs=subs),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, pcoeff=0.4, icoeff=0.3, norm=optx.rms_norm),
            max_steps=max_steps,
            throw=False,
        )
        end = unravel(net, solution.ys["end"][0][0])
        value, norm = loss(end), gradient_norm(loss)(end)
        reached = jnp.where(diffrax.is_successful(solution.result), FlowStatus.END_TIME, FlowStatus.STEP_LIMIT)
        status = jnp.where(jnp.isfinite(value) & jnp.isfinite(norm), reached, FlowStatus.DIVERGED)
        stats = solution.stats["num_steps"], solution.stats["num_rejected_steps"]
        return end, value, norm, *stats, status, solution.ys.get("path", {})

    return map_first(one, nets, count)
