"""The isotropy of a point: which permutations of neurons and inputs leave it unchanged."""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from .._precision import require_x64
from ..fixed_space import FixedSpace
from ..network import RealArray
from ..permutations import EXACT, canonical_order, coloured
from .blocks import find_blocks
from .newton import solve_in


class Isotropy(eqx.Module):
    """The isotropy group `Δ(S_p1 x … x S_pr)` of a weight matrix.

    - `blocks`: sizes, ascending; `name`: such as `S_1 x S_9`.
    - `residual`: the largest difference of an entry from the nearest matrix that has this symmetry exactly.
    - `coordinates`: that matrix in `space`, the fixed space of the blocks.
    - `rows`, `columns`: `weights[rows][:, columns]` is the matrix in the order of the blocks.
    """

    blocks: tuple[int, ...]
    name: str
    residual: float
    coordinates: Float[np.ndarray, " c"]
    rows: Int[np.ndarray, " m"]
    columns: Int[np.ndarray, " k"]

    @property
    def space(self) -> FixedSpace:
        """The fixed space of the blocks, with the neurons that have no teacher as extra ones."""
        return FixedSpace(self.blocks, extra=len(self.rows) - len(self.columns))


class Refined(eqx.Module):
    """A point after Newton's method in its fixed space: `weights` in the order they were given in, loss and gradient norm."""

    weights: Float[np.ndarray, "m k"]
    coordinates: Float[np.ndarray, " c"]
    loss: float
    gradient_norm: float
    converged: bool


def isotropy(weights: Float[RealArray, "m k"], *, tolerance: float = 1e-5) -> Isotropy:
    """The isotropy of a matrix of students (rows) in teacher coordinates (columns), up to a permutation of each.

    **Arguments:**

    - `weights`: at least as many students as teachers; students that are left over are in no block.
    - `tolerance`: entries that differ by less, relative to the largest, count as equal.

    Up to 12 students and 12 teachers the blocks are those of the largest product of symmetric groups that leaves the matrix
    unchanged, exactly (`symmetry.blocks`). Where there is more symmetry than that, and for larger matrices, they are colours:
    rows and columns are coloured and the colours refined by what they see of each other until nothing changes; an entry that
    stands out in a block pairs its row with its column, and the pairs are refined in the same way. A residual above the
    tolerance says that the symmetry is not a product of symmetric groups on these blocks. Without one the name of a larger
    matrix is still exact where rows in a block can be told apart only by such an entry, and says too little symmetry elsewhere.

    **Raises:** `ValueError` when there are fewer students than teachers or entries that are not finite.

    Source: Arjevani and Field 2020 (isotropy of spurious minima).

    ```python
    >>> import numpy as np
    >>> isotropy(np.diag([1.0, 1.0, -1.0])).name
    'S_1 x S_2'

    ```
    """
    weights = np.asarray(weights, float)
    if weights.ndim != 2 or weights.shape[0] < weights.shape[1] or not np.all(np.isfinite(weights)):
        raise ValueError(
            f"the weights have shape {weights.shape}: finite numbers, at least one student (row) a teacher (column), are needed."
        )
    width = tolerance * np.max(np.abs(weights), initial=1e-300)
    if max(weights.shape) > EXACT:
        return _by_colours(weights, width)
    paired, blocks, is_all = find_blocks(weights, width)
    product = _in_blocks(weights, paired, np.arange(weights.shape[1]), blocks)
    if is_all:
        return product
    rows, columns = canonical_order(coloured(weights[None], width))
    found = _by_colours(weights[rows][:, columns], width)
    if found.residual <= width:
        return product
    return eqx.tree_at(lambda one: (one.rows, one.columns), found, (rows[found.rows], columns[found.columns]))


def _by_colours(weights, width):
    paired, columns = _pair(weights, width)
    order = np.concatenate([paired, np.setdiff1d(np.arange(len(weights)), paired)])
    return _in_blocks(weights, paired, columns, _refine(weights[order][:, columns], width))


def _in_blocks(weights, paired, columns, colours):
    """The isotropy whose blocks are the colours of pairs of rows and columns."""
    diagonal = weights[paired, columns]
    members = [np.flatnonzero(colours == colour) for colour in range(colours.max() + 1)]
    members.sort(key=lambda block: (len(block), diagonal[block[0]]))
    order = np.concatenate(members)
    rows, columns = np.concatenate([paired[order], np.setdiff1d(np.arange(len(weights)), paired)]), columns[order]
    blocks = tuple(len(block) for block in members)
    space, ordered = FixedSpace(blocks, extra=len(weights) - len(columns)), weights[rows][:, columns]
    point = space.project(ordered)
    residual = float(np.max(np.abs(np.asarray(space.embed(point)) - ordered)))
    return Isotropy(blocks, " x ".join(f"S_{size}" for size in blocks), residual, point, rows, columns)


