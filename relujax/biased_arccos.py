"""Gaussian expectations of products of ReLUs with biases; `arccos` without them, with the same functions.

Neurons are rows `[w | b]` and `x ~ N(0, I)`, `x̃ = (x, 1)`, `z = w·x + b`. With `α = b/|w|`, `ρ` the cosine between two
weights and `q` its sine, everything follows from the orthant probability P = P(z_u > 0, z_v > 0) and the moments of a
normal vector truncated to that orthant (Tallis 1961), by Stein's lemma. Angles are taken from differences of unit vectors,
so that derivatives are exact where neurons align, coincide or oppose.

A neuron with w = 0 is the constant relu(b): it is smooth unless b = 0 as well, and is treated as the limit of α → ±∞.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .arccos import compiled, energy_rule, over, polar, tangent
from .network import RealArray
from .orthant import normal_tails, orthant_probability

# beyond this many standard deviations densities underflow and distribution functions are 0 or 1
_FAR = 40.0


class _Pairs:
    """Every left neuron against every right one: the moments of the truncated normal vectors, shapes `(m, M)`.

    `left`, `right`: unit weights, with `n` the direction across the left one; `p` the orthant probability; `a` and `b` the
    density on each boundary times the probability of the other side; `corner` the density at the corner times q².
    On the boundary of z_u, z_v is normal of mean `|v| μ`, `μ = β − ρα`, and deviation `|v| q`: `inner` is its
    `E[relu(z_v)]`, `slope` is `Φ(μ/q)` and `spread` is `q φ(μ/q)`.
    """

    def __init__(self, rows, vectors):
        self.norm, self.unit, self.bias, self.alpha = _parts(rows)
        self.norms, self.units, self.biases, self.beta = _parts(vectors)
        difference = self.unit[:, None] - self.units
        total = self.unit[:, None] + self.units
        size_difference, size_total = (jnp.sqrt(jnp.sum(x**2, axis=-1)) for x in (difference, total))
        both = (self.norm[:, None] != 0) & (self.norms != 0)
        self.angle = jnp.where(both, 2 * jnp.arctan2(size_difference, size_total), jnp.pi / 2)
        self.q = jnp.where(both, size_difference * size_total / 2, 1.0)
        self.rho = jnp.where(both, jnp.cos(self.angle), 0.0)
        self.apart = over(difference, size_difference)
        self.halfway = over(total, size_total)
        # 1 − ρ and 1 + ρ
        versine, coversine = (jnp.where(both, size**2 / 2, 1.0) for size in (size_difference, size_total))
        # q n = v̂ − ρŵ
        self.across = jnp.where(both[..., None], versine[..., None] * self.unit[:, None] - difference, self.units)
        alpha, beta = self.alpha[:, None], self.beta[None, :]
        # without cancellation near parallel and opposite weights
        mean = jnp.where(versine < coversine, (beta - alpha) + alpha * versine, (beta + alpha) - alpha * coversine)
        kappa = _quotient(mean, self.q)
        # (α − ρβ)/q, in step with κ whatever the rounding: all that depends on their sum stays right where q is tiny
        other = self.q * alpha - self.rho * kappa
        self.slope = normal_tails(kappa)[0]
        self.density_alpha = _density(self.alpha)[:, None]
        self.spread = self.q * _density(kappa)
        mean = jnp.where(jnp.abs(beta) < _FAR, self.norms * mean, self.biases - self.norms * self.rho * alpha)
        self.inner = mean * self.slope + self.norms * self.spread
        self.p = _with_certain(orthant_probability(alpha, beta, other, kappa, self.angle), alpha, beta)
        self.a = self.density_alpha * self.slope
        self.b = _density(beta) * normal_tails(other)[0]
        self.corner = self.density_alpha * self.spread

    def alive(self):
        """Left neurons that are not exactly 0."""
        return (self.norm != 0) | (self.bias != 0)


@compiled
def overlap(left: Float[RealArray, "m q"], right: Float[RealArray, "M q"]) -> Float[Array, "m M"]:
    """`E[relu(z_u) relu(z_v)]` of every pair of rows.

    ```python
    >>> float(overlap(jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[1.0, 0.0, 0.0]]))[0, 0])
    0.5

    ```
    """
    pair = _Pairs(jnp.asarray(left), jnp.asarray(right))
    norm, bias = pair.norm[:, None], pair.bias[:, None]
    correlated = norm * pair.norms * (pair.rho * pair.p + pair.corner)
    return correlated + bias * pair.biases * pair.p + norm * pair.biases * pair.a + bias * pair.norms * pair.b


@compiled
def overlap_gradient(left: Float[RealArray, "m q"], right: Float[RealArray, "M q"]) -> Float[Array, "m M q"]:
    """The derivative of `overlap` in the left row, `E[1(z_u > 0) relu(z_v) x̃]`; 0 for a left row that is exactly 0."""
    right = jnp.asarray(right)
    pair = _Pairs(jnp.asarray(left), right)
    along = (pair.density_alpha * pair.inner)[..., None] * pair.unit[:, None]
    weights = along + pair.p[..., None] * right[:, :-1]
    bias = pair.biases * pair.p + pair.norms * (pair.rho * pair.a + pair.b)
    gradient = jnp.concatenate([weights, bias[..., None]], axis=-1)
    return jnp.where(pair.alive()[:, None, None], gradient, 0.0)


@jax.custom_jvp
@compiled
def value(vectors: Float[RealArray, "M q"], coefficients: Float[RealArray, " M"]) -> Float[Array, ""]:
    """The energy `½ E[(Σ_b c_b relu(z_b))²]`."""
    return jnp.asarray(coefficients) @ overlap(vectors, vectors) @ coefficients / 2


@jax.custom_jvp
@compiled
def forces(
    rows: Float[RealArray, "m q"], vectors: Float[RealArray, "M q"], coefficients: Float[RealArray, " M"]
) -> Float[Array, "m q"]:
    """`E[F(x) 1(z_i > 0) x̃]` for `F = Σ_b c_b relu(z_b)`; 0 for a row that is exactly 0."""
    return jnp.einsum("imq,m->iq", overlap_gradient(rows, vectors), coefficients)


@compiled
def own_hessian(
    rows: Float[RealArray, "m q"], vectors: Float[RealArray, "M q"], coefficients: Float[RealArray, " M"]
) -> Float[Array, "m q q"]:
    """`E[δ(z_i) F(x) x̃ x̃ᵀ]` for every row; 0 for a row with w = 0."""
    pair = _Pairs(jnp.asarray(rows), jnp.asarray(vectors))
    identity = jnp.eye(pair.unit.shape[1], dtype=pair.unit.dtype)
    on_boundary = coefficients * pair.density_alpha / _nonzero(pair.norm)[:, None]
    terms = (pair.inner, pair.norms * pair.slope, pair.norms * pair.spread)
    inner, slope, spread = (jnp.where(pair.norm[:, None] == 0, 0.0, on_boundary * x) for x in terms)
    sum_inner = jnp.sum(inner, axis=1)
    lean = jnp.einsum("im,imx->ix", slope, pair.across)
    unit, alpha = pair.unit, pair.alpha[:, None]
    normal = over(pair.across, pair.q)
    weights = sum_inner[:, None, None] * (identity + (alpha**2 - 1)[..., None] * unit[:, :, None] * unit[:, None, :])
    weights = weights + jnp.einsum("im,imx,imy->ixy", spread, normal, normal)
    tilt = alpha[..., None] * unit[:, :, None] * lean[:, None, :]
    weights = weights - tilt - jnp.swapaxes(tilt, 1, 2)
    mixed = lean - alpha * sum_inner[:, None] * unit
    return _bordered(weights, mixed, mixed, sum_inner)


@compiled
def mixed_hessian(rows: Float[RealArray, "m q"], vectors: Float[RealArray, "M q"]) -> Float[Array, "m M q q"]:
    """`E[1(z_i > 0) 1(z_b > 0) x̃ x̃ᵀ]` for every pair; 0 where one of the two is exactly 0."""
    pair = _Pairs(jnp.asarray(rows), jnp.asarray(vectors))
    identity = jnp.eye(pair.unit.shape[1], dtype=pair.unit.dtype)
    left, right = pair.unit[:, None], pair.units[None]
    weights = pair.p[..., None, None] * identity + pair.corner[..., None, None] * (_outer(pair.halfway) - _outer(pair.apart))
    weights = weights - (pair.alpha[:, None] * pair.a)[..., None, None] * _outer(left)
    weights = weights - (pair.beta * pair.b)[..., None, None] * _outer(right)
    mean = pair.a[..., None] * left + pair.b[..., None] * right
    blocks = _bordered(weights, mean, mean, pair.p)
    alive = pair.alive()[:, None] & ((pair.norms != 0) | (pair.biases != 0))
    return jnp.where(alive[..., None, None], blocks, 0.0)


def _forces_jvp(primals, tangents):
    rows, vectors, coefficients = primals
    rows_dot, vectors_dot, coefficients_dot = (tangent(t) for t in tangents)
    gradients = overlap_gradient(rows, vectors)
    force = jnp.einsum("imq,m->iq", gradients, coefficients)
    out = jnp.zeros_like(force)
    if rows_dot is not None:
        out += jnp.einsum("ixy,iy->ix", own_hessian(rows, vectors, coefficients), rows_dot)
    if vectors_dot is not None:
        out += jnp.einsum("m,imxy,my->ix", coefficients, mixed_hessian(rows, vectors), vectors_dot)
    if coefficients_dot is not None:
        out += jnp.einsum("imq,m->iq", gradients, coefficients_dot)
    return force, out


forces.defjvp(_forces_jvp, symbolic_zeros=True)
value.defjvp(energy_rule(value, forces), symbolic_zeros=True)


def _parts(vectors):
    """Norms and directions of the weights, biases, and biases in units of the norm, kept within what densities can see."""
    norms, units = polar(vectors[:, :-1])
    biases = vectors[:, -1]
    ratio = jnp.where(norms == 0, jnp.sign(biases) * _FAR, biases / _nonzero(norms))
    # products of ratios and sines must not underflow
    ratio = jnp.where(jnp.abs(ratio) < jnp.sqrt(jnp.finfo(ratio.dtype).tiny), 0.0, ratio)
    return norms, units, biases, jnp.clip(ratio, -_FAR, _FAR)


def _with_certain(p, alpha, beta):
    """The orthant probability, with those exact to which one of the two neurons contributes nothing but 0 or 1."""
    p = jnp.where(alpha >= _FAR, normal_tails(beta)[0], jnp.where(beta >= _FAR, normal_tails(alpha)[0], p))
    return jnp.where(jnp.minimum(alpha, beta) <= -_FAR, 0.0, p)


def _density(x):
    return jnp.exp(-0.5 * x**2) / jnp.sqrt(2 * jnp.pi)


def _nonzero(x):
    return jnp.where(x == 0, 1.0, x)


def _quotient(mean, q):
    """`mean/q`, infinite with the sign of the mean where q = 0, and 0 for 0/0, where nothing depends on its value."""
    infinite = jnp.where(mean == 0, 0.0, jnp.sign(mean) * jnp.inf)
    return jnp.where(q == 0, infinite, mean / _nonzero(q))


def _outer(x):
    return x[..., :, None] * x[..., None, :]


def _bordered(weights, right, below, corner):
    top = jnp.concatenate([weights, right[..., None]], axis=-1)
    bottom = jnp.concatenate([below, corner[..., None]], axis=-1)
    return jnp.concatenate([top, bottom[..., None, :]], axis=-2)
