"""The vector field of the gradient flow, dθ/dt = −∇L(θ), and the scale on which each neuron's error is judged."""

import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..loss import AbstractLoss
from ..network import ShallowReLU, ravel, unravel


class Field(eqx.Module):
    """Gradient flow of `loss` on the trained parameters of networks laid out like `template`."""

    loss: AbstractLoss
    template: ShallowReLU

    def __call__(self, state: Float[Array, " p"]) -> Float[Array, " p"]:
        return -ravel(self.loss.gradient(unravel(self.template, state)))

    def neuron_norms(self, state: Float[Array, " p"]) -> Float[Array, " m"]:
        """The Euclidean norm of every neuron's trained parameters; neither overflows nor underflows."""
        largest = self._largest(state)
        scaled = state * self.spread(1 / jnp.where(largest > 0, largest, 1.0))
        return largest * jnp.sqrt(self._products(scaled, scaled))

    def spread(self, per_neuron: Float[Array, " m"]) -> Float[Array, " p"]:
        """One number a neuron, repeated over that neuron's trained parameters."""
        parts = [jnp.repeat(per_neuron, self.template.dim) if name == "weights" else per_neuron for name in self.template.trained]
        return jnp.concatenate(parts)

    def scale(self, state: Float[Array, " p"], rtol, atol) -> Float[Array, " p"]:
        """The error allowed in each parameter, `rtol |θ_i| + atol |neuron of θ_i|`.

        Relative to each neuron's own size, so that neurons of size 1e-12 are followed as closely as neurons of size 1 and the
        time at which they have grown is right.
        """
        return rtol * jnp.abs(state) + atol * self.spread(self.neuron_norms(state))

    def is_settled(self, state: Float[Array, " p"], velocity: Float[Array, " p"], gradient_norm) -> Array:
        """Whether the gradient norm is below `gradient_norm` and no neuron grows or turns at a relative rate above its root.

        Near the origin every gradient is small, yet the origin is a saddle that a network leaves at a rate of order 1.
        A neuron that only shrinks, or rests, does not hold the stop up.
        """
        norms = self.neuron_norms(state)
        safe = self.spread(1 / jnp.where(norms > 0, norms, 1.0))
        unit, turn = state * safe, velocity * safe
        growth, speed_squared = self._products(unit, turn), self._products(turn, turn)
        # speed² = growth² + turning²: without the part that shrinks the neuron
        rate = jnp.sqrt(jnp.maximum(speed_squared - jnp.where(growth < 0, growth**2, 0.0), 0.0))
        moving = jnp.max(jnp.where(norms > 0, rate, 0.0))
        return (jnp.linalg.norm(velocity) <= gradient_norm) & (moving <= jnp.sqrt(gradient_norm))

    def _products(self, left, right):
        """The inner product of two vectors of parameters, neuron by neuron."""
        pairs = zip(self._by_neuron(left), self._by_neuron(right), strict=True)
        return sum(jnp.sum(a * b, axis=1) for a, b in pairs)

    def _largest(self, state):
        return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(part), axis=1) for part in self._by_neuron(state)])

    def _by_neuron(self, state):
        m, d = self.template.width, self.template.dim
        parts, start = [], 0
        for name in self.template.trained:
            size = d if name == "weights" else 1
            parts.append(state[start : start + m * size].reshape(m, size))
            start += m * size
        return parts
