"""Data labelled by one ReLU neuron: is the rank-one interpolator the one of least norm?

Chistikov, Englert, Lazic 2023: on inputs within 45° of the teacher v*, the flow from a vanishing initialisation ends at rank one,
all active neurons along v* and `Σ|w|² = |v*|`, whether or not another interpolator has a smaller norm.
"""

import itertools

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from ..network import RealArray


def teacher_slope(inputs: Float[RealArray, "n d"], targets: Float[RealArray, " n"]) -> Float[np.ndarray, " d"]:
    """`γ = 1/n Σ_i y_i x_i`, with which all neurons of positive amplitude align; they have grown at `ln(1/λ)/|γ|`.

    ```python
    >>> teacher_slope(np.eye(2), np.array([2.0, 1.0])).tolist()
    [1.0, 0.5]

    ```
    """
    return np.asarray(targets, float) @ np.asarray(inputs, float) / len(targets)


def splitting_gap(inputs: Float[RealArray, "d d"], direction: Float[RealArray, " d"]) -> float:
    """M of theorem 8: below 0 the rank-one interpolators are those of least norm, above 0 they are not.

    **Arguments:**

    - `inputs`: as many independent inputs as dimensions, shape (d, d).
    - `direction`: the teacher v*, active on all of them, shape (d,).

    With χ the basis dual to the inputs, M is the largest `cos(p, q) − sin(p, v*)` over p in the cone of some of the χ and q in
    the cone of the others: a neuron along p − q is active on the first data only, serves them as p does, and is shorter. Angles
    between p and v* beyond 90° do not count. Found by local maximisation from all pairs of rays and from the middle of all
    faces, so that it is a lower bound where those miss the maximum.

    **Raises:** `ValueError` when the inputs are not square or not independent, and when the teacher is inactive on one.

    ```python
    >>> round(splitting_gap(np.array([[1.0, 0.0], [0.8, 0.6]]), np.array([1.0, 0.0])), 6)
    -1.6

    ```
    """
    inputs, direction = np.asarray(inputs, float), np.asarray(direction, float)
    d = inputs.shape[1]
    if inputs.shape != (d, d) or d < 2 or np.linalg.matrix_rank(inputs) < d:
        raise ValueError(
            f"the inputs have shape {inputs.shape} and rank {np.linalg.matrix_rank(inputs)}: give d >= 2 independent ones."
        )
    if np.any(inputs @ direction <= 0):
        raise ValueError(f"the teacher is inactive on input {int(np.argmin(inputs @ direction))}: it must be active on all.")
    dual = np.linalg.inv(inputs).T
    dual /= np.linalg.norm(dual, axis=1, keepdims=True)
    unit = direction / np.linalg.norm(direction)
    best = -2.0
    for size in range(1, d):
        for own in itertools.combinations(range(d), size):
            mine, other = dual[list(own)], np.delete(dual, own, axis=0)
            best = max(best, _largest(mine, other, unit))
    return best


def _largest(mine, other, unit):
    """The largest gap over p in the cone of `mine` and q in that of `other`, in coefficients that stay positive."""

    def loss(coefficients):
        p, q = coefficients[: len(mine)] @ mine, coefficients[len(mine) :] @ other
        p_size, q_size = np.linalg.norm(p), np.linalg.norm(q)
        along, across = p @ unit, np.linalg.norm(p - (p @ unit) * unit)
        sine = across / p_size if along >= 0 else 2 - across / p_size
        return sine - p @ q / (p_size * q_size)

    rays = [np.concatenate([a, b]) for a in np.eye(len(mine)) for b in np.eye(len(other))]
    starts = [np.full(len(mine) + len(other), 1.0), *(ray + 0.05 for ray in rays)]
    bounds = [(0.0, None)] * len(starts[0])
    options = {"ftol": 1e-15, "gtol": 1e-10}
    return max(float(-minimize(loss, start, bounds=bounds, method="L-BFGS-B", options=options).fun) for start in starts)


def split_example(dim: int, size: float) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, " d"]]:
    """Inputs and a teacher whose rank-one interpolator is not the one of least norm (example 37), for d >= 3 and size b >= 11.

    `x_1 = b e_1`, `x_2, x_3 = b e_1 ∓ √b e_2 + e_3`, `x_i = b e_1 + e_i` from i = 4 on, `v* = (4/5, 0, 3/5, 0, …)`.

    **Raises:** `ValueError` for fewer than three dimensions.

    ```python
    >>> inputs, teacher = split_example(3, 16.0)
    >>> splitting_gap(inputs, teacher) > 0
    True

    ```
    """
    if dim < 3:
        raise ValueError(f"the dimension is {dim}: in fewer than 3 the rank-one interpolator always has least norm.")
    inputs = np.eye(dim)
    inputs[:, 0] = size
    inputs[0] = size * np.eye(dim)[0]
    inputs[1], inputs[2] = (size * np.eye(dim)[0] + side * np.sqrt(size) * np.eye(dim)[1] + np.eye(dim)[2] for side in (-1, 1))
    teacher = np.zeros(dim)
    teacher[[0, 2]] = 0.8, 0.6
    return inputs, teacher
