"""Gradient flow of one network, differentiable end to end."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from ..loss import AbstractLoss
from ..network import ShallowReLU, ravel, unravel
from ..numbers import is_traced
from .checks import Number, Times, check_flow, traced_times
from .controller import NeuronController
from .field import Field
from .result import Trajectory
from .status import FlowStatus


def gradient_flow(
    loss: AbstractLoss,
    net: ShallowReLU,
    *,
    end_time: Number,
    save_at: Times | diffrax.SaveAt | None = None,
    rtol: Number = 1e-6,
    atol: Number = 1e-6,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int = 100_000,
    throw: bool = False,
) -> Trajectory:
    """Follow the gradient flow `dθ/dt = −∇L(θ)` of one network up to `end_time`, by diffrax.

    **Arguments:**

    - `end_time`: flow time at which to stop; like the save times it may be traced in a caller's `jax.jit`, and must then be
      in range when that runs: out of range everything is NaN, and the status `DIVERGED`.
    - `save_at`: ascending times in `[0, end_time]` whose networks are kept in `.path`, or a `diffrax.SaveAt`.
    - `rtol`, `atol`: the local error of parameter θ_i may be `rtol |θ_i| + atol |its neuron|`, in root mean square.
    - `solver`: any diffrax solver, `diffrax.Tsit5()` unless said otherwise.
    - `adjoint`: a diffrax adjoint that differentiates the steps themselves, by default `diffrax.DirectAdjoint()`, which serves
      forward and reverse mode, one inside the other too. `diffrax.RecursiveCheckpointAdjoint()` takes about half its time in
      reverse mode, and that is all it does.
    - `throw`: raise when the flow does not reach `end_time`, rather than say so in `.status`.

    **Returns:** a `Trajectory`. Gradients go through it: `jax.grad` of a function of the end is the derivative along the flow,
    in the network and in the arrays of the loss. On an empirical loss this ignores what moves the times of the kinks.

    **Raises:** `ValueError` for a stack, for times or tolerances out of range, for a solver without an error estimate, and for
    `diffrax.BacksolveAdjoint`: integrated backwards, gradient flow is unstable.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([1.0]))
    >>> end = rj.gradient_flow(loss, rj.ShallowReLU(jnp.array([[0.1]]), jnp.array([0.1])), end_time=40.0)
    >>> round(float(end.networks.amplitudes[0]), 4)
    1.0

    ```
    """
    if isinstance(adjoint, diffrax.BacksolveAdjoint):
        raise ValueError("BacksolveAdjoint follows gradient flow backwards, which is unstable: leave adjoint out.")
    solver = diffrax.Tsit5() if solver is None else solver
    plain = save_at if not isinstance(save_at, diffrax.SaveAt) else None
    times = check_flow(net, stacked=False, end_time=end_time, rtol=rtol, atol=atol, max_steps=max_steps, save_at=plain)
    _check_reach(end_time, times, solver)
    end_time, times, right = traced_times(end_time, times)
    keep = save_at if isinstance(save_at, diffrax.SaveAt) else diffrax.SaveAt(ts=times) if times.size else None
    end_only = diffrax.SubSaveAt(t1=True)
    field = Field(loss, jax.tree.map(jnp.asarray, net))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, state, field: field(state)),
        solver,
        t0=0.0,
        t1=end_time,
        dt0=None,
        y0=jnp.where(right, ravel(net), jnp.nan),
        args=field,
        saveat=diffrax.SaveAt(subs=end_only if keep is None else {"end": end_only, "path": keep.subs}),
        stepsize_controller=NeuronController(field=jax.lax.stop_gradient(field), rtol=rtol, atol=atol, norm=optx.rms_norm),
        adjoint=diffrax.DirectAdjoint() if adjoint is None else adjoint,
        max_steps=max_steps,
        throw=throw,
    )
    states, times_kept = (solution.ys, solution.ts) if keep is not None else ({"end": solution.ys}, {"end": solution.ts})
    end = unravel(net, states["end"][0])
    path = None if keep is None else unravel(net, states["path"])
    return Trajectory(
        networks=end,
        times=times_kept["end"][0],
        losses=loss(end),
        gradient_norms=jnp.linalg.norm(ravel(loss.gradient(end))),
        status=_status(solution.result, states["end"]),
        stats=_stats(solution, solver),
        observed={} if path is None else {"loss": jax.vmap(loss)(path)},
        save_times=times_kept.get("path"),
        path=path,
    )


def _check_reach(end_time, times, solver):
    if not is_traced(end_time) and not np.isfinite(end_time):
        raise ValueError(f"end_time is {end_time}: give a finite time; flow_ensemble stops at a gradient norm.")
    if times.size and not is_traced(end_time, times) and times[-1] > end_time:
        raise ValueError(f"save_at goes up to {float(times[-1])} and end_time is {end_time}: save within the flow.")
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(f"{type(solver).__name__} has no error estimate: give an adaptive solver such as diffrax.Tsit5().")


def _stats(solution, solver):
    steps, none = solution.stats["num_steps"], jnp.zeros_like(solution.stats["num_steps"])
    stats = {"steps": steps, "rejected": solution.stats["num_rejected_steps"], "kinks": none, "slides": none}
    if isinstance(solver, diffrax.AbstractERK) and isinstance(solver.tableau, diffrax.ButcherTableau):
        # the last stage of a step may be the first of the next one; one more evaluation sets the first step
        shared = int(solver.tableau.fsal)
        stats["field_evaluations"] = 1 + shared + steps * (solver.tableau.num_stages - shared)
    return stats


def _status(result, end):
    at_end = jnp.where(diffrax.is_successful(result), FlowStatus.END_TIME, FlowStatus.STEP_LIMIT)
    too_small = result == diffrax.RESULTS.dt_min_reached
    status = jnp.where(too_small, FlowStatus.STEP_TOO_SMALL, at_end)
    return jnp.where(jnp.all(jnp.isfinite(end)), status, FlowStatus.DIVERGED)
