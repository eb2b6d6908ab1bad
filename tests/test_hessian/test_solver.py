"""Eigenvalues of stacks of symmetric matrices, on whatever backend is there."""

import numpy as np
import pytest

import relujax as rj
from relujax.hessian import solver


def planted(number, p, seed=0):
    r = np.random.default_rng(seed)
    values = np.sort(r.standard_normal((number, p)), axis=1)
    frames = np.linalg.qr(r.standard_normal((number, p, p)))[0]
    return values, np.einsum("bij,bj,bkj->bik", frames, values, frames)


@pytest.mark.parametrize("p", [1, 30, 31, 32, 33, 34, 64])
def test_eigenvalues_are_the_planted_ones_on_both_sides_of_the_batched_solvers_limit(p):
    """Accelerators change from Jacobi's method to another one above 32 rows; either must be right, in a batch of any size."""
    values, matrices = planted(300, p)
    found = rj.hessian.eigenvalues(matrices)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, values, atol=1e-13)
    np.testing.assert_allclose(rj.hessian.eigenvalues(matrices[0]), values[0], atol=1e-13)


def test_the_accelerators_path_is_right_as_well():
    """Run on this backend too: values in order, and residuals that tell a wrong answer from a right one."""
    values, matrices = planted(20, 33)
    found, residuals = solver._on_accelerator(matrices)
    np.testing.assert_allclose(found, values, atol=1e-13)
    assert np.all(np.asarray(residuals) < 1)


def test_what_the_accelerator_gets_wrong_is_solved_again(monkeypatch):
    values, matrices = planted(5, 12)
    wrong = values + np.array([0, 0, 1, 0, 0])[:, None]
    monkeypatch.setattr(solver.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(solver, "_on_accelerator", lambda m: (wrong, np.array([0.1, 0.2, np.nan, 0.1, 0.1])))
    np.testing.assert_allclose(rj.hessian.eigenvalues(matrices), values, atol=1e-13)


def test_only_the_lower_triangle_is_read():
    values, matrices = planted(1, 8)
    spoilt = matrices[0] + np.triu(np.ones((8, 8)), 1)
    np.testing.assert_allclose(rj.hessian.eigenvalues(spoilt), values[0], atol=1e-13)
    np.testing.assert_allclose(solver._on_accelerator(spoilt)[0], values[0], atol=1e-13)


def test_stacks_of_stacks_and_none():
    _, matrices = planted(6, 5)
    nested = rj.hessian.eigenvalues(matrices.reshape(2, 3, 5, 5))
    np.testing.assert_array_equal(nested.reshape(6, 5), rj.hessian.eigenvalues(matrices))
    assert rj.hessian.eigenvalues(np.zeros((0, 4, 4))).shape == (0, 4)
