"""Known minima: recognised only where the flow provably leads to them."""

import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.critical import polish_minima
from relujax.critical.known import KnownMinima
from relujax.critical.matching import align


@pytest.fixture(scope="module")
def setting():
    loss = rj.problems.orthonormal_teacher(6)
    known = KnownMinima(loss)
    stack = np.stack([np.eye(6), np.asarray(rj.symmetry.family("II", 6).weights)])
    known.add(nets(stack), np.zeros(2))
    return loss, known


def nets(weights):
    return rj.ShallowReLU(np.asarray(weights), np.ones(np.shape(weights)[:2]), train=("weights",))


def norms(loss, stack):
    return np.array([float(jnp.linalg.norm(loss.gradient(rj.take(stack, i)).weights)) for i in range(len(stack.weights))])


def test_shuffled_points_near_a_minimum_are_its_and_get_it_in_their_order(setting):
    loss, known = setting
    r = np.random.default_rng(0)
    minimum = np.asarray(rj.symmetry.family("II", 6).weights)
    exact = np.stack([minimum[r.permutation(6)][:, r.permutation(6)] for _ in range(8)])
    # II at k = 6 is shallow: its smallest eigenvalue of 0.0047 bounds how far the proof reaches
    stack = nets(exact + 1e-3 * r.standard_normal(exact.shape))
    match = known.match(stack, norms(loss, stack))
    assert np.all(match.found)
    np.testing.assert_allclose(match.networks.weights, exact, atol=1e-12)
    np.testing.assert_allclose(match.distances, np.linalg.norm(stack.weights - exact, axis=(1, 2)), rtol=1e-9)


def test_nothing_is_recognised_far_away_or_at_a_saddle(setting):
    loss, known = setting
    saddle = rj.symmetry.family("II_2", 6).weights
    far = np.eye(6) + 0.1 * np.random.default_rng(1).standard_normal((6, 6))
    stack = nets(np.stack([saddle, far, 3 * np.eye(6)]))
    assert not np.any(known.match(stack, norms(loss, stack)).found)


def test_a_minimum_that_is_known_is_not_taken_up_again(setting):
    loss, _ = setting
    known = KnownMinima(loss)
    known.add(nets(np.stack([np.eye(6), np.eye(6)[::-1], np.eye(6)])), np.zeros(3))
    assert known.number == 1


def test_points_that_rotate_or_rescale_are_not_matched():
    assert not KnownMinima(rj.problems.orthonormal_teacher(4, 5)).can_match(nets(np.ones((1, 4, 5))))
    trained = rj.ShallowReLU(np.ones((1, 4, 4)), np.ones((1, 4)))
    assert not KnownMinima(rj.problems.orthonormal_teacher(4)).can_match(trained)


def test_newton_reaches_minima_and_accepts_no_saddle():
    loss = rj.problems.orthonormal_teacher(6)
    r = np.random.default_rng(2)
    start = np.stack([np.eye(6) + 1e-2 * r.standard_normal((6, 6)), rj.symmetry.family("II_2", 6).weights])
    found = polish_minima(loss, nets(start))
    assert found.status[0] == rj.PolishStatus.CONVERGED
    assert found.status[1] != rj.PolishStatus.CONVERGED
    np.testing.assert_allclose(found.networks.weights[0], np.eye(6), atol=1e-13)


@pytest.mark.parametrize(("m", "k"), [(7, 5), (4, 6), (6, 6)])
def test_alignment_undoes_permutations_with_more_and_fewer_students(m, k):
    r = np.random.default_rng(m)
    right = r.standard_normal((m, k)) * 0.3 + 2 * np.eye(m, k)
    left = right[r.permutation(m)][:, r.permutation(k)]
    rows, columns = align(left, right, teachers=k)
    np.testing.assert_array_equal(left[rows][:, columns], right)
    # a last column that is nobody's to permute stays
    tagged = np.concatenate([right, np.arange(m)[:, None]], axis=1)
    order = r.permutation(m)
    rows, columns = align(tagged[order], tagged, teachers=k)
    assert columns[-1] == k
    np.testing.assert_array_equal(tagged[order][rows][:, columns], tagged)
