"""Vectors for the irreducible components of the matrices on which a product of symmetric groups acts.

A block is split into its first member, its second, and the rest. On these classes live the vectors that no permutation of
the rest changes: 1 on a block, `odd = e_1 − e_2` in it, and the matrices made of them. One for every copy of every component.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from ..reduced_loss import Classes


class FinerSpace:
    """The fixed space of the split blocks, of which `kinds` says whether they have 1, 2, 3 or more members (4).

    - `classes`: its kinds of rows and columns.
    - `source`: for each of its coordinates the one of the coarse space that it is a part of, −1 in the spare input.
    - `copies`: for every component the rows of `vectors` that belong to it.
    """

    def __init__(self, kinds: tuple[int, ...], extra: int, spare: bool):
        self.kinds = kinds
        members = [(block, member) for block, kind in enumerate(kinds) for member in range(min(kind, 3))]
        self.block, self.member = (np.array(column) for column in zip(*members, strict=True))
        self.classes = Classes(tuple(member < 2 or kinds[block] == 3 for block, member in members), extra, int(spare))
        self.source = self._source()
        self.copies: dict[str, list[int]] = {}
        vectors: list[np.ndarray] = []
        for name, off, diagonal in self._components():
            self.copies.setdefault(name, []).append(len(vectors))
            vectors.append(self._flat(off, diagonal))
        self._vectors = np.array(vectors)

    def split(self, sizes: Float[np.ndarray, " r"]) -> Float[np.ndarray, " s"]:
        """The sizes of the classes of rows that the blocks are split into."""
        return np.where(self.member < 2, 1.0, sizes[self.block] - 2)

    def vectors(self, sizes: Float[np.ndarray, " r"]) -> Float[np.ndarray, "copies c"]:
        """The entries of the vectors in the coordinates of the finer space, orthogonal within every component."""
        vectors = self._vectors.copy()
        for name, rows in self.copies.items():
            if name.startswith(("sym", "alt")):
                vectors[rows] = self._flat(self._two_indices(name[:3], int(name[4:]), sizes), 0.0)
        return vectors

    def _source(self):
        coarse = Classes(tuple(kind == 1 for kind in self.kinds), self.classes.extra).places()[0]
        rows = np.concatenate([self.block, np.arange(len(self.kinds), len(coarse))])
        there = self.classes.places()[0] >= 0
        off = np.full(there.shape, -1)
        off[:, : len(self.block)] = coarse[rows[:, None], self.block]
        return np.concatenate([self.block, off[there]])

    def _flat(self, off, diagonal):
        return np.concatenate([np.broadcast_to(diagonal, len(self.block)), off[self.classes.places()[0] >= 0]])

    def _components(self) -> Iterator[tuple[str, np.ndarray, np.ndarray | float]]:
        """Name, entries off the diagonal and on it of every copy; of `sym` and `alt`, which depend on sizes, the place only."""
        classes, s = self.classes, len(self.block)
        one = (self.block == np.arange(len(self.kinds))[:, None]).astype(float)
        odd = one * np.select([self.member == 0, self.member == 1], [1.0, -1.0], 0.0)
        rows = np.concatenate([np.pad(one, ((0, 0), (0, classes.extra))), np.eye(classes.rows)[s:]])
        odd_rows, columns, odd_columns = (
            np.pad(x, ((0, 0), (0, more))) for x, more in ((odd, classes.extra), (one, classes.spare), (odd, classes.spare))
        )
        nothing = np.zeros((classes.rows, classes.columns))
        r, plural = len(self.kinds), [a for a, kind in enumerate(self.kinds) if kind > 1]
        for a in range(r):
            yield "triv", nothing, one[a]
        for i, row in enumerate(rows):
            yield from (("triv", np.outer(row, columns[b]), 0.0) for b in range(r) if i != b or b in plural)
        for a in plural:
            yield f"std_{a}", nothing, odd[a]
            left, right = np.outer(odd_rows[a], columns[a]), np.outer(rows[a], odd_columns[a])
            yield f"std_{a}", left - right, 0.0
            if self.kinds[a] > 2:
                yield f"std_{a}", left + right, 0.0
            yield from ((f"std_{a}", np.outer(odd_rows[a], columns[b]), 0.0) for b in range(r) if b != a)
            yield from ((f"std_{a}", np.outer(row, odd_columns[a]), 0.0) for i, row in enumerate(rows) if i != a)
        for a in plural:
            for b in (b for b in plural if b > a):
                yield f"std_{a}xstd_{b}", np.outer(odd_rows[a], odd_columns[b]), 0.0
                yield f"std_{a}xstd_{b}", np.outer(odd_rows[b], odd_columns[a]), 0.0
        for name, least in (("sym", 4), ("alt", 3)):
            yield from ((f"{name}_{a}", nothing, 0.0) for a in plural if self.kinds[a] >= least)
        for column in np.eye(classes.columns)[s:]:
            yield from (("extra:triv", np.outer(row, column), 0.0) for row in rows)
            yield from ((f"extra:std_{a}", np.outer(odd_rows[a], column), 0.0) for a in plural)

    def _two_indices(self, name, block, sizes):
        """The symmetric or antisymmetric matrix over a block whose rows sum to 0, 1 between its first two members."""
        first, second, rest = np.flatnonzero(self.block == block)
        q, sign = sizes[block] - 2, (1 if name == "sym" else -1)
        off = np.zeros((self.classes.rows, self.classes.columns))
        off[first, second], off[second, first] = 1, sign
        off[first, rest], off[rest, first] = -1 / q, -sign / q
        off[second, rest], off[rest, second] = -sign / q, -1 / q
        if name == "sym":
            off[rest, rest] = 2 / (q * (q - 1))
        return off
