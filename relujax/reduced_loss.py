"""The population loss of an orthonormal teacher on matrices with a permutation symmetry, for blocks of any size, real ones too.

A matrix fixed by `Δ(S_p1 x … x S_pr)` (`fixed_space`) has few different rows, and the angles between them are polynomials in
the block sizes. With `relu(t) = t/2 + |t|/2` the loss of unit amplitudes is

`L = |Σ w − Σ v|²/8 + [(Σ |w| − Σ |v|)² + Σ_ab σ_a σ_b |w_a||w_b| (G(cos θ_ab) − 1)] / 4π`,  `G(c) = √(1−c²) + c arcsin c`,

σ = 1 for students and −1 for teachers. Each student is taken together with its own teacher, from which it differs by little
when there are many, as `(G(1) − 1)(|w| − 1)² + 2 |w| (G(1) − G(cos θ))`. Sines come from sums of squares (Lagrange's
identity), never from 1 − cos². So nothing of the order of the number of neurons cancels, and the value keeps its digits
for millions of neurons.
"""

import math
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .arccos import ARCSINE
from .network import RealArray

_LARGEST = math.pi / 2 - 1  # G(1) − G(0)

# (sin θ − θ cos θ)/sin³θ for sin² θ <= 1/2 as a polynomial in y = 4 sin²θ − 1: the interpolant at 20 Chebyshev nodes, found
# with 60 digits and off by 6e-18
_SINE_MINUS = (
    0.37240127153156427,
    0.04599788078072617,
    0.008402684344414248,
    0.0018190669401925224,
    0.0004331930575698063,
    0.00010965053412920195,
    2.8955960078646588e-05,
    7.888185270162183e-06,
    2.2006730332754097e-06,
    6.256033237391383e-07,
    1.805800906878838e-07,
    5.278163086152376e-08,
    1.557424202800383e-08,
    4.641797162633427e-09,
    1.4180908011062518e-09,
    4.290466690512717e-10,
    1.102851857013131e-10,
    3.362243554763141e-11,
    1.9849379020312287e-11,
    6.146100411285142e-12,
)


class Classes(NamedTuple):
    """What kinds of rows and columns there are.

    - `single`: for every block whether it has one member, so that there is nothing off its diagonal.
    - `extra`: neurons without a teacher of their own, each a class of one row.
    - `spare`: inputs without a teacher, each a class of one column.
    """

    single: tuple[bool, ...]
    extra: int = 0
    spare: int = 0

    @property
    def rows(self) -> int:
        """The number of different rows."""
        return len(self.single) + self.extra

    @property
    def columns(self) -> int:
        """The number of different columns."""
        return len(self.single) + self.spare

    def places(self) -> tuple[np.ndarray, int]:
        """The number of the coordinate in each (row, column) off the diagonal, −1 where there is none, and their total."""
        return _places(self)

    def counts(self, sizes: Float[RealArray, " r"]) -> Float[Array, " c"]:
        """How many entries of the matrix each coordinate stands for."""
        r = len(self.single)
        rows, columns = (jnp.concatenate([sizes, jnp.ones(number - r)]) for number in (self.rows, self.columns))
        own = np.eye(self.rows, self.columns) * (np.arange(self.rows) < r)[:, None]
        return jnp.concatenate([sizes, (rows[:, None] * (columns - own))[self.places()[0] >= 0]])


@cache
def _places(classes):
    r = len(classes.single)
    there = np.ones((classes.rows, classes.columns), bool)
    there[np.arange(r), np.arange(r)] = ~np.array(classes.single, bool)
    places = np.where(there, r - 1 + np.cumsum(there).reshape(there.shape), -1)
    return places, r + int(there.sum())


