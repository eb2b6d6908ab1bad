"""Gaussian expectations of products of ReLUs, exact and finite where neurons align, coincide or oppose.

For `x ~ N(0, I)` and neurons without bias, `φ(w, v) = E[relu(w·x) relu(v·x)] = |w||v| (sin θ + (π − θ) cos θ) / 2π`, with
θ the angle between w and v (Cho and Saul 2009, equation 6, degree 1). A sum of neurons `F(x) = Σ_b c_b relu(v_b·x)` has

- `value(V, c)`: the energy `½ E[F²] = ½ Σ_ab c_a c_b φ(v_a, v_b)`;
- `forces(W, V, c)`: `E[F(x) 1(w_i·x > 0) x]`, so that `a_i · forces` is the gradient of the energy in `w_i`;
- `own_hessian(W, V, c)`: `E[δ(w_i·x) F(x) x xᵀ]`, and `mixed_hessian(W, V)`: `E[1(w_i·x > 0) 1(v_b·x > 0) x xᵀ]`.

φ is twice but not three times differentiable at parallel neurons, and arccos loses half of the digits there and has no
derivative. Two remedies are used. Value and force depend on an angle error δ only as θδ, so a clipped cosine suffices
for them; second derivatives take the angle from differences of unit vectors (Kahan 2006, section 12) and carry their own
derivative rules. Third derivatives do not exist and are not offered.

`biased_arccos` has the same functions for neurons with biases.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from .network import RealArray

# arcsin(x)/x for |x| <= 1/√2 as a polynomial in y = 4x² − 1: the interpolant at 20 Chebyshev nodes, found with 60 digits and
# off by 4e-18. The nearest singularity x² = 1 sits at y = 3, hence the decay of the coefficients. XLA's own arcsine goes
# through arctan2 and takes several times as long.
ARCSINE = (
    1.0471975511965979,
    0.05375149359132689,
    0.0077989022389741295,
    0.0015196685396002487,
    0.00034086372340580136,
    8.302317788222728e-05,
    2.1345552714939684e-05,
    5.701783556049392e-06,
    1.5669620367998919e-06,
    4.401968116419152e-07,
    1.2584781240170216e-07,
    3.6493460957148516e-08,
    1.0697036292140507e-08,
    3.170159567820474e-09,
    9.634387253469615e-10,
    2.9026250109754305e-10,
    7.451232855164786e-11,
    2.2637806505151557e-11,
    1.3266616229762829e-11,
    4.097889497209511e-12,
)


# outside a caller's jit one compiled call instead of dozens, each of which would be compiled by itself; inside, no trace of it
compiled = functools.partial(jax.jit, inline=True)


@compiled
def overlap(left: Float[RealArray, "m d"], right: Float[RealArray, "M d"]) -> Float[Array, "m M"]:
    """φ of every pair of rows, `E[relu(w·x) relu(v·x)]`.

    ```python
    >>> float(overlap(jnp.eye(2), jnp.eye(2))[0, 0])
    0.5

    ```
    """
    norms_left, units_left = polar(left)
    norms_right, units_right = polar(right)
    cosine, sine, arcsine = _cosine_sine_arcsine(units_left, units_right)
    return norms_left[:, None] * norms_right * (sine + (0.5 * jnp.pi + arcsine) * cosine) / (2 * jnp.pi)


@compiled
def overlap_gradient(left: Float[RealArray, "m d"], right: Float[RealArray, "M d"]) -> Float[Array, "m M d"]:
    """The derivative of `overlap` in the left row, `E[1(w·x > 0) relu(v·x) x]`; 0 for a left row that is exactly 0."""
    norms_left, units_left = polar(left)
    norms_right, units_right = polar(right)
    _, sine, arcsine = _cosine_sine_arcsine(units_left, units_right)
    along = (norms_right * sine)[:, :, None] * units_left[:, None, :]
    across = (0.5 * jnp.pi + arcsine)[:, :, None] * right
    return jnp.where((norms_left == 0)[:, None, None], 0.0, (along + across) / (2 * jnp.pi))


@jax.custom_jvp
@compiled
def value(vectors: Float[RealArray, "M d"], coefficients: Float[RealArray, " M"]) -> Float[Array, ""]:
    """The energy `½ E[(Σ_b c_b relu(v_b·x))²]`.

    Computed from `relu(t) = t/2 + |t|/2`: the linear part gives `|Σ c_b v_b|²/8`, the even part
    `Σ c_a c_b |v_a||v_b| G(cos θ_ab) / 4π` with `G(c) = √(1−c²) + c arcsin c`, and the constant 1 of G is summed in closed
    form. Nothing of the order of the number of pairs then cancels, as it does in the textbook sum.
    """
    norms, units = polar(vectors)
    weights = coefficients * norms
    cosine, sine, arcsine = _cosine_sine_arcsine(units, units)
    remainder = cosine * arcsine - cosine**2 / (1 + sine)  # G − 1
    linear = jnp.sum((coefficients @ vectors) ** 2) / 8
    return linear + (jnp.sum(weights) ** 2 + weights @ remainder @ weights) / (4 * jnp.pi)


@jax.custom_jvp
@compiled
def forces(
    rows: Float[RealArray, "m d"], vectors: Float[RealArray, "M d"], coefficients: Float[RealArray, " M"]
) -> Float[Array, "m d"]:
    """`E[F(x) 1(w_i·x > 0) x]` for `F(x) = Σ_b c_b relu(v_b·x)`, split like `value`; 0 for a row that is exactly 0."""
    norms_rows, units_rows = polar(rows)
    norms, units = polar(vectors)
    weights = coefficients * norms
    cosine, sine, arcsine = _cosine_sine_arcsine(units_rows, units)
    along = jnp.sum(weights) - (cosine**2 / (1 + sine)) @ weights
    even = along[:, None] * units_rows + arcsine @ (coefficients[:, None] * vectors)
    force = (coefficients @ vectors) / 4 + even / (2 * jnp.pi)
    return jnp.where((norms_rows == 0)[:, None], 0.0, force)


@compiled
def own_hessian(
    rows: Float[RealArray, "m d"], vectors: Float[RealArray, "M d"], coefficients: Float[RealArray, " M"]
) -> Float[Array, "m d d"]:
    """`E[δ(w_i·x) F(x) x xᵀ] = Σ_b c_b sin θ |v_b| (I − ŵŵᵀ + nnᵀ) / 2π|w|` for every row, n the part of v̂_b across w_i.

    0 for a row that is exactly 0, where the second derivative does not exist.
    """
    identity = jnp.eye(rows.shape[1], dtype=rows.dtype)

    def row(vector):
        norm, unit = polar(vector)
        pair = _Pairs(norm, unit, vectors)
        bend = coefficients * pair.bend
        return jnp.sum(bend) * (identity - jnp.outer(unit, unit)) + (bend[:, None] * pair.across).T @ pair.across

    return jax.vmap(row)(rows)


@compiled
def mixed_hessian(rows: Float[RealArray, "m d"], vectors: Float[RealArray, "M d"]) -> Float[Array, "m M d d"]:
    """`E[1(w_i·x > 0) 1(v_b·x > 0) x xᵀ] = [(π − θ) I + sin θ (eeᵀ − ffᵀ)] / 2π` for every pair.

    e and f are the directions of the sum and of the difference of the unit vectors. 0 where one of the two is exactly 0.
    """
    identity = jnp.eye(rows.shape[1], dtype=rows.dtype)

    def row(vector):
        norm, unit = polar(vector)
        pair = _Pairs(norm, unit, vectors)
        outer = pair.halfway[:, :, None] * pair.halfway[:, None, :] - pair.apart[:, :, None] * pair.apart[:, None, :]
        return (pair.open[:, None, None] * identity + pair.sine[:, None, None] * outer) / (2 * jnp.pi)

    return jax.vmap(row)(rows)


class _Pairs:
    """One vector against many: angle, sine and the directions that second derivatives need, safe at every angle."""

    def __init__(self, norm, unit, vectors):
        norms, units = polar(vectors)
        both = (norm != 0) & (norms != 0)
        difference, total = unit - units, unit + units
        size_difference, size_total = (jnp.sqrt(jnp.sum(a**2, axis=-1)) for a in (difference, total))
        self.sine = jnp.where(both, size_difference * size_total / 2, 0.0)
        self.open = jnp.where(both, jnp.pi - 2 * jnp.arctan2(size_difference, size_total), 0.0)
        self.apart = over(difference, size_difference)
        self.halfway = over(total, size_total)
        # v̂ − cos θ ŵ, of length sin θ, from the shorter of the two so that nothing cancels
        acute = size_difference < size_total
        from_difference = (size_difference**2 / 2)[:, None] * unit - difference
        from_total = total - (size_total**2 / 2)[:, None] * unit
        self.across = over(jnp.where(acute[:, None], from_difference, from_total), self.sine)
        self.bend = jnp.where(both, self.sine * norms, 0.0) / (2 * jnp.pi * jnp.where(norm == 0, 1.0, norm))


@compiled
def _hessian_vector(rows, vectors, coefficients, rows_dot, vectors_dot):
    """The derivative of `forces` along `rows_dot` and `vectors_dot`; a tangent that is None is zero."""

    def row(vector, vector_dot):
        norm, unit = polar(vector)
        pair = _Pairs(norm, unit, vectors)
        out = jnp.zeros_like(vector)
        if vector_dot is not None:
            bend = coefficients * pair.bend
            tangential = vector_dot - unit * (unit @ vector_dot)
            out += jnp.sum(bend) * tangential + (bend * (pair.across @ vector_dot)) @ pair.across
        if vectors_dot is not None:
            halfway = pair.sine * jnp.sum(pair.halfway * vectors_dot, axis=-1)
            apart = pair.sine * jnp.sum(pair.apart * vectors_dot, axis=-1)
            mixed = (coefficients * pair.open) @ vectors_dot
            out += (mixed + (coefficients * halfway) @ pair.halfway - (coefficients * apart) @ pair.apart) / (2 * jnp.pi)
        return out

    return jax.vmap(row, in_axes=(0, None if rows_dot is None else 0))(rows, rows_dot)


def _forces_jvp(primals, tangents):
    rows, vectors, coefficients = primals
    rows_dot, vectors_dot, coefficients_dot = (tangent(t) for t in tangents)
    out = _hessian_vector(rows, vectors, coefficients, rows_dot, vectors_dot)
    if coefficients_dot is not None:
        out += jnp.einsum("imd,m->id", overlap_gradient(rows, vectors), coefficients_dot)
    return forces(rows, vectors, coefficients), out


def energy_rule(value, forces):
    """The derivative rule of an energy whose vectors feel `coefficients x forces`; by Euler's theorem for coefficients."""

    def rule(primals, tangents):
        vectors, coefficients = primals
        vectors_dot, coefficients_dot = (tangent(t) for t in tangents)
        force = forces(vectors, vectors, coefficients)
        out = jnp.zeros((), force.dtype)
        if vectors_dot is not None:
            out += jnp.sum(coefficients[:, None] * force * vectors_dot)
        if coefficients_dot is not None:
            out += jnp.sum(coefficients_dot * jnp.sum(force * vectors, axis=-1))
        return value(vectors, coefficients), out

    return rule


