"""The whole spectrum of the population Hessian at a point with a permutation symmetry, for any number of neurons.

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
from ..reduced_loss import reduced_loss
from .components import FinerSpace


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

    **Raises:** `ValueError` in single precision, for a point that is not 0 in the spare inputs, and for sizes between 1 and 2.

    ```python
    >>> parts = symmetric_spectrum(FixedSpace((6,)), np.array([1.0, 0.0]))
    >>> [(part.name, int(part.dimension), part.eigenvalues.round(4).tolist()) for part in parts]
    [('triv', 1, [0.8897, 2.0653]), ('std_0', 5, [0.0908, 0.2871, 1.7129]), ('sym_0', 9, [0.4092]), ('alt_0', 10, [0.0908])]

    ```
    """
    require_x64("symmetric_spectrum", coordinates)
    sizes = np.asarray(space.blocks if sizes is None else sizes, float)
    if np.any((sizes > 1) & (sizes < 2)):
        raise ValueError(f"the sizes are {tuple(sizes.tolist())}: a block of between one and two members has no components.")
    kinds = tuple(_kind(size) for size in sizes)
    if space.classes.single != tuple(kind == 1 for kind in kinds):
        raise ValueError(f"the sizes are {tuple(sizes)} and the blocks {space.blocks}: the same ones must be of size 1.")
    finer = _finer(kinds, space.extra, space.spare > 0)
    point = np.append(_without_spare(space, np.asarray(coordinates)), 0.0)[finer.source]
    matrix = np.asarray(_restricted(finer.classes, point, finer.split(sizes), finer.vectors(sizes)))
    parts = []
    for name, rows in finer.copies.items():
        dimension = _dimension(name, sizes) * (space.spare if name.startswith("extra:") else 1)
        parts.append(Component(name, dimension, _eigenvalues(matrix[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1])))
    # between 2 and 3 members the polynomial for the dimension of the symmetric component is negative; it counts all the same
    number = (np.sum(sizes) + space.extra) * (np.sum(sizes) + space.spare)
    total = sum(part.dimension * len(part.eigenvalues) for part in parts)
    assert abs(total - number) <= 1e-9 * number, f"the multiplicities add up to {total} and not to {number}"
    return tuple(part for part in parts if part.dimension > 0)


def _eigenvalues(block):
    return np.linalg.eigvalsh(block) if len(block) > 1 else block[0]


def _kind(size):
    """1, 2, 3, or 4 for every other size: which components a block has."""
    return int(size) if size in (1, 2, 3) else 4


_finer = functools.cache(FinerSpace)


def _without_spare(space, coordinates):
    """The coordinates in the same space without spare inputs."""
    places, number = space.classes.places()
    if coordinates.shape != (number,):
        raise ValueError(f"coordinates have shape {coordinates.shape}: ({number},) is needed.")
    spare = places[:, len(space.blocks) :].ravel()
    if np.any(coordinates[spare] != 0):
        raise ValueError(f"the point has {coordinates[spare]} in inputs without a teacher: only 0 leaves all of them alike.")
    return np.delete(coordinates, spare)


def _dimension(name, sizes):
    dimension = 1.0
    if name.endswith("triv"):
        return dimension
    for part in name.removeprefix("extra:").split("x"):
        kind, block = part.split("_")
        p = float(sizes[int(block)])
        dimension *= {"std": p - 1, "sym": p * (p - 3) / 2, "alt": (p - 1) * (p - 2) / 2}[kind]
    return dimension


@functools.partial(jax.jit, static_argnums=0)
def _restricted(classes, coordinates, sizes, vectors):
    """The Hessian of the reduced loss between these vectors of entries, normalised in the space of matrices."""
    gradient = jax.grad(reduced_loss, argnums=1)
    slope = jax.linearize(lambda point: gradient(classes, point, sizes), coordinates)[1]
    vectors = vectors / jnp.sqrt(vectors**2 @ classes.counts(sizes))[:, None]
    return vectors @ jax.vmap(slope)(vectors).T
