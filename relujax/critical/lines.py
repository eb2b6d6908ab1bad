"""Positively homogeneous piecewise linear functions, `g·d + Σ_k κ_k relu(n_k·d)`: their kinks, and their least slope.

The slope of a loss in the hidden vector of a neuron is one of these. Data whose normals are parallel, whatever their sign,
share a kink: `κ relu(−y) = κ relu(y) − κ y`. Between the kinks the function is linear on cones, and where the normals span,
every cone is spanned by rays of the arrangement: one is not negative anywhere if it is not on any ray.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .least_norm import least_norm
from .piece import ZERO, lengths

_MOST_RAYS = 100_000
_MOST_CONCAVE = 10
_CHUNK = 10_000


class Lines(NamedTuple):
    """`linear·d + Σ_k strengths_k relu(units_k·d)` with unit normals of which no two are parallel: (q,), (k, q), (k,)."""

    linear: Float[np.ndarray, " q"]
    units: Float[np.ndarray, "k q"]
    strengths: Float[np.ndarray, " k"]

    def __call__(self, directions: Float[np.ndarray, "r q"]) -> Float[np.ndarray, " r"]:
        """The values in some directions."""
        return directions @ self.linear + np.maximum(directions @ self.units.T, 0.0) @ self.strengths

    def without(self, nothing: float) -> "Lines":
        """The same without kinks of at most this strength."""
        kept = np.abs(self.strengths) > nothing
        return Lines(self.linear, self.units[kept], self.strengths[kept])


class Slope(NamedTuple):
    """The least value that was found, or 0, and whether it is proved that there is none below 0 if it is 0."""

    least: float
    complete: bool


def merged(linear: Float[np.ndarray, " q"], normals: Float[np.ndarray, "n q"], strengths: Float[np.ndarray, " n"]) -> Lines:
    """Normals of any lengths and signs as one kink a line."""
    sizes = lengths(normals)
    units = normals / np.where(sizes > 0, sizes, 1.0)[:, None]
    open_ = sizes > 0
    places, sums = [], []
    while np.any(open_):
        first = int(np.argmax(open_))
        same = open_ & (lengths(units - units[first]) <= ZERO)
        opposite = open_ & (lengths(units + units[first]) <= ZERO)
        both = same | opposite
        places.append(first)
        sums.append(float(np.sum((strengths * sizes)[both])))
        linear = linear + (strengths * opposite) @ normals
        open_ &= ~both
    return Lines(linear, units[places], np.array(sums))


def least_slope(lines: Lines, nothing: float) -> Slope:
    """The least value of the function on rays of the unit sphere, or 0: negative exactly where the function is, somewhere.

    Exact with no concave kinks, on all rays where they are at most 100 000, and by the choices of active concave kinks where
    these are at most 10. Beyond, descent that is found is one, and none is no proof. Values above `-nothing` are not sought.
    """
    if np.all(lines.strengths >= 0):
        return Slope(-float(np.linalg.norm(least_norm(lines.linear, lines.strengths[:, None] * lines.units))), True)
    # an orthonormal basis of what the normals span, across which the function is linear
    _, sizes, right = np.linalg.svd(lines.units, full_matrices=False)
    frame = right[sizes > ZERO * sizes[0]]
    rank = len(frame)
    across = float(np.linalg.norm(lines.linear - frame.T @ (frame @ lines.linear)))
    inside = Lines(frame @ lines.linear, lines.units @ frame.T, lines.strengths)
    if math.comb(len(lines.units), rank - 1) <= _MOST_RAYS:
        return Slope(min(-across, *(float(np.min(inside(rays))) for rays in _rays(inside.units))), True)
    found = min(-across, _search(inside))
    concave = inside.strengths < 0
    if found < -nothing or np.sum(concave) > _MOST_CONCAVE:
        return Slope(found, False)
    segments = inside.strengths[:, None] * inside.units
    choices = itertools.product((0.0, 1.0), repeat=int(np.sum(concave)))
    return Slope(
        -max(
            float(np.linalg.norm(least_norm(inside.linear + np.array(choice) @ segments[concave], segments[~concave])))
            for choice in choices
        ),
        True,
    )


def _rays(units):
    """The unit vectors, and their opposites, on which rank − 1 independent normals vanish; a chunk at a time."""
    rank = units.shape[1]
    subsets = itertools.combinations(range(len(units)), rank - 1)
    while chunk := list(itertools.islice(subsets, _CHUNK)):
        rows = units[np.array(chunk, int).reshape(len(chunk), rank - 1)]
        minors = [(-1) ** c * np.linalg.det(np.delete(rows, c, axis=2)) for c in range(rank)]
        rays = np.stack(minors, axis=1)
        sizes = np.linalg.norm(rays, axis=1)
        rays = rays[sizes > ZERO] / sizes[sizes > ZERO, None]
        yield np.concatenate([rays, -rays]) if len(rays) else units[:1]


def _search(lines):
    """The least value that a descent over the cones finds, from every normal and its opposite."""
    directions = np.concatenate([lines.units, -lines.units])
    least = 0.0
    for _ in range(8):
        values = lines(directions)
        least = min(least, float(np.min(values)))
        steepest = -(lines.linear + (directions @ lines.units.T > 0) @ (lines.strengths[:, None] * lines.units))
        sizes = lengths(steepest)
        directions = steepest[sizes > 0] / sizes[sizes > 0, None]
        if len(directions) == 0:
            break
    return least
