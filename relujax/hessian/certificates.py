"""Statements about the signs of the eigenvalues of a Hessian that rounding cannot undo."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Int

from .._precision import require_x64
from ..loss import AbstractLoss, EmpiricalLoss
from ..network import ShallowReLU, dead_neurons, hidden_vectors, is_stacked, number_of_parameters, take
from .dense import compiled_hessian
from .enclosures import Enclosure, enclose, is_positive_definite
from .reduced import reduced_enclosure, suits_reduction
from .rounding import gamma, hessian_error


class Inertia(eqx.Module):
    """How many eigenvalues are certainly negative, certainly positive, and neither; one number a network.

    `tolerance`: eigenvalues further from 0 than this are decided. It covers the rounding of the Hessian and of its
    eigenvalues, and the distance that was asked for.
    """

    negative: Int[np.ndarray, "*batch"]
    undecided: Int[np.ndarray, "*batch"]
    positive: Int[np.ndarray, "*batch"]
    tolerance: Float[np.ndarray, "*batch"]


def inertia(loss: AbstractLoss, nets: ShallowReLU, *, distance: float = 0.0, error: float | None = None) -> Inertia:
    """Certified counts of negative and positive eigenvalues, for a network or every network of a stack.

    **Arguments:**

    - `distance`: the counts hold for every network within this Euclidean distance, over the trained parameters. At the end
      of a flow or a polish this is how far the critical point may be; without it, roundings of the point show up as negative
      eigenvalues.
    - `error`: a bound on the spectral norm of the error of the Hessian; `hessian_error` when it is None.

    Eigenvalues that are exactly 0, such as those of rescaling, are undecided, and so are all whose sign depends on which side
    of a kink a datum lies. For an empirical loss this is the almost-everywhere Hessian.

    **Raises:** `ValueError` in single precision, and for losses without a bound when `error` is None.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> net = rj.ShallowReLU(jnp.eye(6), jnp.ones(6))
    >>> counts = rj.hessian.inertia(rj.PopulationLoss(net), net)
    >>> int(counts.negative), int(counts.undecided), int(counts.positive)
    (0, 6, 36)

    ```
    """
    require_x64("inertia", nets)
    if is_stacked(nets):
        each = [inertia(loss, take(nets, i), distance=distance, error=error) for i in range(len(nets.weights))]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    found = enclosure(loss, nets, hessian_error(loss, nets, distance=distance) if error is None else float(error))
    p = number_of_parameters(nets)
    widest = np.max(found.upper - found.lower, initial=0.0)
    undecided = p - found.negative - found.positive
    return Inertia(*(np.asarray(x) for x in (found.negative, undecided, found.positive, widest)))


def enclosure(loss: AbstractLoss, net: ShallowReLU, error: float) -> Enclosure:
    """Intervals around the eigenvalues, but for exact zeros where the smaller of two matrices leaves them out."""
    if not np.isfinite(error):
        p = number_of_parameters(net)
        return Enclosure(np.full(p, -np.inf), np.full(p, np.inf), 0, p, 0)
    if isinstance(loss, EmpiricalLoss) and suits_reduction(loss, net):
        return reduced_enclosure(loss, net, error=error)
    return enclose(compiled_hessian(loss, net), error=error)


class Floor(NamedTuple):
    """`λ_min >= value`, and at most `negative` eigenvalues are below `−threshold`."""

    value: float
    negative: int
    threshold: float


def negative_floor(loss: EmpiricalLoss, net: ShallowReLU, *, distance: float = 0.0, error: float | None = None) -> Floor:
    """How negative the almost-everywhere Hessian can be at most, from what the gradient is made of.

    `H` is the Gauss–Newton matrix, which has no negative eigenvalue for a convex criterion, plus for every neuron the coupling
    of a_j to its hidden vector by `C_j = ∇_{w_j} L / a_j`, with eigenvalues ±|C_j|. By Weyl's inequality the smallest
    eigenvalue is at least `−max |C_j|`, and there are at most as many negative ones as non-zero C_j. At a critical point
    every neuron with a_j ≠ 0 has C_j = 0, so that only silent neurons make saddles. `distance` and `error` are as for
    `inertia`.

    **Raises:** `ValueError` in single precision, for a loss that is not empirical, and for one without a bound when `error`
    is None.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[3.0]]), jnp.array([2.0]))
    >>> floor = negative_floor(loss, rj.ShallowReLU(jnp.ones((1, 1)), jnp.zeros(1)))
    >>> round(floor.value, 12), floor.negative
    (-6.0, 1)

    ```
    """
    require_x64("negative_floor", net)
    _only_empirical("negative_floor", loss)
    if "amplitudes" not in net.trained or len(net.trained) == 1:
        return Floor(0.0, 0, 0.0)
    rounding = hessian_error(loss, net, distance=distance) if error is None else float(error)
    columns = [slice(0, net.dim)] if "weights" in net.trained else []
    columns += [slice(net.dim, net.dim + 1)] if "biases" in net.trained else []
    correlations = np.asarray(loss.neuron_correlations(net))
    sizes = np.linalg.norm(np.concatenate([correlations[:, part] for part in columns], axis=1), axis=1)
    # neurons whose C_j may be 0 leave eigenvalues above −rounding, which the error may lower by as much again
    return Floor(float(-np.max(sizes) - rounding), int(np.sum(sizes > rounding)), 2 * rounding)


class Nullity(NamedTuple):
    """Null directions to be expected, by cause."""

    rescaling: int
    dead: int
    pattern: int


def expected_nullity(loss: EmpiricalLoss, net: ShallowReLU) -> Nullity:
    """How many null directions the Hessian has at a smooth critical point of an empirical loss with non-zero amplitudes.

    - `rescaling`: one for every neuron that fires, when its amplitude and all of its hidden vector move.
    - `dead`: all parameters of neurons that never fire.
    - `pattern`: what the activation pattern leaves undetermined beyond that, the rank deficiency of the Jacobian.

    There the Hessian is `JᵀJ/n` up to a positive weight a datum, and its null space is that of the Jacobian, decided on the
    activations and the inputs alone: neither the size of the amplitudes nor the residuals enter.

    **Raises:** `ValueError` for a loss that is not empirical and for an amplitude that is 0.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.zeros(2))
    >>> net = rj.ShallowReLU(jnp.array([[1.0, 1.0], [-1.0, 0.0]]), jnp.ones(2))
    >>> expected_nullity(loss, net)
    Nullity(rescaling=1, dead=3, pattern=1)

    ```
    """
    _only_empirical("expected_nullity", loss)
    amplitudes = np.asarray(net.amplitudes)
    if "amplitudes" in net.trained and np.any(amplitudes == 0):
        raise ValueError(
            f"neuron {int(np.argmin(np.abs(amplitudes)))} has amplitude 0: nullity is not that of the Jacobian there."
        )
    dead = np.asarray(dead_neurons(net, np.asarray(loss.inputs)))
    p, alive = number_of_parameters(net), int(np.sum(~dead))
    of_one = p // net.width
    units = eqx.tree_at(lambda n: n.amplitudes, net, np.sign(amplitudes))
    rank = int(np.linalg.matrix_rank(np.asarray(loss.jacobian(units)))) if p else 0
    rescaling, silent = (alive if _rescales(net) else 0), of_one * (net.width - alive)
    return Nullity(rescaling, silent, p - rank - rescaling - silent)


def is_strict_minimum(loss: AbstractLoss, net: ShallowReLU, *, distance: float = 0.0, error: float | None = None) -> bool:
    """Whether the Hessian is certainly positive definite across the directions of rescaling; False means not proven.

    At a critical point this proves a strict minimum, up to rescaling of each neuron when its amplitude and all of its hidden
    vector move. One factorisation, ten times cheaper than eigenvalues. `distance` and `error` are as for `inertia`.

    **Raises:** `ValueError` in single precision, and for losses without a bound when `error` is None.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> net = rj.ShallowReLU(jnp.eye(6), jnp.ones(6))
    >>> is_strict_minimum(rj.PopulationLoss(net), net)
    True

    ```
    """
    require_x64("is_strict_minimum", net)
    slack = hessian_error(loss, net, distance=distance) if error is None else float(error)
    if not np.isfinite(slack):
        return False
    matrix = np.asarray(compiled_hessian(loss, net))
    if not _rescales(net):
        return is_positive_definite(matrix, error=slack)
    if np.any(np.all(np.asarray(hidden_vectors(net)) == 0, axis=1) & (np.asarray(net.amplitudes) == 0)):
        return False  # a neuron without a direction of rescaling
    # any basis will do: what is proven is definiteness on its span, and the rounding of the basis only changes the span
    across, norm = _across_rescaling(net)
    rounding = gamma(2 * len(matrix) + 4) * norm * np.linalg.norm(across) * np.linalg.norm(matrix)
    return is_positive_definite(across.T @ matrix @ across, error=float(slack * norm**2 + rounding))


def _rescales(net):
    """Whether `(w_j, b_j, a_j) -> (c w_j, c b_j, a_j / c)` is a motion of the trained parameters."""
    return "weights" in net.trained and "amplitudes" in net.trained and (net.biases is None or "biases" in net.trained)


def _across_rescaling(net):
    """A basis of the complement of the rescaling directions `(w_j, b_j, −a_j)`, and a bound on its spectral norm."""
    m, d = net.width, net.dim
    vectors = np.concatenate([np.asarray(hidden_vectors(net)), -np.asarray(net.amplitudes)[:, None]], axis=1)
    neurons = np.arange(m)[:, None]
    places = [d * neurons + np.arange(d), *(m * (d + i) + neurons for i in range(vectors.shape[1] - d))]
    columns = np.concatenate(places, axis=1)
    size = vectors.shape[1]
    basis, norm = np.zeros((m * size, m * (size - 1))), 0.0
    for j, direction in enumerate(vectors):
        frame = np.linalg.qr(np.concatenate([direction[:, None], np.eye(size)], axis=1))[0][:, 1:]
        basis[np.ix_(columns[j], np.arange(j * (size - 1), (j + 1) * (size - 1)))] = frame
        norm = max(norm, float(np.linalg.norm(frame, 2)))
    return basis, norm * (1 + 1e-8)


def _only_empirical(what, loss):
    if not isinstance(loss, EmpiricalLoss):
        raise ValueError(f"{what} is for an empirical loss and this is {type(loss).__name__}: use the eigenvalues.")
