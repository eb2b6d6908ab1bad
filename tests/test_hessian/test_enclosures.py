"""Enclosures and certificates of definiteness, against spectra that are planted or known in closed form."""

import mpmath as mp
import numpy as np
import pytest

from relujax.hessian import enclose, is_positive_definite

EPS = np.finfo(float).eps


def planted(p, seed):
    """Log-uniform eigenvalues of both signs, a tenth of them zero, turned by a random orthogonal matrix.

    The matrix is the rounded product: within `20 p eps` of one with exactly these eigenvalues.
    """
    r = np.random.default_rng(seed)
    values = 10.0 ** r.uniform(-12, 0, p) * r.choice([-1, 1], p)
    values[r.random(p) < 0.1] = 0.0
    frame = np.linalg.qr(r.standard_normal((p, p)))[0]
    return np.sort(values), frame @ np.diag(values) @ frame.T, 20 * p * EPS


def check(values, found):
    assert np.all(found.lower <= values)
    assert np.all(values <= found.upper)
    assert found.negative <= np.sum(values < 0)
    assert found.positive <= np.sum(values > 0)
    assert found.negative + found.undecided + found.positive == len(values)


@pytest.mark.parametrize("p", [1, 2, 20, 60, 200])
@pytest.mark.parametrize("seed", range(10))
def test_enclosures_contain_the_planted_spectrum_and_signs_are_never_wrong(p, seed):
    values, matrix, error = planted(p, seed)
    found = enclose(matrix, error=error)
    check(values, found)
    assert np.max(found.upper - found.lower) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000))
def test_no_certificate_is_wrong_on_a_thousand_planted_spectra(seed):
    p = int(np.random.default_rng(seed).integers(2, 501))
    values, matrix, error = planted(p, seed)
    check(values, enclose(matrix, error=error))
    assert not (is_positive_definite(matrix, error=error) and values[0] <= 0)


@pytest.mark.parametrize("seed", range(4))
def test_the_spectrum_of_an_exact_matrix_is_enclosed_without_any_allowance(seed):
    """Integer matrices are exact in double precision; their eigenvalues are computed with 40 digits."""
    r = np.random.default_rng(seed)
    matrix = r.integers(-9, 10, (12, 12)).astype(float)
    matrix += matrix.T
    matrix[:, 3] = matrix[3] = 0  # an eigenvalue that is exactly 0
    with mp.workdps(40):
        exact = sorted(mp.eigsy(mp.matrix(matrix.astype(int).tolist()), eigvals_only=True))
        found = enclose(matrix)
        assert all(mp.mpf(float(low)) <= value for low, value in zip(found.lower, exact, strict=True))
        assert all(value <= mp.mpf(float(high)) for high, value in zip(found.upper, exact, strict=True))
    assert found.undecided == 1


@pytest.mark.parametrize("scale", [2.0**-900, 1e-200, 1e-30, 1.0, 1e150])
def test_enclosures_do_not_depend_on_the_scale(scale):
    values, matrix, error = planted(30, 0)
    check(scale * values, enclose(scale * matrix, error=2 * error * scale))


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


def test_clusters_and_a_matrix_of_zeros():
    found = enclose(np.zeros((5, 5)))
    assert (found.negative, found.undecided, found.positive) == (0, 5, 0)
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
    values = np.repeat([-1.0, 0.0, 1e-3, 1.0], 10)
    check(values, enclose(frame @ np.diag(values) @ frame.T, error=800 * EPS))
    assert not is_positive_definite(np.zeros((3, 3)))


@pytest.mark.parametrize("seed", range(5))
def test_a_certificate_of_definiteness_is_never_wrong(seed):
    r = np.random.default_rng(seed)
    frame = np.linalg.qr(r.standard_normal((30, 30)))[0]
    for smallest in (1e-6, 1e-13, 0.0, -1e-15, -1e-6):
        values = np.concatenate([[smallest], r.uniform(0.1, 1, 29)])
        assert is_positive_definite(frame @ np.diag(values) @ frame.T, error=600 * EPS) == (smallest == 1e-6)


def test_the_error_that_is_passed_in_shifts_the_verdict():
    matrix = np.diag([1.0, 0.1])
    assert is_positive_definite(matrix, error=0.09)
    assert not is_positive_definite(matrix, error=0.11)
    assert enclose(matrix, error=0.09).positive == 2
    assert enclose(matrix, error=0.11).positive == 1


def test_refusals():
    with pytest.raises(ValueError, match="float64"):
        enclose(np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="not finite"):
        enclose(np.array([[np.nan]]))
