"""Intervals that contain the exact eigenvalues of a symmetric matrix, rounding included."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._precision import require_x64
from ..network import RealArray


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

    With Q the computed eigenvectors, `QᵀAQ = Λ + R`. Weyl's inequality bounds the eigenvalues of the left side by the row sums
    of R, and Ostrowski's theorem relates them to those of A by factors within `|QᵀQ − I|` of 1 (Horn and Johnson 2013,
    theorems 4.3.1 and 4.5.9). The rounding of every product is bounded by `γ_k |X||Y|` (Higham 2002, section 3.5).

    **Raises:** `ValueError` in single precision.

    ```python
    >>> found = enclose(np.diag([-1.0, 0.0, 2.0]))
    >>> found.negative, found.undecided, found.positive
    (1, 1, 1)

    ```
    """
    require_x64("enclose", matrix)
    a = np.asarray(matrix)
    a = (a + a.T) / 2
    values, vectors = np.linalg.eigh(a)
    p = len(a)
    size = np.abs(vectors)
    product = vectors.T @ (a @ vectors)
    rest = np.abs(product - np.diag(values))
    # two products of length p in sequence, and one more rounding for the difference
    rounding = _gamma(2 * p + 2) * (size.T @ (np.abs(a) @ size)) + _gamma(1) * np.abs(product)
    radius = _upward(np.max(np.sum(rest + rounding, axis=1)))
    deviation = np.abs(vectors.T @ vectors - np.eye(p)) + _gamma(p + 1) * (size.T @ size)
    skew = _upward(np.max(np.sum(deviation, axis=1)))
    if not skew < 0.5:
        raise ArithmeticError(f"the computed eigenvectors are off orthogonality by {skew:.1g}: the matrix cannot be enclosed.")
    # symmetrising the matrix moved each entry by at most a rounding
    slack = error + _gamma(1) * np.linalg.norm(a)
    lower = _divide(values - radius, skew, below=True) - slack
    upper = _divide(values + radius, skew, below=False) + slack
    lower, upper = lower - _gamma(4) * np.abs(lower), upper + _gamma(4) * np.abs(upper)
    negative, positive = int(np.sum(upper < 0)), int(np.sum(lower > 0))
    return Enclosure(lower, upper, negative, p - negative - positive, positive)


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
    a = np.asarray(matrix)
    a = (a + a.T) / 2
    p = len(a)
    shift = _upward(error + (_gamma(p + 2) / (1 - _gamma(p + 2)) + _gamma(2)) * np.sum(np.abs(np.diag(a))) + p * 1e-300)
    shift += _gamma(1) * np.linalg.norm(a)
    try:
        np.linalg.cholesky(a - shift * np.eye(p))
    except np.linalg.LinAlgError:
        return False
    return True


def _gamma(k):
    """`k u / (1 − k u)` with a unit roundoff of twice that of float64, which covers the rounding of the bounds themselves."""
    u = np.finfo(float).eps
    return k * u / (1 - k * u)


def _upward(x):
    return x * (1 + 1e-12)


def _divide(values, skew, *, below):
    """The least or the greatest of `value/θ` for θ within `skew` of 1."""
    options = np.stack([values / (1 - skew), values / (1 + skew)])
    return options.min(axis=0) if below else options.max(axis=0)
