"""Critical points of real block sizes to any number of digits, by mpmath: where double precision ends.

The textbook sums over classes of pairs, which lose digits as the number of neurons grows, in arithmetic that has digits to
spare. Nothing of `reduced_loss` is used, so that the two hold each other to account.
"""

from collections.abc import Sequence
from typing import Any

from .._extras import extra

Number = Any  # a float of mpmath


class PrecisePoint:
    """A fixed matrix: entry `diagonal[a]` on the diagonal of block a, `off[a][b]` elsewhere in block (a, b)."""

    def __init__(self, sizes: Sequence[Number], diagonal: Sequence[Number], off: Sequence[Sequence[Number]]):
        self.mp = extra("mpmath", "test").mp
        self.sizes, self.diagonal, self.off = list(sizes), list(diagonal), [list(row) for row in off]
        self.blocks = range(len(self.sizes))
        self.norms = [self.mp.sqrt(self._square(a)) for a in self.blocks]

    def loss(self) -> Number:
        """½ E[(Σ relu(w·x) − Σ relu(v·x))²] for the teacher I and unit amplitudes."""
        mp, k = self.mp, sum(self.sizes)
        total = k / 4 + k * (k - 1) / (4 * mp.pi)
        for a in self.blocks:
            students = self.norms[a] ** 2 / 4
            for b in self.blocks:
                students += self._others(a, b) * self._kernel(self.norms[a] * self.norms[b], self._cosine(a, b)) / 2
                students -= self._others(a, b) * self._kernel(self.norms[a], self.off[a][b] / self.norms[a])
            students -= self._kernel(self.norms[a], self.diagonal[a] / self.norms[a])
            total += self.sizes[a] * students
        return total

    def gradient(self) -> list[Number]:
        """The gradient of one neuron of each block in its own coordinate, and in another one of each block, in the order of
        `FixedSpace`."""
        own, across = [], []
        for a in self.blocks:
            along = self._along(a) / self.norms[a]
            own.append(self._force(a, along, self.diagonal[a], [self._met(a, b, None) for b in self.blocks]))
            across.append([self._force(a, along, self.off[a][c], [self._met(a, b, c) for b in self.blocks]) for c in self.blocks])
        return own + [across[a][b] for a in self.blocks for b in self.blocks if a != b or self.sizes[a] != 1]

    def _force(self, a, along, entry, met):
        """One component of the gradient in a neuron of a, which has `entry` there, the other neurons of b in all `met[b]`."""
        mp = self.mp
        students = sum((mp.pi - mp.acos(self._cosine(a, b))) * met[b] for b in self.blocks)
        teacher = mp.pi - mp.acos(entry / self.norms[a])
        return (along * entry + mp.pi * entry + students - teacher) / (2 * mp.pi)

    def _along(self, a):
        """Σ |w| sin θ over the other students minus Σ sin θ over the teachers."""
        total = -self._sine(self.diagonal[a] / self.norms[a])
        for b in self.blocks:
            number = self._others(a, b)
            total += number * (self.norms[b] * self._sine(self._cosine(a, b)) - self._sine(self.off[a][b] / self.norms[a]))
        return total

    def _met(self, a, b, c):
        """The sum over the other neurons of block b of their entries in the own coordinate of one of a, or another one of c."""
        if c is None or (c == a != b):
            return self._others(a, b) * self.off[b][a]
        if b != c:
            return self._others(a, b) * self.off[b][c]
        return self.diagonal[c] + (self._others(a, b) - 1) * self.off[c][c]

    def _others(self, a, b):
        return self.sizes[b] - (a == b)

    def _square(self, a):
        return self.diagonal[a] ** 2 + sum(self._others(a, b) * self.off[a][b] ** 2 for b in self.blocks)

    def _cosine(self, a, b):
        """Between a neuron of a and another one of b."""
        shared = sum((self.sizes[c] - (c == a) - (c == b)) * self.off[a][c] * self.off[b][c] for c in self.blocks)
        if a == b:
            inner = shared + 2 * self.diagonal[a] * self.off[a][a]
        else:
            inner = shared + self.diagonal[a] * self.off[b][a] + self.off[a][b] * self.diagonal[b]
        return inner / (self.norms[a] * self.norms[b])

    def _sine(self, cosine):
        return self.mp.sqrt(1 - cosine**2)

    def _kernel(self, norms, cosine):
        return norms * (self._sine(cosine) + (self.mp.pi - self.mp.acos(cosine)) * cosine) / (2 * self.mp.pi)


def solve_precisely(sizes: Sequence[Number], start: Sequence[Number]) -> PrecisePoint:
    """The critical point near the coordinates `start`, ordered as in `FixedSpace`, to the working precision of mpmath.

    **Raises:** `ValueError` when Newton's method does not converge; `ImportError` without mpmath.
    """
    mp = extra("mpmath", "test").mp
    r = len(sizes)
    places = [(a, b) for a in range(r) for b in range(r) if a != b or sizes[a] != 1]

    def point(coordinates):
        off = [[mp.zero] * r for _ in range(r)]
        for (a, b), entry in zip(places, coordinates[r:], strict=True):
            off[a][b] = entry
        return PrecisePoint(sizes, coordinates[:r], off)

    size = len(start)
    here = mp.matrix([mp.mpf(x) for x in start])
    shift = mp.mpf(10) ** (-mp.dps // 3)
    for _ in range(60):
        force = mp.matrix(point(list(here)).gradient())
        slopes = mp.matrix(size, size)
        for j in range(size):
            moved = here.copy()
            moved[j] += shift
            column = (mp.matrix(point(list(moved)).gradient()) - force) / shift
            for i in range(size):
                slopes[i, j] = column[i]
        step = mp.lu_solve(slopes, force)
        here -= step
        if mp.norm(step) < mp.mpf(10) ** (-(mp.dps * 9) // 10):
            return point(list(here))
    raise ValueError(f"Newton's method found no critical point of block sizes {[float(size) for size in sizes]}: start nearer.")
