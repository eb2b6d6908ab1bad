"""Spectra under groups given by generators, against dense spectra and their multiplicities."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.fixed_space import FixedSpace
from relujax.hessian import subgroup_spectrum

hessian = eqx.filter_jit(rj.hessian.hessian)


def transpositions(blocks):
    """Generators of Δ(S_p1 x … x S_pr): a transposition and a cycle of each block, of neurons and inputs together."""
    out, start, k = [], 0, sum(blocks)
    for size in blocks:
        members = np.arange(start, start + size)
        for image in (np.concatenate([members[[1, 0]], members[2:]]), np.roll(members, 1)):
            whole = np.arange(k)
            whole[members] = image
            out.append((whole, whole))
        start += size
    return out


def circulant(seed, k):
    row = np.random.default_rng(seed).standard_normal(k)
    return np.stack([np.roll(row, i) for i in range(k)])


def symmetric_product():
    return np.asarray(FixedSpace((3, 5)).embed(np.random.default_rng(0).standard_normal(6))), transpositions((3, 5))


def cyclic():
    turn = np.roll(np.arange(8), 1)
    return circulant(1, 8), [(turn, turn)]


def dihedral():
    weights = circulant(2, 8)
    turn, mirror = np.roll(np.arange(8), 1), (-np.arange(8)) % 8
    return weights + weights[mirror][:, mirror], [(turn, turn), (mirror, mirror)]


def klein():
    """Two commuting involutions that exchange four neurons in pairs and fix the others: no group of block permutations."""
    first, second = np.array([1, 0, 3, 2, 4, 5, 6, 7]), np.array([2, 3, 0, 1, 4, 5, 6, 7])
    weights = np.random.default_rng(3).standard_normal((8, 8))
    for g in (first, second):
        weights = weights + weights[g][:, g]
    return weights, [(first, first), (second, second)]


def rows_only():
    """Students that are copies of each other are permuted alone."""
    rows = np.random.default_rng(4).standard_normal((6, 8))
    cycle, swap = [1, 2, 0, 3, 4, 5, 6, 7], [1, 0, 2, 3, 4, 5, 6, 7]
    return rows[[0, 0, 0, 1, 2, 3, 4, 5]], [(cycle, range(8)), (swap, range(8))]


@pytest.mark.parametrize("case", [symmetric_product, cyclic, dihedral, klein, rows_only])
def test_the_spectrum_and_its_multiplicities_are_the_dense_ones(case):
    weights, generators = case()
    k = weights.shape[1]
    loss = rj.problems.orthonormal_teacher(k)
    net = rj.ShallowReLU(jnp.array(weights), jnp.ones(len(weights)), train=("weights",))
    groups = subgroup_spectrum(loss, net, generators)
    exact = rj.hessian.eigenvalues(hessian(loss, net))
    found = np.repeat(*zip(*groups, strict=True))
    assert found.size == exact.size
    np.testing.assert_allclose(found, exact, atol=1e-12 * np.abs(exact).max())


def test_data_with_a_symmetry_and_both_layers_trained():
    """Inputs that are exchanged, with the neurons that read them; amplitudes and biases follow."""
    r = np.random.default_rng(0)
    half = r.standard_normal((12, 2))
    loss = rj.EmpiricalLoss(np.concatenate([half, half[:, ::-1]]), np.tile(r.standard_normal(12), 2))
    first = r.standard_normal((2, 2))
    weights = np.stack([first[0], first[0][::-1], first[1], first[1][::-1]])
    amplitudes, biases = np.repeat(r.standard_normal(2), 2), np.repeat(r.standard_normal(2), 2)
    net = rj.ShallowReLU(weights, amplitudes, biases)
    groups = subgroup_spectrum(loss, net, [([1, 0, 3, 2], [1, 0])])
    exact = rj.hessian.eigenvalues(hessian(loss, net))
    np.testing.assert_allclose(np.repeat(*zip(*groups, strict=True)), exact, atol=1e-12 * np.abs(exact).max())


def test_refusals():
    net = rj.ShallowReLU(jnp.eye(3), jnp.array([1.0, 1.0, 1.0]), train=("weights",))
    loss = rj.problems.orthonormal_teacher(3)
    with pytest.raises(ValueError, match="permute 3 rows and 3 columns"):
        subgroup_spectrum(loss, net, [([0, 0, 1], [0, 1, 2])])
    with pytest.raises(ValueError, match="moves the network"):
        subgroup_spectrum(loss, net, [([1, 0, 2], [0, 1, 2])])
    uneven = rj.PopulationLoss(rj.ShallowReLU(jnp.diag(jnp.array([1.0, 2.0, 3.0])), jnp.ones(3)))
    with pytest.raises(ValueError, match="the loss must not change"):
        subgroup_spectrum(uneven, net, [([1, 0, 2], [1, 0, 2])])
