"""A neuron that arrives at the origin, where it is on the boundaries of all data at once and the flow is not unique.

While it is there the pull on the data and its amplitude stand still, and gradient descent with any small step moves it as with
the step 1: `v ← v + a Σ_{i: x̃_i·v > 0} ρ_i x̃_i`. The branch of the flow taken here is that of this iteration, begun on the way
to the origin, as the steps go to 0. Where it goes back and forth around the origin, the neuron rests there: the mean of its
activations are multipliers with which nothing moves it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .balance import lengths
from .inclusion import Inclusion, State

# a neuron this small beside its amplitude is at the origin
_AT_ORIGIN = 1e-12
# descent starts so many of its own steps before the origin, not a whole number, and has left after so many, or goes no further
# in as many again
_BEFORE, _STEPS = 20.381966, 1000
# data within so many of its steps of their boundary at the end are met again and again
_NEAR = 4.0


def reaches_origin(inclusion: Inclusion, state: State, neuron: Array, arrives: Array | int) -> Bool[Array, ""]:
    """Whether a neuron that has just met a boundary, or whose slide has ended, is at the origin with an amplitude."""
    size = jnp.abs(state.amplitudes[neuron])
    return (jnp.asarray(arrives) >= 0) & (size > 0) & (lengths(state.hidden[neuron][None])[0] <= _AT_ORIGIN * size)


def descent_from_origin(
    inclusion: Inclusion, rho: Float[Array, " n"], amplitude: Float[Array, ""], shares: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Bool[Array, " n"], Bool[Array, ""]]:
    """Where descent goes that has come to the origin with activation `shares`: the data on which the neuron is active, those
    whose boundaries it follows, and whether it stays; it is active on a share of the steps then."""
    pull = amplitude * rho
    start = -_BEFORE * ((shares * pull) @ inclusion.moved)

    def active(hidden):
        return jnp.where(inclusion.linear, 1.0, (inclusion.moved @ hidden > 0).astype(rho.dtype))

    def step(_, carry):
        hidden, counts, swing = carry
        on = active(hidden)
        change = (on * pull) @ inclusion.moved
        return hidden + change, counts + on, jnp.maximum(swing, jnp.abs(inclusion.moved @ change))

    def half(_, carry):
        return jax.lax.fori_loop(0, _STEPS, step, (carry[0], jnp.zeros_like(rho), jnp.zeros_like(rho)))

    # the last half alone says where it has gone
    end, counts, swing = jax.lax.fori_loop(0, 2, half, (start, jnp.zeros_like(rho), jnp.zeros_like(rho)))
    near = (jnp.abs(inclusion.moved @ end) <= _NEAR * swing) & inclusion.crossable
    # data that nothing pulls on after the neuron has died are not near for that
    moves = jnp.any((active(end) > 0) & (pull != 0) & ~inclusion.linear)
    rests = moves & jnp.all(near | ~inclusion.crossable)
    return jnp.where(rests, counts / _STEPS, active(end)), near & moves, rests
