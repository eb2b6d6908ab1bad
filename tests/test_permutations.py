"""Equality of matrices up to permutations, canonical orders, points and isotropy, against all permutations one by one."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.critical import distinct
from relujax.critical.matching import are_permuted, continuum_dimension, merge_parallel
from relujax.permutations import canonical_order, coloured, find_permutations
from relujax.symmetry import isotropy


def drawn(r):
    """A small matrix with many ties, rows and columns that repeat, and now and then a symmetry."""
    m, k = r.integers(1, 6, 2)
    kind = r.integers(0, 4)
    values = r.standard_normal(r.integers(1, 5))
    matrix = values[r.integers(0, len(values), (m, k))]
    if kind == 1:
        matrix[r.integers(0, m)] = matrix[r.integers(0, m)]
    if kind == 2:
        matrix[:, r.integers(0, k)] = matrix[:, r.integers(0, k)]
    if kind == 3:
        matrix = np.resize(np.stack([np.roll(matrix[0], i) for i in range(k)]), (m, k))
    return matrix


def shuffled(matrix, r):
    return matrix[r.permutation(len(matrix))][:, r.permutation(matrix.shape[1])]


def symmetries(left, right):
    """All pairs of permutations that take one matrix to another."""
    m, k = left.shape
    rows, columns = (list(itertools.permutations(range(size))) for size in (m, k))
    moved = left[np.array(rows)][:, :, np.array(columns)]
    equal = np.all(moved == right[None, :, None, :], axis=(1, 3))
    return [(rows[i], columns[j]) for i, j in np.argwhere(equal)]


def partitions(indices):
    if not indices:
        yield []
        return
    first, *rest = indices
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for i in range(len(smaller)):
            yield [*smaller[:i], [first, *smaller[i]], *smaller[i + 1 :]]


def largest_group(matrix, group):
    """The largest order of a product of symmetric groups on pairs, each of whose exchanges is a symmetry, over all pairings."""
    m, k = matrix.shape
    exchanges = {symmetry for symmetry in group if sum(i != j for part in symmetry for j, i in enumerate(part)) == 4}
    swaps = set()
    for rows, columns in exchanges:
        moved = [tuple(j for j, i in enumerate(part) if i != j) for part in (rows, columns)]
        if len(moved[0]) == len(moved[1]) == 2:
            swaps.add((moved[0], moved[1]))
    best = 1
    all_partitions = list(partitions(list(range(k))))
    for paired in itertools.permutations(range(m), k):
        together = {
            (i, j) for i, j in itertools.combinations(range(k), 2) if (tuple(sorted((paired[i], paired[j]))), (i, j)) in swaps
        }
        for blocks in all_partitions if together else []:
            if all(pair in together for block in blocks for pair in itertools.combinations(sorted(block), 2)):
                best = max(best, math.prod(math.factorial(len(block)) for block in blocks))
    return best


@pytest.mark.parametrize("number", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_equality_and_canonical_orders_are_those_of_all_permutations(number):
    r = np.random.default_rng(number)
    met = set()
    for _ in range(number):
        left = drawn(r)
        # a copy, or the same entries in every row in another arrangement
        right = shuffled(left if r.random() < 0.5 else r.permuted(left, axis=1), r)
        equal = bool(symmetries(left, right))
        met.add(equal)
        found = find_permutations(coloured(np.stack([left, right]), 1e-9))
        assert (found is not None) == equal
        if found is not None:
            np.testing.assert_array_equal(left[np.ix_(*found)], right)
        one, other = (matrix[np.ix_(*canonical_order(coloured(matrix[None], 1e-9)))] for matrix in (left, right))
        assert np.array_equal(one, other) == equal
        noisy = right + 1e-8 * r.uniform(-1, 1, right.shape)
        assert are_permuted(left, noisy, teachers=left.shape[1], tolerance=1e-6) == equal
    assert met == {True, False}


@pytest.mark.parametrize("number", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_isotropy_is_the_largest_product_of_symmetric_groups_whatever_the_order(number):
    r = np.random.default_rng(number)
    for _ in range(number):
        matrix = drawn(r)
        if len(matrix) < matrix.shape[1]:
            matrix = matrix.T
        found, again = isotropy(matrix), isotropy(shuffled(matrix, r))
        assert found.blocks == again.blocks
        np.testing.assert_allclose(found.residual, again.residual, atol=1e-12)
        order, group = math.prod(map(math.factorial, found.blocks)), symmetries(matrix, matrix)
        if found.residual <= 1e-5 * np.max(np.abs(matrix)):
            assert order == largest_group(matrix, group)
            assert len(group) % order == 0
        else:
            # colours that no product of symmetric groups makes alike
            assert order > largest_group(matrix, group)


def test_blocks_whose_pairs_have_the_small_entries():
    matrix = np.array([[-1.0, -1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for one in (matrix, matrix[::-1], matrix[:, ::-1], matrix[[1, 0, 2]]):
        assert isotropy(one).name == "S_1 x S_2"
        assert isotropy(one).residual == 0


def test_a_hidden_difference_beside_much_symmetry_is_found():
    """A ring of twelve against two of six, which colours alone cannot tell apart, beside a block that is symmetric."""
    ring = np.eye(6) + np.roll(np.eye(6), 1, axis=0)
    rings = np.kron(np.eye(2), np.eye(3) + np.roll(np.eye(3), 1, axis=0))
    one, other = np.full((12, 12), 5.0), np.full((12, 12), 5.0)
    one[:6, :6], other[:6, :6] = ring, rings
    one[6:, 6:] = other[6:, 6:] = 6 + np.eye(6)
    r = np.random.default_rng(0)
    assert not are_permuted(one, other, teachers=12, tolerance=1e-6)
    assert are_permuted(one, shuffled(one, r), teachers=12, tolerance=1e-6)


def points_of(weights, train=("weights",)):
    loss = rj.problems.orthonormal_teacher(weights.shape[-1])
    nets = rj.ShallowReLU(jnp.asarray(weights), jnp.ones(weights.shape[:2]), train=train)
    return distinct(loss, nets, np.asarray(jax.vmap(loss)(nets)))


def test_fifty_permuted_copies_with_a_perfect_matching_are_one_point():
    r = np.random.default_rng(0)
    matrix = np.full((4, 4), 0.285586003650238)
    for i in range(4):
        matrix[i, i], matrix[i, i ^ 1] = 0.78806829359868, -0.324894303087978
    found = points_of(np.stack([shuffled(matrix, r) for _ in range(50)]))
    assert found.representative.shape == (1,)
    assert found.is_exact


def test_no_points_are_an_empty_grouping():
    found = points_of(np.zeros((0, 3, 3)))
    assert found.label.shape == found.representative.shape == (0,)


def test_neurons_that_share_a_direction_are_one_point_whatever_their_lengths():
    r = np.random.default_rng(1)
    base = r.standard_normal((3, 3))
    share = r.uniform(0.1, 0.9, 8)[:, None]
    weights = np.stack([np.concatenate([base[:2], t * base[2:], (1 - t) * base[2:]])[r.permutation(4)] for t in share])
    assert points_of(weights).representative.shape == (1,)
    net = rj.ShallowReLU(jnp.asarray(weights[0]), jnp.ones(4), train=("weights",))
    assert continuum_dimension(net) == 1
    assert continuum_dimension(rj.ShallowReLU(net.weights, net.amplitudes)) == 5


def test_merging_parallel_neurons_keeps_the_function():
    r = np.random.default_rng(2)
    directions, sizes = r.standard_normal((3, 2)), r.uniform(0.1, 2, (20, 8))
    which, signs = r.integers(0, 3, (20, 8)), r.choice([-1.0, 1.0, 0.0], (20, 8))
    weights = sizes[..., None] * directions[which]
    nets = rj.ShallowReLU(jnp.asarray(weights[..., :1]), jnp.asarray(signs), jnp.asarray(weights[..., 1]))
    merged = merge_parallel(nets)
    x = jnp.asarray(r.standard_normal((50, 1)))
    for i in range(20):
        one, other = rj.take(nets, i), rj.take(merged, i)
        np.testing.assert_allclose(jax.vmap(one)(x), jax.vmap(other)(x), atol=1e-13)
        assert np.sum(np.any(np.asarray(rj.network.hidden_vectors(other)) != 0, axis=1)) <= 6
