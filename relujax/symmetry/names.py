"""Names of found points: the family of Arjevani and Field (2020, 2021) and Safran and Shamir (2018) that a point belongs to."""

import numpy as np
from jaxtyping import Float

from ..network import RealArray
from .families import family
from .isotropy import Isotropy, isotropy
from .shapes import canonical

UNNAMED = "unnamed"


def identify(weights: Float[RealArray, "m k"], loss: float, *, tolerance: float = 1e-5) -> tuple[str, Isotropy]:
    """The family of a critical point of the loss with k orthonormal teachers, `"unnamed"` if none fits, and its isotropy.

    Block sizes and signs tell which families it may be; it bears a name only if it is a member: every entry agrees with
    `family(name, k)` to within `tolerance`, up to permutations, and the losses agree.

    **Raises:** `ValueError` in single precision.

    ```python
    >>> member = family("II_2", 10)
    >>> identify(member.weights[::-1], member.loss)[0]
    'II_2'

    ```
    """
    found = isotropy(weights, tolerance=tolerance)
    if loss <= 1e-14 * len(found.columns):
        return "global", found
    if found.residual > tolerance:
        return UNNAMED, found
    return next((name for name in _candidates(found) if _is_member(found, name, loss, tolerance)), UNNAMED), found


def _candidates(found):
    """The names that blocks and signs leave."""
    diagonal, sizes, k = found.coordinates[: len(found.blocks)], found.blocks, len(found.columns)
    flipped, upright = int(np.argmin(diagonal)), int(np.argmax(diagonal))
    extra = len(found.rows) - k
    if extra:
        return ["II+"] if extra == 1 and sizes in ((1, k - 1), (1, 1)) else []
    if len(sizes) == 1:
        return ["A"] if diagonal[0] < 0 else ["global"]
    if len(sizes) == 2 and diagonal[flipped] < 0 < diagonal[upright]:
        return [canonical(kind, sizes[flipped], k) for kind in ("II", "I")]
    if len(sizes) == 3 and sizes[3 - flipped - upright] == 1:
        return [f"I_({sizes[flipped]},1,{sizes[upright]})"]
    return []


def _is_member(found, name, loss, tolerance):
    try:
        member = family(name, len(found.columns))
    except ValueError:
        return False  # no member at this size
    if abs(member.loss - loss) > tolerance**2 + 1e-9 * abs(loss):
        return False
    mine, theirs = (np.sort(np.asarray(point)) for point in (found.coordinates, member.coordinates))
    return len(mine) == len(theirs) and bool(np.max(np.abs(mine - theirs)) <= tolerance)
