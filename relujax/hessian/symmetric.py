"""The whole spectrum of the population Hessian at a point with a permutation symmetry, at a cost that no number of neurons changes.

At a matrix fixed by `Δ(S_p1 x … x S_pr)` the Hessian commutes with the group, so that it has one small block for every
irreducible component of the space of matrices, whose eigenvalues occur as often as the component has dimensions (Arjevani
and Field 2020). Every component of two indices has a vector that no permutation of the third and later members of any block
changes. Such vectors live in the fixed space of the blocks `(1, 1, p_a − 2)`, and the blocks of the Hessian are those of the
reduced loss there.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._precision import require_x64
from ..fixed_space import FixedSpace, Sizes
from ..network import RealArray
from ..reduced_loss import Classes, reduced_loss


class Component(NamedTuple):
    """One irreducible component: each of its eigenvalues, ascending, occurs `dimension` times in the spectrum.

    Its `name` is `triv`; `std_a`, vectors over block a that sum to 0; `sym_a` and `alt_a`, symmetric and antisymmetric matrices
    over it with rows that sum to 0; `std_axstd_b`; with `extra:` in front on inputs without a teacher.
    """

    name: str
    dimension: float
    eigenvalues: Float[np.ndarray, " copies"]


def symmetric_spectrum(
    space: FixedSpace, coordinates: Float[RealArray, " c"], sizes: Sizes | None = None
) -> tuple[Component, ...]:
    """All eigenvalues of the Hessian over the weights, with their multiplicities, for the teacher I and unit amplitudes.

    **Arguments:**

    - `coordinates`: of the point, which need not be critical; 0 in the spare inputs.
    - `sizes`: of the blocks, where they are not those of `space`. Real sizes continue the spectrum between integers, and then
      dimensions are real as well.

    Dimensions times numbers of eigenvalues add up to the number of weights. Not for use inside `jax.jit`.

    **Raises:** `ValueError` in single precision and for a point that is not 0 in the spare inputs.

    ```python
    >>> parts = symmetric_spectrum(FixedSpace((6,)), np.array([1.0, 0.0]))
    >>> [(part.name, int(part.dimension), part.eigenvalues.round(4).tolist()) for part in parts]
    [('triv', 1, [0.8897, 2.0653]), ('std_0', 5, [0.0908, 0.2871, 1.7129]), ('sym_0', 9, [0.4092]), ('alt_0', 10, [0.0908])]

    ```
    """
    require_x64("symmetric_spectrum", coordinates)
    sizes = np.asarray(space.blocks if sizes is None else sizes, float)
    coordinates = _without_spare(space, np.asarray(coordinates))
    finer = _finer(tuple(_kind(size) for size in sizes), space.extra, space.spare > 0)
    matrix = np.asarray(
        _restricted(finer.classes, np.append(coordinates, 0.0)[finer.source], finer.split(sizes), finer.vectors(sizes))
    )
    parts = []
    for name, rows in finer.copies.items():
        copies = space.spare if name.startswith("extra:") else 1
        values = np.linalg.eigvalsh(matrix[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1])
        parts.append(Component(name, copies * _dimension(name, sizes), values))
    total, number = sum(part.dimension * len(part.eigenvalues) for part in parts), (np.sum(sizes) + space.extra)
    number = number * (np.sum(sizes) + space.spare)
    assert abs(total - number) <= 1e-9 * number, f"the multiplicities add up to {total} and not to {number}"
    return tuple(parts)


def _without_spare(space, coordinates):
    """The coordinates in the same space without spare inputs."""
    places, number = space.classes.places()
    if coordinates.shape != (number,):
        raise ValueError(f"coordinates have shape {coordinates.shape}: ({number},) is needed.")
    spare = places[:, len(space.blocks) :]
    if np.any(coordinates[spare] != 0):
        raise ValueError(f"the point is {np.max(np.abs(coordinates[spare]))} in an input without a teacher: it must be 0 there.")
    return np.delete(coordinates, spare)


def _kind(size):
    """1, 2, 3, or 4 for every other size: which components a block has."""
    return int(size) if size in (1, 2, 3) else 4


def _dimension(name, sizes):
    dimension = 1.0
    if name.endswith("triv"):
        return dimension
    for part in name.removeprefix("extra:").split("x"):
        kind, block = part.split("_")
        p = sizes[int(block)]
        dimension *= {"std": p - 1, "sym": p * (p - 3) / 2, "alt": (p - 1) * (p - 2) / 2}[kind]
    return float(dimension)


@functools.partial(jax.jit, static_argnums=0)
def _restricted(classes, coordinates, sizes, vectors):
    """The Hessian of the reduced loss between these vectors of entries, normalised in the space of matrices."""
    gradient = jax.grad(reduced_loss, argnums=1)
    slope = jax.linearize(lambda point: gradient(classes, point, sizes), coordinates)[1]
    vectors = vectors / jnp.sqrt(vectors**2 @ classes.counts(sizes))[:, None]
    return vectors @ jax.vmap(slope)(vectors).T


@functools.cache
def _finer(kinds, extra, spare):
    return _Finer(kinds, extra, spare)


class _Finer:
    """The fixed space of the blocks split into (1, 1, rest), and in it a vector for every copy of every component.

    - `source`: for each of its coordinates the one of the coarse space that it is a part of, −1 in the spare input.
    - `copies`: for every component the rows of `vectors` that belong to it.
    """

    def __init__(self, kinds, extra, spare):
        self.kinds = kinds
        members = [(block, member) for block, kind in enumerate(kinds) for member in range(min(kind, 3))]
        self.block, self.member = (np.array(column) for column in zip(*members, strict=True))
        single = tuple(member < 2 or kinds[block] == 3 for block, member in members)
        self.classes = Classes(single, extra, int(spare))
        self.source = self._source(extra)
        self._vectors, self.copies = [], {}
        for name, off, *diagonal in self._components():
            self.copies.setdefault(name, []).append(len(self._vectors))
            self._vectors.append(self._flat(off, *diagonal))
        self._vectors = np.array(self._vectors)

    def split(self, sizes):
        """The sizes of the finer blocks."""
        return np.where(self.member < 2, 1.0, sizes[self.block] - 2)

    def vectors(self, sizes):
        """Entries in the finer coordinates, one row a copy, in the order of the components."""
        vectors = self._vectors.copy()
        for name, rows in self.copies.items():
            if name.startswith(("sym", "alt")):
                vectors[rows] = self._flat(self._two_indices(name[:3], int(name[4:]), sizes))
        return vectors

    def _source(self, extra):
        coarse = Classes(tuple(kind == 1 for kind in self.kinds), extra).places()[0]
        rows = np.concatenate([self.block, len(self.kinds) + np.arange(extra)])
        there = self.classes.places()[0] >= 0
        off = np.full(there.shape, -1)
        off[:, : len(self.block)] = coarse[rows[:, None], self.block]
        return np.concatenate([self.block, off[there]])

    def _flat(self, off, diagonal=0.0):
        diagonal = np.broadcast_to(diagonal, len(self.block))
        return np.concatenate([diagonal, off[self.classes.places()[0] >= 0]])

    def _components(self):
        """Name, entries off the diagonal and, where there are any, on it, of every copy; of `sym` and `alt` the place only."""
        r, classes = len(self.kinds), self.classes
        blocks, one, odd = range(r), [], []
        for a in blocks:
            # 1 on block a, and e_1 − e_2 in it
            one.append((self.block == a).astype(float))
            odd.append(one[a] * np.select([self.member == 0, self.member == 1], [1.0, -1.0], 0.0))
        rows = [np.pad(x, (0, classes.extra)) for x in one] + list(np.eye(classes.rows)[len(self.block) :])
        row_odd, columns = [np.pad(x, (0, classes.extra)) for x in odd], [np.pad(x, (0, classes.spare)) for x in one]
        column_odd, spare = [np.pad(x, (0, classes.spare)) for x in odd], np.eye(classes.columns)[len(self.block) :]
        nothing = np.zeros((classes.rows, classes.columns))
        for a in blocks:
            yield "triv", nothing, one[a]
        for s, row in enumerate(rows):
            for b in blocks:
                if s != b or self.kinds[b] > 1:
                    yield "triv", np.outer(row, columns[b])
        for a in (a for a in blocks if self.kinds[a] > 1):
            yield f"std_{a}", nothing, odd[a]
            within = np.outer(row_odd[a], columns[a]), np.outer(rows[a], column_odd[a])
            yield f"std_{a}", within[0] - within[1]
            if self.kinds[a] > 2:
                yield f"std_{a}", within[0] + within[1]
            for b in (b for b in blocks if b != a):
                yield f"std_{a}", np.outer(row_odd[a], columns[b])
            for s, row in enumerate(rows):
                if s != a:
                    yield f"std_{a}", np.outer(row, column_odd[a])
        for a in blocks:
            for b in range(a + 1, r):
                if self.kinds[a] > 1 and self.kinds[b] > 1:
                    yield f"std_{a}xstd_{b}", np.outer(row_odd[a], column_odd[b])
                    yield f"std_{a}xstd_{b}", np.outer(row_odd[b], column_odd[a])
        for a in blocks:
            yield from ((f"{name}_{a}", nothing) for name, least in (("sym", 4), ("alt", 3)) if self.kinds[a] >= least)
        for column in spare:
            yield from (("extra:triv", np.outer(row, column)) for row in rows)
            yield from ((f"extra:std_{a}", np.outer(row_odd[a], column)) for a in blocks if self.kinds[a] > 1)

    def _two_indices(self, name, block, sizes):
        """The symmetric or antisymmetric matrix over a block whose rows sum to 0, 1 between its first two members."""
        first, second, rest = np.flatnonzero(self.block == block)
        q, sign = sizes[block] - 2, (1 if name == "sym" else -1)
        off = np.zeros((self.classes.rows, self.classes.columns))
        off[first, second], off[second, first] = 1, sign
        off[first, rest] = -1 / q
        off[rest, first] = off[first, rest] * sign
        off[second, rest] = -sign / q
        off[rest, second] = off[second, rest] * sign
        if name == "sym":
            off[rest, rest] = 2 / (q * (q - 1))
        return off
