"""Matrices fixed by a product of symmetric groups that permutes neurons and inputs together, and their population loss.

Let the neurons and the inputs be partitioned into the same blocks of sizes p_1, …, p_r. The k x k matrices that every
permutation within the blocks, applied to rows and columns alike, leaves unchanged have one value on the diagonal of each
block, one off it inside each block, and one in each off-diagonal block: `r + r² − #{p_a = 1}` numbers (Arjevani and Field
2020).
"""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import linear_sum_assignment

from .network import RealArray
from .reduced_loss import Classes, reduced_loss

Size = int | float | np.number
Sizes = Sequence[Size] | RealArray


class FixedSpace(eqx.Module):
    """The matrices fixed by `Δ(S_p1 x … x S_pr)`, their coordinates, and the loss of k orthonormal teachers on them.

    **Arguments:**

    - `blocks`: the sizes p_1, …, p_r. A size of exactly 1 has no entry off its diagonal; sizes that are not whole continue
      the loss between integers, and then there are no matrices.
    - `extra`: neurons without a teacher, which the group leaves in place; the last rows.
    - `spare`: inputs without a teacher, which it leaves in place as well; the last columns.

    Coordinates are entries of the matrix, ordered: the diagonal of every block, then for every row class and every column
    class the entry off the diagonal, leaving out blocks of one with themselves. Row classes are the blocks and the extra
    neurons, column classes the blocks and the spare inputs.

    The reduced functions also take other `sizes` than the blocks', as numbers or traced arrays, with the same blocks of
    one: one compiled function serves all of them. Derivatives are in the orthonormal coordinates `scales(sizes) *
    coordinates`: gradient and Hessian are those of the full loss restricted to the fixed space, with the same norm and, by
    Palais' principle, the same critical points. In double precision the loss is right to rounding for up to millions of
    neurons. Entries are then 1e-16 apart, which moves the gradient by about `1e-16 k^{3/2}`.

    **Raises:** `ValueError` for sizes below 1 and negative numbers of extra neurons or spare inputs.

    ```python
    >>> space = FixedSpace((1, 2))
    >>> space.embed(jnp.array([-1.0, 1.0, 0.5, 0.25, 0.0])).tolist()
    [[-1.0, 0.5, 0.5], [0.25, 1.0, 0.0], [0.25, 0.0, 1.0]]
    >>> float(space.reduced_loss(jnp.array([1.0, 1.0, 0.0, 0.0, 0.0]), (1, 1e6)))
    0.0

    ```
    """

    blocks: tuple[int | float, ...] = eqx.field(static=True)
    extra: int = eqx.field(static=True)
    spare: int = eqx.field(static=True)

    def __init__(self, blocks: Sequence[Size], extra: int = 0, spare: int = 0):
        if not len(blocks) or any(not size >= 1 for size in blocks):
            raise ValueError(f"the blocks are {tuple(blocks)}: give sizes of at least 1.")
        if extra < 0 or spare < 0:
            raise ValueError(f"there are {extra} extra neurons and {spare} spare inputs: give numbers of at least 0.")
        self.blocks = tuple(int(size) if float(size).is_integer() else float(size) for size in blocks)
        self.extra, self.spare = int(extra), int(spare)

    @property
    def name(self) -> str:
        """The group, such as `S_1 x S_9`."""
        return " x ".join(f"S_{size}" for size in self.blocks)

    @property
    def classes(self) -> Classes:
        """What kinds of rows and columns there are, whatever their numbers."""
        return Classes(tuple(size == 1 for size in self.blocks), self.extra, self.spare)

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return self.classes.places()[1]

    def labels(self) -> Int[np.ndarray, "m d"]:
        """Which coordinate each entry of the matrix is.

        **Raises:** `ValueError` when a size is not whole.
        """
        if any(isinstance(size, float) for size in self.blocks):
            raise ValueError(f"the blocks are {self.blocks}: there are matrices for whole sizes only.")
        r, k = len(self.blocks), sum(self.blocks)
        classes = self.classes
        members = np.repeat(np.arange(r), np.array(self.blocks, int))
        rows, columns = (np.concatenate([members, np.arange(r, n)]) for n in (classes.rows, classes.columns))
        labels = classes.places()[0][rows[:, None], columns]
        labels[np.arange(k), np.arange(k)] = members
        return labels

    def embed(self, coordinates: Float[RealArray, " c"]) -> Float[Array, "m d"]:
        """The matrix with these coordinates."""
        return jnp.asarray(coordinates)[self.labels()]

    def project(self, matrix: Float[RealArray, "m d"]) -> Float[np.ndarray, " c"]:
        """The coordinates of the nearest fixed matrix: the mean of every group of entries."""
        labels, matrix = self.labels().ravel(), np.asarray(matrix, float).ravel()
        return np.bincount(labels, matrix, self.dimension) / np.bincount(labels, minlength=self.dimension)

    def scales(self, sizes: Sizes | None = None) -> Float[Array, " c"]:
        """The square root of how many entries each coordinate stands for; times coordinates, an isometry."""
        return jnp.sqrt(self.classes.counts(self._sizes(sizes)))

    def reduced_loss(self, coordinates: Float[RealArray, " c"], sizes: Sizes | None = None) -> Float[Array, ""]:
        """The loss, with its ½, of the matrix with these entries against the teacher I."""
        return _value(self.classes, coordinates, self._sizes(sizes))

    def reduced_gradient(self, coordinates: Float[RealArray, " c"], sizes: Sizes | None = None) -> Float[Array, " c"]:
        """The gradient in orthonormal coordinates; its norm is that of the full gradient."""
        return _gradient(self.classes, coordinates, self._sizes(sizes))

    def reduced_hessian(self, coordinates: Float[RealArray, " c"], sizes: Sizes | None = None) -> Float[Array, "c c"]:
        """The Hessian in orthonormal coordinates; its eigenvalues are those of the full Hessian in the fixed space."""
        return _hessian(self.classes, coordinates, self._sizes(sizes))

    def _sizes(self, sizes):
        return jnp.asarray(self.blocks if sizes is None else sizes, float)


