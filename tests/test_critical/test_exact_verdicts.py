"""Verdicts at points where a neuron, an amplitude, a residual or a loss is 0, to rounding or exactly."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear

import relujax as rj
from relujax.critical.least_norm import least_norm
from relujax.critical.lines import Lines, least_slope, merged

NOTHING = (0.0, 1e-40, -1e-29, 1e-16, -1e-12)


def words(inputs, targets, weights, amplitudes, criterion=None, **options):
    loss = rj.EmpiricalLoss(np.array(inputs, float), np.array(targets, float), criterion or rj.SquaredError())
    return rj.classify(loss, rj.ShallowReLU(np.array(weights, float), np.array(amplitudes, float), **options)).words


def test_a_zero_neuron_finds_descent_on_rays_that_are_no_data():
    """With residual (1, −1, 1) the function Σ r_i relu(x_i·v) is 0 along every datum and 1 along (1, −1)."""
    inputs, weights = np.array([[1.0, 0], [1, 1], [0, 1]]), np.array([[1.0, 1.0], [0, 0]])
    targets = inputs @ weights[0] - np.array([1.0, -1, 1])
    assert words(inputs, targets, weights, [1.0, 0.0]) == "saddle"
    loss, t = rj.EmpiricalLoss(inputs, targets), 1e-3
    lower = rj.ShallowReLU(np.array([[1.0, 1.0], [t, -t]]), np.array([1.0, -t]))
    assert float(loss(lower)) < float(loss(rj.ShallowReLU(weights, np.array([1.0, 0.0]))))
    # with an amplitude that is not 0 the same ray is descent of first order
    assert words(inputs, targets, weights, [1.0, -1.0]) == "descent point"
    assert words(inputs, targets, weights, [1.0, 1.0], train=("weights",)) == "minimum"


def test_a_least_slope_of_zero_is_a_minimum():
    inputs = [[0.0, -1], [2, 1], [-1, -2], [0, 1]]
    targets = [1.154355623149342, -0.3847852077144676, -0.7695704154328948, -1.5634429173578683]
    assert words(inputs, targets, [[0.0, 0.0]], [1.0], train=("weights",)) == "minimum"


def test_least_norms_are_exact_where_segments_depend():
    """Optimality of the answer itself: no vertex of the zonotope lies on the near side of the plane through it."""
    r = np.random.default_rng(0)
    for number in range(400):
        k, q = r.integers(1, 12), r.integers(1, 5)
        segments = r.integers(-2, 3, (k, q)).astype(float) if number % 2 else r.standard_normal((k, q))
        base = -r.choice([0.0, 0.5, 1.0], k) @ segments + (r.standard_normal(q) if number % 3 else 0.0)
        point = least_norm(base, segments)
        corner = base + (segments @ point < 0) @ segments
        assert point @ (point - corner) <= 1e-13 * (1 + np.linalg.norm(corner)) * (1 + np.linalg.norm(point)), number
        other = lsq_linear(segments.T, -base, bounds=(0, 1), tol=1e-12)
        assert np.linalg.norm(point) <= np.linalg.norm(base + other.x @ segments) + 1e-12


def test_the_three_ways_to_a_least_slope_agree(monkeypatch):
    """Rays, choices of concave kinks, and the value at many directions."""
    r = np.random.default_rng(1)
    for _ in range(100):
        n, q = r.integers(2, 8), r.integers(1, 4)
        lines = merged(np.zeros(q), r.standard_normal((n, q)), r.standard_normal(n) + r.choice([-1, 0, 2]))
        by_rays = least_slope(lines, 1e-12)
        monkeypatch.setattr("relujax.critical.lines._MOST_RAYS", 0)
        by_choices = least_slope(lines, 1e-12)
        monkeypatch.undo()
        assert by_rays.complete
        assert by_choices.complete or by_choices.least < 0
        assert (by_rays.least < -1e-9) == (by_choices.least < -1e-9)
        some = r.standard_normal((200, q))
        assert by_rays.least < -1e-12 or np.min(lines(some)) > -1e-12


def test_what_is_not_enumerated_is_not_claimed(monkeypatch):
    r = np.random.default_rng(0)
    monkeypatch.setattr("relujax.critical.lines._MOST_RAYS", 10)
    units = r.standard_normal((30, 6))
    units /= np.linalg.norm(units, axis=1)[:, None]
    few = np.where(np.arange(30) < 12, -1e-6, 1.0)
    slope = least_slope(Lines(np.zeros(6), units, few), 1e-12)
    assert slope.complete is False
    assert least_slope(Lines(np.zeros(6), units, -few), 1e-12).least < -0.1


@pytest.mark.parametrize("train", [("weights",), ("weights", "amplitudes")])
def test_a_residual_of_zero_on_a_boundary_turned_by_any_angle(train):
    inputs, weights = np.array([[2.0, 1], [1, 0], [1, 1]]), np.array([[1.0, -2.0]])
    met = set()
    for angle in np.linspace(0, 7, 60):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        loss = rj.EmpiricalLoss(inputs @ turn.T, np.array([0.0, 1, 5]))
        verdict = rj.classify(loss, rj.ShallowReLU(weights @ turn.T, np.ones(1), train=train))
        met.add((verdict.words, int(verdict.index), int(verdict.nullity)))
    assert met == {("minimum", 0, len(train))}


@pytest.mark.parametrize("criterion", [rj.LogisticError(), rj.ExponentialError()])
@pytest.mark.parametrize("size", [0.1, 1.0, 4.2, 17.0, 30.0, 300.0])
def test_separated_classes_escape_at_any_size(criterion, size):
    inputs = np.array([[1.0, 0], [0, 1], [-1, -1]])
    assert words(inputs, [1, 1, -1], size * inputs, [1, 1, -1], criterion) == "escaping"


def test_classes_that_overlap_have_a_minimum_and_half_separated_ones_escape():
    inputs, targets = np.array([[1.0], [1.0], [1.0]]), np.array([1.0, 1.0, -1.0])
    # the logistic optimum of two against one: f = ln 2
    assert words(inputs, targets, [[np.log(2)]], [1.0], rj.LogisticError(), train=("weights",)) == "minimum"
    more, labels = np.array([[1.0], [1.0], [1.0], [-1.0]]), np.array([1.0, 1.0, -1.0, 1.0])
    half = ([[np.log(2)], [-40.0]], [1.0, 1.0], rj.LogisticError())
    assert words(more, labels, *half, train=("weights",)) == "escaping"


@pytest.mark.parametrize("criterion", [rj.LogisticError(), rj.ExponentialError()])
def test_polish_says_that_separated_classes_have_no_critical_point(criterion):
    loss = rj.EmpiricalLoss(np.array([[1.0, 0], [0, 1], [-1, -1]]), np.array([1.0, 1, -1]), criterion)
    net = rj.ShallowReLU(jnp.array([[4.0, 0], [0, 4], [-3, -3]]), jnp.array([4.0, 4, -4]))
    assert rj.PolishStatus(rj.polish(loss, net).status).words == "escaping"


@pytest.mark.parametrize("size", [1e-14, 1e-12, 1e-10])
def test_a_loss_of_zero_is_a_minimum_whatever_the_index(size):
    tiny = size * np.array([0.6, -0.64, 0.48])
    net = rj.ShallowReLU(np.stack([np.array([1.0, 0, 0]), tiny]), np.ones(2), train=("weights",))
    verdict = rj.classify(rj.problems.orthonormal_teacher(1, dim=3), net)
    assert (verdict.words, int(verdict.index)) == ("minimum", 0)


@pytest.mark.parametrize("amplitude", NOTHING)
def test_an_amplitude_of_zero_to_rounding_is_one_of_zero(amplitude):
    assert words(np.eye(2), [1, -1], [[1.0, 0.0], [1.0, -1.0]], [amplitude, 1.0]) == "saddle"
    # beside a neuron of another scale as well
    assert words(1e4 * np.eye(2), [1, -1], [[1e-4, 0.0], [1e-4, -1.0]], [amplitude, 1.0]) == "saddle"


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-40, 1e-18, 1e-14])
def test_neurons_that_died_at_the_origin_are_a_minimum(size):
    r = np.random.default_rng(0)
    inputs, targets = r.standard_normal((5, 2)), r.random(5) + 0.1
    loss = rj.EmpiricalLoss(inputs, targets)
    verdict = rj.classify(loss, rj.ShallowReLU(size * r.standard_normal((2, 2)), -np.ones(2), train=("weights",)))
    assert (verdict.words, int(verdict.index), int(verdict.nullity), int(verdict.dead)) == ("minimum", 0, 0, 2)
    assert float(verdict.gradient_norm) == 0
    # of the other sign they leave
    other = rj.ShallowReLU(size * np.ones((2, 2)), np.ones(2), train=("weights",))
    assert rj.classify(loss, other).words in ("descent point", "not critical")


@pytest.mark.parametrize("weight", [-1e-17, 0.0, 1e-17])
def test_a_student_at_zero_of_a_population_loss_leaves_towards_its_teacher(weight):
    loss = rj.problems.orthonormal_teacher(1)
    net = rj.ShallowReLU(np.array([[weight]]), np.ones(1), train=("weights",))
    assert rj.classify(loss, net).words == "descent point"
    t = 1e-6
    moved = rj.ShallowReLU(np.array([[t]]), np.ones(1), train=("weights",))
    np.testing.assert_allclose((loss(moved) - loss(net)) / t, -0.5, atol=1e-5)
