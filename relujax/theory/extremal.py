"""Extremal vectors: the directions that neurons take while the output is still zero.

From a vanishing initialisation a neuron follows `dw/dt = a D(w)` with `D(w) = 1/n Σ_{i active} y_i x_i` until the output is
felt. Its direction comes to rest only where D(w) lies in the very sector that it is computed from.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import lsq_linear

from ..network import RealArray

_LARGEST = 2_000_000  # candidates, about a second of work


class ExtremalVector(NamedTuple):
    """A critical direction of the early phase.

    - `vector`: D, shape (d,); a neuron there grows at the rate |D|.
    - `sign`: +1 when neurons of positive amplitude rest at D/|D|, −1 when those of negative amplitude rest at −D/|D|.
    - `active`: the data that such a neuron is active on, shape (n,).
    - `boundary`: the data whose boundary it lies on, shape (n,).
    """

    vector: Float[np.ndarray, " d"]
    sign: int
    active: Bool[np.ndarray, " n"]
    boundary: Bool[np.ndarray, " n"]


def extremal_vectors(inputs: Float[RealArray, "n d"], targets: Float[RealArray, " n"]) -> list[ExtremalVector]:
    """All extremal vectors D ≠ 0 of a data set, the longest first (Boursier and Flammarion 2024, definition 1).

    **Arguments:**

    - `inputs`: shape (n, d); append a column of ones for networks with hidden biases. Rows of zeros move nothing.
    - `targets`: shape (n,).

    Every sector and every face of one that the hyperplanes `x_i·w = 0` cut out is tried: D is the mean of `y_i x_i` over the
    active data, projected onto the complement of the data on the boundary, and counts when it (or −D) lies in the face that
    it came from. The faces are enumerated from the rays of the arrangement, exactly, in any number of dimensions; their
    number grows like n^(d−1).

    **Returns:** a list of `ExtremalVector`.

    **Raises:** `ValueError` when there are more than two million faces to try.

    ```python
    >>> import numpy as np
    >>> inputs = np.array([[-0.75, 1.0], [-0.5, 1.0], [0.125, 1.0]])
    >>> [(only.sign, only.vector.round(6).tolist()) for only in extremal_vectors(inputs, np.array([1.1, 0.1, 0.8]))]
    [(1, [-0.258333, 0.666667])]

    ```
    """
    inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
    there = np.any(inputs != 0, axis=1)
    if not np.any(there):
        return []
    found = _extremal_vectors(inputs[there], targets[there] / len(targets))
    return [_with_zero_rows(one, there) for one in sorted(found, key=lambda one: -np.linalg.norm(one.vector))]


def _extremal_vectors(inputs, shares):
    coordinates, frame = _span(inputs)
    terms = shares[:, None] * coordinates
    found = []
    for boundary, actives in _faces(coordinates):
        normals = coordinates[boundary]
        basis = _span(normals)[1] if len(normals) else np.zeros((0, coordinates.shape[1]))
        means = actives @ terms
        vectors = means - means @ basis.T @ basis
        for sign in (1, -1):
            for index in np.flatnonzero(_lie_in(sign * vectors, coordinates, actives, boundary)):
                if _is_mixture(vectors[index] - means[index], terms[boundary]):
                    found.append(ExtremalVector(vectors[index] @ frame, sign, actives[index], boundary))
    return found


def _with_zero_rows(one, there):
    """Data at 0 are on the boundary of every neuron."""
    active, boundary = np.zeros(len(there), bool), np.ones(len(there), bool)
    active[there], boundary[there] = one.active, one.boundary
    return one._replace(active=active, boundary=boundary)


def _span(vectors):
    """Coordinates of the rows in an orthonormal basis of their span, and that basis, rows too."""
    left, sizes, right = np.linalg.svd(vectors, full_matrices=False)
    rank = int(np.sum(sizes > 1e-12 * sizes[0])) if sizes.size and sizes[0] > 0 else 0
    return left[:, :rank] * sizes[:rank], right[:rank]


def _faces(inputs):
    """Pairs (data on the boundary, all sets of active data) that contain every face of the arrangement at least once.

    Every face has a ray of the arrangement in its closure, and around a ray only the data whose hyperplanes contain it change
    sides: the face has the ray's sides elsewhere and some side of each of those.
    """
    n, rank = inputs.shape
    rays = {tuple(side): side for side in _rays(inputs)}
    total = sum(3 ** int(np.sum(ray == 0)) for ray in rays.values())
    if total > _LARGEST:
        raise ValueError(f"{n} data of rank {rank} have about {total:.1e} faces to try: take fewer data or fewer dimensions.")
    sides = set()
    for ray in rays.values():
        free = np.flatnonzero(ray == 0)
        for choice in itertools.product((-1, 0, 1), repeat=len(free)):
            face = ray.copy()
            face[free] = choice
            sides.add(face.tobytes())
    faces = np.array([np.frombuffer(face, np.int8) for face in sides])
    boundaries, group = np.unique(faces == 0, axis=0, return_inverse=True)
    for number, boundary in enumerate(boundaries):
        yield boundary, faces[group.ravel() == number] > 0


def _rays(inputs):
    """The sides, −1, 0 or 1, of all data at every ray of the arrangement, and at its opposite."""
    n, rank = inputs.shape
    if math.comb(n, max(rank - 1, 0)) > _LARGEST:
        raise ValueError(f"{n} data of rank {rank} have more than {_LARGEST} rays: take fewer data or fewer dimensions.")
    scale = np.linalg.norm(inputs, axis=1)
    for chosen in itertools.combinations(np.flatnonzero(scale > 0), rank - 1):
        rows = inputs[list(chosen)] / scale[list(chosen), None]
        sizes, right = np.linalg.svd(rows.reshape(-1, rank))[1:]
        if sizes.size and sizes[-1] < 1e-10:
            continue  # dependent rows meet in more than a ray
        heights = inputs @ right[-1]
        side = np.where(np.abs(heights) > 1e-10 * scale, np.sign(heights), 0).astype(np.int8)
        side[list(chosen)] = 0
        yield side
        yield -side


def _lie_in(vectors, inputs, actives, boundary):
    """Which vectors are not 0 and on the side of every datum off the boundary that the face says."""
    heights = vectors @ inputs.T
    sizes = np.linalg.norm(vectors, axis=1)
    margin = 1e-10 * sizes[:, None] * np.linalg.norm(inputs, axis=1)
    right = np.where(actives, heights > margin, heights < -margin) | boundary
    return np.all(right, axis=1) & (sizes > 1e-12 * np.max(np.linalg.norm(inputs, axis=1)))


def _is_mixture(difference, terms):
    """Whether activations between 0 and 1 of the data on the boundary make this difference."""
    if not len(terms):
        return True
    fit = lsq_linear(terms.T, difference, bounds=(0, 1), method="bvls", tol=1e-14)
    return bool(np.linalg.norm(terms.T @ fit.x - difference) <= 1e-9 * np.max(np.linalg.norm(terms, axis=1)))
