"""Extremal vectors and one-neuron curves, against brute force, matrix exponentials and integrated equations."""

import itertools

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from relujax import theory

THREE_POINTS = np.array([[-0.75, 1.0], [-0.5, 1.0], [0.125, 1.0]]), np.array([1.1, 0.1, 0.8])


def orthogonal_data(seed=0, n=6, dim=8):
    r = np.random.default_rng(seed)
    inputs = np.linalg.qr(r.standard_normal((dim, dim)))[0][:n] * r.uniform(0.8, 1.2, n)[:, None]
    return inputs, np.array([1, 0.7, -0.9, 1.3, -0.4, -1.1])[:n]


def brute_force(inputs, targets):
    """Every way to switch data on, off or onto their boundary, one linear solve each; data in general position."""
    n, found = len(targets), []
    for sides in itertools.product((-1, 0, 1), repeat=n):
        sides = np.array(sides)
        mean = (targets * (sides > 0)) @ inputs / n
        rows = inputs[sides == 0]
        if len(rows) > inputs.shape[1] - 1:
            continue
        # activations s of the boundary data such that rows · (mean + Σ s y x / n) = 0
        share = np.linalg.solve(rows @ rows.T, -rows @ mean) * n / targets[sides == 0] if len(rows) else np.zeros(0)
        vector = mean + (share * targets[sides == 0]) @ rows / n
        heights = inputs @ vector
        for sign in (1, -1):
            in_face = np.all((sides == 0) | (np.sign(np.where(np.abs(heights) < 1e-12, 0, heights)) == sign * sides))
            if in_face and np.all((share >= -1e-12) & (share <= 1 + 1e-12)) and np.linalg.norm(vector) > 1e-12:
                found.append(sign * vector)
    return np.array(found)


def test_three_correlated_points_have_one_extremal_vector():
    """Boursier and Flammarion 2024: D is the mean of all y x, so that every neuron that survives is active on all data."""
    (only,) = theory.extremal_vectors(*THREE_POINTS)
    exact = [-0.775 / 3, 2 / 3]
    np.testing.assert_allclose(only.vector, exact, rtol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(only.vector), 0.714969, atol=1e-6)
    assert only.sign == 1
    assert only.active.all()


