"""Linear residual dynamics `r'' + friction(t) r' + H r = 0`, mode by mode: gradient flow, heavy ball and Nesterov.

With a fixed tangent kernel H the residual of a network under any of these flows obeys a linear equation, and each of its
components in the eigenbasis of H the scalar one below (Bu, Xu, Chen 2020). Kernels here carry the 1/n of the loss:
`H = J Jᵀ/n` for the Jacobian J of the outputs.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, jv

from ..network import RealArray

Mode = Callable[[float, np.ndarray], np.ndarray]


def gradient_flow_mode(rate: float, times: Float[RealArray, " s"]) -> Float[np.ndarray, " s"]:
    """`r' + λ r = 0` from r(0) = 1: `e^{−λt}`."""
    return np.exp(-rate * np.asarray(times, float))


def heavy_ball_mode(rate: float, times: Float[RealArray, " s"], *, friction: float) -> Float[np.ndarray, " s"]:
    """`r'' + b r' + λ r = 0` from rest at r(0) = 1: `(ρ₁ e^{ρ₂t} − ρ₂ e^{ρ₁t})/(ρ₁ − ρ₂)` with `ρ = −b/2 ± √(b²/4 − λ)`.

    ```python
    >>> float(heavy_ball_mode(1.0, np.array([1.0]), friction=2.0)[0] * np.e).__round__(12)
    2.0

    ```
    """
    times = np.asarray(times, float)
    half = friction / 2
    root = np.sqrt(complex(half**2 - rate))
    product = root * times
    close = np.abs(product) < 1e-3
    safe = np.where(close, 1.0, product)
    slow, fast = np.exp((root - half) * times), np.exp((-root - half) * times)
    # near critical damping the two exponentials cancel: sinh(x)/x by its series
    spread = np.where(close, np.exp(-half * times) * (1 + product**2 / 6), (slow - fast) / (2 * safe))
    return ((slow + fast) / 2 + half * times * spread).real


def nesterov_mode(rate: float, times: Float[RealArray, " s"], *, r: float) -> Float[np.ndarray, " s"]:
    """`x'' + (r/t) x' + λ x = 0` from rest at x(0) = 1: `Γ(ν+1) (2/(√λ t))^ν J_ν(√λ t)` with `ν = (r − 1)/2`.

    Its square, a loss, decays like `t^{−r}` (Su, Boyd, Candès 2016).

    ```python
    >>> bool(np.isclose(nesterov_mode(4.0, np.array([1.0]), r=2.0)[0], np.sin(2.0) / 2))
    True

    ```
    """
    x = np.sqrt(rate) * np.asarray(times, float)
    order = (r - 1) / 2
    small = x < 1e-4
    safe = np.where(small, 1.0, x)
    bessel = np.exp(gammaln(order + 1) + order * np.log(2 / safe)) * jv(order, safe)
    return np.where(small, 1 - x**2 / (4 * (order + 1)), bessel)


def kernel_residuals(
    kernel: Float[RealArray, "n n"], residuals: Float[RealArray, " n"], times: Float[RealArray, " s"], mode: Mode
) -> Float[np.ndarray, "s n"]:
    """The residuals at `times` of linear dynamics with this kernel, whose modes follow `mode(rate, times)`.

    ```python
    >>> kernel_residuals(np.diag([1.0, 2.0]), np.ones(2), np.array([np.log(2)]), gradient_flow_mode).round(12).tolist()
    [[0.5, 0.25]]

    ```
    """
    rates, vectors = np.linalg.eigh(np.asarray(kernel, float))
    start = vectors.T @ np.asarray(residuals, float)
    # rounding makes rates of size 1e-17 negative, which nothing here allows
    curves = np.stack([mode(max(float(rate), 0.0), np.asarray(times, float)) for rate in rates], axis=1)
    return (curves * start) @ vectors.T


def heavy_ball_rate(friction: float, smallest: float) -> float:
    """The exponent at which the loss decays late under heavy ball, `b − Re √(b² − 4λ_min)`; largest at `b = 2√λ_min`.

    ```python
    >>> heavy_ball_rate(2.0, 1.0), round(heavy_ball_rate(4.0, 1.0), 3)
    (2.0, 0.536)

    ```
    """
    return float(friction - np.sqrt(complex(friction**2 - 4 * smallest)).real)