def find_symmetry(
    matrix: Float[RealArray, "m k"], *, spare: int = 0, tolerance: float = 1e-9
) -> tuple[FixedSpace, Float[np.ndarray, " c"]] | None:
    """The fixed space with the largest blocks that a matrix lies in once its rows and columns are put in order, or None.

    **Arguments:**

    - `matrix`: students (rows) in the coordinates of at most as many teachers (columns).
    - `spare`: how many inputs without a teacher there are besides, in which the students are 0.
    - `tolerance`: how far, relative to its largest entry, the matrix may be from the space.

    **Returns:** the space and the coordinates in it. Rows are paired with columns by assignment; pairs are split by their
    diagonal entries, then by the sums of what they see of each block, until nothing changes. None when the matrix is then not
    in the space.

    ```python
    >>> find_symmetry(np.diag([1.0, -1.0, 1.0]))[0].blocks
    (1, 2)

    ```
    """
    unordered = np.asarray(matrix, float)
    students, teachers = linear_sum_assignment(-np.abs(unordered))
    students = students[np.argsort(teachers)]
    extra = np.setdiff1d(np.arange(len(unordered)), students)
    matrix = unordered[np.concatenate([students, extra])]
    k, scale = matrix.shape[1], np.max(np.abs(matrix), initial=1e-300)
    colours = np.zeros(k, int)
    square = np.where(np.eye(k) > 0, 0.0, matrix[:k])
    while True:
        one = np.eye(colours.max() + 1)[colours]
        views = np.concatenate([np.diag(matrix)[:, None], matrix[k:].T, square @ one, square.T @ one], axis=1)
        finer = _split(colours, views, tolerance * scale * k)
        if finer.max() == colours.max():
            break
        colours = finer
    members = sorted((np.flatnonzero(colours == colour) for colour in range(colours.max() + 1)), key=len)
    order = np.concatenate(members)
    ordered = np.pad(matrix[np.concatenate([order, np.arange(k, len(matrix))])][:, order], ((0, 0), (0, spare)))
    space = FixedSpace([len(block) for block in members], len(extra), spare)
    coordinates = space.project(ordered)
    off = np.max(np.abs(coordinates[space.labels()] - ordered), initial=0.0)
    return (space, coordinates) if off <= tolerance * scale else None


def _split(colours, views, width):
    """Finer colours: members of a colour stay together while no view of theirs has a gap of more than `width`."""
    for view in views.T:
        order = np.lexsort((view, colours))
        new = (np.diff(colours[order]) != 0) | (np.diff(view[order]) > width)
        colours = np.empty_like(colours)
        colours[order] = np.concatenate([[0], np.cumsum(new)])
    return colours


_value = jax.jit(reduced_loss, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(classes, coordinates, sizes):
    return jax.grad(reduced_loss, argnums=1)(classes, coordinates, sizes) / jnp.sqrt(classes.counts(sizes))


@functools.partial(jax.jit, static_argnums=0)
def _hessian(classes, coordinates, sizes):
    scales = jnp.sqrt(classes.counts(sizes))
    return jax.hessian(reduced_loss, argnums=1)(classes, coordinates, sizes) / jnp.outer(scales, scales)
