"""Polish and verdict at points whose kind is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj


def near(net, seed, size):
    r = np.random.default_rng(seed)
    return rj.unravel(net, rj.ravel(net) + size * r.standard_normal(rj.ravel(net).shape))


def words(status):
    return rj.PointStatus(int(status)).words


def global_minimum(k, train=("weights",)):
    return rj.problems.orthonormal_teacher(k), rj.ShallowReLU(jnp.eye(k), jnp.ones(k), train=train)


def parallel_saddle(k):
    """All students along (1, …, 1): critical for norms that sum to k r, r = (sin α + (π − α) cos α)/π, cos α = 1/√k."""
    alpha = np.arccos(1 / np.sqrt(k))
    r = (np.sin(alpha) + (np.pi - alpha) * np.cos(alpha)) / np.pi
    return rj.problems.orthonormal_teacher(k), rj.ShallowReLU(jnp.full((k, k), r / np.sqrt(k)), jnp.ones(k), train=("weights",))


@pytest.mark.parametrize("k", [3, 6])
def test_polish_returns_to_the_global_minimum(k):
    loss, net = global_minimum(k)
    polished = rj.polish(loss, near(net, 0, 1e-2))
    assert rj.PolishStatus(polished.status) == rj.PolishStatus.CONVERGED
    assert polished.gradient_norms <= 1e-13
    np.testing.assert_allclose(polished.networks.weights, net.weights, rtol=0, atol=1e-12)
    np.testing.assert_allclose(polished.distances, np.linalg.norm(rj.ravel(near(net, 0, 1e-2)) - rj.ravel(net)), rtol=1e-9)


def test_polish_of_a_stack_is_that_of_its_members():
    loss, net = global_minimum(4)
    nets = rj.stack([near(net, seed, 1e-3) for seed in range(3)])
    together = rj.polish(loss, nets)
    assert np.all(together.status == rj.PolishStatus.CONVERGED)
    np.testing.assert_allclose(together.networks.weights, np.broadcast_to(np.eye(4), (3, 4, 4)), rtol=0, atol=1e-12)


def test_polish_with_trained_amplitudes_does_not_slide_along_the_rescaling_orbit():
    """The minimum is a manifold; the minimum-norm step moves by no more than a few times the distance to it."""
    loss, net = global_minimum(3, rj.network.TRAINABLE)
    start = near(net, 1, 1e-3)
    polished = rj.polish(loss, start)
    assert polished.gradient_norms <= 1e-13
    assert polished.distances < 3 * np.linalg.norm(rj.ravel(start) - rj.ravel(net))


def test_polish_reaches_a_saddle_from_nearby_and_says_that_the_index_was_kept():
    loss, net = parallel_saddle(4)
    # off the continuum of saddles in a direction that keeps all students parallel
    start = rj.ShallowReLU(net.weights * 1.001, net.amplitudes, train=("weights",))
    polished = rj.polish(loss, start)
    assert polished.gradient_norms <= 1e-13
    assert rj.PolishStatus(polished.status) == rj.PolishStatus.CONVERGED
    np.testing.assert_allclose(polished.networks.weights, net.weights, rtol=0, atol=1e-10)


def test_polish_that_leaves_the_basin_says_so():
    """From far away Newton's method lands somewhere, through regions of other signature."""
    loss, _ = global_minimum(6)
    nets = rj.initialise.xavier(jax.random.key(0), number=6, width=6, dim=6, amplitudes=1.0, train=("weights",))
    polished = rj.polish(loss, nets)
    assert not np.any(np.asarray(polished.status) == rj.PolishStatus.CONVERGED)


def test_polish_of_an_interpolating_network_fits_the_data():
    r = np.random.default_rng(0)
    loss = rj.EmpiricalLoss(r.standard_normal((4, 3)), r.standard_normal(4))
    nets = rj.initialise.balanced(jax.random.key(0), number=6, width=20, dim=3, scale=1.0)
    ends = rj.flow_ensemble(loss, nets, gradient_norm=1e-4, rtol=1e-7, atol=1e-7)
    polished = rj.polish(loss, ends.networks)
    fine = np.asarray(polished.status) == rj.PolishStatus.CONVERGED
    assert fine.sum() >= 4
    assert np.all(np.asarray(polished.distances)[fine] < 1e-2)
    assert np.all(jax.vmap(loss)(rj.take(polished.networks, np.flatnonzero(fine))) < 1e-25)


def test_the_global_minimum_is_a_minimum_with_and_without_rescaling():
    for train, explained in ((("weights",), 0), (rj.network.TRAINABLE, 5)):
        verdict = rj.classify(*global_minimum(5, train))
        assert words(verdict.status) == "minimum"
        assert (int(verdict.index), int(verdict.nullity), int(verdict.nullity_explained)) == (0, explained, explained)
        assert verdict.eigenvalues.shape == (25 + (5 if explained else 0),)
    np.testing.assert_allclose(rj.classify(*global_minimum(5)).min_eigenvalue, 0.25 - 1 / (2 * np.pi), rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [6, 10])
