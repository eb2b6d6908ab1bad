"""Families followed in a real number of neurons, and where they turn from saddle into minimum."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from .._precision import require_x64
from ..fixed_space import Size
from ..network import RealArray
from .families import Family, find, member, solve_from
from .shapes import parse

_STEP = 0.01  # of k^(−1/2)


@dataclass(frozen=True)
class Crossing:
    """Where a family changes between saddle and minimum.

    - `k`: the fractional number of neurons; `component`: the irreducible component whose smallest eigenvalue is 0 there;
      `loss`: of the family there.
    - `slope`: the derivative of that eigenvalue in k, positive where more neurons make the family a minimum.
    """

    k: float
    component: str
    loss: float
    slope: float


def follow(name: str, ks: Float[RealArray, " s"], q: Size | None = None) -> list[Family]:
    """The members of a family at every k of `ks`, each from the one before: Newton's method with a linear predictor in 1/k.

    **Arguments:**

    - `ks`: real numbers of neurons; the first is where `family` starts, and steps between them should be small.

    **Returns:** the members up to the first k at which the family is lost.

    **Raises:** `ValueError` as `family` does; in single precision.

    ```python
    >>> [round(member.loss, 6) for member in follow("A", np.array([6.0, 6.5, 7.0]))]
    [0.055669, 0.059088, 0.062211]

    ```
    """
    require_x64("follow")
    members: list[Family] = []
    points: list[np.ndarray] = []
    for k in np.asarray(ks, float):
        shape = parse(name, float(k), q)
        solved = find(shape) if not points else solve_from(shape, _predict(ks, points, float(k)))
        if solved is None:
            break
        points.append(np.asarray(solved.coordinates))
        members.append(member(shape, solved))
    return members


def _predict(ks, points, k):
    if len(points) == 1:
        return points[0]
    before, last = 1 / ks[len(points) - 2], 1 / ks[len(points) - 1]
    return points[-1] + (1 / k - last) / (last - before) * (points[-1] - points[-2])


def crossing(name: str, q: Size | None = None) -> Crossing:
    """Where a family turns from saddle into minimum, as a fractional number of neurons, to 12 digits.

    **Arguments:**

    - `name`, `q`: as in `family`. The number of flipped neurons stays as it is while k changes, but for `A` and `I`, which
      have k and k − 1.

    **Returns:** a `Crossing`, the first one met from many neurons to few. Of I_q it is where more neurons turn the minimum
    into a saddle.

    **Raises:** `ValueError` for a family that does not change; in single precision.

    ```python
    >>> found = crossing("A")
    >>> round(found.k, 9), found.component, round(found.loss, 9)
    (5.763812735, 'alt_0', 0.053935419)

    ```
    """
    require_x64("crossing")
    flipped = float(parse(name, 1e6, q).sizes[0]) if name.strip() not in ("I", "A", "global") else 1.0
    last = None
    for h in np.arange((4 * flipped + 60) ** -0.5, flipped**-0.5, _STEP):
        shape = parse(name, float(h**-2), q)
        if any(1 < size < 2 for size in shape.sizes):
            break  # a block between one and two members has no components
        solved = find(shape) if last is None else solve_from(shape, last[1])
        if solved is None:
            break
        here = member(shape, solved)
        if last is not None and (here.min_eigenvalue < 0) != (last[0].min_eigenvalue < 0):
            return _between(name, q, last[0], here, last[1])
        last = here, np.asarray(solved.coordinates)
    raise ValueError(f"family {name} does not change between saddle and minimum: it has no crossing.")


def _between(name, q, many, few, start):
    """The crossing between two members, by Brent's method on the smallest eigenvalue of the component that changes sign."""
    saddle = min(many, few, key=lambda one: one.min_eigenvalue)
    component = min(saddle.spectrum, key=lambda part: part.eigenvalues[0]).name

    def member_at(k):
        shape = parse(name, k, q)
        solved = solve_from(shape, start)
        if solved is None:
            raise ValueError(f"family {shape.name} is lost at k = {k:g}, near its crossing.")
        return member(shape, solved)

    def smallest(k):
        return next(float(part.eigenvalues[0]) for part in member_at(k).spectrum if part.name == component)

    k = brentq(smallest, few.k, many.k, xtol=1e-14, rtol=1e-14)
    slope = (smallest(k + 1e-4) - smallest(k - 1e-4)) / 2e-4
    return Crossing(float(k), component, member_at(k).loss, slope)
