"""The shortest vector of a zonotope, exact to rounding."""

import numpy as np
from jaxtyping import Float

# relative to the longest vector met: no smaller gap between the point and its lower bound is seen
_GAP = 1e-14


def least_norm(base: Float[np.ndarray, " q"], segments: Float[np.ndarray, "k q"]) -> Float[np.ndarray, " q"]:
    """The shortest of all `base + Σ_k t_k segment_k` with every t_k between 0 and 1 (Wolfe 1976).

    The point is a mixture of few vertices at any time, and the optimality of the last one, `x·v ≥ x·x` for every vertex v, is
    what ends the search: it is exact in finitely many steps whether or not segments are independent.

    ```python
    >>> least_norm(np.array([1.0, -1.0]), np.array([[-2.0, 0.0], [0.0, 0.5], [0.0, 0.25]])).tolist()
    [0.0, -0.25]

    ```
    """
    corners, mixture = base[None], np.ones(1)
    point, longest = base, float(np.linalg.norm(base))
    for _ in range(100 * (len(segments) + 1)):
        corner = base + (segments @ point < 0) @ segments
        longest = max(longest, float(np.linalg.norm(corner)))
        size = float(np.linalg.norm(point))
        known = np.any(np.all(corners == corner, axis=1))
        if known or size <= _GAP * longest or point @ (point - corner) <= _GAP * longest * size:
            break
        corners, mixture = _shortest(np.concatenate([corners, corner[None]]), np.append(mixture, 0.0))
        point = mixture @ corners
    return point


def _shortest(corners, mixture):
    """Drop corners until the shortest vector of their affine hull is a positive mixture of those that are left."""
    while True:
        spread = (corners[1:] - corners[0]).T
        weights = np.linalg.lstsq(spread, -corners[0], rcond=1e-13)[0] if len(corners) > 1 else np.zeros(0)
        affine = np.concatenate([[1 - np.sum(weights)], weights])
        if np.all(affine > 0):
            return corners, affine
        falling = affine < mixture
        ratios = np.where(falling & (affine <= 0), mixture / np.where(falling, mixture - affine, 1.0), np.inf)
        step = min(1.0, float(np.min(ratios)))
        mixture = mixture + step * (affine - mixture)
        kept = (mixture > 1e-15) & (ratios > step)
        if np.all(kept) or not np.any(kept):
            return corners, np.maximum(mixture, 0.0) / np.sum(np.maximum(mixture, 0.0))
        corners, mixture = corners[kept], mixture[kept] / np.sum(mixture[kept])