def reduced_loss(classes: Classes, coordinates: Float[RealArray, " c"], sizes: Float[RealArray, " r"]) -> Float[Array, ""]:
    """The loss `½ E[(Σ relu(w·x) − Σ relu(v·x))²]` of the matrix with these entries and the teacher I.

    **Arguments:**

    - `coordinates`: the entries, ordered as in `FixedSpace`.
    - `sizes`: how many members each block has; real numbers continue the loss between integers.

    Twice differentiable in both, also where neurons are parallel or opposed to each other or to a teacher.
    """
    r = len(classes.single)
    rows = _Rows(classes, coordinates, sizes)
    pairs = (_with_own_teacher(rows), _with_other_teachers(rows), _among_students(rows))
    # one evaluation of G for all of them: it is most of what there is to differentiate and to compile
    even = _even_part(*(jnp.concatenate([jnp.ravel(pair[i]) for pair in pairs]) for i in range(3)))
    own, teachers, students = (jnp.ravel(pair.weights) for pair in pairs)
    weighted = own @ even.lacking[:r] + jnp.concatenate([teachers, students]) @ even.beyond[r:]
    longer = ((rows.diagonal - 1) * (rows.diagonal + 1) + rows.across) / (rows.norms[:r] + 1)  # |w| − 1
    sum_of_norms = jnp.sum(sizes * longer) + jnp.sum(rows.norms[r:])
    alone = _LARGEST * (jnp.sum(sizes * longer**2) + jnp.sum(rows.norm_squares[r:]))
    return _linear_part(rows) / 8 + (sum_of_norms**2 + alone + weighted) / (4 * jnp.pi)


class _Rows:
    """The different rows: entries with their own column (`diagonal`) and with the others (`off`), and how often each occurs."""

    def __init__(self, classes, coordinates, sizes):
        r = len(classes.single)
        places, number = classes.places()
        if np.shape(coordinates) != (number,) or np.shape(sizes) != (r,):
            raise ValueError(
                f"coordinates have shape {np.shape(coordinates)} and sizes {np.shape(sizes)}: ({number},) and ({r},) are needed."
            )
        coordinates, sizes = jnp.asarray(coordinates), jnp.asarray(sizes)
        self.diagonal, self.sizes = coordinates[:r], sizes
        self.off = jnp.where(places < 0, 0.0, coordinates[places])
        self.count, columns = (jnp.concatenate([sizes, jnp.ones(n - r)]) for n in (classes.rows, classes.columns))
        # whether a row class has a column of its own in a column class, shape (rows, columns)
        self.own = np.eye(classes.rows, classes.columns) * (np.arange(classes.rows) < r)[:, None]
        self.weights = columns - self.own
        self.own_entry = jnp.concatenate([self.diagonal, jnp.zeros(classes.extra)])
        self.across = jnp.sum(self.weights * self.off**2, axis=1)[:r]
        self.norm_squares = self.own_entry**2 + jnp.sum(self.weights * self.off**2, axis=1)
        self.norms = _root(self.norm_squares)


def _linear_part(rows):
    """|Σ w − Σ v|²."""
    r = len(rows.sizes)
    with_teacher = (rows.diagonal - 1) + jnp.sum((rows.count[:, None] - rows.own[:, :r]) * rows.off[:, :r], axis=0)
    return jnp.sum(rows.sizes * with_teacher**2) + jnp.sum((rows.count @ rows.off[:, r:]) ** 2)


class _Pairs(NamedTuple):
    """Classes of pairs of neurons: inner products, Gram determinants and products of norms, all squared, and weights in L."""

    inner_squares: Float[Array, "..."]
    gram: Float[Array, "..."]
    norm_squares: Float[Array, "..."]
    weights: Float[Array, "..."]


def _with_own_teacher(rows):
    r = len(rows.sizes)
    return _Pairs(rows.diagonal**2, rows.across, rows.norm_squares[:r], 2 * rows.sizes * rows.norms[:r])


