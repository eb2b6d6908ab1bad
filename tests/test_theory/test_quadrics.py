"""Topology of the invariant set, against chain complexes, sampled points and drawn weights."""

import functools

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from relujax import theory


def sphere(dimension):
    """Boundary matrices of the sphere with two cells in every dimension, each bounded by the two below."""
    return [np.zeros((0, 2))] + [np.array([[-1.0, -1.0], [1.0, 1.0]]) for _ in range(dimension)]


def product(left, right):
    """The boundary matrices of a product of two cell complexes, d(a x b) = da x b + (−1)^|a| a x db."""
    sizes_left, sizes_right = [m.shape[1] for m in left], [m.shape[1] for m in right]
    top = len(left) + len(right) - 1
    cells = [[(i, k - i, a, b) for i in range(k + 1) if i < len(left) and k - i < len(right)
              for a in range(sizes_left[i]) for b in range(sizes_right[k - i])] for k in range(top)]  # fmt: skip
    boundaries = [np.zeros((0, len(cells[0])))]
    for k in range(1, top):
        place = {cell: row for row, cell in enumerate(cells[k - 1])}
        matrix = np.zeros((len(cells[k - 1]), len(cells[k])))
        for column, (i, j, a, b) in enumerate(cells[k]):
            for face in np.flatnonzero(left[i][:, a]) if i else []:
                matrix[place[i - 1, j, face, b], column] += left[i][face, a]
            for face in np.flatnonzero(right[j][:, b]) if j else []:
                matrix[place[i, j - 1, a, face], column] += (-1) ** i * right[j][face, b]
        boundaries.append(matrix)
    return boundaries


def homology(boundaries):
    ranks = [int(np.linalg.matrix_rank(m)) if m.size else 0 for m in boundaries] + [0]
    return [m.shape[1] - ranks[k] - ranks[k + 1] for k, m in enumerate(boundaries)]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((3, 1, 2, 3), [8, 0, 16, 0, 8]),
        ((2, 1, 0, 2), [4]),
        ((2, 2, 2, 1), [1, 3, 3, 1]),
        ((1, 1, 2, 2), [16]),
        ((3, 2, 1, 1), [1, 1, 1, 1]),
    ],
)
def test_betti_numbers_are_the_homology_of_the_product_of_spheres(case, expected):
    inputs, outputs, positive, negative = case
    spheres = [sphere(inputs - 1)] * positive + [sphere(outputs - 1)] * negative
    assert homology(functools.reduce(product, spheres)) == expected
    assert theory.betti_numbers(*case) == expected
    assert theory.components(*case) == expected[0]


@pytest.mark.parametrize(("balance", "pieces"), [(1.0, 2), (-1.0, 1)])
def test_components_of_a_sampled_quadric(balance, pieces):
    """Points of a² − |w|² = ±1 with two inputs and one output, joined to their neighbours."""
    r = np.random.default_rng(0)
    radius, angle = 2 * np.sqrt(r.uniform(size=6_000)), r.uniform(0, 2 * np.pi, 6_000)
    radius = radius[radius**2 + balance >= 0]
    angle = angle[: len(radius)]
    a = r.choice([-1, 1], len(radius)) * np.sqrt(radius**2 + balance)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), a], axis=1)
    graph = cKDTree(points).sparse_distance_matrix(cKDTree(points), 0.4)
    assert connected_components(graph)[0] == pieces == theory.components(2, 1, int(balance < 0), int(balance > 0))


def test_effective_components():
    assert theory.effective_components(2, 1, 0, 2) == 3
    assert theory.effective_components(2, 1, 5, 3) == 4
    assert theory.effective_components(2, 2, 5, 3) == 1
    assert theory.effective_components(1, 1, 1, 2) == 6
    with pytest.raises(ValueError, match="outputs is 0"):
        theory.effective_components(2, 0, 1, 1)


@pytest.mark.parametrize(("d", "l", "kaiming", "xavier"), [(2, 2, 0.292893, 0.345346), (5, 10, 0.025031, 0.113676)])
def test_pathological_neurons_are_as_frequent_as_drawn(d, l, kaiming, xavier):  # noqa: E741
    r = np.random.default_rng(0)
    number = 400_000
    for expected, (hidden, outer) in ((kaiming, (2 / d, 2 / l)), (xavier, (2 / (d + l), 2 / (l + 1)))):
        probability = theory.pathological_probability(d, hidden_variance=hidden, output_variance=outer)
        np.testing.assert_allclose(probability, expected, atol=5e-7)
        w, a = np.sqrt(hidden) * r.standard_normal((number, d)), np.sqrt(outer) * r.standard_normal(number)
        drawn = np.mean(a**2 > np.sum(w**2, axis=1))
        assert abs(drawn - probability) < 3 * np.sqrt(probability * (1 - probability) / number)


def test_obstruction_as_frequent_as_drawn():
    r = np.random.default_rng(1)
    stuck = r.uniform(size=(400_000, 3)) < 0.6
    positive = r.uniform(size=(400_000, 3)) < 0.5
    drawn = np.mean(stuck.all(axis=1) & (positive.sum(axis=1) < 2))
    probability = theory.obstruction_probability(0.6, 3, needed=2)
    assert abs(drawn - probability) < 3 * np.sqrt(probability / 400_000)
