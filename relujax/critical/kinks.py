"""First-order conditions at the kinks of an empirical loss, where a neuron's boundary passes through a datum.

With g₀ the gradient when the data on boundaries are inactive and `c_ij = c'(f(x_i)) a_j x̃_i / n` what datum i adds to the
gradient of neuron j when active, the one-sided derivative along θ' is `g₀·θ' + Σ sign(c'_i a_j) relu(|c_ij·θ'|)` over the
pairs (i, j) on boundaries: a pair with `c'_i a_j > 0` adds a convex term, one with `c'_i a_j < 0` a concave one. The least of
these over all directions is not negative exactly if, whichever of the concave pairs are active, zero lies in the box that
the convex pairs span (Clarke 1983, section 2.3; the box is the Clarke set where the data on each boundary are independent).
"""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import lsq_linear

from ..loss import EmpiricalLoss
from ..network import ShallowReLU, hidden_vectors, preactivations, ravel, unravel

# relative to |(w, b)| |(x, 1)|; the flow and the polish land this close to a boundary or clearly away from it
_ON_BOUNDARY = 1e-9
_ENUMERATED = 8


class KinkConditions(NamedTuple):
    """What holds at a point on kinks.

    - `pairs`: how many (datum, neuron) pairs are on a boundary.
    - `clarke_residual`: the norm of the smallest element of the box.
    - `descent`: the largest residual over the choices of concave pairs; above rounding there is a direction of descent.
    - `tangent`: an orthonormal basis of the directions that stay on all these boundaries, shape (p, t).
    """

    pairs: int
    clarke_residual: float
    descent: float
    tangent: Float[np.ndarray, "p t"]


def kink_conditions(loss: EmpiricalLoss, net: ShallowReLU) -> KinkConditions | None:
    """The conditions at the kinks that a network lies on; None when it lies on none that matter.

    Pairs with more than 8 concave members are tested with none, each one and all of them active: `descent` is then a
    lower bound.
    """
    data, neurons, additions = _additions(loss, net)
    if not len(data):
        return None
    normals = _normals(loss, net, data, neurons)
    gradient = np.asarray(ravel(loss.gradient(net)))
    counted = np.asarray(preactivations(net, loss.inputs))[data, neurons] > 0
    base = gradient - additions[:, counted].sum(axis=1)
    slopes = np.asarray(loss.criterion.slope(loss.outputs(net), loss.targets))
    convex = slopes[data] * np.asarray(net.amplitudes)[neurons] > 0
    bending, concave = additions[:, convex], additions[:, ~convex]
    descent = max(_smallest(base + concave @ choice, bending) for choice in _choices(concave.shape[1]))
    _, sizes, right = np.linalg.svd(normals.T)
    rank = int(np.sum(sizes > 1e-12 * sizes[0]))
    return KinkConditions(len(data), _smallest(base, additions), descent, right[rank:].T)


def _additions(loss, net):
    """Pairs on a boundary, without those that add nothing, and what each adds to the gradient when active, shape (p, pairs)."""
    inputs = np.asarray(loss.inputs)
    z = np.asarray(preactivations(net, loss.inputs))
    extended = np.sqrt(np.sum(inputs**2, axis=1) + (net.biases is not None))
    scale = extended[:, None] * np.linalg.norm(np.asarray(hidden_vectors(net)), axis=1)
    data, neurons = np.nonzero((np.abs(z) <= _ON_BOUNDARY * scale) & (scale > 0))
    slopes = np.asarray(loss.criterion.slope(loss.outputs(net), loss.targets)) / len(inputs)
    strength = slopes[data] * np.asarray(net.amplitudes)[neurons]
    kept = (np.abs(strength) > 1e-14 * (1 + np.max(np.abs(slopes)))) & bool({"weights", "biases"} & set(net.trained))
    data, neurons, strength = data[kept], neurons[kept], strength[kept]
    return data, neurons, strength * _normals(loss, net, data, neurons)


def _normals(loss, net, data, neurons):
    """The derivative of each pair's pre-activation in the trained parameters, shape (p, pairs)."""
    columns = np.zeros((ravel(net).size, len(data)))
    zero = unravel(net, jnp.zeros(ravel(net).size))
    for column, (i, j) in enumerate(zip(data, neurons, strict=True)):
        weights = np.zeros(net.weights.shape)
        weights[j] = np.asarray(loss.inputs)[i]
        biases = None if net.biases is None else np.eye(net.width)[j]
        one = ShallowReLU(jnp.asarray(weights), jnp.zeros_like(zero.amplitudes), biases, train=net.train)
        columns[:, column] = np.asarray(ravel(one))
    return columns


def _choices(number):
    if number <= _ENUMERATED:
        return [np.array(choice, float) for choice in itertools.product((0, 1), repeat=number)]
    return [np.zeros(number), np.ones(number), *np.eye(number)]


def _smallest(base, additions):
    """The norm of the smallest `base + additions t` with t between 0 and 1."""
    if additions.shape[1] == 0:
        return float(np.linalg.norm(base))
    fit = lsq_linear(additions, -base, bounds=(0, 1), tol=1e-14)
    return float(np.linalg.norm(base + additions @ fit.x))
