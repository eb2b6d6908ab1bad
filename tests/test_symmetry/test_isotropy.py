"""Isotropy and names of matrices whose symmetry is known by construction."""

import jax
import numpy as np
import pytest

pytest.importorskip("hypothesis")
import hypothesis.strategies as st
from hypothesis import given

import relujax as rj
from relujax.fixed_space import FixedSpace
from relujax.symmetry import critical_points, family, identify, isotropy, refine


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
    shuffled = matrix[r.permutation(k)][:, r.permutation(k)]
    found = isotropy(shuffled)
    assert found.blocks == tuple(sorted(blocks))
    assert found.residual <= 2 * noise + 1e-15
    assert found.name == " x ".join(f"S_{size}" for size in sorted(blocks))
    ordered = np.asarray(found.space.embed(found.coordinates))
    np.testing.assert_allclose(shuffled[found.rows][:, found.columns], ordered, atol=2 * noise + 1e-15)


def test_pairs_are_found_where_the_entries_of_a_pair_are_the_small_ones():
    """A_3 has 0.64 off its diagonal and −0.3 on it: the largest entries pair every student with another one's teacher."""
    r = np.random.default_rng(3)
    matrix = np.asarray(FixedSpace((3, 4)).embed(np.array([-0.3, 1.0, 0.64, 0.01, 0.02, -0.03])))
    found = isotropy(matrix[r.permutation(7)][:, r.permutation(7)])
    assert found.blocks == (3, 4)
    assert found.residual < 1e-15
    np.testing.assert_allclose(sorted(found.coordinates[:2]), [-0.3, 1.0])


def test_a_random_matrix_has_no_symmetry():
    found = isotropy(np.random.default_rng(0).standard_normal((6, 6)))
    assert found.blocks == (1,) * 6


def test_a_symmetry_that_is_no_product_of_symmetric_groups_leaves_a_residual():
    """A circulant matrix: every index looks alike, but only rotations leave it unchanged."""
    row = np.array([2.0, 0.4, 0.1, 0.0, 0.0, 0.0])
    matrix = np.stack([np.roll(row, i) for i in range(6)])
    assert isotropy(matrix).residual > 0.1


def test_students_without_a_teacher_are_left_over():
    r = np.random.default_rng(4)
    space = FixedSpace((2, 5), extra=1)
    values = r.uniform(0.1, 0.2, space.dimension)
    values[:2] = 1.0, -2.0
    matrix = np.asarray(space.embed(values))
    found = isotropy(matrix[r.permutation(8)][:, r.permutation(7)])
    assert found.blocks == (2, 5)
    assert found.residual < 1e-15


def members(number, seed):
    """Random members of random families: the name and the weights in random order with noise 1e-6."""
    r = np.random.default_rng(seed)
    while number:
        k = int(r.integers(5, 25))
        name = str(r.choice(["global", "A", "II", "I", "II+", "II_q", "I_q"]))
        q = int(r.integers(3, max(k - 2, 4))) if name.endswith("_q") else None
        try:
            one = family(name, k, q)
        except ValueError:
            continue  # II_q has no member at this k
        shuffled = one.weights[r.permutation(len(one.weights))][:, r.permutation(k)]
        yield one, shuffled + 1e-6 * r.standard_normal(one.weights.shape)
        number -= 1


@pytest.mark.parametrize("number", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_perturbed_members_of_families_are_named_and_polished(number):
    for one, weights in members(number, number):
        name, found = identify(weights, one.loss)
        assert (name, found.blocks) == (one.name, tuple(sorted(one.blocks)))
        assert found.residual < 1e-5


def test_a_point_with_a_gradient_of_1e_8_is_polished_in_its_fixed_space():
    one = family("II", 10)
    r = np.random.default_rng(5)
    rough = one.weights[r.permutation(10)] + 1e-8 * r.standard_normal((10, 10))
    point = refine(isotropy(rough))
    assert point.converged
    assert point.gradient_norm < 1e-15
    np.testing.assert_allclose(point.loss, one.loss, atol=1e-16)
    np.testing.assert_allclose(point.weights, rough, atol=1e-7)


@pytest.mark.parametrize("starts", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_no_name_is_given_to_critical_points_of_no_family(starts):
    """Critical points of larger fixed spaces; a member of a family is told from the others by an independent solution."""
    unnamed = 0
    for point in critical_points(FixedSpace((2, 8)), jax.random.key(2), starts=starts):
        matrix = FixedSpace((2, 8)).embed(point.coordinates)
        name = identify(matrix, point.loss)[0]
        if point.parallel:
            assert name == "unnamed"
        if name == "unnamed":
            unnamed += 1
        elif name != "global":
            assert abs(point.loss - family(name, 10).loss) < 1e-12
    assert unnamed >= 8


@pytest.mark.slow
def test_no_false_name_on_critical_points_of_the_full_space():
    """Where Newton's method leads 6000 random starts: hundreds of saddles of no family. A name is held against the spectrum."""
    k = 7
    loss = rj.problems.orthonormal_teacher(k)
    nets = rj.initialise.xavier(jax.random.key(3), number=6000, width=k, dim=k, amplitudes=1.0, train=("weights",))
    ends = rj.polish(loss, nets)
    points = rj.take(ends.networks, np.flatnonzero(ends.gradient_norms < 1e-12))
    spectra = rj.hessian.dense_eigenvalues(loss, points)
    values = np.asarray(jax.vmap(loss)(points))
    names = [identify(weights, float(value))[0] for weights, value in zip(points.weights, values, strict=True)]
    assert names.count("unnamed") > 500
    for name, spectrum in zip(names, spectra, strict=True):
        if name != "unnamed":
            parts = family(name, k).spectrum
            expected = np.sort(np.concatenate([np.repeat(part.eigenvalues, part.dimension) for part in parts]))
            np.testing.assert_allclose(spectrum, expected, atol=1e-9)


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


def test_a_matrix_of_the_right_shape_that_is_not_critical_has_no_name():
    one = family("II", 10)
    changed = one.coordinates + np.array([0, 0, 1e-3, 0, 0])
    assert identify(one.space.embed(changed), one.loss + 1e-6)[0] == "unnamed"


def test_refusals():
    with pytest.raises((ValueError, TypeError), match="shape"):
        isotropy(np.ones((2, 3)))
    with pytest.raises(ValueError, match="finite"):
        isotropy(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="at least 1"):
        FixedSpace((0, 3))
