"""First and second-order conditions at the kinks of an empirical loss, where a neuron's boundary passes through a datum.

With g₀ the gradient when the data on boundaries are inactive, the one-sided derivative along d is
`g₀·d + Σ κ_ij relu(x̃_i·d_j)` over the pairs (i, j) on boundaries, `κ_ij = c'(f(x_i)) a_j / n`: a sum over neurons, in which a
pair with κ > 0 adds a convex term and one with κ < 0 a concave one. The least of it over all directions of a neuron is not
negative exactly if, whichever of its concave pairs are active, zero lies in the box that its convex pairs span (Clarke 1983,
section 2.3; the box of all pairs is the Clarke set, where the data on the boundary are independent).

Where there is no first-order descent, the loss is flat to first order along the directions that keep every pair on its boundary
or leave a pair whose multiplier is 0 or 1 to its inactive or active side. On these the second derivative decides. Pairs whose
residual or amplitude is 0 add nothing to first order, and change it from side to side.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import lsq_linear

from ..loss import EmpiricalLoss
from ..network import ShallowReLU
from .piece import Pieces

_ENUMERATED = 10
# multipliers this close to 0 or 1 let their pair leave the boundary
_WEAK = 1e-7


class KinkConditions(NamedTuple):
    """What holds at a point on kinks.

    - `pairs`: how many (datum, neuron) pairs are on a boundary where the derivative jumps.
    - `clarke_residual`: the norm of the smallest element of the box with all pairs.
    - `descent`: the largest residual of a neuron over the choices of concave pairs: above rounding there is a direction of
      descent.
    - `complete`: whether every choice was tried, and the directions below are all that are flat to first order.
    - `tangent`: an orthonormal basis of the directions that keep pairs with multipliers inside (0, 1) on the boundary, (p, t).
    - `sides`: columns s with `s·d >= 0` where d leaves the other pairs to the right side, (p, s).
    - `hessian`: the second derivative on that side, (p, p), before silent pairs change it.
    - `silent_saddle`: whether a neuron with amplitude 0 lowers the loss to second order when it moves off data on its boundary.
    """

    pairs: int
    clarke_residual: float
    descent: float
    complete: bool
    tangent: Float[np.ndarray, "p t"]
    sides: Float[np.ndarray, "p s"]
    hessian: Float[np.ndarray, "p p"]
    silent_saddle: bool


def kink_conditions(loss: EmpiricalLoss, net: ShallowReLU) -> KinkConditions | None:
    """The conditions at the kinks that a network lies on; None when it lies on none.

    A neuron with more than 10 concave pairs is tested with none, each one and all of them active: `descent` is then a lower
    bound, and `complete` is False.
    """
    if not {"weights", "biases"} & set(net.trained):
        return None
    pieces = Pieces(loss, net)
    if not pieces.on_boundary.any():
        return None
    active = (pieces.z > 0) & ~pieces.on_boundary
    jumps = pieces.jumps
    smallest = pieces.gradient(active)
    held, sides, descent, complete = [], [], 0.0, True
    for j in np.flatnonzero(jumps.any(axis=0)).tolist():
        places, data = pieces.places(j), np.flatnonzero(jumps[:, j])
        first = _first_order(smallest[places], pieces.normals[data], pieces.slopes[data] * pieces.amplitudes[j])
        descent, complete = max(descent, first.descent), complete and first.complete
        for unit, multiplier in zip(first.units, first.multipliers, strict=True):
            column = np.zeros(len(smallest))
            column[places] = unit
            if _WEAK < multiplier < 1 - _WEAK:
                held.append(column)
                continue
            sides.append(column if multiplier > 0.5 else -column)
            along = pieces.normals[data] @ unit
            same = np.abs(along) > (1 - 1e-9) * np.linalg.norm(pieces.normals[data], axis=1)
            active[data[same], j] = (along[same] > 0) == (multiplier > 0.5)
        smallest[places] = first.smallest
    return KinkConditions(
        pairs=int(jumps.sum()),
        clarke_residual=float(np.linalg.norm(smallest)),
        descent=descent,
        complete=complete,
        tangent=_complement(held, len(smallest)),
        sides=np.array(sides).reshape(-1, len(smallest)).T,
        hessian=pieces.hessian(active),
        silent_saddle=_silent_saddle(pieces, active),
    )


def curvature_along(
    loss: EmpiricalLoss, net: ShallowReLU, conditions: KinkConditions, direction: Float[np.ndarray, " p"]
) -> float:
    """The one-sided second derivative along a direction that is flat to first order; infinite on the wrong side of a kink."""
    if np.any(conditions.sides.T @ direction < -1e-9 * np.linalg.norm(direction)):
        return np.inf
    pieces = Pieces(loss, net)
    silent = pieces.on_boundary & ~pieces.jumps
    # pairs that become active: what they add to the output to first order, and to second through their amplitudes
    steps = np.stack([direction[pieces.places(j)] for j in range(net.width)])
    entering = np.where(silent, np.maximum(pieces.normals @ steps.T, 0.0), 0.0)
    active = (pieces.z > 0) & ~pieces.on_boundary
    added = entering @ pieces.amplitudes
    change = pieces.curvatures @ (added * (2 * (pieces.jacobian(active) @ direction) + added))
    if "amplitudes" in net.trained:
        change += 2 * pieces.slopes @ (entering @ direction[-net.width :])
    return float(direction @ conditions.hessian @ direction + change)


class _FirstOrder(NamedTuple):
    """For one neuron: distinct unit normals, their multipliers, the smallest element of the box, and the test of descent."""

    units: np.ndarray
    multipliers: np.ndarray
    smallest: np.ndarray
    descent: float
    complete: bool


def _first_order(base, normals, strengths):
    """The one-sided derivative `base·d + Σ strength relu(normal·d)` of one neuron."""
    units, net_strengths, shift, cancelled = _merged(normals, strengths)
    base = base + shift
    convex = net_strengths > 0
    bending, concave = (net_strengths[which, None] * units[which] for which in (convex, ~convex))
    choices, complete = _choices(len(concave))
    descent = max(np.linalg.norm(_box(base + choice @ concave, bending)[0]) for choice in choices)
    smallest, multipliers = _box(base, net_strengths[:, None] * units)
    complete = complete and len(concave) == 0 and not cancelled
    return _FirstOrder(units, multipliers, smallest, float(descent), complete)


def _merged(normals, strengths):
    """Pairs with parallel or opposed normals as one, `κ relu(−y) = κ relu(y) − κ y`, but for those that cancel each other."""
    lengths = np.linalg.norm(normals, axis=1)
    units: list[np.ndarray] = []
    merged: list[float] = []
    shift = np.zeros(normals.shape[1])
    for unit, strength in zip(normals / lengths[:, None], strengths * lengths, strict=True):
        along = [float(unit @ other) for other in units]
        place = next((i for i, c in enumerate(along) if abs(c) > 1 - 1e-12), None)
        if place is None:
            units.append(unit)
            merged.append(strength)
            continue
        merged[place] += strength
        if along[place] < 0:
            shift += strength * unit
    kept = np.abs(merged) > 1e-12 * np.sum(np.abs(strengths * lengths))
    return np.array(units)[kept], np.array(merged)[kept], shift, not np.all(kept)


def _choices(number):
    if number <= _ENUMERATED:
        return [np.array(choice, float) for choice in itertools.product((0, 1), repeat=number)], True
    return [np.zeros(number), np.ones(number), *np.eye(number)], False


def _box(base, additions):
    """The smallest `base + t @ additions` with t between 0 and 1, and t."""
    if len(additions) == 0:
        return base, np.zeros(0)
    # the active-set method is exact at bounds; where multipliers are not unique, interior ones tell more
    unique = len(additions) <= np.linalg.matrix_rank(additions)
    fit = lsq_linear(additions.T, -base, bounds=(0, 1), tol=1e-14, method="bvls" if unique else "trf")
    return base + fit.x @ additions, fit.x


def _complement(columns, p):
    """An orthonormal basis of what is orthogonal to some vectors of length p."""
    if not columns:
        return np.eye(p)
    _, sizes, right = np.linalg.svd(np.array(columns))
    return right[np.sum(sizes > 1e-12 * sizes[0]) :].T


def _silent_saddle(pieces, active):
    """Whether `Φ(d) = Σ_active c' x̃·d + Σ_boundary c' relu(x̃·d)` is not 0 for some neuron with amplitude 0 and some d.

    When the hidden vector moves by d and the amplitude by −t Φ(d), the loss changes by `−t Φ(d)² + O(t²)`. Tried are the data on
    the boundary and their opposites.
    """
    if "amplitudes" not in pieces.net.trained:
        return False
    for j in np.flatnonzero((pieces.amplitudes == 0) & pieces.on_boundary.any(axis=0)):
        normals, slopes = pieces.normals[pieces.on_boundary[:, j]], pieces.slopes[pieces.on_boundary[:, j]]
        smooth = (pieces.slopes * active[:, j]) @ pieces.normals
        longest = np.max(np.linalg.norm(normals, axis=1))
        for direction in (*normals, *-normals):
            change = smooth @ direction + slopes @ np.maximum(normals @ direction, 0.0)
            if abs(change) > 1e-9 * pieces.scale * len(pieces.z) * longest * np.linalg.norm(direction):
                return True
    return False
