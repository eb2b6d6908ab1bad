"""Whether a network is a local minimum of an empirical loss: an exact answer, at kinks and off them.

With slopes `s_i = c'(f(x_i))/n` and the function `P(v) = Σ_i s_i relu(v·x̃_i)` of one hidden vector, convexity of the criterion
gives, for networks near (a, v),

    L(a', v') − L(a, v) >= Σ_j [a'_j P(v'_j) − a_j P(v_j)],

with equality to first order. So the network is a local minimum if and only if, for the parameters that move,

- `P(v_j) = 0` where the amplitude moves,
- `a_j P` does not fall from v_j in any direction, where the hidden vector moves, and
- `P` is 0 around v_j where both move and a_j = 0: otherwise `a' P(v')` takes both signs, and the point is a saddle.

P is piecewise linear, its kinks at v_j are the data on the neuron's boundary, and where `a_j P` falls is a matter of finitely
many directions (`lines`). A point is critical when every neuron's Clarke set contains 0 (Clarke 1983, section 2.3): the box of
the slopes with every kink between its two sides.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .least_norm import least_norm
from .lines import Lines, least_slope, merged
from .piece import ROUNDING, Pieces


class KinkConditions(NamedTuple):
    """What holds at a network, on kinks or off them.

    - `residual`: the norm of the smallest element of the Clarke set, over the parameters that move.
    - `critical`: whether it is 0, with every neuron rescaled to |a| = |(w, b)|, in units of the problem.
    - `kinks`: how many (datum, neuron) pairs of neurons that are not 0 are on a boundary where the derivative jumps.
    - `descent`: whether there is descent of first order; `complete`: whether its absence is proved.
    - `saddle`: whether a neuron of amplitude 0 can lower the loss to second order.
    - `tangents`: for every neuron an orthonormal basis of the hidden directions, in units of `pieces`, that keep jumps on their
      boundaries, (q, t).
    - `coupled`: the neurons of amplitude 0 whose amplitude and hidden vector have a negative and a positive eigenvalue, (m,).
    - `couplings`: the smooth part of the slope of P at every neuron, (m, q).
    """

    residual: float
    critical: bool
    kinks: int
    descent: bool
    complete: bool
    saddle: bool
    tangents: list[Float[np.ndarray, "q t"]]
    coupled: np.ndarray
    couplings: Float[np.ndarray, "m q"]


def kink_conditions(pieces: Pieces, tolerance: float) -> KinkConditions:
    """The conditions at a network; a slope within `tolerance`, in units of the problem, is 0."""
    nothing = max(tolerance * pieces.steepness, pieces.rounding) * pieces.largest
    m = pieces.net.width
    hidden, outer = pieces.normals.shape[1] > 0, "amplitudes" in pieces.net.trained
    correlations = pieces.slopes @ np.maximum(pieces.z, 0.0) if outer else np.zeros(m)
    # in the parameters as they are, and with neurons rescaled
    plain, judged = [correlations], [correlations * _over(pieces.reaches, pieces.sizes)]
    kinks, descent, complete, saddle = 0, False, True, False
    tangents, coupled, couplings = [], np.zeros(m, bool), np.zeros((m, pieces.normals.shape[1]))
    for j in range(m if hidden else 0):
        gain = pieces.gains[j]
        limit = float(_over(nothing, gain))
        lines = slope_of(pieces, j).without(limit)
        couplings[j] = lines.linear
        if pieces.silent[j]:
            tangents.append(_complement(lines.units) if outer else np.eye(len(lines.linear)))
            if outer:
                coupled[j] = np.linalg.norm(lines.linear @ tangents[j]) > limit
                saddle |= bool(len(lines.units) or coupled[j])
            continue
        sign = np.sign(pieces.amplitudes[j])
        lines = Lines(sign * lines.linear, lines.units, sign * lines.strengths)
        smallest = least_norm(lines.linear, lines.strengths[:, None] * lines.units)
        scaled = lines.strengths[:, None] * lines.units * pieces.units
        plain.append(np.abs(pieces.amplitudes[j]) * least_norm(lines.linear * pieces.units, scaled))
        judged.append(gain * smallest)
        kinks += len(lines.units) * (not pieces.vanished[j])
        tangents.append(_complement(lines.units))
        if np.linalg.norm(smallest) <= limit:
            slope = least_slope(lines, limit)
            descent |= slope.least < -limit
            complete &= slope.complete
    return KinkConditions(
        residual=float(np.linalg.norm(np.concatenate(plain))),
        critical=bool(np.linalg.norm(np.concatenate(judged)) <= nothing),
        kinks=kinks,
        descent=descent,
        complete=complete or descent,
        saddle=saddle,
        tangents=tangents,
        coupled=coupled,
        couplings=couplings,
    )


def slope_of(pieces: Pieces, neuron: int) -> Lines:
    """The one-sided derivative of P at the hidden vector of a neuron, over the hidden parameters that move."""
    active, boundary = pieces.active[:, neuron], pieces.on_boundary[:, neuron]
    return merged((pieces.slopes * active) @ pieces.normals, pieces.normals[boundary], pieces.slopes[boundary])


def along(
    pieces: Pieces, conditions: KinkConditions, matrix: Float[np.ndarray, "p p"], units: Float[np.ndarray, " q"] | float = 1.0
) -> Float[np.ndarray, "t t"]:
    """A matrix along the directions that keep every jump on its boundary, in a basis orthonormal in those units of inputs."""
    parts = conditions.tangents
    if all(part.shape[0] == part.shape[1] for part in parts):
        return matrix
    hidden = sum(len(part) for part in parts)
    outer = len(matrix) - hidden
    columns = np.zeros((len(matrix), sum(part.shape[1] for part in parts) + outer))
    start = 0
    for j, part in enumerate(parts):
        stop = start + part.shape[1]
        columns[pieces.places(j), start:stop] = np.linalg.qr(part / np.broadcast_to(units, len(part))[:, None])[0]
        start = stop
    columns[hidden:, start:] = np.eye(outer)
    return columns.T @ matrix @ columns


def inertia(pieces: Pieces, conditions: KinkConditions, tolerance: float) -> tuple[int, int]:
    """How many eigenvalues of the Hessian along the tangent directions of a critical point are negative, and how many are 0.

    At a critical point only neurons of amplitude 0 couple amplitude and hidden vector, each that does with one eigenvalue of
    either sign; the rest is `JᵀCJ`. Its rank does not depend on the sizes of neurons, nor on those of data: singular values
    are those of unit neurons at unit data, and ones below the root of `tolerance` times the largest are 0.
    """
    free = sum(part.shape[1] for part in conditions.tangents)
    columns = [
        np.where(pieces.active[:, [j]], pieces.normals @ part, 0.0)
        for j, part in enumerate(conditions.tangents)
        if not pieces.silent[j]
    ]
    if "amplitudes" in pieces.net.trained:
        free += pieces.net.width
        responses = np.where(pieces.active, pieces.z * _over(1.0, pieces.sizes), 0.0)
        columns.append(responses[:, ~conditions.coupled])
    weights = np.sqrt(pieces.curvatures / max(float(np.max(pieces.curvatures)), np.finfo(float).tiny))
    rows = np.concatenate(columns, axis=1) * (weights * _over(1.0, pieces.lengths))[:, None] if columns else np.zeros((1, 0))
    values = np.linalg.svd(rows, compute_uv=False)
    rank = int(np.sum(values > max(np.sqrt(tolerance) * np.max(values, initial=0.0), ROUNDING)))
    negative = int(np.sum(conditions.coupled))
    return negative, free - 2 * negative - rank


def _complement(units):
    """An orthonormal basis of the complement of some rows."""
    if len(units) == 0:
        return np.eye(units.shape[1])
    _, sizes, right = np.linalg.svd(units)
    return right[np.sum(sizes > 1e-9 * sizes[0]) :].T


def _over(above, below):
    """A quotient that is 0 where the divisor is."""
    below = np.asarray(below, float)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)