def refine(found: Isotropy) -> Refined:
    """The critical point, for the teacher I and unit amplitudes, that Newton's method finds in the fixed space of a point.

    A gradient of 1e-8 leaves errors of that size in the entries; in the fixed space they are gone in one or two steps,
    whatever the number of neurons.

    **Raises:** `ValueError` in single precision.

    ```python
    >>> import numpy as np
    >>> refine(isotropy(np.eye(6) + 1e-9)).gradient_norm < 1e-15
    True

    ```
    """
    require_x64("refine")
    solved = solve_in(found.space, found.coordinates)
    coordinates = np.asarray(solved.coordinates)
    weights = np.empty((len(found.rows), len(found.columns)))
    weights[np.ix_(found.rows, found.columns)] = found.space.embed(coordinates)
    return Refined(weights, coordinates, float(solved.loss), float(solved.gradient_norm), bool(solved.converged))


def _pair(matrix, width):
    """The row of every column, in the order of rows, from the entries that stand out; by size where none does."""
    rows, columns = _refine_both_sides(matrix, width)
    size = np.abs(matrix) / np.max(np.abs(matrix), initial=1e-300)
    # what no block decides is decided by size; what a block decides outweighs all of that
    score = size.copy()
    for row_colour in range(rows.max() + 1):
        inside = np.flatnonzero(rows == row_colour)
        for column_colour in range(columns.max() + 1):
            across = np.flatnonzero(columns == column_colour)
            if len(inside) != len(across) or len(inside) < 3:
                continue
            block = matrix[np.ix_(inside, across)]
            apart = np.abs(block - np.median(block))
            score[np.ix_(inside, across)] += 2 * len(matrix) * (apart > width) * (1 + apart)
    return linear_sum_assignment(-score)


def _refine_both_sides(matrix, width):
    """The coarsest colourings of rows and of columns in which equal colours see the same entries of every colour."""
    rows, columns = np.zeros(matrix.shape[0], int), np.zeros(matrix.shape[1], int)
    while True:
        before = rows.max(), columns.max()
        rows = _cluster(_views(matrix, columns, rows, width), width)
        columns = _cluster(_views(matrix.T, rows, columns, width), width)
        if before == (rows.max(), columns.max()):
            return rows, columns


def _views(matrix, of, own, width):
    """For every row its colour, kept apart from the others, and its entries in order within every colour of columns."""
    parts = [np.sort(matrix[:, of == colour], axis=1) for colour in range(of.max() + 1)]
    return np.concatenate([4 * width * own[:, None], *parts], axis=1)


def _refine(matrix, width):
    """The coarsest colouring of the pairs in which equal colours see the same entries, colour by colour, in rows and columns."""
    k = matrix.shape[1]
    # what the neurons without a teacher hold of a pair's teacher is seen by it as well
    colours = _cluster(np.concatenate([np.diag(matrix)[:, None], np.sort(matrix[k:].T, axis=1)], axis=1), width)
    while True:
        seen = []
        for i in range(k):
            others = np.arange(k) != i
            views = []
            for colour in range(colours.max() + 1):
                where = np.flatnonzero(others & (colours == colour))
                views += [np.sort(matrix[i, where]), np.sort(matrix[where, i])]
            # a fixed length: an index lacks itself in its own colour, which its colour number already tells
            padded = [np.pad(view, (0, k - len(view))) for view in views]
            seen.append(np.concatenate([[colours[i] * 4 * width * k], *padded]))
        finer = _cluster(np.array(seen), width)
        if finer.max() == colours.max():
            return colours
        colours = finer


def _cluster(rows, width):
    """Numbers of groups of rows that agree within `width` in every entry with the first of their group."""
    first: list[np.ndarray] = []
    numbers = np.empty(len(rows), int)
    for i, row in enumerate(rows):
        for number, other in enumerate(first):
            if np.max(np.abs(row - other)) <= width:
                numbers[i] = number
                break
        else:
            numbers[i] = len(first)
            first.append(row)
    return numbers