def test_the_maximally_symmetric_point_is_a_saddle_of_known_loss(k):
    loss, net = parallel_saddle(k)
    verdict = rj.classify(loss, net)
    assert words(verdict.status) == "saddle"
    # ½(k/2 + k(k−1)/2π) − k² r²/4, evaluated with 30 digits
    np.testing.assert_allclose(verdict.loss, {6: 1.1712731480, 10: 3.5986557114}[k], rtol=0, atol=1e-10)


def test_split_neurons_of_a_global_minimum_stay_a_minimum():
    """One more student than teachers, a teacher shared by two: a flat continuum at loss zero."""
    loss = rj.problems.orthonormal_teacher(3)
    weights = jnp.array([[0.3, 0, 0], [0.7, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    verdict = rj.classify(loss, rj.ShallowReLU(weights, jnp.ones(4), train=("weights",)))
    assert words(verdict.status) == "minimum"
    assert int(verdict.nullity) >= 1
    assert int(verdict.nullity_explained) == 1


def test_a_silent_neuron_with_a_correlation_makes_a_saddle_of_index_one():
    """a_1 = 0 and C_1 ≠ 0: the pair (a_1, w_1) has the eigenvalues ±|C_1| to leading order."""
    loss = rj.EmpiricalLoss(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 2.0]))
    # the second neuron fits the second datum alone, the first is silent and points at the first datum
    net = rj.ShallowReLU(jnp.array([[0.0, 0.0], [-1.0, 1.0]]), jnp.array([0.0, 2.0]))
    moved = rj.ShallowReLU(net.weights.at[0].set(jnp.array([1e-300, 0.0])), net.amplitudes)
    verdict = rj.classify(loss, moved)
    assert words(verdict.status) == "saddle"
    assert int(verdict.index) == 1
    np.testing.assert_allclose(verdict.min_eigenvalue, -0.5, rtol=0, atol=1e-12)


def test_dead_neurons_are_counted_and_explained():
    loss = rj.EmpiricalLoss(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 2.0]))
    net = rj.ShallowReLU(jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), jnp.array([1.0, 2.0, 5.0]))
    verdict = rj.classify(loss, net)
    assert words(verdict.status) == "minimum"
    assert int(verdict.dead) == 1
    assert int(verdict.nullity) == int(verdict.nullity_explained)


def test_points_that_are_not_critical_or_escape():
    loss, net = global_minimum(3)
    assert words(rj.classify(loss, near(net, 0, 0.1)).status) == "not critical"
    far = rj.ShallowReLU(jnp.array([[1e5]]), jnp.array([1e5]))
    # a target of 1e12 that one active neuron grows towards, while its loss changes by little as it doubles
    assert words(rj.classify(rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([1e12])), far).status) == "escaping"


def test_a_zero_neuron_is_judged_by_its_slope_in_every_direction():
    """Beside the best single neuron for two teachers, one of amplitude 1 leaves; of one of amplitude −1 nothing is proved."""
    loss = rj.problems.orthonormal_teacher(2)
    # along (1, 1), of the length that `parallel_saddle` shares among two
    best = np.sum(np.asarray(parallel_saddle(2)[1].weights), axis=0)

    beside = np.array([best, np.zeros(2)])

    def kind(amplitude, train=("weights",), weights=beside, first=1.0):
        return words(rj.classify(loss, rj.ShallowReLU(weights, np.array([first, amplitude]), train=train)).status)

    assert kind(1.0) == "descent point"
    assert kind(1.0, rj.network.TRAINABLE) == "descent point"
    assert kind(0.0, rj.network.TRAINABLE) == "saddle"
    assert kind(-1.0) == "undecided"
    # where all pull the other way there is nowhere to go
    assert kind(-1.0, weights=np.zeros((2, 2)), first=-1.0) == "minimum"
    assert kind(-1.0, weights=1e-17 * np.array([best, -best]), first=-1.0) == "minimum"


def test_single_precision_is_refused_with_the_line_that_helps():
    loss, net = global_minimum(2)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), net)
    for function in (rj.polish, rj.classify):
        with pytest.raises(ValueError, match="float64"):
            function(loss, single)


def test_a_network_that_is_not_finite_is_undecided():
    loss = rj.EmpiricalLoss(jnp.eye(2), jnp.ones(2))
    verdict = rj.classify(loss, rj.ShallowReLU(jnp.full((1, 2), jnp.nan), jnp.ones(1)))
    assert words(verdict.status) == "undecided"