forces.defjvp(_forces_jvp, symbolic_zeros=True)
value.defjvp(energy_rule(value, forces), symbolic_zeros=True)


def tangent(tangent):
    """A tangent of a derivative rule, None when it is known to be zero."""
    return None if type(tangent) is SymbolicZero else tangent


def polar(vectors):
    """Norms and unit vectors; the unit vector of 0 is 0."""
    norms = jnp.sqrt(jnp.sum(vectors**2, axis=-1))
    return norms, over(vectors, norms)


def over(vectors, norms):
    """The vectors divided by their norms, in which no component is larger than 1; 0 stays 0.

    A compiler may evaluate a difference of such vectors twice, once with the division rounded and once within a fused
    multiply-add. Where the vectors agree to rounding the two have no digit in common, and a direction made of both would be of
    any length. A bounded quotient is no product that could be fused, and it bounds the direction itself as well.
    """
    return jnp.clip(vectors / jnp.where(norms == 0, 1.0, norms)[..., None], -1.0, 1.0)


def _cosine_sine_arcsine(left, right):
    """Cosine, sine and arcsine of the cosine between unit rows; all three from one clipped number, so that they agree."""
    cosine = jnp.clip(left @ right.T, -1.0, 1.0)
    sine = jnp.sqrt((1 - cosine) * (1 + cosine))
    small = jnp.minimum(jnp.abs(cosine), sine)
    y = 4 * small**2 - 1
    series = jnp.full_like(y, ARCSINE[-1])
    for coefficient in ARCSINE[-2::-1]:
        series = series * y + coefficient
    arcsine = small * series
    arcsine = jnp.where(jnp.abs(cosine) <= sine, arcsine, jnp.pi / 2 - arcsine)
    return cosine, sine, jnp.where(cosine < 0, -arcsine, arcsine)
