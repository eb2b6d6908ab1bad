"""Eigenvalues of the Hessian at symmetric matrices in closed form, for blocks of any real size.

At a matrix fixed by `Δ(S_p1 x … x S_pr)`, with k orthonormal teachers and unit amplitudes, the components that have one or two
copies are explicit in the norms and angles of the neurons: antisymmetric and symmetric matrices over one block, vectors over
two blocks, and vectors over a block in an input without a teacher.
"""

import math
from collections.abc import Sequence
from typing import Any

Number = Any


def closed_eigenvalues(
    sizes: Sequence[Number], diagonal: Sequence[Number], off: Sequence[Sequence[Number]], arithmetic: Any = math
) -> dict[str, list[Number]]:
    """Eigenvalues by component: `alt_a`, `sym_a`, `std_axstd_b`, `extra:std_a`.

    **Arguments:**

    - `sizes`: of the blocks; `diagonal[a]`: the entry on the diagonal of block a; `off[a][b]`: the other ones in block (a, b).
    - `arithmetic`: a module with `sqrt`, `acos` and `pi`: `math`, or `mpmath.mp` for more digits.

    With `r_a` the norm of a neuron of block a, `δ_a = D_a − O_aa`, `θ_ab` the angle between neurons of a and b, s its sine
    and `s°_ab` that of the angle between a neuron of a and a teacher of b other than its own,

    `2π λ(alt_a) = θ_aa + C_a − 1/(r_a s°_aa)`, `λ(sym_a) = λ(alt_a) + δ_a²/(π r_a² s_aa)`, `2π λ(extra:std_a) = θ_aa + C_a`,

    where `2π C_a` is the curvature `Σ |w| s/r_a` that all other students add to a neuron of a and the teachers take away.
    The two copies of `std_axstd_b` couple by `δ_a δ_b/(r_a r_b s_ab)`.

    Obtained from the Hessian of Safran and Shamir 2018 by inserting matrices that belong to one component.

    ```python
    >>> values = closed_eigenvalues([6], [1.0], [[0.0]])
    >>> round(values["alt_0"][0] - (1 / 4 - 1 / (2 * math.pi)), 15)
    0.0

    ```
    """
    point = _Angles(sizes, diagonal, off, arithmetic)
    pi, blocks = arithmetic.pi, range(len(sizes))
    out = {}
    for a in blocks:
        free = point.angle(a, a) + point.curvature(a)
        out[f"extra:std_{a}"] = [free / (2 * pi)]
        alt = (free - 1 / (point.norms[a] * point.teacher_sine(a, a))) / (2 * pi)
        out[f"alt_{a}"] = [alt]
        out[f"sym_{a}"] = [alt + point.spread(a) ** 2 / (pi * point.norms[a] ** 2 * point.sine(a, a))]
    for a in blocks:
        for b in range(a + 1, len(sizes)):
            out[f"std_{a}xstd_{b}"] = _two_by_two(point, a, b)
    return out


def _two_by_two(point, a, b):
    one, other = (_own(point, first, second) for first, second in ((a, b), (b, a)))
    cross = point.spread(a) * point.spread(b) / (point.norms[a] * point.norms[b] * point.sine(a, b))
    mean, half = (one + other) / 2, (one - other) / 2
    root = point.arithmetic.sqrt(half**2 + cross**2)
    return [(mean - root) / (2 * point.arithmetic.pi), (mean + root) / (2 * point.arithmetic.pi)]


def _own(point, a, b):
    bend = point.spread(b) ** 2 / (point.norms[a] * point.norms[b] * point.sine(a, b))
    return point.angle(a, a) + point.curvature(a) + bend - 1 / (point.norms[a] * point.teacher_sine(a, b))


class _Angles:
    def __init__(self, sizes, diagonal, off, arithmetic):
        self.sizes, self.diagonal, self.off, self.arithmetic = sizes, diagonal, off, arithmetic
        self.norms = [arithmetic.sqrt(self._inner(a, None)) for a in range(len(sizes))]

    def spread(self, a):
        return self.diagonal[a] - self.off[a][a]

    def angle(self, a, b):
        return self.arithmetic.acos(self._inner(a, b) / (self.norms[a] * self.norms[b]))

    def sine(self, a, b):
        return self.arithmetic.sqrt(1 - (self._inner(a, b) / (self.norms[a] * self.norms[b])) ** 2)

    def teacher_sine(self, a, b):
        return self.arithmetic.sqrt(1 - (self.off[a][b] / self.norms[a]) ** 2)

    def curvature(self, a):
        total = -self.arithmetic.sqrt(1 - (self.diagonal[a] / self.norms[a]) ** 2) / self.norms[a]
        for b, size in enumerate(self.sizes):
            others = size - (a == b)
            # blocks without another member have no such angle
            if others != 0:
                total += others * (self.norms[b] / self.norms[a] * self.sine(a, b) - self.teacher_sine(a, b) / self.norms[a])
        return total

    def _inner(self, a, b):
        """Of a neuron of a with another one of b, or with itself (None)."""
        mine, theirs = self.off[a], self.off[a if b is None else b]
        counts = [size - (c == a) - (c == b) for c, size in enumerate(self.sizes)]
        total = sum(count * x * y for count, x, y in zip(counts, mine, theirs, strict=True))
        if b is None:
            return total + self.diagonal[a] ** 2
        if a == b:
            return total + 2 * self.diagonal[a] * self.off[a][a]
        return total + self.diagonal[a] * self.off[b][a] + self.off[a][b] * self.diagonal[b]
