"""Matrices up to permutations of their rows and columns: equality, canonical order and symmetries, exactly.

Entries are compared by labels: those that a chain of gaps of at most a tolerance connects are the same. Rows and columns are
coloured, and the colours refined by what they see of each other until nothing changes (Weisfeiler and Leman 1968); what then
looks alike is told apart by singling out one member and trying all others in its place, but for those that a symmetry takes to
one that has failed (McKay 1981). The searches are exact for any number of rows and columns, and quick for small ones.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

EXACT = 12  # rows and columns up to which what is said of permutations is exact


class Coloured(NamedTuple):
    """Matrices of labels side by side, `labels` (c, m, k), with colours of their rows (c, m) and columns (c, k)."""

    labels: Int[np.ndarray, "c m k"]
    rows: Int[np.ndarray, "c m"]
    columns: Int[np.ndarray, "c k"]


def coloured(matrices: Float[np.ndarray, "c m k"], width: float, *, free: int | None = None) -> Coloured:
    """Matrices by labels of their entries.

    **Arguments:**

    - `width`: the largest gap between entries of one label.
    - `free`: how many columns may be permuted, the first ones; all by default.
    """
    _, m, k = matrices.shape
    order = np.argsort(matrices, axis=None, kind="stable")
    labels = np.empty(matrices.size, int)
    labels[order] = np.concatenate([[0], np.cumsum(np.diff(matrices.ravel()[order]) > width)])[: matrices.size]
    columns = np.maximum(np.arange(k) - (k if free is None else free) + 1, 0)
    return Coloured(labels.reshape(matrices.shape), np.zeros((len(matrices), m), int), np.tile(columns, (len(matrices), 1)))


def find_permutations(pair: Coloured) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " k"]] | None:
    """Orders of rows and columns with `labels[0][rows][:, columns] == labels[1]`, or None where there are none."""
    pair = refine(pair)
    if not _agree(pair):
        return None
    cell = _smallest_cell(pair.rows[0], pair.columns[0])
    if cell is None:
        rows, columns = (np.argsort(own[0])[np.argsort(np.argsort(own[1]))] for own in pair[1:])
        return (rows, columns) if np.array_equal(pair.labels[0][np.ix_(rows, columns)], pair.labels[1]) else None
    side, colour = cell
    first = int(np.flatnonzero(pair[side][0] == colour)[0])
    failed: list[int] = []
    for other in map(int, np.flatnonzero(pair[side][1] == colour)):
        if any(_are_alike(pair, side, 1, fail, other) for fail in failed):
            continue
        found = find_permutations(_single_out(pair, side, (first, other)))
        if found is not None:
            return found
        failed.append(other)
    return None


def canonical_order(one: Coloured) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " k"]]:
    """Orders of rows and columns in which all permuted copies of a matrix of labels are the same matrix."""
    one = refine(one)
    cell = _smallest_cell(one.rows[0], one.columns[0])
    if cell is None:
        return np.argsort(one.rows[0]), np.argsort(one.columns[0])
    side, colour = cell
    tried: list[int] = []
    best = None
    for member in map(int, np.flatnonzero(one[side][0] == colour)):
        if any(_are_alike(one, side, 0, other, member) for other in tried):
            continue
        tried.append(member)
        rows, columns = canonical_order(_single_out(one, side, (member,)))
        key = one.labels[0][np.ix_(rows, columns)].tolist()
        if best is None or key < best[0]:
            best = key, rows, columns
    assert best is not None
    return best[1:]


def are_symmetric(one: Coloured, side: int, member: int, other: int) -> bool:
    """Whether a symmetry of a matrix takes one row (`side` 1) or column (2) to another."""
    return bool(one[side][0][member] == one[side][0][other]) and _are_alike(one, side, 0, member, other)


def refine(matrices: Coloured) -> Coloured:
    """The coarsest colourings in which equal colours, of all the matrices, see the same labels of every colour."""
    labels, rows, columns = matrices
    while True:
        finer_rows = _split(rows, labels, columns)
        finer_columns = _split(columns, labels.transpose(0, 2, 1), finer_rows)
        done = finer_rows.max(initial=0) == rows.max(initial=0) and finer_columns.max(initial=0) == columns.max(initial=0)
        rows, columns = finer_rows, finer_columns
        if done:
            return Coloured(labels, rows, columns)


def _split(own, labels, across):
    """Colours by one's own, then by the sorted pairs of a colour across and the label there; numbered in their order."""
    seen = np.sort(across[:, None, :] * (labels.max(initial=0) + 1) + labels, axis=2)
    views = np.concatenate([own[:, :, None], seen], axis=2).reshape(own.size, -1)
    order = np.lexsort(views.T[::-1])
    changes = np.any(np.diff(views[order], axis=0) != 0, axis=1)
    colours = np.empty(own.size, int)
    colours[order] = np.concatenate([[0], np.cumsum(changes)])[: own.size]
    return colours.reshape(own.shape)


def _agree(pair):
    return all(np.array_equal(np.sort(own[0]), np.sort(own[1])) for own in pair[1:])


def _smallest_cell(rows, columns):
    """The side and the colour of the smallest cell of several members, or None."""
    cells = []
    for side, own in ((1, rows), (2, columns)):
        colours, sizes = np.unique(own, return_counts=True)
        cells += [(int(size), side, int(colour)) for colour, size in zip(colours, sizes, strict=True) if size > 1]
    return min(cells)[1:] if cells else None


def _single_out(matrices, side, members):
    """The same with one row or column of each matrix in a colour of its own, before the others of its colour."""
    own = 2 * matrices[side] + 1
    own[np.arange(len(members)), members] -= 1
    return matrices._replace(**{("rows", "columns")[side - 1]: own})


def _are_alike(matrices, side, which, one, other):
    """Whether a symmetry of one of the matrices takes a member to another."""
    twice = Coloured(*(np.stack([part[which]] * 2) for part in matrices))
    return find_permutations(_single_out(twice, side, (one, other))) is not None
