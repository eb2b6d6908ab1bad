"""The losses of the study against plain sums and the Gaussian kernel, and its claims on results built by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import dblquad

xarray = pytest.importorskip("xarray")

import relujax as rj
from relujax.studies.least_symmetry_breaking import SETTINGS, STUDY, _kind
from relujax.studies.other_laws import MixedGaussian, SmoothGaussian


def network(k, seed):
    return rj.ShallowReLU(jax.random.normal(jax.random.key(seed), (k, k)) / np.sqrt(k), jnp.ones(k), train=("weights",))


def test_the_kernel_of_erf_is_its_arcsine_law():
    """E erf(w·x) erf(v·x) = (2/π) arcsin(2 w·v/√((1 + 2|w|²)(1 + 2|v|²))) (Williams 1997)."""
    net = network(3, 0)
    vectors = np.concatenate([net.weights, np.eye(3)])
    products = vectors @ vectors.T
    sizes = 1 + 2 * np.diag(products)
    kernel = 2 / np.pi * np.arcsin(2 * products / np.sqrt(np.outer(sizes, sizes)))
    signs = np.array([1, 1, 1, -1, -1, -1])
    found = SmoothGaussian(np.eye(3), jax.scipy.special.erf)(net)
    np.testing.assert_allclose(float(found), signs @ kernel @ signs / 2, rtol=1e-9)


def test_a_smooth_loss_is_its_integral():
    weights = np.array([[0.7, -0.4]])
    loss = SmoothGaussian(np.array([[1.0, 0.0]]), jax.nn.softplus)

    def integrand(y, x):
        difference = np.logaddexp(0, 0.7 * x - 0.4 * y) - np.logaddexp(0, x)
        return difference**2 / 2 * np.exp(-(x**2 + y**2) / 2) / (2 * np.pi)

    exact = dblquad(integrand, -9, 9, -9, 9, epsabs=1e-11)[0]
    net = rj.ShallowReLU(jnp.asarray(weights), jnp.ones(1), train=("weights",))
    np.testing.assert_allclose(float(loss(net)), exact, rtol=1e-8)


def test_one_map_is_the_gaussian_loss_of_the_mapped_network():
    net, r = network(4, 1), np.random.default_rng(0)
    root = np.eye(4) + 0.2 * r.standard_normal((4, 4))
    loss = MixedGaussian(np.eye(4), root[None], lambda key, n: jax.random.normal(key, (n, 4)) @ root.T)
    mapped = rj.ShallowReLU(net.weights @ root, net.amplitudes, train=("weights",))
    np.testing.assert_allclose(float(loss(net)), float(rj.problems.teacher(root, np.ones(4))(mapped)), rtol=1e-12)
    sample = loss.sampled(net.weights, jax.random.key(2), 200)
    assert sample.shape == (200,)
    numbers = rj.ravel(loss.gradient(net))
    slope = (float(loss(rj.unravel(net, rj.ravel(net) + 1e-5 * numbers))) - float(loss(net))) / 1e-5
    np.testing.assert_allclose(slope, float(numbers @ numbers), rtol=1e-3)


def results(*, groups=("S_1 x S_6", "S_7"), deviation=1.0, index=0, ended=True):
    data = {
        "isotropy": (["start"], np.array(groups)),
        "loss": (["start"], np.zeros(len(groups))),
        "ended": (["start"], np.full(len(groups), ended)),
        "index": (["point"], np.array([index])),
    }
    attrs = {"k": 7, "deviation": deviation}
    return {setting: xarray.Dataset(data, attrs=attrs | {"setting": setting}) for setting in SETTINGS}


@pytest.mark.parametrize(
    ("wrong", "claim"),
    [
        ({"groups": ("S_1 x S_3 x S_3", "S_7")}, "large isotropy group"),
        ({"deviation": 8.0}, "plain sum over inputs"),
        ({"index": 1}, "indices"),
        ({"ended": False}, "flows that ended"),
    ],
)
def test_a_perturbed_run_fails(wrong, claim):
    assert all(one.passed for one in STUDY.claims(results()))
    assert any(claim in one.name for one in STUDY.claims(results(**wrong)) if not one.passed)


def test_groups_are_sorted_into_kinds():
    names = ("S_7", "S_1 x S_6", "S_2 x S_5", "S_1 x S_1 x S_5", "S_3 x S_4", "S_1 x S_3 x S_3")
    kinds = ["S_k", "S_1 x S_{k−1}", "S_2 x S_{k−2}", "other large", "other large", "small"]
    assert [_kind(name) for name in names] == kinds
