"""What a sample does not see of the curvature of its population, and how far an estimate of it can be trusted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.fixed_space import FixedSpace

hessian = eqx.filter_jit(rj.hessian.hessian)

# the index-3 saddle of ten neurons with isotropy S_4 x S_6: diagonals, then S_4 with itself, with S_6, S_6 with S_4, with itself
SADDLE = [
    *(-0.4672832629339925, 1.0358438359964603, 0.4711987318681462),
    *(-0.008176291132439178, 0.008509413847683467, -0.0005030380808431236),
]


@pytest.fixture(scope="module")
def saddle():
    return rj.ShallowReLU(FixedSpace((4, 6)).embed(np.array(SADDLE)), jnp.ones(10), train=("weights",))


def sampled(key, number, k=10):
    x = jax.random.normal(key, (number, k))
    return rj.EmpiricalLoss(x, jnp.sum(jnp.maximum(x, 0), axis=1))


def test_a_population_saddle_whose_sample_calls_it_a_strict_minimum(saddle):
    """Index 3 by the population Hessian; every eigenvalue of the sample's is above 0.08, and stays there with more samples."""
    loss = rj.problems.orthonormal_teacher(10)
    verdict = rj.classify(loss, saddle)
    assert verdict.words == "saddle"
    assert float(verdict.gradient_norm) < 1e-14
    assert int(verdict.index) == 3
    np.testing.assert_allclose(verdict.min_eigenvalue, -0.01835101, atol=1e-8)
    assert int(rj.hessian.inertia(loss, saddle).negative) == 3
    found = rj.hessian.sampled_spectrum(sampled(jax.random.key(1), 100_000), saddle)
    assert found.almost_everywhere[0] > 0.08
    # with the estimated boundary term the three are negative, by more than their error bars
    assert np.all(found.with_boundary[:3] + found.errors[:3] < 0)
    assert np.all(found.with_boundary[3:] > 0)
    np.testing.assert_allclose(found.with_boundary[:3], -0.01835, atol=0.007)


def test_the_boundary_term_tends_to_what_the_sample_lacks():
    """Away from critical points, against the closed form of the population: the error shrinks and is what the bar says."""
    r = np.random.default_rng(0)
    k = 4
    loss = rj.problems.orthonormal_teacher(k)
    net = rj.ShallowReLU(jnp.array(r.standard_normal((k, k))), jnp.array([1.0, -1.0, 2.0, 0.5]))
    x = jax.random.normal(jax.random.key(0), (100_000, k))
    exact = np.asarray(hessian(loss, net))
    smooth = np.asarray(hessian(rj.EmpiricalLoss(x, jnp.sum(jnp.maximum(x, 0), axis=1)), net))
    errors = []
    for number in (1_000, 100_000):
        data = rj.EmpiricalLoss(x[:number], jnp.sum(jnp.maximum(x[:number], 0), axis=1))
        term = rj.hessian.boundary_term(data, net)
        assert term.matrix.shape == (20, 20)
        # the almost-everywhere part of a large sample is exact to 1/√n, and so is their sum
        blocks = [np.s_[4 * j : 4 * j + 4, 4 * j : 4 * j + 4] for j in range(k)]
        errors.append(max(np.linalg.norm((exact - smooth - np.asarray(term.matrix))[b], 2) for b in blocks))
        assert errors[-1] < 1.5 * term.error
    assert errors[1] < errors[0] / 3


def test_error_bars_cover_most_of_the_spectrum():
    """One standard error and the change by smoothing: at 8 random points, most eigenvalues are within two of them."""
    k, hits, total = 3, 0, 0
    loss = rj.problems.orthonormal_teacher(k)
    data = sampled(jax.random.key(4), 20_000, k)
    for seed in range(8):
        net = rj.ShallowReLU(jnp.array(np.random.default_rng(seed).standard_normal((k, k))), jnp.ones(k), train=("weights",))
        exact = np.linalg.eigvalsh(hessian(loss, net))
        found = rj.hessian.sampled_spectrum(data, net)
        hits += np.sum(np.abs(found.with_boundary - exact) < 2 * found.errors)
        total += exact.size
    assert hits / total > 0.8


def test_a_neuron_that_does_not_vary_and_another_loss():
    loss = sampled(jax.random.key(0), 100, 2)
    net = rj.ShallowReLU(jnp.zeros((1, 2)), jnp.ones(1), jnp.ones(1))
    assert float(jnp.max(jnp.abs(rj.hessian.boundary_term(loss, net).matrix))) == 0
    with pytest.raises((ValueError, TypeError), match=r"only an empirical loss|Type-check"):
        rj.hessian.boundary_term(rj.problems.orthonormal_teacher(2), net)
