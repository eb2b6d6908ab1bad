"""How far a computed Hessian can be from the exact one, and from those of all networks near by.

Rounding of a sum of k products is bounded by `γ_k = k u / (1 − k u)` times the sum of absolute values (Higham 2002, section
3.1); the bounds on the kernel of the population loss follow the formulas of `arccos` step by step and take the square root
and the arctangent of the platform to be right to four roundings.
"""

import numpy as np
from jaxtyping import Float

from ..loss import AbstractLoss, EmpiricalLoss, PopulationLoss, SquaredError
from ..network import ShallowReLU, hidden_vectors, preactivations

# covers the rounding of the evaluation of the bounds themselves
_UPWARD = 1 + 1e-8


def gamma(k):
    """`k u / (1 − k u)`, with a unit roundoff u of twice that of float64."""
    u = np.finfo(float).eps
    return k * u / (1 - k * u)


def hessian_error(loss: AbstractLoss, net: ShallowReLU, *, distance: float = 0.0) -> float:
    """A bound on the spectral norm of (computed Hessian at `net`) − (exact Hessian at any network within `distance` of it).

    **Arguments:**

    - `distance`: Euclidean, over the trained parameters. With 0 only rounding counts.

    Where a datum lies on a neuron's boundary, to rounding or within `distance`, the Hessians of all linear pieces that meet
    there are covered, so that the bound is no longer small.

    **Raises:** `ValueError` for losses without a bound: criteria other than the squared error, and population losses with
    hidden biases.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0], [-2.0]]), jnp.array([1.0, 0.0]))
    >>> net = rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1))
    >>> hessian_error(loss, net) < 1e-14 < hessian_error(loss, net, distance=1e-6) < 1e-5
    True

    ```
    """
    if isinstance(loss, EmpiricalLoss) and isinstance(loss.criterion, SquaredError):
        return _UPWARD * _empirical(loss, net, distance)
    if isinstance(loss, PopulationLoss) and net.biases is None and loss.teacher.biases is None:
        return _UPWARD * _population(loss, net, distance)
    raise ValueError(f"no bound on the rounding of this {type(loss).__name__} is known: give error=, a bound of your own.")


def uncertain_pairs(loss: EmpiricalLoss, net: ShallowReLU, distance: float) -> Float[np.ndarray, "n m"]:
    """For every datum and neuron 0 where the activation is certain, else a bound on |pre-activation| within `distance`."""
    inputs, vectors = np.asarray(loss.inputs), np.abs(hidden_vectors(net))
    sizes = np.abs(_extended(inputs, net)) @ vectors.T
    reach = gamma(vectors.shape[1] + 2) * sizes
    if {"weights", "biases"} & set(net.trained):
        reach = reach + distance * np.linalg.norm(_extended(inputs, net), axis=1)[:, None]
    z = np.abs(preactivations(net, inputs))
    return np.where(z > _UPWARD * reach, 0.0, z + reach)


def _extended(inputs, net):
    return inputs if net.biases is None else np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def _empirical(loss, net, distance):
    """Bounds on the change of the Jacobian J and of the correlations C_j, for `H = JᵀJ/n + [0 C_j; C_jᵀ 0]`.

    On a linear piece f is bilinear in amplitudes and hidden vectors, so that a row of J moves by at most |x̃_i| distance.
    """
    inputs = _extended(np.asarray(loss.inputs), net)
    (n, q), m = inputs.shape, net.width
    amplitudes = np.abs(np.asarray(net.amplitudes))
    lengths = np.linalg.norm(inputs, axis=1)
    uncertain = uncertain_pairs(loss, net, distance)
    active = (np.asarray(preactivations(net, np.asarray(loss.inputs))) > 0) | (uncertain > 0)
    sizes = np.where(active, np.abs(inputs) @ np.abs(np.asarray(hidden_vectors(net))).T, 0.0)
    hidden, outer = bool({"weights", "biases"} & set(net.trained)), "amplitudes" in net.trained
    # J̄, the Jacobian of absolute values: its rows, and the norm of J̄ᵀJ̄/n by row sums
    gain = np.where(active, amplitudes, 0.0) * hidden
    features = sizes * outer
    rows = gain @ np.ones(m) * np.sum(np.abs(inputs), axis=1) + features @ np.ones(m)
    product = max(np.max((gain.T @ (np.abs(inputs) * rows[:, None])) / n), np.max(features.T @ rows) / n)
    flipped = np.where(uncertain > 0, (amplitudes + distance) * hidden * lengths[:, None] + outer * uncertain, 0.0)
    moved = distance * np.linalg.norm(lengths) + np.linalg.norm(flipped)
    error = gamma(n + 3 * q + 16) * product + (2 * np.sqrt(product * n) * moved + moved**2) / n
    if not (hidden and outer):
        return error
    residuals = sizes @ amplitudes + np.abs(np.asarray(loss.targets))
    jacobian_rows = np.sqrt(np.sum(gain**2, axis=1) * lengths**2 + np.sum(features**2, axis=1))
    drift = jacobian_rows * distance + lengths * distance**2 / 2 + (uncertain @ (amplitudes + distance))
    changes = (gamma(n + q + m + 16) * residuals + drift) * lengths
    present = np.abs(np.asarray(loss.outputs(net)) - np.asarray(loss.targets)) * lengths
    switches = np.where(uncertain > 0, (present + changes)[:, None], 0.0)
    return error + np.max((active.T @ changes + np.sum(switches, axis=0)) / n)