@pytest.mark.parametrize(("n", "dim"), [(1, 1), (3, 1), (5, 2), (5, 3), (4, 4), (6, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_extremal_vectors_are_those_of_brute_force(n, dim, seed):
    r = np.random.default_rng(seed)
    inputs, targets = r.standard_normal((n, dim)), r.standard_normal(n)
    found = theory.extremal_vectors(inputs, targets)
    signed = np.array([one.sign * one.vector for one in found]).reshape(-1, dim)
    expected = brute_force(inputs, targets).reshape(-1, dim)
    assert len(signed) == len(expected)
    for left, right in zip(signed[np.lexsort(signed.T)], expected[np.lexsort(expected.T)], strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)


def test_orthogonal_data_have_one_extremal_vector_for_every_part_of_a_class():
    inputs, targets = orthogonal_data()
    found = theory.extremal_vectors(inputs, targets)
    assert len(found) == 2 * (2**3 - 1)
    for one in found:
        np.testing.assert_array_equal(targets[one.active] > 0, one.sign > 0)
        np.testing.assert_array_equal(one.boundary, ~one.active)
        np.testing.assert_allclose(one.vector, (targets * one.active) @ inputs / len(targets), atol=1e-15)
    slopes = theory.orthogonal_limit(inputs, targets).slopes
    np.testing.assert_allclose(np.linalg.norm(found[0].vector), max(slopes))


def test_neurons_come_to_rest_at_extremal_vectors():
    """Directions that turn with D(w) by small steps from everywhere end, if they do not die, at listed vectors."""
    inputs, targets = orthogonal_data(3, n=5, dim=5)
    inputs = inputs + 0.2
    listed = np.array(
        [one.vector / np.linalg.norm(one.vector) for one in theory.extremal_vectors(inputs, targets) if one.sign > 0]
    )
    w = np.random.default_rng(0).standard_normal((400, 5))
    for _ in range(20_000):
        pull = (np.where(w @ inputs.T > 0, targets, 0.0) @ inputs) / 5
        w = w + 0.01 * pull * np.linalg.norm(w, axis=1, keepdims=True)
        w /= np.linalg.norm(w, axis=1, keepdims=True)
    alive = np.any(w @ inputs.T > 1e-2, axis=1) & (np.linalg.norm(pull, axis=1) > 0)
    nearest = np.min(np.linalg.norm(w[alive, None] - listed, axis=2), axis=1)
    assert alive.sum() > 100
    assert np.max(nearest) < 1e-2


def test_too_many_faces_are_refused():
    with pytest.raises(ValueError, match="faces to try"):
        theory.extremal_vectors(np.eye(20), np.ones(20))


def test_linear_regime_is_the_exponential_of_its_matrix():
    r = np.random.default_rng(0)
    slope, w0, a0 = r.standard_normal(3), r.standard_normal(3), -0.4
    generator = np.zeros((4, 4))
    generator[:3, 3] = generator[3, :3] = slope
    w, a = theory.linear_regime(w0, a0, slope, np.array([0.0, 0.3, 4.0]))
    for t, weight, amplitude in zip((0.0, 0.3, 4.0), w, a, strict=True):
        np.testing.assert_allclose([*weight, amplitude], expm(generator * t) @ [*w0, a0], rtol=1e-12)
    other, amplitudes = theory.linear_regime(np.ones(3), 0.2, slope, np.array([0.0, 0.3, 4.0]))
    lorentz = a * amplitudes - np.sum(w * other, axis=1)
    np.testing.assert_allclose(lorentz, lorentz[0], atol=1e-12)


def test_linear_regime_of_the_two_orthogonal_points():
    """w0 = (1, −0.3) after time 2 with D₊ = (1, ½): cosine tanh(artanh c₀ + |D|t)."""
    slope = np.array([1.0, 0.5])
    w, a = theory.linear_regime(np.array([1.0, -0.3]), np.hypot(1, 0.3), slope, np.array([2.0]))
    cosine = w[0] @ slope / np.linalg.norm(w[0]) / np.linalg.norm(slope)
    np.testing.assert_allclose(cosine, 0.996413408, atol=1e-9)
    np.testing.assert_allclose(a[0], np.linalg.norm(w[0]), rtol=1e-14)


def integrate_neuron(weight, targets, end):
    n = len(targets)

    def field(_, state):
        w, a = state[:n], state[n]
        residual = targets - a * w
        return np.concatenate([a * residual, [w @ residual]]) / n

    start = np.concatenate([weight, [np.linalg.norm(weight)]])
    return solve_ivp(field, (0, end), start, method="DOP853", rtol=1e-13, atol=1e-30).y[:, -1]


@pytest.mark.parametrize("scale", [1e-1, 1e-2, 1e-4, 1e-8])
def test_orthonormal_curve_is_the_integrated_neuron(scale):
    targets = np.array([1.0, 0.7, 0.4, 1.2, 0.9])
    weight = scale * np.array([0.9, 0.5, 0.6, 1.0, 0.8])
    for end in (1.0, 30.0, 70.0):
        curve = theory.orthonormal_neuron(weight, targets, np.array([end]))
        w = integrate_neuron(weight, targets, end)[:5]
        np.testing.assert_allclose(np.exp(curve.log_square[0]), w @ w, rtol=1e-9)
        loss = np.sum((targets - np.linalg.norm(w) * w) ** 2) / 10
        np.testing.assert_allclose(curve.loss[0], loss, rtol=1e-9, atol=1e-13)


def test_orthonormal_curve_at_tiny_scales_is_that_of_a_later_start():
    """A start of 1e-200 reaches what one of 1e-100 is, once the linear regime has aligned it."""
    targets, direction = np.array([1.0, 0.5]), np.array([0.8, 0.7])
    first = theory.orthonormal_neuron(1e-200 * direction, targets, np.linspace(0, 2000, 9))
    assert np.all(np.isfinite(first.log_square))
    np.testing.assert_allclose(np.exp(first.log_square[-1]), np.linalg.norm(targets), rtol=1e-12)
    rate = np.linalg.norm(targets) / 2
    delay = 100 * np.log(10) / rate
    early = theory.orthonormal_neuron(1e-100 * direction, targets, np.array([100 * np.log(10) / rate]))
    late = theory.orthonormal_neuron(1e-200 * direction, targets, np.array([100 * np.log(10) / rate + delay]))
    np.testing.assert_allclose(late.log_square, early.log_square, atol=1e-9)


def test_logistic_growth_solves_its_equation():
    """U' = 2U (y − |x| U)|x|/n for the product U = a|w| of an aligned balanced neuron."""
    length, target, number, scale = 1.3, 0.7, 3, 1e-4

    def field(_, u):
        return 2 * u * (target - length * u) * length / number

    times = np.array([5.0, 20.0, 40.0])
    exact = solve_ivp(field, (0, 40), [scale**2], t_eval=times, method="DOP853", rtol=1e-13, atol=1e-30).y[0]
    grown = theory.logistic_growth(times, scale=scale, input_norm=length, target=target, number=number)
    np.testing.assert_allclose(grown, exact, rtol=1e-9)
    np.testing.assert_allclose(theory.logistic_half_time(scale=1e-6, input_norm=5**0.5, target=1.0), 5.998544, atol=1e-6)


@pytest.mark.parametrize("target", [0.7, 1e-9, 0.0, -0.4])
@pytest.mark.parametrize("scale", [0.5, 0.9, 3.0])
def test_logistic_growth_decays_from_above_its_limit(scale, target):
    length, number = 1.3, 3

    def field(_, u):
        return 2 * u * (target - length * u) * length / number

    times = np.array([0.0, 0.1, 5.0, 40.0])
    exact = solve_ivp(field, (0, 40), [scale**2], t_eval=times, method="DOP853", rtol=1e-13, atol=1e-30).y[0]
    options = {"scale": scale, "input_norm": length, "target": target, "number": number}
    np.testing.assert_allclose(theory.logistic_growth(times, **options), exact, rtol=1e-9)
    assert np.isinf(theory.logistic_half_time(**options)) == (scale**2 >= target / length)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_zeros_leave_the_extremal_vectors_as_they_are(seed):
    """Zeros put anywhere into small whole data with ties: the same vectors, but for the mean over more data."""
    r = np.random.default_rng(seed)
    for _ in range(40):
        n, dim = r.integers(1, 6), r.integers(1, 4)
        inputs, targets = r.integers(-2, 3, (n, dim)).astype(float), r.standard_normal(n)
        there = np.ones(n + 2, bool)
        there[r.choice(n + 2, 2, replace=False)] = False
        padded, more = np.zeros((n + 2, dim)), r.standard_normal(n + 2)
        padded[there], more[there] = inputs, targets * (n + 2) / n
        plain, found = theory.extremal_vectors(inputs, targets), theory.extremal_vectors(padded, more)
        assert len(plain) == len(found)
        for one, other in zip(plain, found, strict=True):
            np.testing.assert_allclose(one.vector, other.vector, atol=1e-12)
            np.testing.assert_array_equal(one.active, other.active[there])
            assert not np.any(other.active[~there])
            assert np.all(other.boundary[~there])


def test_a_row_of_zeros_beside_data_in_general_position():
    inputs, targets = np.array([[-0.75, 1.0], [0.0, 0.0], [-0.5, 1.0], [0.125, 1.0]]), np.array([1.1, 5.0, 0.1, 0.8])
    (only,) = theory.extremal_vectors(inputs, targets)
    np.testing.assert_allclose(only.vector, np.array([-0.258333333333, 0.666666666667]) * 3 / 4, atol=1e-9)
    assert theory.extremal_vectors(np.zeros((2, 3)), np.ones(2)) == []
