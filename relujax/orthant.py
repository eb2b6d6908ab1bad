"""The bivariate normal distribution function, accurate to rounding at every correlation.

`Φ₂(h, k; ρ) = P(X < h, Y < k)` through Owen's T function (Owen 1956, equation 2.1), whose integral is done by
Gauss–Legendre quadrature where its argument is at most 1 in size, and reflected where it is larger.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# On [0, 1] the integrand of T has its nearest singularities at ±i: the error falls like 4.6^(-2·nodes).
_NODES, _WEIGHTS = (np.asarray(column) for column in np.polynomial.legendre.leggauss(24))
_NODES, _WEIGHTS = (1 + _NODES) / 2, _WEIGHTS / 2


def normal_tails(x: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """`Φ(x)` and `Φ(−x)`, each to the precision of the smaller one."""
    smaller = jax.scipy.special.erfc(jnp.abs(x) / jnp.sqrt(2.0)) / 2
    larger = 1 - smaller
    return jnp.where(x < 0, smaller, larger), jnp.where(x < 0, larger, smaller)


def orthant_probability(
    h: Float[Array, "*#s"], k: Float[Array, "*#s"], h_beyond: Float[Array, "*#s"], k_beyond: Float[Array, "*#s"], angle
) -> Float[Array, "*#s"]:
    """`P(X < h, Y < k)` for standard normal X, Y of correlation `ρ = cos(angle)`.

    **Arguments:** `h_beyond = (h − ρk)/q` and `k_beyond = (k − ρh)/q` with `q = sin(angle)`, which the caller can compute
    without cancellation; they are infinite where X and Y are ± the same variable and h and k differ.
    """
    # where h and k have opposite signs (zero counts as positive) half a unit is missing from the sum of two T functions
    opposite = (h < 0) != (k < 0)
    owens = _owen(h, k_beyond) + _owen(k, h_beyond)
    general = (normal_tails(h)[0] + normal_tails(k)[0]) / 2 - owens - jnp.where(opposite, 0.5, 0.0)
    # both zero: T's slopes are 0/0, and the quadrant has probability (π − angle)/2π
    return jnp.where((h == 0) & (k == 0), (jnp.pi - angle) / (2 * jnp.pi), general)


def _owen(h, ah):
    """Owen's `T(h, a) = 1/2π ∫_0^a exp(−h²(1 + x²)/2)/(1 + x²) dx`, given h and the product ah, which may be infinite."""
    steep = jnp.abs(ah) > jnp.abs(h)
    # T(h, a) + T(ah, 1/a) = ½Φ(|h|) + ½Φ(|ah|) − Φ(|h|)Φ(|ah|) for a > 0, and T is odd in a and even in h
    height, slope_height = jnp.abs(h), jnp.abs(ah)
    flat, tall = jnp.where(steep, slope_height, height), jnp.where(steep, height, slope_height)
    direct = _owen_flat(flat, tall)
    (p, one_minus_p), (q, one_minus_q) = normal_tails(height), normal_tails(slope_height)
    # ½p + ½q − pq = ½[p(1 − q) + q(1 − p)]
    reflected = (p * one_minus_q + q * one_minus_p) / 2 - direct
    size = jnp.where(steep, reflected, direct)
    # the sign of a; for h = 0 it is the sign of ah with h taken as +0
    negative = (ah < 0) != (h < 0)
    return jnp.where(negative, -size, size)


def _owen_flat(h, ah):
    """T for `0 <= ah <= h`."""
    safe = jnp.where((h > 0) & jnp.isfinite(h), h, 1.0)
    a = jnp.where((h > 0) & jnp.isfinite(h), ah / safe, 0.0)
    square = 1 + (a[..., None] * _NODES) ** 2
    integrand = jnp.exp(-0.5 * safe[..., None] ** 2 * square) / square
    return a * (integrand @ _WEIGHTS) / (2 * jnp.pi)
