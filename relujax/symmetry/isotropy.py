"""The isotropy of a point: which permutations of neurons and inputs leave it unchanged."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ..critical.matching import to_diagonal
from ..fixed_space import FixedSpace
from ..network import RealArray


class Isotropy(eqx.Module):
    """The isotropy group `Δ(S_p1 x … x S_pr)` of a square weight matrix.

    - `blocks`: sizes, ascending; `name`: such as `S_1 x S_9`.
    - `residual`: the largest difference of an entry from the nearest matrix that has this symmetry exactly.
    - `coordinates`: that matrix in `FixedSpace(blocks)`.
    """

    blocks: tuple[int, ...]
    name: str
    residual: float
    coordinates: Float[np.ndarray, " c"]


def isotropy(weights: Float[RealArray, "k k"], *, tolerance: float = 1e-5) -> Isotropy:
    """The isotropy of a square matrix of students (rows) in teacher coordinates (columns), up to a permutation of each.

    **Arguments:**

    - `tolerance`: entries that differ by less, relative to the largest, count as equal.

    Rows are paired with columns by assignment; pairs are then coloured by their diagonal entries and the colours refined
    by what they see of each other until nothing changes. The blocks are the colours. A residual above the tolerance
    says that the symmetry is not a product of symmetric groups on these blocks.

    **Raises:** `ValueError` when the matrix is not square.

    Source: Arjevani and Field 2020 (isotropy of spurious minima).

    ```python
    >>> import numpy as np
    >>> isotropy(np.diag([1.0, 1.0, -1.0])).name
    'S_1 x S_2'

    ```
    """
    weights = np.asarray(weights, float)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
        raise ValueError(f"the weights have shape {weights.shape}: a square matrix, one student a teacher, is needed.")
    matrix = to_diagonal(weights)
    colours = _refine(matrix, tolerance * np.max(np.abs(matrix), initial=1e-300))
    members = [np.flatnonzero(colours == colour) for colour in range(colours.max() + 1)]
    members.sort(key=lambda block: (len(block), matrix[block[0], block[0]]))
    order = np.concatenate(members)
    ordered = matrix[order][:, order]
    space = FixedSpace([len(block) for block in members])
    point = space.project(ordered)
    residual = float(np.max(np.abs(np.asarray(space.embed(point)) - ordered)))
    return Isotropy(tuple(len(block) for block in members), " x ".join(f"S_{size}" for size in space.blocks), residual, point)


def _refine(matrix, width):
    """The coarsest colouring in which equally coloured indices see the same entries, colour by colour, in rows and columns."""
    colours = _cluster(np.diag(matrix)[:, None], width)
    while True:
        seen = []
        for i in range(len(matrix)):
            others = np.arange(len(matrix)) != i
            views = []
            for colour in range(colours.max() + 1):
                where = others & (colours == colour)
                views += [np.sort(matrix[i, where]), np.sort(matrix[where, i])]
            # a fixed length: an index lacks itself in its own colour, which its colour number already tells
            padded = [np.pad(view, (0, len(matrix) - len(view))) for view in views]
            seen.append(np.concatenate([[colours[i] * 4 * width * len(matrix)], *padded]))
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
