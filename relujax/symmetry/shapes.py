"""The families of critical points by name: their blocks, their shape for many neurons, and how to tell them apart.

Of k neurons q point against their teacher ("flipped"). They lack the vector `2 Σ_flipped v` that the linear part of the loss
asks for. In a family of kind II all neurons make it up alike, 2/k each; in one of kind I the flipped ones among themselves,
2/q each, so that the others stay at their teachers (Arjevani and Field 2020, arXiv 2003.10576; 2021, arXiv 2107.10370).
"""

import math
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..fixed_space import FixedSpace, Size
from ..reduced_loss import Classes
from .newton import common_classes

_PATTERN = re.compile(r"(?P<kind>global|A|M|II\+|I|II)(?:_(?:(?P<one>q|\d+)|\((?P<many>[\dq,mk ]+)\)))?")
NAMES = "global, A, I, II, II_q, I_q, I_(q,m), I_(q,1,m), II+"


class Shape(NamedTuple):
    """A family at k neurons.

    - `name`: in the one way that the package prints it.
    - `kind`: `global`, `A`, `I`, `II`, `II+`, or `I3` for the three blocks of `I_(q,1,m)`.
    - `sizes`: of the blocks, flipped neurons first; whole or real.
    """

    name: str
    kind: str
    sizes: tuple[float, ...]

    @property
    def space(self) -> FixedSpace:
        """The fixed space of the family."""
        return FixedSpace(self.sizes, extra=int(self.kind == "II+"))


def parse(name: str, k: Size, q: Size | None = None) -> Shape:
    """The family of a name such as `II`, `II_3`, `II_q` with `q`, `I_(4,6)`, `M`.

    **Raises:** `ValueError` for an unknown name, a missing or contradicting q, and sizes that the family does not have.
    """
    match = _PATTERN.fullmatch(name.strip())
    if match is None or (match["kind"] in ("global", "A", "M", "II+") and match["one"]):
        raise ValueError(f"the family is {name!r}: choose among {NAMES}.")
    if not (math.isfinite(k) and k >= 1):
        raise ValueError(f"k is {k}: give a finite number of neurons of at least 1.")
    kind = match["kind"]
    if kind in ("global", "A", "II+"):
        return _without_q(kind, k)
    if match["many"] is not None:
        return _of_blocks(name, kind, match["many"], k, q)
    return _two_blocks(name, "II" if kind == "M" else kind, k, _flipped(name, match, k, q))


def canonical(kind: str, q: Size, k: Size) -> str:
    """The name of a family of kind I or II with q flipped neurons."""
    if kind == "II":
        return "II" if q == 1 else f"II_{q:g}"
    return "I" if q == k - 1 else f"I_{q:g}"


def _without_q(kind, k):
    least = {"global": 1, "A": 3, "II+": 3}[kind]
    if k < least:
        raise ValueError(f"k is {k}: family {kind} needs at least {least}.")
    return Shape(kind, kind, (1.0, k - 1) if kind == "II+" else (k,))


def _flipped(name, match, k, q):
    written = match["one"]
    known = {"M": 2.0, "II": 1.0, "I": k - 1}[match["kind"]] if written is None else None if written == "q" else float(written)
    if known is None and q is None:
        raise ValueError(f"family {name} has no q: give the number of flipped neurons.")
    if known is not None and q is not None and q != known:
        raise ValueError(f"family {name} has {known:g} flipped neurons and q is {q}: leave q out.")
    return float(q if known is None else known)  # type: ignore[arg-type]


def _two_blocks(name, kind, k, q):
    # an I_q of less than three is a permuted copy of the global minimum
    least = 1 if kind == "II" else 3
    if not least <= q <= k - 1:
        raise ValueError(f"q is {q:g} and k is {k:g}: family {name} needs {least} <= q <= k - 1.")
    return Shape(canonical(kind, q, k), kind, (q, k - q))


def _of_blocks(name, kind, many, k, q):
    parts = many.replace(" ", "").split(",")
    if q is not None and parts[0] == "q":
        parts[0] = f"{q:g}"
    whole = all(part.isdigit() or (i == 0 and _is_number(part)) for i, part in enumerate(parts[:-1]))
    if not whole or kind not in ("I", "II") or len(parts) not in (2, 3) or (len(parts) == 3 and (kind, parts[1]) != ("I", "1")):
        raise ValueError(f"the family is {name!r}: choose among {NAMES}, and give q where it is written as a letter.")
    sizes = [float(part) for part in parts[:-1]]
    rest = k - sum(sizes)
    if _is_number(parts[-1]) and float(parts[-1]) != rest:
        raise ValueError(f"the blocks of family {name} do not add up to k = {k:g}: the last one would be {rest:g}.")
    if len(sizes) == 1:
        return _two_blocks(name, kind, k, sizes[0])
    if not (sizes[0] >= 2 and rest >= 1):
        raise ValueError(f"k is {k:g}: family {name} needs at least 2 flipped neurons and 1 other one.")
    return Shape(f"I_({sizes[0]:g},1,{rest:g})", "I3", (sizes[0], 1.0, rest))


