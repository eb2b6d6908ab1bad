"""Series of a family in powers of k^(−1/2), fitted where double precision has no digits left."""

from typing import Any, NamedTuple

from .._extras import extra
from ..fixed_space import Size
from ..theory import closed_eigenvalues
from .precise import PrecisePoint, solve_precisely
from .shapes import parse, seed

_NODES = 14
_NEAREST = 4000


class Puiseux(NamedTuple):
    """`Σ_n coefficients[n] k^(−n/2)`: numbers of mpmath, each right to as many places after the point as `digits` says."""

    coefficients: tuple[Any, ...]
    digits: tuple[int, ...]

    @property
    def as_floats(self) -> tuple[float, ...]:
        """The coefficients in double precision."""
        return tuple(float(coefficient) for coefficient in self.coefficients)


def puiseux(name: str, quantity: str = "loss", q: Size | None = None, *, terms: int = 5, digits: int = 15) -> Puiseux:
    """The series of a property of a family for many neurons, `Σ c_n k^(−n/2)`.

    **Arguments:**

    - `name`, `q`: `A`, or II with q flipped neurons, as in `family`.
    - `quantity`: `loss`; a coordinate, `D0` on the diagonal of block 0 or `O01` in block (0, 1); or an eigenvalue that has a
      closed form, such as `alt_1` (`theory.closed_eigenvalues`).
    - `terms`: how many coefficients are wanted, from the power 0 on, each with at least `digits` correct places.

    **Returns:** a `Puiseux`.

    **Raises:** `ValueError` for another family or an unknown quantity, and where the digits are not reached; `ImportError`
    without mpmath.

    The family is solved at square k from 16 to 300 million and more with enough digits for an interpolation in h, whose error
    is judged by leaving out the nearest node.

    Source: Arjevani and Field 2021 (arXiv 2107.10370), who derive such series for spectra and losses; here they are fitted.

    ```python
    >>> series = puiseux("A", terms=2)
    >>> [round(c, 12) for c in series.as_floats]  # ½ − 1/π, −4/3π
    [0.181690113816, -0.424413181578]

    ```
    """
    if name.strip() not in ("A", "II", "M") and not name.startswith("II_"):
        raise ValueError(f"the family is {name!r}: series are for A and II_q.")
    mp = extra("mpmath", "test").mp
    with mp.workdps(30 + 5 * _NODES):
        roots = [mp.mpf(_NEAREST) * (1 + mp.mpf(j) / 4) for j in range(_NODES)]
        values = [_measure(_solve(mp, name, root**2, q), quantity) for root in roots]
        best, rough = (_interpolate(mp, roots[leave:], values[leave:]) for leave in (0, 1))
        errors = [abs(a - b) for a, b in zip(best, rough, strict=False)][:terms]
        places = [int(-mp.log10(error)) if error else mp.dps for error in errors]
    if min(places) < digits:
        raise ValueError(f"{quantity} of family {name} has {min(places)} digits in {terms} terms: ask for fewer of either.")
    return Puiseux(tuple(best[:terms]), tuple(places))


def _solve(mp, name, k, q):
    shape = parse(name, float(k), q)
    q = shape.sizes[0]
    if shape.kind == "A":
        return solve_precisely([k], [-1 + 2 / k, 2 / k])
    start = [float(entry) for entry in seed(shape)]
    # a block of one has no entries off its diagonal
    return solve_precisely([mp.mpf(q), k - mp.mpf(q)], start if q != 1 else [*start[:2], *start[3:]])


def _measure(point: PrecisePoint, quantity):
    if quantity == "loss":
        return point.loss()
    if quantity in (names := {f"D{a}": point.diagonal[a] for a in point.blocks}):
        return names[quantity]
    if quantity in (names := {f"O{a}{b}": point.off[a][b] for a in point.blocks for b in point.blocks}):
        return names[quantity]
    values = closed_eigenvalues(point.sizes, point.diagonal, point.off, point.mp)
    if quantity not in values or len(values[quantity]) > 1:
        known = ", ".join([*names, *(name for name, copies in values.items() if len(copies) == 1)])
        raise ValueError(f"the quantity is {quantity!r}: choose among loss, D0, …, {known}.")
    return values[quantity][0]


def _interpolate(mp, roots, values):
    """The coefficients of the polynomial in 1/root through the values."""
    size = len(roots)
    matrix = mp.matrix(size, size)
    for i, root in enumerate(roots):
        for j in range(size):
            matrix[i, j] = root ** (-j)
    return list(mp.lu_solve(matrix, mp.matrix(values)))
