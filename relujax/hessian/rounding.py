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
    if isinstance(loss, EmpiricalLoss) and type(loss.criterion) is SquaredError:
        return float(_UPWARD * _empirical(loss, net, distance))
    if isinstance(loss, PopulationLoss) and net.biases is None and loss.teacher.biases is None:
        return float(_UPWARD * _population(loss, net, distance))
    raise ValueError(f"no bound on the rounding of this {type(loss).__name__} is known: give error=, a bound of your own.")


def uncertain_pairs(loss: EmpiricalLoss, net: ShallowReLU, distance: float) -> Float[np.ndarray, "n m"]:
    """For every datum and neuron 0 where the activation is certain, else a bound on |pre-activation| within `distance`."""
    inputs, vectors = _extended(np.asarray(loss.inputs), net), np.abs(hidden_vectors(net))
    reach = gamma(vectors.shape[1] + 2) * (np.abs(inputs) @ vectors.T)
    if {"weights", "biases"} & set(net.trained):
        reach = reach + distance * np.linalg.norm(inputs, axis=1)[:, None]
    z = np.abs(preactivations(net, np.asarray(loss.inputs)))
    return np.where(z > _UPWARD * reach, 0.0, np.maximum(z + reach, np.finfo(float).tiny))


def _extended(inputs, net):
    return inputs if net.biases is None else np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def _empirical(loss, net, distance):
    """`H = JᵀJ/n + [0 C_j; C_jᵀ 0]`: bounds on the rounding of both terms, and on how far J and C_j are moved.

    On a linear piece f is bilinear in amplitudes and hidden vectors, so that a row of J moves by at most |x̃_i| distance. The
    coupling has the norm of the longest C_j.
    """
    inputs = _extended(np.asarray(loss.inputs), net)
    (n, q), m = inputs.shape, net.width
    amplitudes, lengths = np.abs(np.asarray(net.amplitudes)), np.linalg.norm(inputs, axis=1)
    uncertain = uncertain_pairs(loss, net, distance)
    active = (np.asarray(preactivations(net, np.asarray(loss.inputs))) > 0) | (uncertain > 0)
    sizes = np.where(active, np.abs(inputs) @ np.abs(np.asarray(hidden_vectors(net))).T, 0.0)
    hidden, outer = bool({"weights", "biases"} & set(net.trained)), "amplitudes" in net.trained
    # J̄, the Jacobian of absolute values of all terms: the sums of its rows, and the norm of J̄ᵀJ̄/n by sums of rows
    gain, features = np.where(active, amplitudes, 0.0) * hidden, sizes * outer
    rows = np.sum(gain, axis=1) * np.sum(np.abs(inputs), axis=1) + np.sum(features, axis=1)
    product = max(np.max(gain.T @ (np.abs(inputs) * rows[:, None])), np.max(features.T @ rows)) / n
    switched = np.where(uncertain > 0, (amplitudes + distance) * hidden * lengths[:, None] + outer * uncertain, 0.0)
    moved = distance * (hidden and outer) * np.linalg.norm(lengths) + np.linalg.norm(switched)
    error = gamma(n + 3 * q + 16) * product + (2 * np.sqrt(product * n) * moved + moved**2) / n
    if not (hidden and outer):
        return error
    # residuals: their terms, and how far they move along the piece and across its boundaries
    terms = sizes @ amplitudes + np.abs(np.asarray(loss.targets))
    slopes = np.sqrt(np.sum(gain**2, axis=1) * lengths**2 + np.sum(features**2, axis=1))
    drift = slopes * distance + lengths * distance**2 / 2 + uncertain @ (amplitudes + distance)
    changes = (gamma(n + q + m + 16) * terms + drift) * lengths
    present = np.abs(np.asarray(loss.outputs(net)) - np.asarray(loss.targets)) * lengths
    entering = np.where(uncertain > 0, (present + changes)[:, None], 0.0)
    return error + np.max(active.T @ changes + np.sum(entering, axis=0)) / n


class _Moved:
    """Norms, strengths and unit vectors of all neurons, the student's first, and how far each of them can move."""

    def __init__(self, loss, net, distance):
        self.m, self.d = net.width, net.dim
        students, teachers = np.asarray(net.weights), np.asarray(loss.teacher.weights)
        move_w, move_a = (distance * (name in net.trained) for name in ("weights", "amplitudes"))
        moving = np.concatenate([np.ones(self.m), np.zeros(len(teachers))])
        self.norms = np.linalg.norm(np.concatenate([students, teachers]), axis=1)
        self.strengths = np.abs(np.concatenate([net.amplitudes, loss.teacher.amplitudes]))
        self.dr, self.da = move_w * moving, move_a * moving
        self.least = np.maximum(self.norms - self.dr, 0.0)
        # the angle by which a vector of norm r that moves by dr can turn is below dr/(r − dr)
        self.turn = np.divide(self.dr, self.least, out=np.zeros_like(self.dr), where=self.least > 0)


