"""Split and added neurons: the function stays, and the test is what the Hessian of the split network says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.symmetry import add_neurons, annihilation, family, split, split_test


def network(name, k):
    return rj.ShallowReLU(jnp.asarray(family(name, k).weights), jnp.ones(k), train=("weights",))


def test_a_split_network_is_the_same_function():
    net = network("II", 6)
    grown = split(net, 2, 0.3)
    x = jax.random.normal(jax.random.key(0), (7, 6))
    np.testing.assert_allclose(jax.vmap(grown)(x), jax.vmap(net)(x), atol=1e-14)
    assert grown.train == net.train
    with_biases = rj.ShallowReLU(jnp.ones((2, 3)), jnp.ones(2), jnp.array([1.0, 2.0]))
    assert split(with_biases, 1, 0.25).biases.tolist() == [1.0, 0.5, 1.5]


def test_the_splitting_eigenvalues_are_those_of_families():
    """Type II and A at k = 10 (2006.01005's claim, computed with the closed Hessian of one neuron)."""
    loss = rj.problems.orthonormal_teacher(10)
    found = split_test(loss, network("II", 10)).eigenvalues
    np.testing.assert_allclose(found[0], -0.07688334, atol=1e-8)
    np.testing.assert_allclose(found[1:], -0.08661904, atol=1e-8)
    np.testing.assert_allclose(split_test(loss, network("A", 10)).eigenvalues, -0.11425113, atol=1e-8)
    # at the global minimum no split helps: the matrix vanishes along the neuron, and is not negative across it
    none = split_test(loss, rj.ShallowReLU(jnp.eye(10), jnp.ones(10), train=("weights",)))
    assert not none.descends


@pytest.mark.parametrize("fraction", [0.5, 0.2])
def test_moving_the_parts_apart_changes_the_loss_as_the_test_says(fraction):
    """Second differences of the loss along (u, −u) from the split network: `uᵀNu (1/α + 1/(1−α))`, by the loss alone."""
    loss, net = rj.problems.orthonormal_teacher(6), network("II", 6)
    test = split_test(loss, net)
    grown = split(net, 0, fraction)
    t = 1e-3

    def moved(sign):
        direction = np.zeros((7, 6))
        direction[0], direction[6] = test.directions[0], -test.directions[0]
        return float(loss(rj.ShallowReLU(grown.weights + sign * t * direction, grown.amplitudes, train=("weights",))))

    bend = (moved(1) + moved(-1) - 2 * float(loss(grown))) / t**2
    np.testing.assert_allclose(bend, test.eigenvalues[0] * (1 / fraction + 1 / (1 - fraction)), rtol=2e-2)
    assert bend < 0


def test_two_tiny_neurons_lead_every_flow_from_ii_to_a_global_minimum():
    loss, net = rj.problems.orthonormal_teacher(6), network("II", 6)
    found = annihilation(loss, net, jax.random.key(1), added=2, starts=16)
    assert found.share == 1.0
    assert np.all(found.losses < 1e-4)
    assert found.died.shape == found.status.shape == (16,)


def test_refusals():
    net = network("II", 6)
    with pytest.raises(ValueError, match="fraction is 1"):
        split(net, 0, 1.0)
    with pytest.raises(ValueError, match="no neuron 6"):
        split(net, 6)
    biased = rj.ShallowReLU(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="biases"):
        add_neurons(biased, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="biases"):
        split_test(rj.problems.orthonormal_teacher(3), biased)
    with pytest.raises(ValueError, match="added is 0"):
        annihilation(rj.problems.orthonormal_teacher(6), net, jax.random.key(0), added=0)
