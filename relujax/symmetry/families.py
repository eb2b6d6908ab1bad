"""Families of critical points of the loss with k orthonormal teachers, for whole and real k."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from .._precision import require_x64
from ..fixed_space import FixedSpace, Size
from ..hessian import Component, symmetric_spectrum
from .newton import Solved, common_classes, common_sizes, own_coordinates, solve
from .shapes import Shape, across, is_on, parse, seed

_LARGEST_MATRIX = 4096
_TURNS = (0.5, 0.3, 0.7, 0.2, 0.9)
_STEPS = 24
_FARTHEST = 0.2  # that an entry moves in one such step


@dataclass(frozen=True, eq=False)
class Family:
    """One member of a family.

    - `name`; `k`, the number of teacher neurons; `blocks`, their sizes, flipped neurons first; `coordinates` of the point in
      `FixedSpace(blocks)`.
    - `loss`, with its ½, and `gradient_norm`.

    What follows is computed when it is asked for.
    """

    name: str
    k: Size
    blocks: tuple[Size, ...]
    extra: int
    coordinates: Float[np.ndarray, " c"]
    loss: float
    gradient_norm: float

    @property
    def space(self) -> FixedSpace:
        """The fixed space that the point lies in."""
        return FixedSpace(self.blocks, extra=self.extra)

    @cached_property
    def weights(self) -> Float[np.ndarray, "m k"] | None:
        """The students as rows, or None when k is not whole or above 4096."""
        whole = all(float(size).is_integer() for size in self.blocks)
        return np.asarray(self.space.embed(self.coordinates)) if whole and self.k <= _LARGEST_MATRIX else None

    @cached_property
    def spectrum(self) -> list[Component]:
        """`(component, dimension, eigenvalues)` of the Hessian over the weights (`hessian.symmetric_spectrum`).

        Each eigenvalue occurs `dimension` times, a whole number for whole block sizes.
        """
        return [part._replace(dimension=_whole(part.dimension)) for part in symmetric_spectrum(self.space, self.coordinates)]

    @property
    def index(self) -> Size:
        """The number of negative eigenvalues, with multiplicities; whole for whole k."""
        total = sum(part.dimension * int(np.sum(part.eigenvalues < -1e-9 * self._largest)) for part in self.spectrum)
        return _whole(total)

    @property
    def min_eigenvalue(self) -> float:
        """The smallest eigenvalue of the Hessian."""
        return min(float(part.eigenvalues[0]) for part in self.spectrum)

    @property
    def _largest(self):
        return max(float(np.max(np.abs(part.eigenvalues))) for part in self.spectrum)


def _whole(number):
    """A number as an integer where it is one."""
    return int(number) if float(number).is_integer() else number


def family(name: str, k: Size, q: Size | None = None) -> Family:
    """A critical point by name, at any number of teacher neurons up to millions, in a fraction of a millisecond.

    **Arguments:**

    - `name`: of k neurons, q are flipped: they point against their teacher. `global`; `A`, all flipped; `II_q`, where all
      neurons make up for the flipped ones, `II` for q = 1 (the minima of Safran and Shamir 2018), `M` for q = 2; `I_q` or
      `I_(q,m)`, where the flipped ones make up for themselves, `I` for q = k − 1; `I_(q,1,m)`, I_{q+1} with one of its flipped
      neurons turned, the one of lowest loss; `II+`, of k + 1 students, II with its flipped neuron in two unequal parts.
    - `k`: whole, or real for the continuation between whole numbers.
    - `q`: for the names with a letter q.

    **Returns:** a `Family`.

    **Raises:** `ValueError` for an unknown name, sizes that the family does not have, and where Newton's method finds no
    member; in single precision.

    Newton's method in the fixed space starts from the leading terms for many neurons. Where few neurons make these too
    coarse, the family is followed down from more neurons.

    Sources: Arjevani and Field 2020 (arXiv 2003.10576), 2021 (arXiv 2107.10370).

    ```python
    >>> member = family("II", 10)
    >>> round(member.loss, 12), member.index, round(member.min_eigenvalue, 9)
    (0.018702194586, 0, 0.031964028)

    ```
    """
    require_x64("family")
    shape = parse(name, k, q)
    solved = find(shape)
    if solved is None:
        raise ValueError(f"family {shape.name} has no member that Newton's method finds at k = {k:g}: try more neurons.")
    return member(shape, solved)


def member(shape: Shape, solved: Solved) -> Family:
    """The solution in the coordinates of the fixed space of the family's own blocks."""
    space = shape.space
    k, point = math.fsum(space.blocks), own_coordinates(space, solved.coordinates)
    return Family(
        name=shape.name,
        k=_whole(k),
        blocks=space.blocks,
        extra=space.extra,
        coordinates=point,
        loss=float(solved.loss),
        gradient_norm=float(solved.gradient_norm),
    )


def find(shape: Shape) -> Solved | None:
    """The family's critical point in the coordinates of its common classes, or None."""
    if shape.kind == "I3":
        # a minimum half turned, where it exists, and a saddle that lies across
        seeds = [*(seed(shape, turn) for turn in _TURNS), across(shape)]
        found = [solved for start in seeds if (solved := solve_from(shape, start)) is not None]
        return min(found, key=lambda solved: float(solved.loss)) if found else _follow_across(shape)
    solved = solve_from(shape, seed(shape))
    return _follow_down(shape) if solved is None and shape.kind in ("II", "II+") else solved


def solve_from(shape: Shape, start: Float[np.ndarray, " c"]) -> Solved | None:
    """The family's critical point that Newton's method reaches from a point nearby, or None."""
    solved = _solve(shape, start)
    return solved if solved.converged and is_on(shape, solved.coordinates) else None


def _follow_across(shape):
    """The saddle of three blocks from a last block of a sixth of the flipped one, where its leading terms serve."""
    q, single, m = shape.sizes
    points: list[np.ndarray] = []
    for size in np.geomspace(max(q / 6, 2.0), m, _STEPS):
        here = shape._replace(sizes=(q, single, float(size) if size != m else m))
        solved = _solve(here, _predict(points) if points else across(here))
        moved = np.abs(solved.coordinates - points[-1]) if points else np.zeros(1)
        if not solved.converged or np.max(moved) > _FARTHEST:
            return None
        points.append(solved.coordinates)
    return solved if is_on(shape, solved.coordinates) else None


def _predict(points):
    return points[-1] if len(points) == 1 else 2 * points[-1] - points[-2]


def _solve(shape, start):
    solved = solve(common_classes(shape.space), start, common_sizes(shape.sizes))
    return Solved(*(np.asarray(part) for part in solved))


def _follow_down(shape):
    """From more neurons with as many flipped ones, where the leading terms serve, in even steps of k^(−1/2)."""
    q, k = shape.sizes[0], sum(shape.sizes)
    far = 4 * q + 20
    if k >= far:
        return None
    points: list[np.ndarray] = []
    for h in np.linspace(far**-0.5, k**-0.5, _STEPS):
        here = shape._replace(sizes=(q, h**-2 - q)) if h < k**-0.5 else shape
        solved = solve_from(here, _predict(points) if points else seed(here))
        if solved is None:
            return None
        points.append(np.asarray(solved.coordinates))
    return solved