def _population(loss, net, distance):
    """The largest sum over a row of blocks of bounds on their norms.

    The blocks are `a_i a_j M_ij / 2π` between hidden vectors, M = (π − θ) I + sin θ (eeᵀ − ffᵀ); their own bends, sums over b of
    `a_i c_b |v_b| N_ib / 2π|w_i|`, N = sin θ (I − ŵŵᵀ + nnᵀ); `a_i ∂φ_ij/∂w_i` between w_i and a_j, and there for i = j the
    force as well; overlaps φ_ij. |M| <= π and |N| <= 2.
    """
    of = _Moved(loss, net, distance)
    if np.min(of.least[: of.m]) == 0:
        return np.inf
    hidden, outer = "weights" in net.trained, "amplitudes" in net.trained
    students = slice(0, of.m)
    mixed = np.sum(_mixed_error(of), axis=1) + _bend_error(of)
    a, da, r, dr = (array[students] for array in (of.strengths, of.da, of.norms, of.dr))
    slope = _slope_error(of)
    cross = (a + da)[:, None] * slope[:, students] + np.outer(da, r + dr) / 2
    sums = slope + gamma(len(of.norms) + 8) * of.norms
    force = np.sum((of.strengths + of.da) * sums + of.da * (of.norms + of.dr) / 2, axis=1)
    overlap = _rounded(of.d) * np.outer(r, r) + (np.outer(r + dr, r + dr) - np.outer(r, r)) / 2
    rows = []
    if hidden:
        rows.append(mixed + outer * (np.sum(cross, axis=1) + force))
    if outer:
        rows.append(np.sum(overlap, axis=1) + hidden * (np.sum(cross, axis=0) + force))
    return np.max(np.concatenate(rows), initial=0.0)


def _rounded(d):
    """A bound on the error of `M / 2π`, of `∂φ/∂w / |v|` and of `φ / |w||v|`, a quarter of one on the error of N.

    Unit vectors are off by (d/2 + 3) u and an angle between them by 2 (d + 3) u; carried through the formulas the errors are at
    most (1.3 d + 16) u, (3 d + 30) u and (2 d + 12) u with u half of eps, and of N (13 d + 94) u.
    """
    return 8 * (d + 16) * np.finfo(float).eps


def _mixed_error(of):
    """M changes by at most 4 times the angle by which either vector turns; no angle between a neuron and itself changes."""
    a, later = of.strengths[: of.m], (of.strengths + of.da)[: of.m]
    turned = np.add.outer(of.turn[: of.m], of.turn[: of.m])
    np.fill_diagonal(turned, 0.0)
    return np.outer(a, a) * (_rounded(of.d) + 4 * turned / (2 * np.pi)) + (np.outer(later, later) - np.outer(a, a)) / 2


def _bend_error(of):
    """N changes by at most 8 times the angle by which w turns and 4 times that of v; between a neuron and itself it is 0."""
    students = slice(0, of.m)
    pull, later = of.strengths * of.norms, (of.strengths + of.da) * (of.norms + of.dr)
    rounded = (4 * _rounded(of.d) + 2 * gamma(len(pull) + 8)) * pull / of.norms[students, None]
    moved = (8 * of.turn[students, None] + 4 * of.turn) * later / of.least[students, None]
    moved += 2 * (later / of.least[students, None] - pull / of.norms[students, None])
    largest = np.broadcast_to(2 * later / of.least[students, None], moved.shape).copy()
    for change in (moved, largest):
        np.fill_diagonal(change, 0.0)
    a, da = of.strengths[students], of.da[students]
    return ((a + da) * np.sum(rounded + moved, axis=1) + da * np.sum(largest, axis=1)) / (2 * np.pi)


def _slope_error(of):
    """∂φ/∂w changes by at most |v|/π times the angle by which w turns, and by half of how far v moves."""
    longest = of.norms + of.dr
    return _rounded(of.d) * of.norms + longest * of.turn[: of.m, None] / np.pi + of.dr / 2
