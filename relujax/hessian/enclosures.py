"""Intervals that contain the exact eigenvalues of a symmetric matrix, rounding included."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._precision import require_x64
from ..network import RealArray
from .rounding import gamma
from .solver import one_blas_thread


class Enclosure(NamedTuple):
    """`lower <= λ_i <= upper` for the exact eigenvalues in ascending order, and how many have a certain sign.

    `undecided` counts intervals that contain 0: eigenvalues that are 0, or too close to it to tell.
    """

    lower: Float[np.ndarray, " p"]
    upper: Float[np.ndarray, " p"]
    negative: int
    undecided: int
    positive: int


def enclose(matrix: Float[RealArray, "p p"], *, error: float = 0.0) -> Enclosure:
    """Intervals around all eigenvalues of a symmetric matrix, from computed eigenvectors and a-priori rounding bounds.

    **Arguments:**

    - `error`: a bound on the spectral norm of what `matrix` is itself off by; widens every interval.

    With Q the computed eigenvectors, `QᵀAQ = Λ + R`. Weyl's inequality bounds the eigenvalues of the left side by the norm of
    R, and Ostrowski's theorem relates them to those of A by factors within `|QᵀQ − I|` of 1 (Horn and Johnson 2013, theorems
    4.3.1 and 4.5.9). The rounding of every product is bounded by `γ_p |X|_F |Y|_F` (Higham 2002, section 3.5).

    **Raises:** `ValueError` in single precision.

    ```python
    >>> found = enclose(np.diag([-1.0, 0.0, 2.0]))
    >>> found.negative, found.undecided, found.positive
    (1, 1, 1)

    ```
    """
    require_x64("enclose", matrix)
    a, scale = _symmetric(matrix)
    with one_blas_thread(len(a)):
        lower, upper = (scale * end for end in _ends(a, error / scale))
    return of_intervals(lower, upper)


def of_intervals(lower: Float[np.ndarray, " p"], upper: Float[np.ndarray, " p"]) -> Enclosure:
    """The enclosure with these ends and its counts."""
    negative, positive = int(np.sum(upper < 0)), int(np.sum(lower > 0))
    return Enclosure(lower, upper, negative, len(lower) - negative - positive, positive)


def is_positive_definite(matrix: Float[RealArray, "p p"], *, error: float = 0.0) -> bool:
    """Whether a symmetric matrix, and every one within `error` of it in norm, is certainly positive definite.

    Cholesky's factorisation of the matrix minus a multiple of the identity that exceeds its rounding (Rump 2006, theorem
    2.3): ten times cheaper than eigenvalues. False means not proven.

    ```python
    >>> is_positive_definite(np.diag([1.0, 1e-3])), is_positive_definite(np.diag([1.0, 0.0]))
    (True, False)

    ```
    """
    require_x64("is_positive_definite", matrix)
    a, scale = _symmetric(matrix)
    p = len(a)
    diagonal = np.sum(np.abs(np.diag(a)))
    rounded = (gamma(p + 2) / (1 - gamma(p + 2)) + gamma(2)) * diagonal + gamma(1) * np.linalg.norm(a)
    try:
        with one_blas_thread(p):
            np.linalg.cholesky(a - _upward(error / scale + rounded, p) * np.eye(p))
    except np.linalg.LinAlgError:
        return False
    return True


def _ends(a, error):
    """The ends of the intervals for a symmetric matrix with entries of about 1."""
    values, vectors = np.linalg.eigh(a)
    p = len(a)
    product = a @ vectors
    inner = vectors.T @ product
    # norms are Frobenius, so that γ_p grows with √p and not with the row sums of absolute values
    size, rounding = np.linalg.norm(vectors), gamma(p + 1)
    skew = _upward(_norm(np.abs(vectors.T @ vectors - np.eye(p))) + rounding * size**2, p)
    if not skew < 0.5:
        raise ArithmeticError(f"the computed eigenvectors are off orthogonality by {skew:.1g}: the matrix cannot be enclosed.")
    # the spectral norm of the vectors is below 1.5
    rounded = rounding * size * (1.5 * np.linalg.norm(a) + np.linalg.norm(product)) + gamma(1) * np.linalg.norm(inner)
    radius = _upward(_norm(np.abs(inner - np.diag(values))) + rounded, p)
    # symmetrising and scaling moved each entry by at most a rounding
    slack = _upward(error + gamma(1) * np.linalg.norm(a), p)
    lower = _divide(values - radius, skew, below=True) - slack
    upper = _divide(values + radius, skew, below=False) + slack
    return lower - gamma(8) * np.abs(lower), upper + gamma(8) * np.abs(upper)


def _symmetric(matrix):
    """The symmetric part divided by a power of 2, so that its largest entry is about 1, and that power.

    What underflows in the squares that norms are made of is then below a rounding of the largest entry.
    """
    a = np.asarray(matrix)
    if not np.all(np.isfinite(a)):
        raise ValueError("the matrix has entries that are not finite: only finite ones have eigenvalues.")
    largest = np.max(np.abs(a), initial=0.0)
    scale = 2.0 ** np.clip(np.frexp(largest)[1], -900, 900) if largest > 0 else 1.0
    return (a + a.T) / (2 * scale), scale


def _norm(sizes):
    """A bound on the norm of a symmetric matrix from its absolute values: row sums or Frobenius, whichever is smaller."""
    return min(np.max(np.sum(sizes + sizes.T, axis=1) / 2, initial=0.0), np.linalg.norm(sizes))


def _upward(x, p):
    """`x`, computed from sums of up to p² squares, rounded up, with 1e-100 for what underflowed."""
    return x * (1 + gamma(p * p + 64)) + 1e-100


def _divide(values, skew, *, below):
    """The least or the greatest of `value/θ` for θ within `skew` of 1."""
    options = np.stack([values / (1 - skew), values / (1 + skew)])
    return options.min(axis=0) if below else options.max(axis=0)
