"""Adaptive integration of one network's flow: a plain loop that compiles once and maps over networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .field import Field
from .status import FlowStatus
from .steppers import AbstractStepper

_RUNNING = -1
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0


class Limits(NamedTuple):
    """Tolerances and stops; arrays, so that changing one does not recompile."""

    end_time: Array
    gradient_norm: Array
    rtol: Array
    atol: Array
    max_steps: Array


class End(NamedTuple):
    """Where one trajectory stopped, why, and what it cost."""

    state: Float[Array, " p"]
    velocity: Float[Array, " p"]
    time: Array
    status: Array
    steps: Array
    rejected: Array
    evaluations: Array
    saved: Any


class _Carry(NamedTuple):
    state: Array
    velocity: Array
    memory: Any
    time: Array
    length: Array
    last_error: Array
    status: Array
    steps: Array
    rejected: Array
    evaluations: Array
    saved: Any
    next_save: Array


def integrate(
    field: Field,
    stepper: AbstractStepper,
    start: Float[Array, " p"],
    limits: Limits,
    save_times: Float[Array, " s"],
    observe: Callable[[Float[Array, " p"]], Any],
) -> End:
    """Follow the flow from `start` until it settles, reaches its end time, diverges or has made `max_steps` steps.

    `observe` is recorded at the times of `save_times`, which ascend; what a trajectory does not reach keeps the values at
    its end.
    """
    velocity = field(start)
    # a network that starts settled must not take one step, and one that starts broken must say so
    carry = _Carry(
        state=start,
        velocity=velocity,
        memory=stepper.begin(field, start, velocity),
        time=jnp.zeros((), start.dtype),
        length=_first_length(field, start, velocity, limits),
        last_error=jnp.ones((), start.dtype),
        status=jnp.asarray(_RUNNING),
        steps=jnp.asarray(0),
        rejected=jnp.asarray(0),
        evaluations=jnp.asarray(1),
        saved=jax.tree.map(lambda leaf: jnp.zeros((save_times.size, *leaf.shape), leaf.dtype), observe(start)),
        next_save=jnp.asarray(0),
    )
    carry = carry._replace(status=_status(field, carry, limits))
    carry = jax.lax.while_loop(
        lambda carry: carry.status == _RUNNING,
        lambda carry: _advance(field, stepper, carry, limits, save_times, observe),
        carry,
    )
    saved = _save_until(carry, save_times, jnp.inf, lambda _: observe(carry.state)).saved
    return End(carry.state, carry.velocity, carry.time, carry.status, carry.steps, carry.rejected, carry.evaluations, saved)


def _first_length(field, state, velocity, limits):
    """A hundredth of the time in which the fastest neuron would change by its own size (Hairer, Nørsett, Wanner II.4)."""
    norms = field.neuron_norms(state)
    speeds = jnp.sqrt(field.neuron_products(velocity, velocity))
    moving = (speeds > 0) & (norms > 0)
    times = jnp.where(moving, norms / jnp.where(moving, speeds, 1.0), jnp.inf)
    shortest = jnp.min(times)
    return jnp.where(jnp.isfinite(shortest), 0.01 * shortest, 1.0)


def _advance(field, stepper, carry, limits, save_times, observe):
    left = limits.end_time - carry.time
    length = jnp.minimum(carry.length, stepper.longest(carry.memory))
    is_last = length >= left
    length = jnp.where(is_last, left, length)
    step, memory = stepper.step(field, carry.state, carry.velocity, length, carry.memory)
    error = _error(field, step, limits)
    accepted = error <= 1
    factor = _factor(error, carry.last_error, stepper.error_order)
    end = jnp.where(is_last, limits.end_time, carry.time + length)
    if save_times.size:
        reached = jnp.where(accepted, end, -jnp.inf)
        carry = _save_until(
            carry, save_times, reached, lambda t: observe(stepper.interpolate(step, length, (t - carry.time) / length))
        )

    def pick(new, old):
        return jnp.where(accepted, new, old)

    after = carry._replace(
        state=pick(step.state, carry.state),
        velocity=pick(step.velocity, carry.velocity),
        memory=memory,
        time=pick(end, carry.time),
        # after a rejection the step must not grow
        length=length * jnp.where(accepted, factor, jnp.minimum(factor, 0.9)),
        last_error=pick(jnp.maximum(error, 1e-4), carry.last_error),
        steps=carry.steps + 1,
        rejected=carry.rejected + ~accepted,
        evaluations=carry.evaluations + step.evaluations,
    )
    return after._replace(status=_status(field, after, limits))


def _error(field, step, limits):
    """The root mean square of the error over what is allowed; infinite when the step went wrong."""
    scale = jnp.maximum(field.scale(step.start, limits.rtol, limits.atol), field.scale(step.state, limits.rtol, limits.atol))
    ratio = jnp.where(scale > 0, step.error / jnp.where(scale > 0, scale, 1.0), 0.0)
    error = jnp.sqrt(jnp.mean(ratio**2))
    return jnp.where(jnp.isfinite(error) & jnp.all(jnp.isfinite(step.velocity)), error, jnp.inf)


def _factor(error, last_error, order):
    """The change of the step size by a proportional-integral controller (Hairer and Wanner IV.2)."""
    safe = jnp.maximum(error, 1e-10)
    factor = _SAFETY * safe ** (-0.7 / order) * last_error ** (0.4 / order)
    return jnp.where(jnp.isfinite(error), jnp.clip(factor, _SHRINK, _GROW), _SHRINK)


def _save_until(carry, save_times, reached, observe_at):
    """Record the observables at the save times up to `reached`."""

    def is_due(state):
        index, _ = state
        return (index < save_times.size) & (save_times[jnp.minimum(index, save_times.size - 1)] <= reached)

    def save(state):
        index, saved = state
        values = observe_at(save_times[index])
        return index + 1, jax.tree.map(lambda all_, one: all_.at[index].set(one), saved, values)

    if save_times.size == 0:
        return carry
    index, saved = jax.lax.while_loop(is_due, save, (carry.next_save, carry.saved))
    return carry._replace(next_save=index, saved=saved)


def _status(field, carry, limits):
    finite = jnp.all(jnp.isfinite(carry.state)) & jnp.all(jnp.isfinite(carry.velocity))
    stuck = (carry.time + carry.length <= carry.time) & (carry.time < limits.end_time)
    status = jnp.asarray(_RUNNING)
    status = jnp.where(carry.steps >= limits.max_steps, FlowStatus.STEP_LIMIT, status)
    status = jnp.where(stuck, FlowStatus.STEP_TOO_SMALL, status)
    status = jnp.where(carry.time >= limits.end_time, FlowStatus.END_TIME, status)
    settled = field.is_settled(carry.state, carry.velocity, limits.gradient_norm)
    status = jnp.where(settled, FlowStatus.CONVERGED, status)
    return jnp.where(finite, status, FlowStatus.DIVERGED)