def _population(loss, net, distance):
    """Block by block: M between hidden vectors, their own bend, forces, overlaps; then the largest sum over a row of blocks.

    As functions of unit vectors û and t̂, `2π M` changes by at most 4 (|δû| + |δt̂|), and `sin θ (I − ûûᵀ + nnᵀ)` by at most
    8 |δû| + 4 |δt̂|.
    """
    d, m = net.dim, net.width
    hidden, outer = "weights" in net.trained, "amplitudes" in net.trained
    shift_w, shift_a = distance * hidden, distance * outer
    weights, teacher = np.asarray(net.weights), np.asarray(loss.teacher.weights)
    strengths = np.abs(np.concatenate([net.amplitudes, loss.teacher.amplitudes]))
    norms = np.linalg.norm(np.concatenate([weights, teacher]), axis=1)
    a, r = strengths[:m], norms[:m]
    if shift_w >= np.min(r) or np.min(r) == 0:
        return np.inf
    # movements: of amplitudes, of norms and of unit vectors; the teacher does not move
    da = np.concatenate([np.full(m, shift_a), np.zeros(len(teacher))])
    dr = np.concatenate([np.full(m, shift_w), np.zeros(len(teacher))])
    du = dr / np.where(norms > dr, norms - dr, 1.0)
    unit = 8 * (d + 16) * np.finfo(float).eps
    turned = np.add.outer(du[:m], du[:m])
    np.fill_diagonal(turned, 0.0)  # a neuron turns with itself
    mixed = np.outer(a, a) * (unit + 4 * turned / (2 * np.pi))
    mixed += (np.outer(a + shift_a, a + shift_a) - np.outer(a, a)) / 2
    # the direction n loses its digits where neurons oppose each other
    total = _sums_of_units(np.concatenate([weights, teacher]))[:m]
    if np.min(total) < 1e-10:
        return np.inf
    worse = 1 + unit / total
    pull, pull_later = strengths * norms, (strengths + da) * (norms + dr)
    bend = 4 * unit * worse * pull + gamma(len(norms) + 8) * 2 * pull + (8 * du[:m, None] + 4 * du) * pull_later
    later, sooner = pull_later / (r - shift_w)[:, None], pull / r[:, None]
    np.fill_diagonal(bend, 0.0)  # a neuron does not bend itself
    np.fill_diagonal(later, 0.0)
    np.fill_diagonal(sooner, 0.0)
    own = np.sum(bend / (r - shift_w)[:, None] + 2 * (later - sooner), axis=1) / (2 * np.pi)
    own = (a + shift_a) * own + shift_a * 2 * np.sum(later, axis=1) / (2 * np.pi)
    if not outer:
        return np.max(np.sum(mixed, axis=1) + own)
    slope = 1 / 2 + 1 / np.pi  # of the gradient of an overlap, in units of |v| du + dr
    gradient = unit * norms + slope * (norms + dr) * du[:m, None] + dr / 2
    cross = (a + shift_a)[:, None] * gradient[:, :m] + shift_a * (r + shift_w) / 2
    force = np.sum((strengths + da) * (gradient + gamma(len(norms) + 8) * norms) + da * (norms + dr) / 2, axis=1)
    overlap = unit * np.outer(r, r) + (np.outer(r + shift_w, r + shift_w) - np.outer(r, r)) / 2
    if not hidden:
        return np.max(np.sum(overlap, axis=1))
    return max(
        np.max(np.sum(mixed, axis=1) + own + np.sum(cross, axis=1) + force),
        np.max(np.sum(cross, axis=0) + force + np.sum(overlap, axis=1)),
    )


def _sums_of_units(vectors):
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(float).tiny)
    return np.linalg.norm(units[:, None] + units, axis=-1)
