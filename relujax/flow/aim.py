"""Step sizes for stepping over kinks: up to a boundary, across it in one short step, and on as before.

Where a neuron crosses the boundary of a datum the velocity jumps, and a step across is as wrong as the jump times what it
goes. A controller that knows the order of the method alone needs a dozen rejections to become that short, and as many steps to
recover. The kink itself is in sight: after a rejection, and after every step of the approach, the pre-activations and their
rates say how far it is. Landing a little before it loses nothing, as no stage of the method sees the jump.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..network import preactivations, unravel
from .field import Field
from .steppers import Step

# a step that is this much too inaccurate has met a kink; below, shrinking it is cheaper than an approach
_TOO_INACCURATE = 30.0
# where a step crosses more boundaries than this, no single one makes it inaccurate
_FEW = 8
# what is left to a kink that was seen across a whole step, and to one that is near: inner stages reach a little ahead
_LEFT_FAR, _LEFT_NEAR = 0.05, 0.02
# steps of an approach before it is given up: a neuron that slides is always about to cross
_TRIES = 6


class Aim(NamedTuple):
    """The length to go on with after the kink that is approached, 0 when none is; how long a step across may be; tries left."""

    resume: Array
    crossing: Array
    tries: Array

    @staticmethod
    def begin(dtype) -> "Aim":
        """No kink in sight."""
        return Aim(jnp.zeros((), dtype), jnp.full((), 1e-6, dtype), jnp.asarray(_TRIES))


def aimed_length(field: Field, step: Step, length, aim: Aim, error, accepted, usual) -> tuple[Array, Aim]:
    """The length of the step after `step`, of the given length and error; `usual` is that of the controller."""

    def after_rejection():
        start, rates = _boundaries(field, step.start, step.start_velocity)
        crosses = (start > 0) != (_boundaries(field, step.state, step.velocity)[0] > 0)
        there = jnp.min(jnp.where(crosses, _time_to_zero(start, rates), jnp.inf))
        # the error of a step across is proportional to its length
        across = length * jnp.clip(0.9 / error, 1e-5, 0.9)
        aimed = jnp.maximum((1 - _LEFT_FAR) * jnp.minimum(there, length), across)
        met = jnp.sum(crosses)
        in_sight = (met > 0) & (met <= _FEW) & (error > _TOO_INACCURATE) & jnp.isfinite(error)
        following = aim._replace(resume=jnp.maximum(aim.resume, length))
        return jnp.where(in_sight, aimed, usual), jax.tree.map(lambda a, b: jnp.where(in_sight, a, b), following, aim)

    def after_step():
        end, rates = _boundaries(field, step.state, step.velocity)
        crossed = jnp.any((_boundaries(field, step.start, step.start_velocity)[0] > 0) != (end > 0))
        ahead = jnp.min(_time_to_zero(end, rates))
        nearer = jnp.where(ahead < aim.crossing, 2 * ahead, (1 - _LEFT_NEAR) * ahead)
        over = crossed | (aim.tries <= 0)
        crossing = jnp.where(crossed, length * jnp.clip(0.5 / error, 0.3, 3.0), aim.crossing)
        following = Aim(resume=jnp.where(over, 0.0, aim.resume), crossing=crossing, tries=jnp.where(over, _TRIES, aim.tries - 1))
        onwards = jnp.where(crossed, aim.resume, usual)
        return jnp.where(over, onwards, jnp.clip(nearer, 1e-6 * aim.resume, aim.resume)), following

    approaches = jnp.where(accepted, aim.resume > 0, True)
    return jax.lax.cond(approaches, lambda: jax.lax.cond(accepted, after_step, after_rejection), lambda: (usual, aim))


def _boundaries(field, state, velocity):
    """The pre-activations of all neurons on all data and their rates of change."""

    def at(state):
        return preactivations(unravel(field.template, state), field.loss.inputs)

    return jax.jvp(at, (state,), (velocity,))


def _time_to_zero(values, rates):
    """When values that move at constant rates vanish; infinite where they move away from 0 or rest."""
    return jnp.where(values * rates < 0, -values / jnp.where(rates != 0, rates, 1.0), jnp.inf)
