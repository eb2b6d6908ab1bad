"""Where flows end: closed forms against certified least norms, and against each other."""

import numpy as np
import pytest

from relujax import theory

TWO_POINTS = np.array([[-0.5, 1.0], [2.0, 1.0]]), np.array([-1.0, 1.0])


def orthogonal_data(seed, n, dim):
    r = np.random.default_rng(seed)
    inputs = np.linalg.qr(r.standard_normal((dim, dim)))[0][:n] * r.uniform(0.8, 1.2, n)[:, None]
    return inputs, np.where(np.arange(n) % 2, -1, 1) * r.uniform(0.5, 1.5, n)


def test_two_orthogonal_points():
    limit = theory.orthogonal_limit(*TWO_POINTS)
    np.testing.assert_allclose(limit.variation_norm, 1 / 5**0.5 + 1 / 1.25**0.5, rtol=1e-15)
    np.testing.assert_allclose(limit.squared_norm, 2 * limit.variation_norm)
    # the limit is relu(.4x + .2) − relu(−.4x + .8)
    np.testing.assert_allclose(limit.positive, [0.4, 0.2])
    np.testing.assert_allclose(-limit.negative, [-0.4, 0.8])
    assert limit.initial_loss == 0.5
    assert limit.plateau_loss == 0.25
    np.testing.assert_allclose(np.array(limit.jump_times(1 / np.e)), [0.894427, 1.788854], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_orthogonal_limit_has_the_certified_least_variation_norm(seed):
    inputs, targets = orthogonal_data(seed, n=4, dim=5)
    limit = theory.orthogonal_limit(inputs, targets)
    least = theory.minimum_variation_norm(inputs, targets)
    np.testing.assert_allclose(least.norm, limit.variation_norm, rtol=2e-9)
    np.testing.assert_allclose(least.lower_bound, limit.variation_norm, rtol=2e-9)
    outputs = np.maximum(inputs @ limit.positive, 0) - np.maximum(-inputs @ limit.negative, 0)
    np.testing.assert_allclose(outputs, targets, rtol=1e-12)
    np.testing.assert_allclose(np.sum(limit.singular_values**2), limit.variation_norm)


def test_least_variation_norm_proves_itself():
    """The network interpolates at the stated norm, and no direction of a fine sample violates the dual bound."""
    r = np.random.default_rng(2)
    inputs, targets = r.standard_normal((6, 3)), r.standard_normal(6)
    least = theory.minimum_variation_norm(inputs, targets)
    net = least.network
    outputs = np.maximum(inputs @ net.weights.T, 0) @ net.amplitudes
    np.testing.assert_allclose(outputs, targets, atol=1e-9)
    np.testing.assert_allclose(np.abs(net.amplitudes) @ np.linalg.norm(net.weights, axis=1), least.norm, rtol=1e-9)
    directions = r.standard_normal((200_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert np.max(np.abs(np.maximum(directions @ inputs.T, 0) @ least.multipliers)) <= 1 + 1e-12
    np.testing.assert_allclose(least.multipliers @ targets, least.lower_bound, rtol=1e-9)
    assert least.norm - least.lower_bound <= 1e-9 * least.norm
    assert net.width <= 6


def test_contradicting_data_have_no_interpolant():
    with pytest.raises(ValueError, match="no network interpolates"):
        theory.minimum_variation_norm(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1.0, 2.0]))


def test_excess_exponent_of_unit_rows():
    """y = 1, .7, 1.3 against −.9, −.4, −1.1: the closest part of a class leaves out the .4, r = √(1 − .16/2.18)."""
    targets = np.array([1, 0.7, -0.9, 1.3, -0.4, -1.1])
    np.testing.assert_allclose(theory.excess_exponent(np.eye(6), targets), 2 * (1 - np.sqrt(1 - 0.16 / 2.18)), rtol=1e-12)
    np.testing.assert_allclose(theory.excess_exponent(np.eye(6), targets), 0.0748, atol=5e-5)
    assert theory.excess_exponent(*TWO_POINTS) == 2


def test_data_that_are_not_orthogonal_are_refused():
    with pytest.raises(ValueError, match="inputs 0 and 1 have cosine"):
        theory.orthogonal_limit(np.ones((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="target 1 is 0"):
        theory.excess_exponent(np.eye(2), np.array([1.0, 0.0]))


def test_least_squares_of_the_three_points_by_the_normal_equations():
    inputs, targets = np.array([[-0.75, 1.0], [-0.5, 1.0], [0.125, 1.0]]), np.array([1.1, 0.1, 0.8])
    x = inputs[:, 0]
    slope = np.mean((x - x.mean()) * targets) / np.var(x)
    limit = theory.least_squares_limit(inputs, targets)
    np.testing.assert_allclose(limit.direction, [slope, targets.mean() - slope * x.mean()], rtol=1e-13)
    np.testing.assert_allclose(limit.loss, (np.var(targets) - slope**2 * np.var(x)) / 2, rtol=1e-13)
    assert limit.is_one_neuron


@pytest.mark.parametrize("size", [2.0, 8.0, 10.0, 10.5, 11.0, 30.0])
def test_the_sign_of_the_splitting_gap_says_whether_rank_one_has_least_norm(size):
    """Example 37 of Chistikov, Englert, Lazic 2023, on both sides of where it turns; from size 11 on it is stated."""
    inputs, teacher = theory.split_example(3, size)
    gap = theory.splitting_gap(inputs, teacher)
    least = theory.minimum_variation_norm(inputs, inputs @ teacher)
    assert (gap > 0) == (least.norm < 1 - 1e-6)
    assert gap > 0 or size < 11


def test_rank_one_has_least_norm_on_random_correlated_data_and_always_in_two_dimensions():
    r = np.random.default_rng(0)
    for dim in (2, 2, 2, 3, 3):
        teacher = np.eye(dim)[0]
        inputs = teacher + 0.4 * r.uniform(-1, 1, (dim, dim))
        assert theory.splitting_gap(inputs, teacher) < 0
        np.testing.assert_allclose(theory.minimum_variation_norm(inputs, inputs @ teacher).norm, 1.0, rtol=2e-9)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [(np.ones((2, 2)), "rank 1"), (np.ones((3, 2)), "shape"), (-np.eye(2), "inactive on input 0")],
)
def test_splitting_gap_refuses(inputs, message):
    with pytest.raises((ValueError, TypeError)) as error:
        theory.splitting_gap(inputs, np.array([1.0, 1.0]))
    assert message in str(error.value) or error.type.__name__ == "TypeCheckError"
