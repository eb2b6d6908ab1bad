"""Flows with inertia: the limits of heavy ball and of Nesterov's method for small steps."""

from functools import partial
from typing import Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from .._precision import require_x64
from ..compilation import compile_nested
from ..loss import AbstractLoss, EmpiricalLoss
from ..network import ShallowReLU, ravel, unravel
from ..parallel import Progress, chunk_size, map_chunks, map_first
from .checks import Times, check_flow
from .ensemble import Observables
from .inclusion import Inclusion
from .inertia import Inertia
from .observe import gradient_norm, named
from .record import Recorder, unknown_where
from .result import Ensemble
from .status import FlowStatus

# kinks are located for so many pairs of neurons and data at most: of a wide network each of them moves little
_LOCATES_FOR = 2_000
# where friction r/t is taken up, in shares of the end time
_START = 1e-6


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
    kinks: Literal["auto", "step", "locate"] = "auto",
    max_steps: int = 100_000,
    progress: Progress | None = None,
) -> Ensemble:
    """Follow `θ'' + b θ' + ∇L(θ) = 0` from rest, the limit of heavy ball, or `θ'' + (r/t) θ' + ∇L(θ) = 0`, that of Nesterov.

    **Arguments:**

    - `nets`: a stack of B networks.
    - `friction`: b, or with `vanishing` the r of the friction r/t.
    - `end_time`, `save_at`, `observe`, `progress`: as in `flow_ensemble`.
    - `rtol`, `atol`: of positions and velocities.
    - `kinks`: of an empirical loss. `"locate"` finds every crossing of a boundary; where both sides push a neuron back it
      oscillates about the boundary, ever faster as friction brakes it, and slides along it as soon as its excursions are
      within the tolerance (`flow.inertia`). `"step"` steps over kinks, and comes to the step limit where neurons oscillate.
      `"auto"` locates in double precision, for up to 2000 pairs of neurons and data.

    The friction r/t is infinite at 0: the flow starts just after, with the velocity `−∇L t/(1 + r)` that it has there.

    Sources: Su, Boyd, Candès 2016; Bu, Xu, Chen 2020.

    **Returns:** an `Ensemble`; a loss along it need not fall. `times` are the times reached, and records beyond them NaN (−1
    where an observable is an integer).

    **Raises:** `ValueError` for times, tolerances or a friction out of range, and for kinks that cannot be located.

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
    recorder = Recorder(loss, times, jnp.zeros(0, times.dtype), named(loss, observe) if times.size else ())
    settings = [jnp.asarray(value, times.dtype) for value in (friction, end_time, rtol, atol)]
    locates = _locates(loss, nets, kinks)
    solve = partial(_solve_nested, _through_kinks) if locates else partial(_solve, _over_kinks)

    def run(part, count):
        return solve(recorder, part, count, settings, vanishing, max_steps)

    given = jax.tree.map(np.asarray, nets)
    networks, times_reached, losses, norms, status, stats, saved = map_chunks(
        run, given, chunk=chunk_size(nets.weights.shape[0]), progress=progress
    )
    return Ensemble(
        networks=networks,
        times=times_reached,
        losses=losses,
        gradient_norms=norms,
        status=status,
        stats=stats,
        observed=saved if save_at is not None else {},
        save_times=None if save_at is None else np.asarray(times),
        level_times=None,
        events=None,
    )


def _locates(loss, nets, kinks):
    if kinks not in ("auto", "step", "locate"):
        raise ValueError(f"kinks is {kinks!r}: choose auto, step or locate.")
    empirical = isinstance(loss, EmpiricalLoss)
    if kinks == "locate":
        if not empirical:
            raise ValueError(f"kinks are located for an empirical loss and this is {type(loss).__name__}: leave kinks out.")
        require_x64("locating kinks", nets)
    few = empirical and len(loss.targets) * nets.width <= _LOCATES_FOR
    return kinks == "locate" or (kinks == "auto" and few and jnp.asarray(nets.weights).dtype == jnp.float64)


def _solve_chunk(solve, recorder, nets, count, settings, vanishing, max_steps):
    loss = recorder.loss

    def one(net):
        end, time, stopped, stats, saved = solve(recorder, net, settings, vanishing, max_steps)
        value, norm = loss(end), gradient_norm(loss)(end)
        status = jnp.where(jnp.isfinite(value) & jnp.isfinite(norm), stopped, FlowStatus.DIVERGED)
        return end, time, value, norm, status, stats, saved

    return map_first(one, nets, count)


_solve, _solve_nested = eqx.filter_jit(_solve_chunk), compile_nested(_solve_chunk)


def _through_kinks(recorder, net, settings, vanishing, max_steps):
    friction, end_time, rtol, atol = settings
    begins = _START * end_time if vanishing else jnp.zeros_like(end_time)
    inertia = Inertia(Inclusion(recorder.loss, net), recorder, friction, rtol, atol, vanishing)
    done = inertia.follow(jax.tree.map(jnp.asarray, net), begins, end_time, jnp.asarray(max_steps))
    stats = {"steps": done.steps, "rejected": done.rejected, "kinks": done.kinks, "slides": done.slides}
    return done.network, done.time, done.status, stats, done.records.saved


def _over_kinks(recorder, net, settings, vanishing, max_steps):
    friction, end_time, rtol, atol = settings
    loss, times = recorder.loss, recorder.save_times

    def slope(position):
        return ravel(loss.gradient(unravel(net, position)))

    def field(t, state, _):
        position, velocity = state
        return velocity, -(friction / t if vanishing else friction) * velocity - slope(position)

    position = ravel(net)
    start = _START * end_time if vanishing else jnp.zeros_like(end_time)
    pull = slope(position) / (1 + friction)
    begin = (position - pull * start**2 / 2, -pull * start) if vanishing else (position, jnp.zeros_like(position))
    subs = {"end": diffrax.SubSaveAt(t1=True)}
    if times.size:
        subs["path"] = diffrax.SubSaveAt(
            ts=jnp.maximum(times, start), fn=lambda t, state, _: recorder.observe(unravel(net, state[0]))
        )
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
    end, time = unravel(net, solution.ys["end"][0][0]), solution.ts["end"][0]
    status = jnp.where(diffrax.is_successful(solution.result), FlowStatus.END_TIME, FlowStatus.STEP_LIMIT)
    none = jnp.zeros_like(solution.stats["num_steps"])
    stats = {
        "steps": solution.stats["num_steps"],
        "rejected": solution.stats["num_rejected_steps"],
        "kinks": none,
        "slides": none,
    }
    late = jnp.maximum(times, start) > time
    return end, time, status, stats, jax.tree.map(lambda values: unknown_where(late, values), solution.ys.get("path", {}))
