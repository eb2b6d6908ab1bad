"""Which end points are the same up to a permutation of neurons, and of teacher neurons where these are interchangeable."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..loss import AbstractLoss, PopulationLoss
from ..network import ShallowReLU, hidden_vectors, take
from ..permutations import EXACT, coloured, find_permutations
from .taylor import losses


class Distinct(NamedTuple):
    """`label` of every point, and for every label the index of its `representative`, sorted by loss.

    `is_exact`: no two labels are permuted copies; otherwise the number of labels is an upper bound.
    """

    label: Int[np.ndarray, " B"]
    representative: Int[np.ndarray, " s"]
    is_exact: bool = True


def distinct(loss: AbstractLoss, nets: ShallowReLU, values: Float[np.ndarray, " B"], *, tolerance: float = 1e-6) -> Distinct:
    """Group the networks of a stack, whose losses are `values`, that are equal, within `tolerance` an entry, up to a permutation.

    Neurons may always be permuted; where the teacher is orthonormal with equal amplitudes, the teacher's neurons may be too.
    Networks are compared as functions, in the coordinates of the teacher: parallel neurons of one sign are one neuron, as they
    can share its length in any way, and for a loss without a teacher neurons are made comparable by rescaling. Candidates have
    losses within `tolerance²` and equal sorted entries; they are aligned by linear assignment, and where that fails, with up to
    12 neurons and 12 coordinates, by a search that misses no permutation (`permutations.find_permutations`). Zero-loss
    networks are one point: they are the same function, though with more students than teachers they form a continuum.
    """
    if len(values) == 0:
        return Distinct(np.zeros(0, int), np.zeros(0, int))
    points = coordinates(loss, merge_parallel(nets, tolerance=tolerance))
    zero = np.abs(values) <= 1e-14 * losses(loss, jax.tree.map(np.zeros_like, take(nets, slice(0, 1)))).sum()
    teachers = interchangeable_teachers(loss)
    order = np.argsort(values, kind="stable")
    label = np.full(len(values), -1)
    representatives: list[int] = []
    signatures = np.sort(points.reshape(len(points), -1), axis=1)
    for i in order:
        for number in range(len(representatives) - 1, -1, -1):
            j = representatives[number]
            if zero[i] and zero[j]:
                label[i] = number
                break
            if values[i] - values[j] > max(tolerance**2, 1e-9 * abs(values[i])):
                break
            near = np.max(np.abs(signatures[i] - signatures[j]), initial=0.0) <= tolerance
            if near and are_permuted(points[i], points[j], teachers=teachers, tolerance=tolerance):
                label[i] = number
                break
        if label[i] < 0:
            label[i] = len(representatives)
            representatives.append(int(i))
    return Distinct(label, np.array(representatives, int), max(points.shape[1:]) <= EXACT)


def are_permuted(left: Float[np.ndarray, "m c"], right: Float[np.ndarray, "m c"], *, teachers: int, tolerance: float) -> bool:
    """Whether some permutation of rows, and of the first `teachers` columns, brings every entry within `tolerance`.

    Exact for up to 12 rows and columns whose entries are equal within the tolerance or clearly different.
    """
    if distance_between(left, right, teachers=teachers) <= tolerance:
        return True
    if max(left.shape) > EXACT:
        return False
    found = find_permutations(coloured(np.stack([left, right]), tolerance, free=teachers))
    return found is not None and bool(np.max(np.abs(left[np.ix_(*found)] - right), initial=0.0) <= tolerance)


def merge_parallel(nets: ShallowReLU, *, tolerance: float = 1e-6) -> ShallowReLU:
    """The networks of a stack with amplitudes 1 and −1 and every direction once for each sign; other neurons are 0.

    The function of every network stays the same, but for neurons of one sign whose directions differ by less than `tolerance`.
    """
    amplitudes, hidden = np.asarray(nets.amplitudes), np.array(hidden_vectors(nets), float)
    hidden *= np.abs(amplitudes)[..., None]
    signs = np.where(amplitudes < 0, -1.0, 1.0)
    for vectors, sign in zip(hidden, signs, strict=True):
        first = first_parallel(vectors, sign, tolerance)
        merged = np.zeros_like(vectors)
        np.add.at(merged, first, vectors)
        vectors[:] = merged
        sign[np.all(vectors == 0, axis=1)] = 1.0
    d = nets.weights.shape[-1]
    return ShallowReLU(hidden[..., :d], signs, None if nets.biases is None else hidden[..., d], train=nets.train)


def first_parallel(vectors: Float[np.ndarray, "m q"], signs: Float[np.ndarray, " m"], tolerance: float) -> Int[np.ndarray, " m"]:
    """For every hidden vector the number of the first one of its direction and sign; zero vectors stand for themselves."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1.0)
    apart = np.linalg.norm(units[:, None] - units, axis=2)
    same = (apart <= tolerance) & (signs[:, None] == signs) & (norms > 0) & (norms[:, 0] > 0)
    return np.argmax(same | np.eye(len(vectors), dtype=bool), axis=1)


