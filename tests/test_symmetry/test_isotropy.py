"""Isotropy and names of matrices whose symmetry is known by construction."""

import numpy as np
import pytest

pytest.importorskip("hypothesis")
import hypothesis.strategies as st
from hypothesis import given

from relujax.fixed_space import FixedSpace
from relujax.symmetry import identify, isotropy


@given(
    blocks=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 10**6),
    noise=st.sampled_from([0.0, 1e-9, 1e-6]),
)
def test_planted_isotropy_is_found_after_shuffling_and_noise(blocks, seed, noise):
    r = np.random.default_rng(seed)
    space = FixedSpace(blocks)
    values = 0.2 * r.uniform(0.2, 1, space.dimension) * r.choice([-1, 1], space.dimension)
    # diagonals that differ by block and dominate, so that no larger symmetry appears by accident
    values[: len(blocks)] = np.array([1.0, -0.8, 1.3])[: len(blocks)]
    k = sum(blocks)
    matrix = np.asarray(space.embed(values)) + noise * r.uniform(-1, 1, (k, k))
    found = isotropy(matrix[r.permutation(k)][:, r.permutation(k)])
    assert found.blocks == tuple(sorted(blocks))
    assert found.residual <= 2 * noise + 1e-15
    assert found.name == " x ".join(f"S_{size}" for size in sorted(blocks))


def test_a_random_matrix_has_no_symmetry():
    found = isotropy(np.random.default_rng(0).standard_normal((6, 6)))
    assert found.blocks == (1,) * 6


def test_a_symmetry_that_is_no_product_of_symmetric_groups_leaves_a_residual():
    """A circulant matrix: every index looks alike, but only rotations leave it unchanged."""
    row = np.array([2.0, 0.4, 0.1, 0.0, 0.0, 0.0])
    matrix = np.stack([np.roll(row, i) for i in range(6)])
    assert isotropy(matrix).residual > 0.1


@pytest.mark.parametrize("blocks", [(4,), (1, 5), (2, 3), (1, 1, 3), (2, 2, 2)])
def test_embed_and_project_are_inverse_and_project_is_orthogonal(blocks):
    space = FixedSpace(blocks)
    r = np.random.default_rng(1)
    values = r.standard_normal(space.dimension)
    np.testing.assert_allclose(space.project(space.embed(values)), values, atol=1e-15)
    matrix = r.standard_normal((sum(blocks),) * 2)
    rest = matrix - np.asarray(space.embed(space.project(matrix)))
    # the remainder is orthogonal to every fixed matrix
    for basis in np.eye(space.dimension):
        assert abs(np.sum(rest * np.asarray(space.embed(basis)))) < 1e-13


def test_dimension_counts_the_fixed_matrices():
    # 2 for S_k, 5 for S_1 x S_{k-1}, 6 for S_q x S_{k-q}, 12 for three blocks (Arjevani and Field 2020)
    assert [FixedSpace(b).dimension for b in ((7,), (1, 6), (3, 4), (2, 3, 4), (1, 1, 5))] == [2, 5, 6, 12, 10]


@pytest.mark.parametrize(
    ("blocks", "values", "loss", "name"),
    [
        ((6,), [1.0, 0.0], 0.0, "global"),
        ((10,), [-0.80030403446280, 0.19847652249032], 0.0766, "A"),
        ((1, 9), [-0.699, 1.004, 0.126, 0.1824, -0.0158], 0.0187, "II"),
        ((2, 8), [-0.7298, 0.9976, 0.1533, 0.1355, 0.1910, -0.0374], 0.0353, "II_2"),
        ((6, 4), [-0.68, 1.0, 0.32, 0.0, 0.01, 0.0], 0.0546, "I_6"),
        ((9, 1), [-0.78, 1.0, 0.22, 0.0, 0.01], 0.07, "I"),
        ((1, 9), [0.699, 1.004, 0.126, 0.1824, -0.0158], 0.0187, "unnamed"),
    ],
)
def test_names_of_representatives(blocks, values, loss, name):
    """Weights of families A and II at k = 10 from Newton's method with 34 digits; shapes of the I families (arXiv 2003.10576)."""
    assert identify(np.asarray(FixedSpace(blocks).embed(np.array(values))), loss)[0] == name


def test_refusals():
    with pytest.raises((ValueError, TypeError)):
        isotropy(np.ones((2, 3)))
    with pytest.raises(ValueError, match="at least 1"):
        FixedSpace((0, 3))