def _with_other_teachers(rows):
    """Here the inner product is an entry, and the square across the rest of the row."""
    r = len(rows.sizes)
    others = rows.weights[:, None, :] - np.eye(r, rows.off.shape[1])
    across = rows.own_entry[:, None] ** 2 + jnp.sum(others * rows.off[:, None, :] ** 2, axis=2)
    pairs = rows.count[:, None] * (rows.sizes - rows.own[:, :r])
    norm_squares = jnp.broadcast_to(rows.norm_squares[:, None], across.shape)
    return _Pairs(rows.off[:, :r] ** 2, across, norm_squares, -2 * pairs * rows.norms[:, None])


def _among_students(rows):
    """In the columns (own of the first, own of the second, every class of columns without those), the Gram determinant is a
    weighted sum of squares of 2 x 2 determinants."""
    r = len(rows.sizes)
    first, second = np.triu_indices(len(rows.count))
    kept = (first != second) | (first < r)
    first, second = first[kept], second[kept]
    weights = rows.weights[first] - rows.own[second]
    has_own = rows.own.sum(axis=1)
    weights = jnp.concatenate([has_own[first][:, None], has_own[second][:, None], weights], axis=1)
    left, right = _in_columns(rows, first, second, first), _in_columns(rows, first, second, second)
    low, high = np.triu_indices(weights.shape[1], 1)
    determinants = left[:, low] * right[:, high] - left[:, high] * right[:, low]
    gram = jnp.sum(weights[:, low] * weights[:, high] * determinants**2, axis=1)
    inner = jnp.sum(weights * left * right, axis=1)
    # ordered pairs within a class, and both orders of two classes
    pairs = jnp.where(first == second, rows.count[first] * (rows.count[first] - 1), 2 * rows.count[first] * rows.count[second])
    norm_squares = rows.norm_squares[first] * rows.norm_squares[second]
    return _Pairs(inner**2, gram, norm_squares, pairs * rows.norms[first] * rows.norms[second])


def _in_columns(rows, first, second, these):
    """The entries of `these`, which is first or second, in the columns of `_among_students`."""
    r = len(rows.sizes)

    def in_column_of(those):
        met = jnp.where(those < r, rows.off[these, np.minimum(those, r - 1)], 0.0)
        return (rows.own_entry[these] if those is these else met)[:, None]

    return jnp.concatenate([in_column_of(first), in_column_of(second), rows.off[these]], axis=1)


class _EvenPart(NamedTuple):
    """`beyond`: G(c) − 1; `lacking`: G(1) − G(c)."""

    beyond: Float[Array, "..."]
    lacking: Float[Array, "..."]


def _even_part(inner_squares, gram, norm_squares):
    """G of the angle with `cos² = inner_squares/norm_squares` and `sin² = gram/norm_squares`, from the smaller of the two."""
    norm_squares = jnp.where(norm_squares > 0, norm_squares, 1.0)
    cosine, sine = inner_squares / norm_squares, gram / norm_squares
    aligned = cosine > 0.5
    cosine, sine = jnp.where(aligned, 0.25, cosine), jnp.where(aligned, sine, 0.25)
    beyond = cosine * (_polynomial(ARCSINE, 4 * cosine - 1) - 1 / (1 + jnp.sqrt(1 - cosine)))
    lacking = jnp.pi / 2 * sine / (1 + jnp.sqrt(1 - sine)) - sine * _root(sine) * _polynomial(_SINE_MINUS, 4 * sine - 1)
    return _EvenPart(jnp.where(aligned, _LARGEST - lacking, beyond), jnp.where(aligned, lacking, _LARGEST - beyond))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _polynomial(coefficients, y):
    """`Σ_i coefficients[i] yⁱ`, a loop that compiles in no time, and its derivatives by others."""
    return jnp.polyval(jnp.array(coefficients[::-1]), y, unroll=1)


@_polynomial.defjvp
def _polynomial_jvp(coefficients, primals, tangents):
    derivative = tuple(i * coefficient for i, coefficient in enumerate(coefficients))[1:] or (0.0,)
    return _polynomial(coefficients, *primals), _polynomial(derivative, *primals) * tangents[0]


def _root(x):
    """The square root, with derivative 0 at 0: where it occurs at 0, what multiplies it vanishes faster."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)
