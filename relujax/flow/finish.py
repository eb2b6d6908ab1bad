"""The last stretch of a flow by minimum-norm Gauss–Newton steps that carry the activation state.

In one activation state the outputs are a smooth function of the parameters, and at its critical points, where neurons with
a_j ≠ 0 have no force left, the Hessian of the loss is the Gauss–Newton matrix: the step that solves the linearised problem with
the least norm converges quadratically, at interpolating, least-squares and sliding ends alike. It moves along the same
directions as the flow does, `Jᵀ` times something, and ends where the flow with a frozen kernel ends. It is written in the space
of the data: `δ = Jᵀ K⁺ n ρ`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..loss import AbstractLoss
from ..network import ShallowReLU, ravel, unravel
from .crossings import Slack, is_consistent
from .inclusion import Activation, Inclusion, State
from .tail import decompose

_ITERATIONS = 8
# eigenvalues of the kernel below this, relative to the largest, are those of directions that no parameter moves
_NULL = 1e-13
# eigenvalues of a Hessian below this, relative to the largest, are those of flat directions
_FLAT = 1e-11
# how far a finish may go, relative to the size of the network
_FAR = 1e-2


class Finished(NamedTuple):
    """The state after a finish, whether it is one, its gradient norm, the distance to it, and what the kernel allowed.

    `conditioning` is the smallest eigenvalue of the kernel that was inverted over the largest: where it is tiny, the flow would
    have taken very long for the last stretch.
    """

    state: State | ShallowReLU
    succeeded: Array
    gradient_norm: Float[Array, ""]
    distance: Float[Array, ""]
    conditioning: Float[Array, ""]


def finish(inclusion: Inclusion, state: State, activation: Activation, gradient_norm: Float[Array, ""]) -> Finished:
    """The critical point of one activation state near `state`.

    Succeeds when the gradient norm falls to `gradient_norm`, no neuron leaves its activation state, and the way is short beside
    the network; otherwise the flow has to go on.
    """

    def improve(carry):
        now, _, count, _ = carry
        kernel = decompose(inclusion, now, activation)
        known = kernel.values > _NULL * kernel.values[-1]
        rho = inclusion.pull(now, activation)
        pull = kernel.damp(jnp.where(known, 1 / jnp.where(known, kernel.values, 1.0), 0.0), rho)
        force = inclusion.hold(now.amplitudes[:, None] * (activation.active * pull), activation)
        hidden = now.hidden + force @ inclusion.moved
        amplitudes = now.amplitudes + inclusion.grow(pull, now.z, activation)
        z = jnp.where(activation.sliding, 0.0, hidden @ inclusion.inputs.T)
        new = State(hidden, amplitudes, z)
        smallest = jnp.min(jnp.where(known, kernel.values, jnp.inf)) / kernel.values[-1]
        return new, _norm(inclusion, new, activation), count + 1, smallest

    def goes_on(carry):
        _, norm, count, _ = carry
        return (norm > gradient_norm) & (count < _ITERATIONS)

    first = (state, _norm(inclusion, state, activation), jnp.asarray(0), jnp.ones_like(gradient_norm))
    end, norm, _, conditioning = jax.lax.while_loop(goes_on, improve, first)
    change = _length(end.hidden - state.hidden, end.amplitudes - state.amplitudes)
    size = _length(state.hidden, state.amplitudes)
    stays = is_consistent(inclusion, end, activation, Slack.at(inclusion, end, activation))
    succeeded = (norm <= gradient_norm) & (change <= _FAR * size) & stays
    return Finished(end, succeeded, norm, change, conditioning)


def finish_smooth(loss: AbstractLoss, net: ShallowReLU, gradient_norm: Float[Array, ""]) -> Finished:
    """The critical point of a smooth loss near a network, by Newton steps of minimum norm; `state` is a network here."""

    def gradient(vector):
        return ravel(loss.gradient(unravel(net, vector)))

    def improve(carry):
        vector, force, count, _ = carry
        values, vectors = jnp.linalg.eigh(loss.hessian(unravel(net, vector)))
        known = jnp.abs(values) > _FLAT * jnp.max(jnp.abs(values))
        step = vectors @ jnp.where(known, (vectors.T @ force) / jnp.where(known, values, 1.0), 0.0)
        smallest = jnp.min(jnp.where(known, values, jnp.inf)) / values[-1]
        return vector - step, gradient(vector - step), count + 1, smallest

    def goes_on(carry):
        _, force, count, _ = carry
        return (jnp.linalg.norm(force) > gradient_norm) & (count < _ITERATIONS)

    start = ravel(net)
    first = (start, gradient(start), jnp.asarray(0), jnp.ones_like(gradient_norm))
    end, force, _, conditioning = jax.lax.while_loop(goes_on, improve, first)
    norm, change = jnp.linalg.norm(force), jnp.linalg.norm(end - start)
    # with a negative eigenvalue the flow leaves again
    succeeded = (norm <= gradient_norm) & (change <= _FAR * jnp.linalg.norm(start)) & (conditioning > 0)
    return Finished(unravel(net, end), succeeded, norm, change, conditioning)


def _norm(inclusion, state, activation):
    return _length(*inclusion.velocity(inclusion.rates(state.z, state.amplitudes, activation)))


def _length(hidden, amplitudes):
    return jnp.sqrt(jnp.sum(hidden**2) + jnp.sum(amplitudes**2))
