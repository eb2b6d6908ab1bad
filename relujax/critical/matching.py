"""Which end points are the same up to a permutation of neurons, and of teacher neurons where these are interchangeable."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from ..loss import AbstractLoss, PopulationLoss
from ..network import ShallowReLU, hidden_vectors, take


class Distinct(NamedTuple):
    """`label` of every point, and for every label the index of its `representative`, sorted by loss."""

    label: Int[np.ndarray, " B"]
    representative: Int[np.ndarray, " s"]


def distinct(loss: AbstractLoss, nets: ShallowReLU, losses: Float[np.ndarray, " B"], *, tolerance: float = 1e-6) -> Distinct:
    """Group the networks of a stack that are equal, within `tolerance` an entry, up to a permutation.

    Neurons may always be permuted; where the teacher is orthonormal with equal amplitudes, the teacher's neurons may be too.
    Networks are compared in the coordinates of the teacher. Candidates have losses within `tolerance²` and equal sorted
    entries; they are then aligned by linear assignment, and are the same when every entry agrees. For a loss without a
    teacher neurons are made comparable by rescaling. Zero-loss networks are one point: they are the same
    function, though with more students than teachers they form a continuum.
    """
    points = coordinates(loss, nets)
    zero = np.abs(losses) <= 1e-14 * float(loss(jax.tree.map(np.zeros_like, take(nets, 0)))) if len(losses) else losses
    both_sides = has_interchangeable_teacher(loss)
    order = np.argsort(losses, kind="stable")
    label = np.full(len(losses), -1)
    representatives: list[int] = []
    signatures = np.sort(points.reshape(len(points), -1), axis=1)
    for i in order:
        for number in range(len(representatives) - 1, -1, -1):
            j = representatives[number]
            if zero[i] and zero[j]:
                label[i] = number
                break
            if losses[i] - losses[j] > max(tolerance**2, 1e-9 * abs(losses[i])):
                break
            near = np.max(np.abs(signatures[i] - signatures[j]), initial=0.0) <= tolerance
            if near and distance_between(points[i], points[j], both_sides=both_sides) <= tolerance:
                label[i] = number
                break
        if label[i] < 0:
            label[i] = len(representatives)
            representatives.append(int(i))
    return Distinct(label, np.array(representatives, int))


def distance_between(left: Float[np.ndarray, "m c"], right: Float[np.ndarray, "m c"], *, both_sides: bool) -> float:
    """The largest difference of an entry after aligning the rows, or rows and the first columns together, by assignment.

    An upper bound of the smallest over all permutations, and that smallest one where rows can be told apart or are
    interchangeable.
    """
    if not both_sides:
        rows, columns = linear_sum_assignment(np.linalg.norm(left[:, None] - right, axis=-1))
        return float(np.max(np.abs(left[rows] - right[columns]), initial=0.0))
    left, right = (to_diagonal(matrix) for matrix in (left, right))
    k = min(left.shape)
    cost = np.linalg.norm(_features(left)[:, None] - _features(right), axis=-1)
    best = np.inf
    for _ in range(4):
        # row j of the right matrix is played by row order[j] of the left one, and likewise for the paired columns
        _, order = linear_sum_assignment(cost[:k, :k].T)
        extra = np.arange(k, len(left))
        moved = left[np.concatenate([order, extra])]
        moved = np.concatenate([moved[:, order], moved[:, k:]], axis=1)
        if len(extra):
            _, tail = linear_sum_assignment(np.linalg.norm(right[k:, None] - moved[k:], axis=-1))
            moved = np.concatenate([moved[:k], moved[k:][tail]])
        best = min(best, float(np.max(np.abs(moved - right))))
        aligned = np.concatenate([left[:k][:, order], left[:k, k:]], axis=1)
        cost = np.linalg.norm(aligned[:, None] - right[:k], axis=-1)
    return best


def to_diagonal(matrix: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
    """Rows reordered so that each of the first min(m, c) rows has its largest entries, in all, on the diagonal.

    Rows that are matched to no column come last; columns that are matched to no row come last.
    """
    rows, columns = linear_sum_assignment(-np.abs(matrix))
    rest_rows = np.setdiff1d(np.arange(matrix.shape[0]), rows)
    rest_columns = np.setdiff1d(np.arange(matrix.shape[1]), columns)
    return matrix[np.concatenate([rows, rest_rows])][:, np.concatenate([columns, rest_columns])]


def coordinates(loss: AbstractLoss, nets: ShallowReLU) -> Float[np.ndarray, "B m c"]:
    """The neurons of every network in coordinates in which permutations are all that is left of the symmetry.

    Columns are the inner products with the orthonormal teacher neurons, then, where there are further inputs, the length of
    what is left. For other losses, the hidden vectors times `|a|`, and the amplitude's sign where both layers move.
    """
    hidden = np.asarray(hidden_vectors(nets))
    if has_interchangeable_teacher(loss):
        assert isinstance(loss, PopulationLoss)
        weights, teacher = np.asarray(nets.weights), np.asarray(loss.teacher.weights)
        inside = weights @ teacher.T
        parts = [inside]
        if teacher.shape[0] < teacher.shape[1]:
            parts.append(np.linalg.norm(weights - inside @ teacher, axis=-1, keepdims=True))
        if nets.biases is not None:
            parts.append(np.asarray(nets.biases)[..., None])
        if "amplitudes" not in nets.train and np.all(np.asarray(nets.amplitudes) == 1):
            return np.concatenate(parts, axis=-1)
        size = np.abs(np.asarray(nets.amplitudes))[..., None]
        return np.concatenate([size * np.concatenate(parts, axis=-1), np.sign(nets.amplitudes)[..., None]], axis=-1)
    size = np.abs(np.asarray(nets.amplitudes))[..., None]
    return np.concatenate([size * hidden, np.sign(nets.amplitudes)[..., None]], axis=-1)


def has_interchangeable_teacher(loss: AbstractLoss) -> bool:
    """Whether the teacher's neurons are orthonormal, of equal amplitude and bias, so that they may be permuted."""
    if not isinstance(loss, PopulationLoss):
        return False
    teacher = loss.teacher
    weights = np.asarray(teacher.weights)
    orthonormal = np.allclose(weights @ weights.T, np.eye(len(weights)), atol=1e-13)
    equal = np.ptp(np.asarray(teacher.amplitudes)) == 0
    return bool(orthonormal and equal and (teacher.biases is None or np.ptp(np.asarray(teacher.biases)) == 0))


def _features(matrix):
    """What a permutation cannot change about each diagonal position: its entry, its sorted row and its sorted column."""
    k = min(matrix.shape)
    square = matrix[:k, :k]
    rows, columns = np.sort(square, axis=1), np.sort(square, axis=0).T
    return np.concatenate([np.diag(square)[:, None], rows, columns, np.sort(matrix[:k, k:], axis=1)], axis=1)
