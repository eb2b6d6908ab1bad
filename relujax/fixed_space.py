"""Matrices fixed by a product of symmetric groups that permutes neurons and inputs together.

Let the neurons and the inputs be partitioned into the same blocks of sizes p_1, …, p_r. The k x k matrices that every
permutation within the blocks, applied to rows and columns alike, leaves unchanged have one value on the diagonal of each
block, one off it inside each block, and one in each off-diagonal block: `r + r² − #{p_a = 1}` numbers (Arjevani and Field
2020).
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .network import RealArray


class FixedSpace(eqx.Module):
    """The matrices fixed by `Δ(S_p1 x … x S_pr)`, with coordinates that `embed` and `project` translate.

    Coordinates are ordered: the diagonal of every block, then for every pair (a, b) in rows the off-diagonal value of block
    (a, b), leaving out (a, a) where block a has one member.

    **Raises:** `ValueError` for a block that has no member.

    ```python
    >>> FixedSpace((1, 2)).embed(jnp.array([-1.0, 1.0, 0.5, 0.25, 0.0])).tolist()
    [[-1.0, 0.5, 0.5], [0.25, 1.0, 0.0], [0.25, 0.0, 1.0]]

    ```
    """

    blocks: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, blocks: Sequence[int]):
        if any(size < 1 for size in blocks) or not blocks:
            raise ValueError(f"the blocks are {tuple(blocks)}: give sizes of at least 1.")
        self.blocks = tuple(int(size) for size in blocks)

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        r = len(self.blocks)
        return r + r * r - sum(size == 1 for size in self.blocks)

    def labels(self) -> np.ndarray:
        """Which coordinate each entry of the k x k matrix is, shape `(k, k)`."""
        block_of = np.repeat(np.arange(len(self.blocks)), self.blocks)
        r, number = len(self.blocks), len(self.blocks)
        between = np.full((r, r), -1)
        for a in range(r):
            for b in range(r):
                if a != b or self.blocks[a] > 1:
                    between[a, b] = number
                    number += 1
        labels = between[block_of[:, None], block_of]
        np.fill_diagonal(labels, block_of)
        return labels

    def embed(self, coordinates: Float[RealArray, " c"]) -> Float[Array, "k k"]:
        """The matrix with these coordinates."""
        return jnp.asarray(coordinates)[self.labels()]

    def project(self, matrix: Float[RealArray, "k k"]) -> Float[np.ndarray, " c"]:
        """The coordinates of the nearest fixed matrix: the mean of every group of entries."""
        labels, matrix = self.labels().ravel(), np.asarray(matrix, float).ravel()
        return np.bincount(labels, matrix, self.dimension) / np.bincount(labels, minlength=self.dimension)
