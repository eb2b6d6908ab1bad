"""Names of the families of critical points of Arjevani and Field (2020, 2021) and Safran and Shamir (2018)."""

import numpy as np
from jaxtyping import Float

from ..network import RealArray
from .isotropy import Isotropy, isotropy

UNNAMED = "unnamed"


def identify(weights: Float[RealArray, "k k"], loss: float) -> tuple[str, Isotropy]:
    """The family of a critical point of the loss with k orthonormal teachers, `"unnamed"` if none fits, and its isotropy.

    With F the neurons that point against their teacher ("flipped") and q their number:

    - `global`: loss 0; `A`: all flipped, isotropy S_k;
    - `II_q` (`II` for q = 1): the vector `2 Σ_F v` that the flipped neurons lack is made up by all neurons alike;
    - `I_q` (`I` for q = k − 1): it is made up by the flipped neurons alone, and the others stay at their teachers.

    Block sizes and signs do not tell II_q from I_q: the share of the unflipped neurons does.
    """
    found = isotropy(weights)
    k = len(weights)
    if loss <= 1e-14 * k:
        return "global", found
    if found.residual > 1e-5:
        return UNNAMED, found
    diagonal = found.coordinates[: len(found.blocks)]
    if len(found.blocks) == 1:
        return ("A" if diagonal[0] < 0 else UNNAMED), found
    if len(found.blocks) != 2 or np.prod(diagonal) >= 0:
        return UNNAMED, found
    return _two_blocks(found, int(np.argmin(diagonal))), found


def _two_blocks(found, flipped):
    """II_q or I_q, from the coordinates of a point with one flipped and one unflipped block."""
    sizes = found.blocks
    q, k = sizes[flipped], sum(sizes)
    matrix = _block_values(found)
    # what an unflipped neuron carries of a flipped one's teacher, in units of an equal share 2/k
    share = matrix[1 - flipped, flipped] * k / 2
    if share > 0.5:
        return "II" if q == 1 else f"II_{q}"
    if share < 0.25 and q > 1:
        return "I" if q == k - 1 else f"I_{q}"
    return UNNAMED


def _block_values(found):
    """The off-diagonal value of every block, NaN inside blocks of one."""
    r, position = len(found.blocks), len(found.blocks)
    values = np.full((r, r), np.nan)
    for a in range(r):
        for b in range(r):
            if a != b or found.blocks[a] > 1:
                values[a, b] = found.coordinates[position]
                position += 1
    return values
