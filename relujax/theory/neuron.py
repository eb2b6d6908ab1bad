"""Closed forms for one neuron `a relu(w·x)` under gradient flow of `1/2n Σ_i (f(x_i) − y_i)²`."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from ..network import RealArray


def linear_regime(
    weight: Float[RealArray, " d"], amplitude: float, slope: Float[RealArray, " d"], times: Float[RealArray, " s"]
) -> tuple[Float[np.ndarray, "s d"], Float[np.ndarray, " s"]]:
    """A neuron while the output is still zero and its active data stay the same: weights and amplitudes at `times`.

    **Arguments:**

    - `weight`, `amplitude`: at time 0.
    - `slope`: `D = 1/n Σ_{i active} y_i x_i`, shape (d,).

    With e = D/|D|, `a = a₀ cosh|D|t + (w₀·e) sinh|D|t` and `w = w₀ + [a₀ sinh|D|t + (w₀·e)(cosh|D|t − 1)] e`. Both equations are
    linear in (w, a), so that `a_i a_j − w_i·w_j` of two neurons with the same active data is conserved. What is left out is
    of order `|w|² e^{2|D|t}` relative to what is kept.

    ```python
    >>> w, a = linear_regime(np.array([0.0, 1.0]), 1.0, np.array([0.0, 0.5]), np.array([2.0]))
    >>> bool(np.isclose(a[0], np.e)), bool(np.isclose(w[0, 1], np.e))
    (True, True)

    ```
    """
    weight, slope, times = (np.asarray(x, float) for x in (weight, slope, times))
    rate = np.linalg.norm(slope)
    direction = slope / rate if rate > 0 else slope
    along = weight @ direction
    amplitudes = amplitude * np.cosh(rate * times) + along * np.sinh(rate * times)
    # cosh x − 1 without the cancellation at small x
    gain = amplitude * np.sinh(rate * times) + along * 2 * np.sinh(rate * times / 2) ** 2
    return weight + gain[:, None] * direction, amplitudes


class OrthonormalCurve(NamedTuple):
    """One neuron on orthonormal data along time: `log_square` is ln |w|², `cosine` its cosine to Σ y_i x_i, and `loss`."""

    log_square: Float[np.ndarray, " s"]
    cosine: Float[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]


def orthonormal_neuron(
    weight: Float[RealArray, " n"], targets: Float[RealArray, " n"], times: Float[RealArray, " s"]
) -> OrthonormalCurve:
    """The whole nonlinear curve of a balanced neuron, `a = |w|`, that is active on all of n orthonormal data.

    **Arguments:**

    - `weight`: at time 0, in the basis of the data, shape (n,); any size, 1e-300 too.
    - `targets`: shape (n,).
    - `times`: shape (s,).

    With β = Σ y_i x_i, s = |β|t/n and c₀ the initial cosine, `cos = tanh(artanh c₀ + s)` and
    `|w|² = |w₀|² (cosh s + c₀ sinh s)² / (1 + 2|w₀|²/|β| [(sinh 2s)/4 + s/2 + c₀(cosh 2s − 1)/2 + c₀²((sinh 2s)/4 − s/2)])`,
    evaluated in logarithms so that neither a tiny start nor a late time overflows. Holds as long as every datum stays active.

    ```python
    >>> curve = orthonormal_neuron(np.array([1e-200]), np.array([2.0]), np.array([0.0, 1e3]))
    >>> bool(np.isclose(curve.log_square[1], np.log(2.0))), bool(np.isclose(curve.loss[0], 2.0))
    (True, True)

    ```
    """
    weight, targets, times = (np.asarray(x, float) for x in (weight, targets, times))
    n, size, beta = len(targets), np.max(np.abs(weight)), np.linalg.norm(targets)
    scaled = weight / size
    log_start = 2 * np.log(size) + np.log(np.sum(scaled**2))
    c0 = float(scaled @ targets / (np.linalg.norm(scaled) * beta))
    s = beta * times / n
    fade = np.exp(-2 * s)
    # numerator and bracket of |w|², each divided by e^{2s}
    numerator = ((1 + c0) + (1 - c0) * fade) ** 2 / 4
    bracket = (1 + c0**2) * (1 - fade**2) / 8 + c0 * (1 - fade) ** 2 / 4 + (1 - c0**2) * s * fade / 2
    with np.errstate(divide="ignore"):
        growth = np.log(2 / beta) + log_start + 2 * s + np.log(bracket)
    log_square = log_start + 2 * s + np.log(numerator) - np.logaddexp(0, growth)
    cosine = ((1 + c0) - (1 - c0) * fade) / ((1 + c0) + (1 - c0) * fade)
    square = np.exp(log_square)
    loss = ((beta - square) ** 2 + 2 * beta * square * (1 - cosine)) / (2 * n)
    return OrthonormalCurve(log_square, cosine, loss)


def logistic_growth(
    times: Float[RealArray, " s"], *, scale: float, input_norm: float, target: float, number: int = 1
) -> Float[np.ndarray, " s"]:
    """The product `a|w|` of a balanced neuron that is aligned with the only datum it is active on.

    **Arguments:**

    - `times`: not negative.
    - `scale`: its initial amplitude a = |w|, above 0.
    - `input_norm`, `target`: |x| and y of that datum.
    - `number`: how many data the loss averages over.

    `U = (y/|x|) / (1 + ((y/|x|)/λ² − 1) e^{−2y|x|t/n})`. It grows from λ² < y/|x| to that limit, half of which is reached at
    `logistic_half_time`, and decays to it from above; for y ≤ 0 it decays to 0.

    ```python
    >>> half = logistic_half_time(scale=1e-6, input_norm=5**0.5, target=1.0)
    >>> round(half, 6), float(logistic_growth(np.array([half]), scale=1e-6, input_norm=5**0.5, target=1.0)[0] * 5**0.5)
    (5.998544, 0.5)

    ```
    """
    times, end, square = np.asarray(times, float), target / input_norm, scale**2
    passed = 2 * target * input_norm / number * times
    if square < end:
        half = logistic_half_time(scale=scale, input_norm=input_norm, target=target, number=number)
        return end * expit(passed - 2 * target * input_norm / number * half)
    if end > 0:
        return end / (end / square * np.exp(-passed) - np.expm1(-passed))
    gained = np.expm1(passed) / end if end < 0 else 2 * input_norm**2 / number * times
    return square * np.exp(passed) / (1 + square * gained)


def logistic_half_time(*, scale: float, input_norm: float, target: float, number: int = 1) -> float:
    """When `logistic_growth` reaches half of its limit; to leading order `ln(1/λ) n/(y|x|)`. Infinite where it decays."""
    end = target / input_norm
    if scale**2 >= end:
        return math.inf
    odds = np.log(end) - 2 * np.log(scale) + np.log1p(-(scale**2) / end)
    return float(odds * number / (2 * target * input_norm))
