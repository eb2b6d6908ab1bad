"""The spectrum from the reduced matrix, and its enclosures, against the dense ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.hessian import enclose, hessian_error, reduced_eigenvalues, reduced_enclosure, reduced_size

TRAIN = [("weights",), ("weights", "amplitudes"), ("weights", "biases", "amplitudes"), ("biases", "amplitudes"), ("amplitudes",)]
hessian = eqx.filter_jit(rj.hessian.hessian)


def problem(n, m, d, train, scale=1.0):
    r = np.random.default_rng(n + m)
    loss = rj.EmpiricalLoss(r.standard_normal((n, d)), scale * r.standard_normal(n))
    net = rj.ShallowReLU(
        jnp.array(r.standard_normal((m, d))), jnp.array(r.standard_normal(m)), jnp.array(r.standard_normal(m)), train=train
    )
    return loss, net


def padded(*spectra):
    """Spectra of one length, filled up with zeros."""
    longest = max(len(v) for v in spectra)
    return [np.sort(np.concatenate([v, np.zeros(longest - len(v))])) for v in spectra]


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize(("n", "m", "d"), [(6, 8, 10), (40, 5, 3)])
def test_the_reduced_spectrum_is_the_dense_one_but_for_zeros(train, n, m, d):
    loss, net = problem(n, m, d, train)
    exact = rj.hessian.eigenvalues(hessian(loss, net, "closed"))
    found = reduced_eigenvalues(loss, net)
    assert len(found) == reduced_size(loss, net)
    one, other = padded(exact, found)
    np.testing.assert_allclose(one, other, atol=1e-12 * np.abs(exact).max())


@pytest.mark.parametrize("train", TRAIN)
def test_enclosures_contain_the_dense_ones_centres(train):
    """The dense enclosure is the reference: both contain the exact spectrum, so that they overlap."""
    loss, net = problem(6, 8, 10, train)
    reference = enclose(hessian(loss, net, "closed"), error=hessian_error(loss, net))
    found = reduced_enclosure(loss, net, error=hessian_error(loss, net))
    # a reduced matrix larger than the Hessian has surplus zeros
    length = max(len(reference.lower), len(found.lower))
    lower, upper = (padded(a, b) for a, b in ((reference.lower, found.lower), (reference.upper, found.upper)))
    assert len(lower[0]) == length
    assert np.all(np.maximum(*lower) <= np.minimum(*upper))
    assert found.negative <= np.sum(reference.upper < 0)
    assert np.max(found.upper - found.lower) < 1e-4


def test_next_to_a_critical_point_enclosures_are_as_tight_as_the_couplings_are_small():
    """Targets that the network fits to 1e-10: the couplings are of that size, and so are the radii."""
    loss, net = problem(6, 8, 10, TRAIN[2])
    r = np.random.default_rng(0)
    loss = rj.EmpiricalLoss(loss.inputs, np.asarray(loss.outputs(net)) + 1e-10 * r.standard_normal(6))
    found = reduced_enclosure(loss, net, error=hessian_error(loss, net))
    exact = rj.hessian.eigenvalues(hessian(loss, net, "closed"))
    assert np.max(found.upper - found.lower) < 2e-9
    lower, upper, values = padded(found.lower, found.upper, exact)
    assert np.all((lower <= values + 1e-13) & (values - 1e-13 <= upper))
    assert (found.negative, found.positive) == (0, 6)


def test_a_neuron_without_correlation_adds_nothing():
    """A dead neuron: no datum reaches it, so C_j = 0, its columns have no direction and Cholesky's factor does not exist."""
    loss = rj.EmpiricalLoss(jnp.eye(2), jnp.array([0.3, 0.2]))
    net = rj.ShallowReLU(jnp.array([[1.0, 0.5], [-1.0, -1.0]]), jnp.array([1.0, 2.0]))
    exact = rj.hessian.eigenvalues(hessian(loss, net, "ad"))
    np.testing.assert_allclose(np.sort(reduced_eigenvalues(loss, net)), np.sort(exact), atol=1e-14)


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


def test_a_network_that_trains_nothing_is_refused():
    loss, net = problem(6, 8, 10, ())
    with pytest.raises(ValueError, match="leaves no parameter"):
        reduced_eigenvalues(loss, net)
