"""What gradient flow conserves of every neuron, `a² − |v|²`, and how a state is held to it.

A neuron with a² >= |v|² never changes the sign of its amplitude, and one with a² <= |v|² never reaches v = 0 (Du, Hu and Lee
2018; Boursier, Pillaud-Vivien and Flammarion 2022). Errors of a step would let neurons that shrink do both.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..network import ShallowReLU, hidden_vectors

# a² and |v|² that differ by less than this, relative to the larger, are equal: starts are balanced up to rounding
_EQUAL = 1e-14


class Balance(NamedTuple):
    """`gap` is `√|a² − |v|²|` with the sign of `a² − |v|²`, `sign` that of the amplitude, of every neuron at the start."""

    gap: Float[Array, " m"]
    sign: Float[Array, " m"]

    @staticmethod
    def of(hidden: Float[Array, "m q"], amplitudes: Float[Array, " m"]) -> "Balance":
        """The balance of a start."""
        sizes, norms = jnp.abs(amplitudes), lengths(hidden)
        difference, total = sizes - norms, sizes + norms
        gap = jnp.sign(difference) * jnp.sqrt(jnp.abs(difference)) * jnp.sqrt(total)
        return Balance(jnp.where(jnp.abs(difference) <= _EQUAL * total, 0.0, gap), jnp.sign(amplitudes))

    def hold(self, hidden: Float[Array, "m q"], amplitudes: Float[Array, " m"]) -> tuple[Array, Array]:
        """By what to multiply the hidden vectors, and the amplitudes: the better determined of the two sizes stays."""
        norms = lengths(hidden)
        by_amplitude = self.gap < 0
        wanted = jnp.hypot(self.gap, jnp.where(by_amplitude, amplitudes, norms))
        factors = jnp.where(by_amplitude & (norms > 0), wanted / jnp.where(norms > 0, norms, 1.0), 1.0)
        return factors, jnp.where(by_amplitude, amplitudes, self.sign * wanted)


def balance_drift(start: ShallowReLU, end: ShallowReLU) -> Float[Array, ""]:
    """How far `a² − |v|²` is from where it was, in the worst neuron, relative to the squared size of that neuron or to the
    difference itself where that is larger."""
    befores, afters = hidden_vectors(start), hidden_vectors(end)
    sizes = jnp.maximum(*(jnp.maximum(jnp.abs(n.amplitudes), lengths(v)) for n, v in ((start, befores), (end, afters))))
    scale = 1 / jnp.where(sizes > 0, sizes, 1.0)

    def differences(net, hidden):
        return (net.amplitudes * scale) ** 2 - jnp.sum((hidden * scale[:, None]) ** 2, axis=1)

    before, after = differences(start, befores), differences(end, afters)
    own = (jnp.maximum(jnp.abs(end.amplitudes), lengths(afters)) * scale) ** 2
    over = jnp.maximum(own, jnp.abs(before))
    return jnp.max(jnp.where(over > 0, jnp.abs(after - before) / jnp.where(over > 0, over, 1.0), 0.0))


def conserves_balance(net: ShallowReLU) -> bool:
    """Whether all of a neuron is trained, so that the flow of any loss conserves `a² − |v|²`."""
    return len(net.trained) == (2 if net.biases is None else 3)


def lengths(vectors: Float[Array, "m q"]) -> Float[Array, " m"]:
    """Euclidean norms that neither overflow nor underflow."""
    largest = jnp.max(jnp.abs(vectors), axis=1)
    return largest * jnp.linalg.norm(vectors / jnp.where(largest > 0, largest, 1.0)[:, None], axis=1)
