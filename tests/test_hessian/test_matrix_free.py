"""Extremes, traces and densities without the matrix, against whole spectra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.hessian import hessian_trace

pytest.importorskip("matfree")

hessian = eqx.filter_jit(rj.hessian.hessian)


@pytest.fixture(scope="module")
def wide():
    """2000 parameters, a few large eigenvalues, 60 negative ones; and the whole spectrum from the reduced matrix."""
    r = np.random.default_rng(0)
    n, m, d = 150, 60, 32
    loss = rj.EmpiricalLoss(jnp.array(r.standard_normal((n, d))), jnp.array(3 * r.standard_normal(n)))
    net = rj.ShallowReLU(jnp.array(r.standard_normal((m, d)) / np.sqrt(d)), jnp.array(r.standard_normal(m) / np.sqrt(m)))
    exact = rj.hessian.reduced_eigenvalues(loss, net)
    return loss, net, np.sort(np.append(exact, np.zeros(m * (d + 1) - len(exact))))


def test_extremes_have_an_eigenvalue_within_their_residuals(wide):
    loss, net, exact = wide
    found = rj.hessian.extreme_eigenvalues(loss, net, key=jax.random.key(0), number=3, depth=60)
    assert found.values.shape == (6,)
    nearest = np.min(np.abs(found.values[:, None] - exact), axis=1)
    assert np.all(nearest <= found.residuals + 1e-12)
    assert found.values[0] >= exact[0] - 1e-12
    np.testing.assert_allclose(found.values[[0, -1]], exact[[0, -1]], rtol=1e-3)
    np.testing.assert_allclose(found.values[-1], exact[-1], rtol=1e-13)
    assert found.residuals[-1] < 1e-10


def test_the_density_has_the_extremes_the_trace_and_the_negative_mass(wide):
    loss, net, exact = wide
    found = rj.hessian.density(loss, net, key=jax.random.key(1), probes=16, depth=60)
    np.testing.assert_allclose(found.nodes[[0, -1]], exact[[0, -1]], rtol=1e-3)
    np.testing.assert_allclose(found.trace, exact.sum(), rtol=1e-12)
    np.testing.assert_allclose(np.sum(found.weights), 1, rtol=1e-12)
    np.testing.assert_allclose(found.parameters * (found.nodes @ found.weights), found.trace, rtol=1e-10)
    # 60 negative eigenvalues of 1980: 16 probes see 1 % of noise
    np.testing.assert_allclose(found.mass(high=-1e-3), np.mean(exact < -1e-3), rtol=0.02)
    np.testing.assert_allclose(found.mass(), 1, rtol=1e-12)
    grid = np.linspace(exact[0] - 1, exact[-1] + 1, 4000)
    np.testing.assert_allclose(np.trapezoid(found(grid, 0.1), grid), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "train", [("weights",), ("weights", "biases"), ("amplitudes",), ("weights", "biases", "amplitudes"), ("biases", "amplitudes")]
)
def test_traces_are_those_of_the_matrices(train):
    r = np.random.default_rng(0)
    net = rj.ShallowReLU(r.standard_normal((3, 2)), r.standard_normal(3), r.standard_normal(3), train=train)
    loss = rj.EmpiricalLoss(r.standard_normal((20, 2)), r.standard_normal(20))
    np.testing.assert_allclose(hessian_trace(loss, net), np.trace(hessian(loss, net)), rtol=1e-12)


@pytest.mark.parametrize("train", [("weights",), ("weights", "amplitudes")])
def test_traces_on_gaussian_inputs(train):
    r = np.random.default_rng(0)
    loss, net = rj.problems.orthonormal_teacher(3), rj.ShallowReLU(r.standard_normal((4, 3)), r.standard_normal(4), train=train)
    np.testing.assert_allclose(hessian_trace(loss, net), np.trace(hessian(loss, net)), rtol=1e-12)


def test_an_invariant_subspace_ends_lanczos_method():
    """Nine distinct eigenvalues at the global minimum, and more steps than that: what follows is noise, and is cut off."""
    net = rj.ShallowReLU(jnp.eye(6), jnp.ones(6), train=("weights",))
    loss = rj.problems.orthonormal_teacher(6)
    exact = np.linalg.eigvalsh(hessian(loss, net))
    found = rj.hessian.density(loss, net, key=jax.random.key(2), probes=2, depth=30)
    assert len(found.nodes) <= 2 * 7
    assert np.max(np.min(np.abs(found.nodes[:, None] - exact), axis=1)) < 1e-12
    assert np.all(np.isfinite(found.weights))
    extremes = rj.hessian.extreme_eigenvalues(loss, net, key=jax.random.key(3), number=4)
    assert np.max(extremes.residuals) < 1e-11


def test_a_hessian_of_zero():
    loss = rj.EmpiricalLoss(np.eye(2), np.zeros(2))
    net = rj.ShallowReLU(-np.ones((3, 2)), np.ones(3))
    found = rj.hessian.density(loss, net, key=jax.random.key(0))
    assert found.mass(-1e-12, 1e-12) == pytest.approx(1)
    assert rj.hessian.extreme_eigenvalues(loss, net, key=jax.random.key(0)).values.tolist() == [0.0]


@pytest.mark.parametrize("train", [("weights",), ("weights", "amplitudes")])
def test_stacks_of_networks(train):
    nets = rj.initialise.xavier(jax.random.key(4), number=3, width=4, dim=3, train=train)
    r = np.random.default_rng(4)
    for loss in (rj.problems.orthonormal_teacher(3), rj.EmpiricalLoss(r.standard_normal((7, 3)), r.standard_normal(7))):
        matrices = np.asarray(hessian(loss, nets))
        vectors = r.standard_normal(matrices.shape[:2])
        products = rj.hessian.linear_operator(loss, nets)(vectors)
        np.testing.assert_allclose(products, np.einsum("bij,bj->bi", matrices, vectors), rtol=0, atol=1e-13)
        found = rj.hessian.density(loss, nets, key=jax.random.key(5), probes=4)
        assert found.nodes.shape == found.weights.shape
        np.testing.assert_allclose(found.trace, np.trace(matrices, axis1=1, axis2=2), rtol=1e-12)
        values = np.linalg.eigvalsh(matrices)
        np.testing.assert_allclose(found.nodes[:, [0, -1]], values[:, [0, -1]], rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.mass(), 1.0, rtol=1e-12)
        alone = rj.hessian.density(loss, rj.take(nets, 1), key=jax.random.split(jax.random.key(5), 3)[1], probes=4)
        grid = np.linspace(-1.0, 4.0, 9)
        np.testing.assert_allclose(found(grid, 0.1)[1], alone(grid, 0.1), rtol=1e-10)
