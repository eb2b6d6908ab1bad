"""The reduced spectrum against the dense one, and enclosures against planted spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.hessian import enclose, is_positive_definite, reduced_eigenvalues, reduced_size

TRAIN = [("weights",), ("weights", "amplitudes"), ("weights", "biases", "amplitudes"), ("biases", "amplitudes"), ("amplitudes",)]


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize(("n", "m", "d"), [(6, 8, 10), (40, 5, 3)])
def test_reduced_spectrum_is_the_dense_one_but_for_zeros(train, n, m, d):
    r = np.random.default_rng(n + m)
    loss = rj.EmpiricalLoss(r.standard_normal((n, d)), r.standard_normal(n))
    net = rj.ShallowReLU(
        jnp.array(r.standard_normal((m, d))), jnp.array(r.standard_normal(m)), jnp.array(r.standard_normal(m)), train=train
    )
    dense = rj.hessian.eigenvalues(rj.hessian.hessian(loss, net, "ad"))
    reduced = np.asarray(reduced_eigenvalues(loss, net))
    assert len(reduced) == reduced_size(loss, net)
    longest = max(len(dense), len(reduced))
    padded = [np.sort(np.concatenate([v, np.zeros(longest - len(v))])) for v in (dense, reduced)]
    np.testing.assert_allclose(padded[0], padded[1], atol=1e-12 * np.abs(dense).max())


def test_a_neuron_without_correlation_adds_nothing():
    """A dead neuron: no datum reaches it, so C_j = 0 and its columns have no direction."""
    loss = rj.EmpiricalLoss(jnp.eye(2), jnp.array([0.3, 0.2]))
    net = rj.ShallowReLU(jnp.array([[1.0, 0.5], [-1.0, -1.0]]), jnp.array([1.0, 2.0]))
    dense = rj.hessian.eigenvalues(rj.hessian.hessian(loss, net, "ad"))
    reduced = np.sort(reduced_eigenvalues(loss, net))
    np.testing.assert_allclose(reduced, np.sort(dense), atol=1e-14)


def test_a_hundred_thousand_parameters_have_a_known_trace_and_sum_of_squares():
    """tr H and tr H² from Hessian-vector products with every datum's gradient, not from the reduced matrix."""
    r = np.random.default_rng(0)
    n, m, d = 30, 100, 999
    loss = rj.EmpiricalLoss(jnp.array(r.standard_normal((n, d)) / np.sqrt(d)), jnp.array(r.standard_normal(n)))
    net = rj.ShallowReLU(jnp.array(r.standard_normal((m, d))), jnp.array(r.standard_normal(m)), train=("weights",))
    values = reduced_eigenvalues(loss, net)
    assert rj.ravel(net).size == 99_900
    jacobian = jax.jacrev(lambda v: loss.outputs(rj.unravel(net, v)))(rj.ravel(net))
    np.testing.assert_allclose(jnp.sum(values), jnp.sum(jacobian**2) / n, rtol=1e-10)
    apply = jax.vmap(rj.hessian.linear_operator(loss, net))
    np.testing.assert_allclose(jnp.sum(values**2), jnp.sum(apply(jacobian) * jacobian) / n, rtol=1e-10)


def planted(p, seed):
    """Log-uniform eigenvalues of both signs, a tenth of them zero, turned by a random orthogonal matrix."""
    r = np.random.default_rng(seed)
    values = 10.0 ** r.uniform(-12, 0, p) * r.choice([-1, 1], p)
    values[r.random(p) < 0.1] = 0.0
    frame = np.linalg.qr(r.standard_normal((p, p)))[0]
    return np.sort(values), frame @ np.diag(values) @ frame.T


@pytest.mark.parametrize("p", [2, 20, 60, 200])
@pytest.mark.parametrize("seed", range(5))
def test_enclosures_contain_the_spectrum_and_signs_are_never_wrong(p, seed):
    values, matrix = planted(p, seed)
    # the planted matrix is itself rounded: two products and an orthogonality error of a few p u
    found = enclose(matrix, error=20 * p * np.finfo(float).eps)
    assert np.all(found.lower <= values)
    assert np.all(values <= found.upper)
    assert found.negative <= np.sum(values < 0)
    assert found.positive <= np.sum(values > 0)
    assert np.max(found.upper - found.lower) < 1e-9


def test_an_exact_spectrum_is_enclosed_tightly_with_its_signs():
    """The second difference matrix: eigenvalues 2 − 2 cos(kπ/(p+1)), to the last digits known."""
    p = 100
    matrix = 2 * np.eye(p) - np.eye(p, k=1) - np.eye(p, k=-1)
    exact = 2 - 2 * np.cos(np.arange(1, p + 1) * np.pi / (p + 1))
    found = enclose(matrix)
    assert np.all((found.lower <= exact + 1e-15) & (exact - 1e-15 <= found.upper))
    assert (found.negative, found.undecided, found.positive) == (0, 0, p)
    assert is_positive_definite(matrix)
    assert not is_positive_definite(matrix - exact[0] * np.eye(p))


@pytest.mark.parametrize("seed", range(5))
def test_a_certificate_of_definiteness_is_never_wrong(seed):
    r = np.random.default_rng(seed)
    frame = np.linalg.qr(r.standard_normal((30, 30)))[0]
    for smallest in (1e-6, 1e-13, 0.0, -1e-15, -1e-6):
        values = np.concatenate([[smallest], r.uniform(0.1, 1, 29)])
        certain = is_positive_definite(frame @ np.diag(values) @ frame.T)
        assert certain == (smallest == 1e-6) or (smallest == 1e-13 and not certain)


def test_a_minimum_is_certified():
    net = rj.ShallowReLU(jnp.eye(6), jnp.ones(6), train=("weights",))
    assert is_positive_definite(rj.problems.orthonormal_teacher(6).hessian(net), error=1e-13)


def test_the_dataset_is_the_same_by_both_methods_and_says_which_was_taken():
    pytest.importorskip("xarray")
    r = np.random.default_rng(1)
    loss = rj.EmpiricalLoss(r.standard_normal((4, 12)), r.standard_normal(4))
    nets = rj.initialise.unbalanced(jax.random.key(0), number=3, width=6, dim=12)
    dense, chosen = (rj.hessian.spectrum(loss, nets, method=method) for method in ("dense", "auto"))
    assert chosen.attrs["method"] == "reduced: 16 < 78 / 2"
    assert chosen.attrs["further_zeros"] == 78 - 16
    for name in ("index", "nullity"):
        np.testing.assert_array_equal(dense[name], chosen[name])
    for row in range(3):
        kept = [d["multiplicity"].values[row] > 0 for d in (dense, chosen)]
        np.testing.assert_array_equal(dense["multiplicity"].values[row][kept[0]], chosen["multiplicity"].values[row][kept[1]])
        np.testing.assert_allclose(dense["value"].values[row][kept[0]], chosen["value"].values[row][kept[1]], atol=1e-12)
    with pytest.raises(ValueError, match="is for an empirical loss"):
        rj.hessian.spectrum(rj.problems.orthonormal_teacher(12), nets, method="reduced")
