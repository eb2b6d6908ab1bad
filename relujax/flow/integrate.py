"""Adaptive integration of one network's flow: a plain loop that compiles once and maps over networks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..loss import EmpiricalLoss
from ..network import ShallowReLU, ravel, unravel
from ..parallel import branch
from .aim import Aim, aimed_length
from .field import Field
from .origin import Origin
from .record import Recorder, Records
from .status import FlowStatus
from .steppers import AbstractStepper

RUNNING = -1
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
    records: Records


class _Carry(NamedTuple):
    state: Array
    velocity: Array
    memory: Any
    time: Array
    length: Array
    aim: Aim
    resting: Array | None
    status: Array
    steps: Array
    rejected: Array
    evaluations: Array
    records: Records


def integrate(field: Field, stepper: AbstractStepper, start: ShallowReLU, limits: Limits, recorder: Recorder) -> End:
    """Follow the flow from `start` until it settles, reaches its end time, diverges or has made `max_steps` steps."""
    state = ravel(start)
    velocity, origin = field(state), Origin.of(field)
    # a network that starts settled must not take one step, and one that starts broken must say so
    carry = _Carry(
        state=state,
        velocity=velocity,
        memory=stepper.begin(field, state, velocity),
        time=jnp.zeros((), state.dtype),
        length=first_length(field, state, velocity),
        aim=Aim.begin(state.dtype),
        resting=None if origin is None else origin.begin(),
        status=jnp.asarray(RUNNING),
        steps=jnp.asarray(0),
        rejected=jnp.asarray(0),
        evaluations=jnp.asarray(1),
        records=recorder.begin(start),
    )
    carry = carry._replace(status=_status(field, carry, limits))
    carry = jax.lax.while_loop(
        lambda carry: carry.status == RUNNING,
        lambda carry: _advance(field, origin, stepper, start, carry, limits, recorder),
        carry,
    )
    return End(
        carry.state, carry.velocity, carry.time, carry.status, carry.steps, carry.rejected, carry.evaluations, carry.records
    )  # fmt: skip


def first_length(field: Field, state: Float[Array, " p"], velocity: Float[Array, " p"]) -> Float[Array, ""]:
    """A hundredth of the time in which the fastest neuron would change by its own size (Hairer, Nørsett, Wanner II.4)."""
    norms = field.neuron_norms(state)
    speeds = field.neuron_norms(velocity)
    moving = (speeds > 0) & (norms > 0)
    times = jnp.where(moving, norms / jnp.where(moving, speeds, 1.0), jnp.inf)
    shortest = jnp.min(times)
    return jnp.where(jnp.isfinite(shortest), 0.01 * shortest, 1.0)


def _advance(field, origin, stepper, template, carry, limits, recorder):
    left = limits.end_time - carry.time
    length = jnp.minimum(carry.length, stepper.longest(carry.memory))
    if origin is not None:
        length = jnp.minimum(length, origin.longest(carry.state, carry.velocity))
    is_last = length >= left
    length = jnp.where(is_last, left, length)
    step, memory = stepper.step(field, carry.state, carry.velocity, length, carry.memory)
    error, allowed = _error(field, step, limits), limits.rtol + limits.atol
    if origin is not None:
        error = jnp.maximum(error, origin.lateness(step.state, carry.resting, length, allowed))
    accepted = error <= 1
    end = jnp.where(is_last, limits.end_time, carry.time + length)

    def pick(new, old):
        return jnp.where(accepted, new, old)

    records = recorder.record(
        carry.records,
        carry.time,
        pick(end, carry.time),
        lambda fraction: unravel(template, stepper.interpolate(step, length, fraction)),
    )
    factor = _factor(error, stepper.error_order)
    # after a rejection the step must not grow
    following, aim = length * jnp.where(accepted, factor, jnp.minimum(factor, 0.9)), carry.aim
    if stepper.aims and isinstance(field.loss, EmpiricalLoss):
        following, aim = aimed_length(field, step, length, aim, error, accepted, following)
    state, velocity, resting = pick(step.state, carry.state), pick(step.velocity, carry.velocity), carry.resting
    if origin is not None:
        state, velocity, resting, following = origin.visit(state, velocity, resting, following, allowed)
    after = carry._replace(
        state=state,
        velocity=velocity,
        memory=memory,
        time=pick(end, carry.time),
        length=following,
        resting=resting,
        aim=aim,
        steps=carry.steps + 1,
        rejected=carry.rejected + ~accepted,
        evaluations=carry.evaluations + step.evaluations,
        records=records,
    )
    return after._replace(status=branch(accepted, lambda: _status(field, after, limits), lambda: _limit(after, limits)))


def _error(field, step, limits):
    """The root mean square of the error over what is allowed; infinite when the step went wrong."""
    scale = jnp.maximum(field.scale(step.start, limits.rtol, limits.atol), field.scale(step.state, limits.rtol, limits.atol))
    ratio = jnp.where(scale > 0, step.error / jnp.where(scale > 0, scale, 1.0), 0.0)
    error = jnp.sqrt(jnp.mean(ratio**2))
    return jnp.where(jnp.isfinite(error) & jnp.all(jnp.isfinite(step.velocity)), error, jnp.inf)


def _factor(error, order):
    """The change of the step size by an integral controller, which recovers from kinks faster than one with memory."""
    factor = jnp.clip(_SAFETY * jnp.maximum(error, 1e-10) ** (-1 / order), _SHRINK, _GROW)
    return jnp.where(jnp.isfinite(error), factor, _SHRINK)


def _limit(carry, limits):
    """The status by everything but convergence."""
    stuck = (carry.time + carry.length <= carry.time) & (carry.time < limits.end_time)
    status = jnp.asarray(RUNNING)
    status = jnp.where(carry.steps >= limits.max_steps, FlowStatus.STEP_LIMIT, status)
    status = jnp.where(stuck, FlowStatus.STEP_TOO_SMALL, status)
    return jnp.where(carry.time >= limits.end_time, FlowStatus.END_TIME, status)


def _status(field, carry, limits):
    finite = jnp.all(jnp.isfinite(carry.state)) & jnp.all(jnp.isfinite(carry.velocity))
    settled = field.is_settled(carry.state, carry.velocity, limits.gradient_norm)
    status = jnp.where(settled, FlowStatus.CONVERGED, _limit(carry, limits))
    return jnp.where(finite, status, FlowStatus.DIVERGED)