def _is_number(text):
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def seed(shape: Shape, turn: float = 0.5) -> Float[np.ndarray, " c"]:
    """The leading terms of the family for many neurons: where Newton's method starts.

    `turn` is for the family of three blocks: how far its single neuron has turned, from flipped (0) to across (1).
    """
    k = float(sum(shape.sizes))
    q = float(shape.sizes[0])
    if shape.kind == "global":
        return np.array([1.0, 1, 0, 0, 0, 0])
    if shape.kind == "A":
        return np.array([-1 + 2 / k, 1, 2 / k, 0, 0, 0])
    if shape.kind == "I":
        return np.array([-1 + 2 / q, 1, 2 / q, 0, 0, 0])
    if shape.kind == "II":
        return np.array([-1 + 2 / k, 1, 2 / k, 4 / (np.pi * k) * (1 - q / k), 2 / k, -4 * q / (np.pi * k * k)])
    if shape.kind == "II+":
        return _with_a_split_neuron(k)
    return _half_turned(q, turn)


def _with_a_split_neuron(k):
    """II with its flipped neuron in two unequal parts, of length 1 and of the order of k^(−1/2); the short one is extra."""
    places, number = Classes((False, False), extra=1).places()
    point = np.zeros(number)
    short = -1.4 / (math.sqrt(k) + 2.8)
    point[:2] = -1 + 3 / k - short, 1
    point[places[2, 0]] = short
    point[places[0, 1]], point[places[2, 1]] = 0.7 / k, 0.92 / k
    point[places[1, 0]], point[places[1, 1]] = 2 / k, -1.6 / k**2
    return point


def _half_turned(q, turn):
    """I_{q+1} with one neuron singled out and turned away from its teacher, towards those of the flipped ones."""
    share = 2 / (q + 1)
    flipped, single = -1 + share, (1 - turn) * (-1 + share)
    among, to_single, from_single = (share * (1 + slope * turn) for slope in (-0.35, 0.4, 0.7))
    # rows of flipped, single and other neurons
    return np.array([flipped, single, 1, among, to_single, 0, from_single, 0, -0.1 * turn, 0, -0.08 * turn, 0])


def across(shape: Shape) -> Float[np.ndarray, " c"]:
    """The leading terms of the saddle of three blocks whose single neuron lies across the flipped neurons and the others."""
    q, _, m = shape.sizes
    from_single = 0.56 / math.sqrt(q), 0, -0.42 / math.sqrt(m)
    return np.array([-1 + 1.4 / q, 0.15, 1, 1.8 / q, 0.8 / q, 0.2 / q, *from_single, 1 / q, 0.5 / q, -0.1 / m])


def is_on(shape: Shape, coordinates: Float[np.ndarray, " c"]) -> bool:
    """Whether a critical point in the family's fixed space is the family, not another point that Newton's method strayed to."""
    k = sum(shape.sizes)
    if shape.kind == "global":
        return True
    if shape.kind == "A":
        return bool(coordinates[0] < 0 < coordinates[2])
    first, second = coordinates[:2]
    places = common_classes(shape.space).places()[0]
    if shape.kind in ("I", "II"):
        # what a flipped neuron carries of the others' teachers: 4/π shares in II, nothing in I, less than 0.7 in other points
        share = k * coordinates[places[0, 1]]
        # a block of two with its columns swapped is another family
        in_place = first < 0 < second and second > abs(coordinates[places[1, 1]])
        return bool(in_place and (share > 0.8 if shape.kind == "II" else share < 0.3))
    if shape.kind == "II+":
        return bool(first + 0.1 < coordinates[places[2, 0]] < 0 < second)
    # the others stay at their teachers: not a permuted copy of another point, in which one of them is the flipped or turned one
    upright = coordinates[2]
    seen = coordinates[places[2, : 3 if shape.sizes[2] > 1 else 2]]
    return bool(first + 0.02 < second < 0.3 and upright > 0.5 and np.max(np.abs(seen)) < 0.5 * upright)