def continuum_dimension(net: ShallowReLU, *, tolerance: float = 1e-6) -> int:
    """In how many directions a network moves while parallel neurons share their length, and neurons are rescaled, otherwise."""
    vectors, amplitudes = np.asarray(hidden_vectors(net)), np.asarray(net.amplitudes)
    first = first_parallel(vectors * np.abs(amplitudes)[:, None], np.sign(amplitudes), tolerance)
    rescaled = net.width if "amplitudes" in net.trained and len(net.trained) > 1 else 0
    return rescaled + int(np.sum(first != np.arange(net.width)))


def distance_between(left: Float[np.ndarray, "m c"], right: Float[np.ndarray, "m c"], *, teachers: int) -> float:
    """The largest difference of an entry after `align`: an upper bound of the smallest over all permutations."""
    rows, columns = align(left, right, teachers=teachers)
    return float(np.max(np.abs(left[rows][:, columns] - right), initial=0.0))


def align(
    left: Float[np.ndarray, "m c"], right: Float[np.ndarray, "m c"], *, teachers: int
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " c"]]:
    """Permutations of rows and of the first `teachers` columns that bring `left[rows][:, columns]` close to `right`.

    Rows are paired with columns by their largest entries, pairs matched by what a permutation cannot change about them, and
    rows and columns then assigned in turn. Exact where rows can be told apart or are interchangeable.
    """
    columns = np.arange(left.shape[1])
    if teachers:
        columns[:teachers] = _match_columns(left, right, teachers)
    best, found = math.inf, (np.arange(len(left)), columns)
    for _ in range(4):
        _, rows = linear_sum_assignment(cdist(right, left[:, columns]))
        if teachers:
            _, columns[:teachers] = linear_sum_assignment(cdist(right[:, :teachers].T, left[rows][:, :teachers].T))
        gap = float(np.linalg.norm(left[rows][:, columns] - right))
        if not gap < best:
            break
        best, found = gap, (rows, columns.copy())
        if not teachers or gap == 0:
            break
    return found


def _match_columns(left, right, teachers):
    """Which column of `left` plays each teacher's column of `right`, from the pairs of `pair_up`."""
    pairs = [pair_up(matrix[:, :teachers]) for matrix in (left, right)]
    features = [_features(matrix, teachers, *pair) for matrix, pair in zip((left, right), pairs, strict=True)]
    _, order = linear_sum_assignment(cdist(features[1], features[0]))
    columns = np.empty(teachers, int)
    columns[pairs[1][1]] = pairs[0][1][order]
    rest = [np.setdiff1d(np.arange(teachers), pair[1]) for pair in pairs]
    columns[rest[1]] = rest[0]
    return columns


def pair_up(matrix: Float[np.ndarray, "m k"]) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " q"]]:
    """Rows and columns paired, as many as there can be, so that the entries of the pairs are largest in all."""
    return linear_sum_assignment(-np.abs(matrix))


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


def interchangeable_teachers(loss: AbstractLoss) -> int:
    """The number of teacher neurons if they may be permuted, else 0."""
    return loss.teacher.width if isinstance(loss, PopulationLoss) and has_interchangeable_teacher(loss) else 0


def has_interchangeable_teacher(loss: AbstractLoss) -> bool:
    """Whether the teacher's neurons are orthonormal, of equal amplitude and bias, so that they may be permuted."""
    if not isinstance(loss, PopulationLoss):
        return False
    teacher = loss.teacher
    weights = np.asarray(teacher.weights)
    orthonormal = np.allclose(weights @ weights.T, np.eye(len(weights)), atol=1e-13)
    equal = np.ptp(np.asarray(teacher.amplitudes)) == 0
    return bool(orthonormal and equal and (teacher.biases is None or np.ptp(np.asarray(teacher.biases)) == 0))


def _features(matrix, teachers, rows, columns):
    """What a permutation cannot change about each pair: its entry, its sorted row and column, and what is not permuted."""
    inside = matrix[:, :teachers]
    parts = [inside[rows, columns][:, None], np.sort(inside[rows], axis=1), np.sort(inside[:, columns].T, axis=1)]
    return np.concatenate([*parts, matrix[rows, teachers:]], axis=1)
