"""All critical points of a fixed space, as far as Newton's method finds them from many random starts."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._precision import require_x64
from ..fixed_space import FixedSpace
from ..hessian import Component, symmetric_spectrum
from .names import identify
from .newton import Solved, solve

_CRITICAL = 1e-10
_SAME = 1e-6


@dataclass(frozen=True)
class CriticalPoint:
    """One critical point of a fixed space.

    - `name`: of its family, or `"unnamed"`; `hits`: how many starts reached it.
    - `parallel`: some of its neurons are parallel, so that they can exchange length. It then stands for a continuum of critical
      points of one loss, and its null directions are not counted by `index`.
    - `spectrum`: by irreducible component; `index`: the number of negative eigenvalues.
    """

    name: str
    coordinates: Float[np.ndarray, " c"]
    loss: float
    gradient_norm: float
    parallel: bool
    hits: int
    spectrum: tuple[Component, ...]
    index: int


def critical_points(space: FixedSpace, key: Key[Array, ""], *, starts: int = 1000) -> list[CriticalPoint]:
    """The critical points, for the teacher I and unit amplitudes, that Newton's method finds in a fixed space, by loss.

    **Arguments:**

    - `space`: with blocks of whole sizes.
    - `starts`: random ones: diagonal entries uniform between −1.3 and 1.3, the others normal with standard deviations between
      1/k and 1.

    Points that are permutations of each other are one. Where neurons are parallel a whole continuum of points has the same
    loss, and it counts as one point. A search, not a proof that there are no others.

    **Raises:** `ValueError` for no starts, for block sizes that are not whole, and in single precision.

    ```python
    >>> import jax
    >>> found = critical_points(FixedSpace((6,)), jax.random.key(0), starts=100)
    >>> [(point.name, point.parallel) for point in found]
    [('global', False), ('A', False), ('unnamed', True), ('unnamed', True)]

    ```
    """
    require_x64("critical_points")
    if starts < 1:
        raise ValueError(f"starts is {starts}: give at least 1.")
    space.labels()  # refuses sizes that are not whole
    seeds = _seeds(space, key, starts)
    ends = Solved(*map(np.asarray, _solve_all(space.classes, seeds, np.array(space.blocks, float))))
    good = np.flatnonzero(ends.converged & (ends.gradient_norm < _CRITICAL) & np.isfinite(ends.loss))
    groups: list[list[int]] = []
    for i in good[np.argsort(ends.loss[good], kind="stable")]:
        own = next((group for group in reversed(groups) if _are_same(space, ends, group[0], i)), None)
        if own is None:
            groups.append(own := [])
        own.append(int(i))
    return [_describe(space, ends, group) for group in groups]


def _seeds(space, key, starts):
    keys = jax.random.split(key, 3)
    r, k = len(space.blocks), sum(space.blocks)
    diagonal = jax.random.uniform(keys[0], (starts, r), minval=-1.3, maxval=1.3)
    sizes = k ** jax.random.uniform(keys[1], (starts, 1), minval=-1.0, maxval=0.0)
    return jnp.concatenate([diagonal, sizes * jax.random.normal(keys[2], (starts, space.dimension - r))], axis=1)


@functools.partial(jax.jit, static_argnums=0)
def _solve_all(classes, seeds, sizes):
    return jax.lax.map(lambda seed: solve(classes, seed, sizes), seeds)


def _are_same(space, ends, i, j):
    if abs(ends.loss[i] - ends.loss[j]) > 1e-11 + 1e-9 * abs(ends.loss[i]):
        return False
    one, other = (np.asarray(space.embed(ends.coordinates[index])) for index in (i, j))
    if _has_parallel_rows(one) and _has_parallel_rows(other):
        return True
    return bool(np.max(np.abs(np.sort(one, axis=None) - np.sort(other, axis=None))) < _SAME)


def _has_parallel_rows(matrix):
    units = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-300)
    apart = np.linalg.norm(units[:, None] - units, axis=-1)
    return bool(np.min(apart + 2 * np.eye(len(matrix))) < _SAME)


def _describe(space, ends, group):
    i = min(group, key=lambda index: ends.gradient_norm[index])
    matrix, loss = np.asarray(space.embed(ends.coordinates[i])), float(ends.loss[i])
    parallel = _has_parallel_rows(matrix)
    spectrum = symmetric_spectrum(space, ends.coordinates[i])
    largest = max(np.max(np.abs(part.eigenvalues)) for part in spectrum)
    index = sum(part.dimension * np.sum(part.eigenvalues < -1e-7 * largest) for part in spectrum)
    name = "unnamed" if parallel else identify(matrix, loss)[0]
    norm = float(ends.gradient_norm[i])
    return CriticalPoint(name, ends.coordinates[i], loss, norm, parallel, len(group), spectrum, round(index))
