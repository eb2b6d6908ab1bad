"""Certified counts, a-priori floors, expected nullity and strict minima, at points whose spectra are known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.hessian import expected_nullity, inertia, is_strict_minimum, negative_floor

hessian = eqx.filter_jit(rj.hessian.hessian)


def interpolating(seed, *, n=4, m=6, d=3, biases=True):
    """A network and data that it fits exactly, away from all kinks: a minimum on which the Hessian is JᵀJ/n, of rank n or less.

    Integers below 2^10, so that outputs and targets are exact in double precision.
    """
    r = np.random.default_rng(seed)
    inputs = r.integers(1, 9, (n, d)) * r.choice([-1.0, 1.0], (n, d))
    net = rj.ShallowReLU(
        r.integers(-8, 9, (m, d)).astype(float),
        r.integers(1, 9, m) * r.choice([-1.0, 1.0], m),
        r.integers(-8, 9, m) + 0.5 if biases else None,
    )
    return rj.EmpiricalLoss(inputs, np.asarray(jax.vmap(net)(inputs))), net


def perturbed(net, size, seed=0):
    step = np.random.default_rng(seed).standard_normal(rj.ravel(net).size)
    return rj.unravel(net, np.asarray(rj.ravel(net)) + size * step / np.linalg.norm(step))


@pytest.mark.parametrize("seed", range(8))
def test_certified_counts_at_and_next_to_interpolating_minima(seed):
    """Exactly n positive eigenvalues and no negative one; 1e-8 away dozens of computed ones are negative."""
    loss, net = interpolating(seed)
    p, rank = rj.ravel(net).size, np.linalg.matrix_rank(loss.jacobian(net))
    here = inertia(loss, net)
    assert (int(here.negative), int(here.positive)) == (0, rank)
    assert int(here.undecided) == p - rank
    away = perturbed(net, 1e-8)
    near = inertia(loss, away, distance=1.01e-8)
    assert (int(near.negative), int(near.positive)) == (0, rank)
    naive = rj.hessian.eigenvalues(hessian(loss, away))
    assert np.sum(naive < -1e-15) >= 1
    # without the distance the counts are those of the other point, whose negative eigenvalues are real
    assert int(inertia(loss, away).negative) <= np.sum(naive < 0)


@pytest.mark.slow
def test_no_certificate_is_wrong_at_the_ends_of_real_flows():
    """At a smooth critical point without silent neurons the Hessian is JᵀJ/n: no negative eigenvalue, rank J positive ones."""
    r = np.random.default_rng(0)
    loss = rj.EmpiricalLoss(r.standard_normal((4, 3)), r.standard_normal(4))
    nets = rj.initialise.balanced(jax.random.key(1), number=48, width=20, dim=3, scale=1.0)
    ends = rj.flow_ensemble(loss, nets, gradient_norm=1e-4, rtol=1e-7, atol=1e-7)
    polished = rj.polish(loss, ends.networks)
    tested = 0
    for i in np.flatnonzero(np.asarray(polished.status) == rj.PolishStatus.CONVERGED):
        net = rj.take(polished.networks, i)
        margin = np.abs(rj.network.preactivations(net, loss.inputs)) / (1 + np.linalg.norm(loss.inputs, axis=1)[:, None])
        if np.min(margin) < 5e-8 or np.min(np.abs(net.amplitudes)) < 1e-3:
            continue
        tested += 1
        rank = np.linalg.matrix_rank(loss.jacobian(net))
        for seed in range(5):
            found = inertia(loss, perturbed(net, 1e-8, seed), distance=1.01e-8)
            assert int(found.negative) == 0
            assert int(found.positive) <= rank
    assert tested >= 10


@pytest.mark.parametrize("train", [("weights",), ("weights", "amplitudes")])
def test_counts_on_gaussian_inputs(train):
    k = 5
    net = rj.ShallowReLU(jnp.eye(k), jnp.ones(k), train=train)
    loss = rj.problems.orthonormal_teacher(k)
    for found in (inertia(loss, net), inertia(loss, perturbed(net, 1e-9), distance=1.01e-9)):
        zeros = k if "amplitudes" in train else 0
        assert (int(found.negative), int(found.undecided), int(found.positive)) == (0, zeros, k * k)
    # all along one direction: a saddle with negative eigenvalues that are certain
    saddle = rj.ShallowReLU(0.4 * jnp.ones((k, k)), jnp.ones(k), train=train)
    counts = inertia(loss, saddle)
    computed = rj.hessian.eigenvalues(hessian(loss, saddle))
    assert int(counts.negative) == np.sum(computed < -1e-10) > 0


def test_a_stack_and_a_large_network_through_the_reduced_matrix():
    loss, net = interpolating(0, n=4, m=10, d=5)
    assert 2 * rj.hessian.reduced_size(loss, net) < rj.ravel(net).size
    stacked = rj.network.stack([net, perturbed(net, 1e-3)])
    found = inertia(loss, stacked)
    assert found.negative.shape == (2,)
    np.testing.assert_array_equal(found.negative + found.undecided + found.positive, rj.ravel(net).size)
    assert int(found.positive[0]) == 4
    for i in range(2):
        exact = rj.hessian.eigenvalues(hessian(loss, rj.take(stacked, i)))
        assert int(found.negative[i]) <= np.sum(exact < 0)
        assert int(found.positive[i]) <= np.sum(exact > 0)


@pytest.mark.parametrize("seed", range(18))
def test_a_silent_neuron_makes_a_saddle_of_index_one(seed):
    """a_1 = 0 and C_1 ≠ 0, at a critical point: residuals orthogonal to all that the network can fit at first order."""
    loss, net = interpolating(seed, n=14, m=2)
    r = np.random.default_rng(seed + 100)
    added = rj.ShallowReLU(r.standard_normal((1, 3)), np.zeros(1), r.standard_normal(1))
    quiet = jax.tree.map(lambda *parts: np.concatenate(parts), added, net)
    active = np.asarray(rj.activation_pattern(quiet, loss.inputs))
    extended = np.concatenate([loss.inputs, np.ones((14, 1))], axis=1)
    fitted = [np.where(active[:, [j]], extended, 0.0) for j in (1, 2)]
    fitted += [np.maximum(extended @ rj.hidden_vectors(added).T, 0)]
    left, sizes, _ = np.linalg.svd(np.concatenate(fitted, axis=1))
    rest = left[:, np.sum(sizes > 1e-10 * sizes[0]) :]
    loss = rj.EmpiricalLoss(loss.inputs, np.asarray(loss.targets) + rest @ r.standard_normal(rest.shape[1]))
    assert np.linalg.norm(rj.ravel(loss.gradient(quiet))) < 1e-12
    coupled = np.linalg.norm(loss.neuron_correlations(quiet), axis=1)
    assert np.max(coupled[1:]) < 1e-12
    floor, counts = negative_floor(loss, quiet), inertia(loss, quiet)
    assert floor.negative == int(counts.negative) == int(coupled[0] > 1e-9)
    np.testing.assert_allclose(floor.value, -coupled[0], atol=1e-9)


@pytest.mark.parametrize("train", [("weights", "amplitudes"), ("weights", "biases", "amplitudes"), ("weights",)])
def test_the_floor_bounds_index_and_least_eigenvalue_anywhere(train):
    for seed in range(10):
        r = np.random.default_rng(seed)
        net = rj.ShallowReLU(r.standard_normal((4, 2)), r.standard_normal(4), r.standard_normal(4), train=train)
        loss = rj.EmpiricalLoss(r.standard_normal((9, 2)), 5 * r.standard_normal(9))
        values = rj.hessian.eigenvalues(hessian(loss, net))
        floor = negative_floor(loss, net)
        assert values[0] >= floor.value - 1e-12
        assert np.sum(values < -floor.threshold - 1e-14) <= floor.negative <= 4


def test_expected_nullity_is_what_is_counted():
    for seed in range(6):
        loss, net = interpolating(seed)
        dead = rj.ShallowReLU(
            np.concatenate([net.weights, np.zeros((1, 3))]),
            np.concatenate([net.amplitudes, [2.0]]),
            np.concatenate([net.biases, [-1.0]]),
        )
        expected = expected_nullity(loss, dead)
        values = rj.hessian.eigenvalues(hessian(loss, dead))
        assert sum(expected) == np.sum(np.abs(values) <= 1e-10 * values[-1])
        alive = 7 - int(np.sum(rj.dead_neurons(dead, loss.inputs)))
        assert expected.rescaling == alive
        assert expected.dead == 5 * (7 - alive)
    with pytest.raises(ValueError, match="amplitude 0"):
        expected_nullity(loss, rj.ShallowReLU(net.weights, np.zeros(6), net.biases))


def test_strict_minima_are_proven_up_to_rescaling():
    loss, net = interpolating(0, n=40, m=2, d=3)
    jacobian = loss.jacobian(net)
    assert np.linalg.matrix_rank(jacobian) == 8  # 10 parameters, 2 directions of rescaling
    assert is_strict_minimum(loss, net)
    assert is_strict_minimum(loss, perturbed(net, 1e-9), distance=1.01e-9)
    assert not is_strict_minimum(loss, net, distance=10.0)
    flat, wide = interpolating(0)
    assert not is_strict_minimum(flat, wide)
    saddle = rj.ShallowReLU(0.4 * jnp.ones((4, 4)), jnp.ones(4))
    assert not is_strict_minimum(rj.problems.orthonormal_teacher(4), saddle)
    nothing = rj.ShallowReLU(np.zeros((2, 3)), np.zeros(2), np.zeros(2))
    assert not is_strict_minimum(loss, nothing)


def test_refusals():
    loss, net = interpolating(0)
    single = jax.tree.map(lambda x: np.asarray(x, np.float32), net)
    for function in (inertia, negative_floor, is_strict_minimum):
        with pytest.raises(ValueError, match="float64"):
            function(loss, single)
    with pytest.raises((ValueError, TypeError), match=r"is for an empirical loss|Type-check"):
        negative_floor(rj.problems.orthonormal_teacher(3), net)
    biased = rj.problems.orthonormal_teacher(3)
    with pytest.raises(ValueError, match="no bound"):
        inertia(biased, net)
    assert int(inertia(biased, rj.ShallowReLU(np.zeros((1, 3)), np.ones(1))).undecided) == 4
