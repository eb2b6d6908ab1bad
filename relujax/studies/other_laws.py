"""Losses of k neurons that learn k others, for activations and input laws beyond ReLU and the standard Gaussian one.

Expectations over the inputs are exact, but for the variances of Laplace inputs, which are sampled. Each loss also draws inputs of
its law, so that it can be held against a plain sum over them.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .. import arccos
from ..loss import AbstractLoss
from ..network import RealArray, ShallowReLU, ravel, unravel

_NODES, _ORDER = 80, 48


class AbstractLaw(AbstractLoss):
    """`½ E (Σ σ(w·x) − Σ σ(v·x))²` over the rows w of a network's weights and v of `teacher`; amplitudes are taken to be 1."""

    teacher: eqx.AbstractVar[Float[RealArray, "k d"]]

    @abc.abstractmethod
    def activation(self, preactivations: Float[Array, "..."]) -> Float[Array, "..."]:
        """σ."""

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], number: int) -> Float[Array, "n d"]:
        """Inputs of the law."""

    def gradient(self, net):
        force = jax.grad(lambda weights: self._value(weights))(jnp.asarray(net.weights))
        biases = None if net.biases is None else jnp.zeros_like(net.biases)
        return ShallowReLU(force, jnp.zeros_like(net.amplitudes), biases, train=net.train)

    def hessian(self, net):
        return jax.hessian(lambda vector: self._value(unravel(net, vector).weights))(ravel(net))

    def __call__(self, net):
        return self._value(jnp.asarray(net.weights))

    def sampled(self, weights: Float[RealArray, "k d"], key: Key[Array, ""], number: int) -> Float[Array, " n"]:
        """The halved squared error at inputs of the law."""
        inputs = self.draw(key, number)
        students, teachers = (jnp.sum(self.activation(inputs @ jnp.asarray(rows).T), axis=1) for rows in (weights, self.teacher))
        return (students - teachers) ** 2 / 2

    @abc.abstractmethod
    def _value(self, weights):
        """The loss of weights alone."""


class MixedGaussian(AbstractLaw):
    """ReLU with inputs `A z`, z standard normal and A one of `maps` with equal chances: `(M, d, d)`, or diagonals `(M, d)`."""

    teacher: Float[RealArray, "k d"]
    maps: Float[RealArray, "M d *d"]
    law: Callable[[Key[Array, ""], int], Float[Array, "n d"]] = eqx.field(static=True)

    def activation(self, preactivations):
        return jax.nn.relu(preactivations)

    def draw(self, key, number):
        return self.law(key, number)

    def _value(self, weights):
        vectors = jnp.concatenate([weights, self.teacher])
        coefficients = jnp.concatenate([jnp.ones(len(weights)), -jnp.ones(len(self.teacher))])

        def one(map_):
            return arccos.value(vectors @ map_ if map_.ndim == 2 else vectors * map_, coefficients)

        return jnp.mean(jax.vmap(one)(jnp.asarray(self.maps)))


class SmoothGaussian(AbstractLaw):
    """A smooth activation under standard Gaussian inputs.

    With `σ(r z) = Σ_n c_n(r) h_n(z)` in normalised Hermite polynomials, `E σ(w·x) σ(v·x) = Σ_n c_n(|w|) c_n(|v|) cosⁿ θ`. The
    coefficients come from Gauss–Hermite quadrature; for activations that are analytic they fall exponentially in √n.
    """

    teacher: Float[RealArray, "k d"]
    function: Callable[[Float[Array, "..."]], Float[Array, "..."]] = eqx.field(static=True)

    def activation(self, preactivations):
        return self.function(preactivations)

    def draw(self, key, number):
        return jax.random.normal(key, (number, np.shape(self.teacher)[1]))

    def _value(self, weights):
        vectors = jnp.concatenate([weights, self.teacher])
        signs = jnp.concatenate([jnp.ones(len(weights)), -jnp.ones(len(self.teacher))])
        norms, units = arccos.polar(vectors)
        nodes, table = _hermite()
        coefficients = signs[:, None] * (self.function(norms[:, None] * nodes) @ table)
        cosine = units @ units.T

        def add(carry, column):
            total, power = carry
            return (total + column @ power @ column, power * cosine), None

        start = jnp.zeros(()), jnp.ones_like(cosine)
        return jax.lax.scan(add, start, coefficients.T)[0][0] / 2


def _hermite():
    """Nodes of the standard normal law, and at each its weight times the normalised Hermite polynomials up to `_ORDER`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    polynomials = np.zeros((_NODES, _ORDER))
    polynomials[:, 0], polynomials[:, 1] = 1, nodes
    for n in range(1, _ORDER - 1):
        polynomials[:, n + 1] = (nodes * polynomials[:, n] - np.sqrt(n) * polynomials[:, n - 1]) / np.sqrt(n + 1)
    return nodes, (weights / weights.sum())[:, None] * polynomials
