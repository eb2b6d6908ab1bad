"""Grouping of points that are equal up to permutations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.critical import distinct
from relujax.critical.matching import distance_between


def shuffled(weights, r):
    rows, columns = r.permutation(len(weights)), r.permutation(weights.shape[1])
    return weights[rows][:, columns]


def family_ii(k, flipped, seed):
    """A matrix with the isotropy of a type II minimum, its values drawn at random."""
    r = np.random.default_rng(seed)
    blocks = rj.fixed_space.FixedSpace((flipped, k - flipped))
    values = 0.1 * r.standard_normal(blocks.dimension)
    values[:2] = -0.8, 1.0
    return np.asarray(blocks.embed(values))


@pytest.mark.parametrize("k", [6, 12])
def test_permuted_copies_are_one_point_and_others_are_not(k):
    r = np.random.default_rng(0)
    kinds = [np.eye(k), family_ii(k, 1, 1), family_ii(k, 2, 2), r.standard_normal((k, k))]
    which = r.integers(0, len(kinds), 60)
    weights = np.stack([shuffled(kinds[i], r) + 1e-10 * r.standard_normal((k, k)) for i in which])
    loss = rj.problems.orthonormal_teacher(k)
    nets = rj.ShallowReLU(jnp.array(weights), jnp.ones((60, k)), train=("weights",))
    found = distinct(loss, nets, np.array(jax.vmap(loss)(nets)))
    assert len(found.representative) == 4
    for label in range(4):
        assert len(set(which[found.label == label])) == 1


def test_points_of_equal_loss_and_entries_are_told_apart_by_alignment():
    """The same entries in another arrangement: moving one entry within its row changes nothing that sorting can see."""
    weights = np.eye(5)
    weights[0, 1] = weights[1, 2] = 0.3
    other = np.eye(5)
    other[0, 1] = other[1, 0] = 0.3
    assert distance_between(weights, other, teachers=5) > 0.2
    assert distance_between(weights, shuffled(weights, np.random.default_rng(3)), teachers=5) < 1e-15


def test_only_neurons_may_be_permuted_when_the_teacher_is_not_symmetric():
    loss = rj.problems.teacher(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.ones(2))
    weights = jnp.array([[[1.0, 0.2], [0.1, 2.0]], [[0.1, 2.0], [1.0, 0.2]], [[0.2, 1.0], [2.0, 0.1]]])
    nets = rj.ShallowReLU(weights, jnp.ones((3, 2)), train=("weights",))
    found = distinct(loss, nets, np.zeros(3) + 0.5)
    assert found.label[0] == found.label[1] != found.label[2]
