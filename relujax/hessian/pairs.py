"""The empirical Hessian from moments of pairs of neurons and pairs of inputs.

With x̃ = (x, 1), activations s_ij and curvatures c_i of the criterion, every block of the Hessian is a contraction of
`K[jk, ab] = Σ_i c_i s_ij s_ik x̃_ia x̃_ib / n`, which is symmetric in both pairs: one product of (pairs of neurons x data)
with (data x pairs of inputs) takes a quarter of the work of the Gauss–Newton product `JᵀCJ`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..loss import EmpiricalLoss, assemble
from ..network import ShallowReLU, hidden_vectors, number_of_parameters, preactivations


def suits_pairs(loss: EmpiricalLoss, net: ShallowReLU) -> bool:
    """Whether the pair form is the faster one: enough data, neurons and inputs to pay for spreading the moments out.

    It is also taken where a Jacobian of all data would fill memory.
    """
    (data, inputs), p = jnp.shape(loss.inputs), number_of_parameters(net)
    inputs += net.biases is not None
    if "weights" not in net.trained or data < min(max(p // 4, 64), 300):
        return False
    return (net.width >= 3 and inputs >= 4) or data * p > 2**24


def pair_hessian(loss: EmpiricalLoss, net: ShallowReLU) -> Float[Array, "p p"]:
    """The Hessian of one network, summed over slices of the data whose factors fit into the cache of a CPU.

    Besides the matrix it needs a quarter of one for the moments, one copy, and at most 16 MB (128 MB on an accelerator)
    for a slice.
    """
    inputs = jnp.asarray(loss.inputs)
    if net.biases is not None:
        inputs = jnp.concatenate([inputs, jnp.ones((len(inputs), 1), inputs.dtype)], axis=1)
    moments = _moments(loss, net, inputs)
    gain = jnp.asarray(net.amplitudes)
    hidden = gain[:, None, None, None] * gain[:, None] * moments
    if "amplitudes" not in net.trained:
        return assemble(net, hidden, None, None)
    vectors, neurons = hidden_vectors(net), jnp.arange(net.width)
    projected = jnp.einsum("jakb,kb->jak", moments, vectors)
    outer = jnp.einsum("jak,ja->jk", projected, vectors)
    cross = gain[:, None, None] * projected
    return assemble(net, hidden, cross.at[neurons, :, neurons].add(loss.neuron_correlations(net)), outer)


def _moments(loss, net, inputs):
    """K, shape (m, q, m, q)."""
    (n, q), m = inputs.shape, net.width
    (left, right), (first, second) = np.triu_indices(m), np.triu_indices(q)
    curvature = loss.criterion.curvature(loss.outputs(net), loss.targets) / n
    active = (preactivations(net, loss.inputs) > 0).astype(inputs.dtype)
    slices = math.ceil(n / slice_length(len(left) + len(first)))
    length = math.ceil(n / slices)

    def cut(array):
        filled = jnp.pad(array, [(0, slices * length - n)] + [(0, 0)] * (array.ndim - 1))
        return filled.reshape(slices, length, *array.shape[1:])

    def add(moments, part):
        x, c, s = part
        s = s.T
        return moments + (s[left] * s[right]) @ (c[:, None] * x[:, first] * x[:, second]), None

    nothing = jnp.zeros((len(left), len(first)), inputs.dtype)
    compact, _ = jax.lax.scan(add, nothing, (cut(inputs), cut(curvature), cut(active)))
    return compact[_number_of_pair(m)[:, None, :, None], _number_of_pair(q)[:, None, :]]


def slice_length(columns: int) -> int:
    """How many data make a slice when each of them takes `columns` numbers."""
    longest, elements = (128, 2**21) if jax.default_backend() == "cpu" else (4096, 2**24)
    return min(max(elements // columns, 8), longest)


def _number_of_pair(size):
    """The position of pair (i, j), in either order, in the list that `np.triu_indices(size)` makes."""
    number = np.zeros((size, size), int)
    rows, columns = np.triu_indices(size)
    number[rows, columns] = number[columns, rows] = np.arange(len(rows))
    return number
