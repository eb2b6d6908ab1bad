"""The linear predictor that a network is left with when all its neurons align inside one sector."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..network import RealArray


class LeastSquares(NamedTuple):
    """The least-squares predictor `direction·x`, its loss `1/2n Σ r²`, and whether one ReLU neuron, active on all data, is it."""

    direction: Float[np.ndarray, " d"]
    loss: float
    is_one_neuron: bool


def least_squares_limit(inputs: Float[RealArray, "n d"], targets: Float[RealArray, " n"]) -> LeastSquares:
    """Where the flow ends whose neurons of positive amplitude all stay active on all data: linear least squares.

    On three positively correlated points with one extremal vector this is the limit at any width, at a loss above 0, however many
    networks interpolate (Boursier and Flammarion 2024, theorem 2).

    ```python
    >>> inputs = np.array([[-0.75, 1.0], [-0.5, 1.0], [0.125, 1.0]])
    >>> limit = least_squares_limit(inputs, np.array([1.1, 0.1, 0.8]))
    >>> limit.is_one_neuron, round(limit.loss, 6)
    (True, 0.087521)

    ```
    """
    inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
    direction = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    predictions = inputs @ direction
    return LeastSquares(direction, float(np.mean((predictions - targets) ** 2) / 2), bool(np.all(predictions > 0)))
