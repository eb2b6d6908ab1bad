"""Pairwise orthogonal data: where the flow from a vanishing initialisation goes, when it jumps, and what it ends at.

Boursier, Pillaud-Vivien, Flammarion 2022. With `D± = 1/n Σ_{±y_i > 0} y_i x_i` the neurons of amplitude ±1 align with ±D±; the
class of the longer D± is fitted first, at `ln(1/λ)/|D±|`, then, after a plateau at a saddle, the other. The limit λ → 0 of the
end is the interpolator of least variation norm, two neurons in the directions of `v± = Σ_{±y_i > 0} y_i/|x_i|² x_i`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..network import RealArray


class OrthogonalLimit(NamedTuple):
    """The limit of vanishing initialisation on orthogonal data; a class without data has a vector 0.

    - `positive`, `negative`: v₊ and v₋, so that the limit is `relu(v₊·x) − relu(−v₋·x)`, shape (d,).
    - `variation_norm`: `Σ_j |a_j| |w_j| = |v₊| + |v₋|`, the least of all interpolators.
    - `squared_norm`: `|θ|²`, twice that.
    - `singular_values`: those of the matrix of hidden weights that are not 0, descending.
    - `initial_loss`, `plateau_loss`: 1/2n of the sum of y² over all data, and over the class that is fitted last.
    - `slopes`: |D₊| and |D₋|.
    """

    positive: Float[np.ndarray, " d"]
    negative: Float[np.ndarray, " d"]
    variation_norm: float
    squared_norm: float
    singular_values: Float[np.ndarray, " r"]
    initial_loss: float
    plateau_loss: float
    slopes: tuple[float, float]

    def jump_times(self, scale: float) -> tuple[float, float]:
        """To leading order in ln(1/λ), when the positive and the negative class are fitted: `ln(1/λ)/|D±|`."""
        early, late = (math.inf if slope == 0 else -math.log(scale) / slope for slope in self.slopes)
        return early, late


def orthogonal_limit(inputs: Float[RealArray, "n d"], targets: Float[RealArray, " n"]) -> OrthogonalLimit:
    """Closed forms of the limit of vanishing initialisation on pairwise orthogonal inputs.

    **Raises:** `ValueError` when two inputs are not orthogonal, and for inputs and targets that are 0.

    ```python
    >>> import numpy as np
    >>> limit = orthogonal_limit(np.array([[-0.5, 1.0], [2.0, 1.0]]), np.array([-1.0, 1.0]))
    >>> round(limit.variation_norm, 10), limit.plateau_loss
    (1.3416407865, 0.25)

    ```
    """
    inputs, targets = _orthogonal(inputs, targets)
    n = len(targets)
    vectors, slopes, energies = [], [], []
    for own in (targets > 0, targets < 0):
        vectors.append((targets[own] / np.sum(inputs[own] ** 2, axis=1)) @ inputs[own])
        slopes.append(float(np.linalg.norm(targets[own] @ inputs[own]) / n))
        energies.append(float(np.sum(targets[own] ** 2) / (2 * n)))
    norms = [float(np.linalg.norm(v)) for v in vectors]
    return OrthogonalLimit(
        positive=vectors[0],
        negative=vectors[1],
        variation_norm=sum(norms),
        squared_norm=2 * sum(norms),
        singular_values=np.sqrt(np.sort([norm for norm in norms if norm > 0])[::-1]),
        initial_loss=sum(energies),
        plateau_loss=energies[int(np.argmin(slopes))],
        slopes=(slopes[0], slopes[1]),
    )


def excess_exponent(inputs: Float[RealArray, "n d"], targets: Float[RealArray, " n"]) -> float:
    """The power of λ with which the variation norm of the end approaches its limit, `2(1 − r)`.

    Neurons that start active on only a part I of their class grow at the rate |D_I|, and keep, when the class has been
    fitted, a share of order `λ^{2(1 − |D_I|/|D|)}` of it; r is the largest of these ratios over proper parts and both
    classes. It is often close to 1: the exponent is then so small that the limit shows only below λ = 1e-20.

    **Raises:** `ValueError` when two inputs are not orthogonal, and for inputs and targets that are 0.

    ```python
    >>> import numpy as np
    >>> round(excess_exponent(np.eye(6), np.array([1, 0.7, -0.9, 1.3, -0.4, -1.1])), 4)
    0.0748

    ```
    """
    inputs, targets = _orthogonal(inputs, targets)
    lengths = targets**2 * np.sum(inputs**2, axis=1)
    ratio = 0.0
    for own in (targets > 0, targets < 0):
        if own.any():
            ratio = max(ratio, math.sqrt(max(1 - np.min(lengths[own]) / np.sum(lengths[own]), 0.0)))
    return 2 * (1 - ratio)


def _orthogonal(inputs, targets):
    inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
    lengths = np.linalg.norm(inputs, axis=1)
    if np.any(lengths == 0):
        raise ValueError(f"input {int(np.argmin(lengths))} is 0: every input needs a direction.")
    cosines = inputs @ inputs.T / np.outer(lengths, lengths) - np.eye(len(inputs))
    if np.max(np.abs(cosines), initial=0.0) > 1e-10:
        i, j = np.unravel_index(np.argmax(np.abs(cosines)), cosines.shape)
        raise ValueError(f"inputs {i} and {j} have cosine {cosines[i, j]:.3g}: these closed forms need orthogonal inputs.")
    if np.any(targets == 0):
        raise ValueError(f"target {int(np.argmin(np.abs(targets)))} is 0: every target must be positive or negative.")
    return inputs, targets
