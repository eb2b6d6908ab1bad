"""The network: what it computes, how its parameters are ordered, what is read off it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("hypothesis")
import hypothesis.strategies as st
from hypothesis import given

import relujax as rj


def random_net(seed, m=4, d=3, biased=True, batch=(), train=("weights", "biases", "amplitudes")):
    r = np.random.default_rng(seed)
    biases = r.standard_normal((*batch, m)) if biased else None
    return rj.ShallowReLU(r.standard_normal((*batch, m, d)), r.standard_normal((*batch, m)), biases, train=train)


def plain_output(net, x):
    """The definition, one neuron at a time."""
    biases = np.zeros(net.width) if net.biases is None else net.biases
    return sum(a * max(float(w @ x) + b, 0.0) for w, a, b in zip(net.weights, net.amplitudes, biases, strict=True))


@pytest.mark.parametrize("biased", [False, True])
def test_output_is_the_sum_over_neurons(biased):
    net = random_net(0, biased=biased)
    inputs = np.random.default_rng(1).standard_normal((7, 3))
    expected = [plain_output(net, x) for x in inputs]
    np.testing.assert_allclose(jax.vmap(net)(inputs), expected, rtol=1e-14)


def test_parameters_are_ordered_weights_biases_amplitudes():
    net = rj.ShallowReLU(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([7.0, 8.0]), np.array([5.0, 6.0]))
    assert rj.ravel(net).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("train", [("weights",), ("biases", "weights"), ("amplitudes",), ("weights", "amplitudes")])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_unravel_inverts_ravel_and_keeps_what_does_not_move(train, batch):
    net = random_net(2, batch=batch, train=train)
    if batch:
        back = jax.vmap(lambda one, vector: rj.unravel(one, vector))(net, 2 * rj.ravel(net))
    else:
        back = rj.unravel(net, 2 * rj.ravel(net))
    for name in ("weights", "biases", "amplitudes"):
        factor = 2 if name in train else 1
        np.testing.assert_array_equal(getattr(back, name), factor * getattr(net, name))


def test_numpy_networks_pass_through_transformations():
    nets = random_net(3, batch=(5,))
    assert jax.jit(jax.vmap(lambda net: net(jnp.ones(3))))(nets).shape == (5,)


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_positive_rescaling_and_permutation_leave_the_function_and_its_canonical_form(seed, scale):
    net = random_net(seed)
    order = np.random.default_rng(seed).permutation(net.width)
    factor = np.where(np.arange(net.width) == seed % net.width, scale, 1.0)
    other = rj.ShallowReLU((net.weights * factor[:, None])[order], (net.amplitudes / factor)[order], (net.biases * factor)[order])
    x = np.array([0.3, -1.0, 0.5])
    np.testing.assert_allclose(other(x), net(x), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(rj.variation_norm(other), rj.variation_norm(net), rtol=1e-12)
    for left, right in zip(jax.tree.leaves(rj.canonical(net)), jax.tree.leaves(rj.canonical(other)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-13)


def test_balance_kinks_and_dead_neurons():
    net = rj.ShallowReLU(np.array([[2.0], [-1.0], [0.0]]), np.array([3.0, 1.0, 1.0]), np.array([1.0, -0.5, 1.0]))
    np.testing.assert_allclose(rj.balance(net), [9 - 4 - 1, 1 - 1 - 0.25, 1 - 1])
    np.testing.assert_allclose(rj.kinks(net), [-0.5, -0.5, np.inf])
    assert rj.dead_neurons(net, np.array([[0.0], [1.0]])).tolist() == [False, True, False]
    assert rj.activation_pattern(net, np.array([[-0.5], [0.0]])).tolist() == [[False, False, True], [True, False, True]]


def test_a_neuron_resting_on_a_boundary_by_rounding_is_dead():
    net = rj.ShallowReLU(np.array([[1.0, 1e-17]]), np.array([1.0]))
    assert rj.dead_neurons(net, np.array([[0.0, 1.0], [-1.0, 0.0]])).tolist() == [True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rj.ShallowReLU(np.ones((2, 3)), np.ones(3)), "amplitudes have shape"),
        (lambda: rj.ShallowReLU(np.ones((2, 3)), np.ones(2), np.ones(3)), "biases have shape"),
        (lambda: rj.ShallowReLU(np.ones((2, 3)), np.ones(2), train=("weight",)), "train names 'weight'"),
        (lambda: rj.unravel(random_net(0), jnp.ones(3)), "3 entries"),
        (lambda: rj.kinks(random_net(0)), "3 inputs"),
        (lambda: rj.stack([]), "0 networks"),
    ],
)
def test_refusals_name_the_value(make, message):
    with pytest.raises((ValueError, TypeError)) as error:
        make()
    # shapes are caught by the annotations first where beartype is installed
    assert message in str(error.value) or error.type.__name__ == "TypeCheckError"
