"""Whether and where a polynomial first turns negative on an interval: by bounds that leave nothing out, and by its extrema."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..parallel import branch

# points at which a polynomial is sampled for a bracket of its first root; the small ones are for those that start at zero
_SAMPLES = np.concatenate([0.5 ** np.arange(40, 4, -1), np.arange(1, 17) / 16])
# iterations that close a bracket at most: Newton steps kept inside it, and halvings
_NEWTON, _HALVINGS = 64, 56
_CLOSE = 4e-16


def horner(rows, x):
    """The polynomial with `rows[k]` as the coefficient of x^k."""
    value = rows[-1]
    for row in rows[-2::-1]:
        value = value * x + row
    return value


def may_dip(rows: Sequence[Array], values: Sequence[Array], length) -> Bool[Array, "..."]:
    """Whether polynomials with coefficients `rows`, in any shape, may be negative inside [0, length].

    `values` are those at 0, half of the length and all of it. False is certain where none of them is negative: it follows from
    the slope at the start and the terms that bend down, or from the two chords and the terms that bend up. What is negative at
    the start is not asked for.
    """
    down, up = jnp.zeros_like(rows[0]), jnp.zeros_like(rows[0])
    for k in range(len(rows) - 1, 1, -1):
        down = down * length + jnp.minimum(rows[k], 0.0)
        up = up * length + k * (k - 1) * jnp.maximum(rows[k], 0.0)
    falls = rows[1] * length + down * length**2
    return (values[0] >= 0) & (rows[0] + jnp.minimum(falls, 0.0) < 0) & below_chords(values, up * length**2)


def may_fall(rows: Sequence[Array], length) -> Bool[Array, "..."]:
    """Whether polynomials with coefficients `rows`, in any shape, may be negative anywhere on [0, length]; False is certain."""
    values = [horner(rows, x * length) for x in (0.0, 0.5, 1.0)]
    return (jnp.minimum(jnp.minimum(values[0], values[1]), values[2]) < 0) | may_dip(rows, values, length)


def below_chords(values: Sequence[Array], bend: Array) -> Bool[Array, "..."]:
    """Whether a function may be negative, from its values at the ends and in the middle of the unit interval and a bound on its
    second derivative."""
    return jnp.minimum(jnp.minimum(values[0], values[1]), values[2]) < bend / 32


def first_roots(
    polynomials: Float[Array, "r k"],
    theta: Float[Array, " r"],
    slack: Float[Array, " r"],
    *,
    thorough: Bool[Array, ""] | bool = True,
) -> tuple[Float[Array, " r"], Bool[Array, " r"]]:
    """The first x in [0, theta] at which each polynomial turns negative on its way to below −slack, and whether that is certain;
    `theta` if it never gets there and 0 if it is never positive before. Unless it is to be `thorough`, from samples alone."""
    polynomials, rows, points, certain = _sampled(polynomials, theta, slack)
    thorough = jnp.asarray(thorough)

    def with_extrema():
        scaled = polynomials * theta[:, None] ** np.arange(len(rows))
        extrema = theta[:, None] * jax.vmap(_extrema)(scaled)
        return jnp.sort(points.at[:, len(_SAMPLES) :].set(extrema), axis=1)

    points = branch(thorough & ~jnp.all(certain), with_extrema, lambda: points)
    return _close(rows, points, horner(rows, points), slack), certain | thorough


def _sampled(polynomials, theta, slack):
    """The polynomials, their rows, where they are sampled, and whether that is enough."""
    # within the slack a start on the wrong side is rounding: counted from zero, what moves back inside may turn once more
    begins = polynomials[:, 0]
    polynomials = polynomials.at[:, 0].set(jnp.where((begins < 0) & (begins >= -slack), 0.0, begins))
    rows = list(polynomials.T[:, :, None])
    samples = jnp.concatenate([jnp.asarray(_SAMPLES, theta.dtype), jnp.ones(len(rows) - 1, theta.dtype)])
    points = theta[:, None] * samples
    return polynomials, rows, points, _certain(rows, points, horner(rows, points), slack[:, None])


def _certain(rows, points, values, slack):
    """Whether nothing below −slack lies between samples that come before the first one that is."""
    bends = horner([k * (k - 1) * jnp.maximum(row, 0.0) for k, row in enumerate(rows)][2:], points) if len(rows) > 2 else 0.0
    before = jnp.concatenate([jnp.broadcast_to(rows[0], values[:, :1].shape), values[:, :-1]], axis=1)
    widths = jnp.diff(points, axis=1, prepend=jnp.zeros_like(points[:, :1]))
    safe = jnp.minimum(before, values) - bends * widths**2 / 8 >= -slack
    reached = jnp.cumsum(values < -slack, axis=1) > 0
    return jnp.all(safe | reached, axis=1)


def _close(rows, points, values, slack):
    """The root before the first of ascending points whose value is below −slack; the last point where there is none."""
    slack, places = slack[:, None], jnp.arange(points.shape[1])
    below = values < -slack
    none = ~jnp.any(below, axis=1, keepdims=True)
    first = jnp.argmax(below, axis=1)[:, None]
    last = jnp.max(jnp.where((places < first) & (values > 0), places, -1), axis=1)[:, None]
    lower = jnp.where(last >= 0, jnp.take_along_axis(points, jnp.maximum(last, 0), axis=1), 0.0)
    upper = jnp.take_along_axis(points, last + 1, axis=1)
    slopes = [k * row for k, row in enumerate(rows)][1:]
    start, at_end = horner(rows, lower), horner(rows, upper)

    def refine(bracket):
        low, high, x, _, count = bracket
        value, step = horner(rows, x), horner(slopes, x)
        low, high = jnp.where(value >= 0, x, low), jnp.where(value < 0, x, high)
        newton = x - value / jnp.where(step != 0, step, 1.0)
        inside = (newton >= low) & (newton <= high) & (step != 0)
        # Newton steps that hardly shorten the bracket take turns with halvings
        new = jnp.where(inside & (count % 8 != 7), newton, (low + high) / 2)
        return low, high, new, jnp.any(jnp.abs(new - x) > _CLOSE * jnp.abs(new)), count + 1

    secant = lower + (upper - lower) * jnp.clip(start / jnp.where(start > at_end, start - at_end, 1.0), 0.0, 1.0)
    first_bracket = (lower, upper, secant, jnp.asarray(True), jnp.asarray(0))
    root = jax.lax.while_loop(lambda bracket: bracket[3] & (bracket[4] < _NEWTON), refine, first_bracket)[2]
    root = jnp.where((last < 0) & (start <= 0), 0.0, root)
    return jnp.where(none, points[:, -1:], root)[:, 0]


def _extrema(polynomial):
    """The points of [0, 1] at which a polynomial turns, filled up with ones.

    Between the zeros of its derivative a polynomial is monotone: those of the derivatives of all orders, from the highest
    down, are therefore found by bisection, each between its neighbours of the order above.
    """
    degree = polynomial.shape[0] - 1
    derivative, all_ = polynomial, []
    for _ in range(degree):
        derivative = jnp.append(derivative[1:] * np.arange(1, degree + 1), 0.0)
        all_.append(derivative)

    def descend(points, derivative):
        left = jnp.concatenate([jnp.zeros(1, points.dtype), points])
        right = jnp.append(points, 1.0)
        rises = horner(list(derivative), right) > 0
        turns = (horner(list(derivative), left) > 0) != rises

        def halve(_, bracket):
            low, high = bracket
            middle = (low + high) / 2
            beyond = (horner(list(derivative), middle) > 0) == rises
            return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

        roots = jnp.where(turns, jax.lax.fori_loop(0, _HALVINGS, halve, (left, right))[1], right)
        # no derivative has as many zeros as there are intervals
        return jnp.sort(roots)[:-1], None

    return jax.lax.scan(descend, jnp.ones(degree, polynomial.dtype), jnp.stack(all_[::-1]))[0]
