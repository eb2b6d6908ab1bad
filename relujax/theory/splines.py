"""A network with one input read as a linear spline, and splines written as networks.

Every unit with a kink inside the data is a one-sided basis function, `a|w| relu(±(x − t))` with t = −b/w; a left-hand unit is
the right-hand one less a linear function, so that any mix of orientations spans the same splines once the linear part is free
(Huang 2024).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linprog

from ..network import RealArray, ShallowReLU, dead_neurons


class LinearSpline(NamedTuple):
    """`f(x) = offset + slopes[0] x + Σ_k strengths_k relu(x − knots_k)`; call it at any inputs.

    - `knots`: ascending, shape (q,).
    - `strengths`: the jump of the slope at every knot, `a|w|` of its unit.
    - `slopes`: on every piece from the left, shape (q + 1,).
    - `offset`: the value at 0 of the leftmost piece.
    - `units`: which neuron of the network each knot belongs to; neurons with w = 0 are in none.
    """

    knots: Float[np.ndarray, " q"]
    strengths: Float[np.ndarray, " q"]
    slopes: Float[np.ndarray, " r"]
    offset: float
    units: Int[np.ndarray, " q"]

    def __call__(self, x: Float[RealArray, " *points"]) -> Float[np.ndarray, " *points"]:
        bases = np.maximum(np.asarray(x, float)[..., None] - self.knots, 0)
        return self.offset + self.slopes[0] * np.asarray(x, float) + bases @ self.strengths


def read_spline(net: ShallowReLU) -> LinearSpline:
    """The linear spline that a network with one input is, in right-hand basis functions only.

    **Raises:** `ValueError` when the network has more than one input.

    ```python
    >>> net = ShallowReLU(np.array([[1.0], [-2.0], [0.5]]), np.array([1.0, 0.5, -2.0]), np.array([0.0, 1.0, -1.0]))
    >>> spline = read_spline(net)
    >>> spline.knots.tolist(), spline.strengths.tolist(), spline.slopes.tolist()
    ([0.0, 0.5, 2.0], [1.0, 1.0, -1.0], [-1.0, 0.0, 1.0, 0.0])

    ```
    """
    w, a, b = _univariate(net)
    moving = np.flatnonzero(w != 0)
    knots = -b[moving] / w[moving] + 0.0
    order = np.argsort(knots, kind="stable")
    units = moving[order]
    strengths = (a * np.abs(w))[units]
    left = w < 0
    # left of every knot the left-hand units are on and the others are off, except those that are on everywhere
    first = np.sum((a * w)[left])
    offset = np.sum((a * b)[left]) + np.sum((a * np.maximum(b, 0))[w == 0])
    slopes = first + np.concatenate([[0.0], np.cumsum(strengths)])
    return LinearSpline(knots[order], strengths, slopes, float(offset), units)


class KnotTable(NamedTuple):
    """What the units of a network with one input do on the interval that the data span, one entry a neuron.

    - `knot`: −b/w, infinite for w = 0.
    - `strength`: a|w|, the jump of the slope.
    - `right`: orientation, True for w > 0.
    - `dead`: off on all data; `linear`: on at all data, so that the unit adds a linear function.
    - `gap`: between which sorted data the knot lies, 0 left of the first; −1 for dead and linear units and for w = 0.
      Of units that share a gap and an orientation the data see only the sum of strengths and their first moment.
    """

    knot: Float[np.ndarray, " m"]
    strength: Float[np.ndarray, " m"]
    right: Bool[np.ndarray, " m"]
    dead: Bool[np.ndarray, " m"]
    linear: Bool[np.ndarray, " m"]
    gap: Int[np.ndarray, " m"]


def knot_table(net: ShallowReLU, inputs: Float[RealArray, " n"]) -> KnotTable:
    """Knots, strengths, orientations, dead and fully active units of a network with one input on data.

    **Raises:** `ValueError` when the network has more than one input.

    ```python
    >>> net = ShallowReLU(np.array([[1.0], [-1.0], [1.0]]), np.ones(3), np.array([-0.5, -2.0, 3.0]))
    >>> table = knot_table(net, np.array([0.0, 1.0]))
    >>> table.dead.tolist(), table.linear.tolist(), table.gap.tolist()
    ([False, True, False], [False, False, True], [1, -1, -1])

    ```
    """
    w, a, b = _univariate(net)
    x = np.sort(np.asarray(inputs, float))
    knot = np.where(w != 0, -b / np.where(w != 0, w, 1.0), np.inf)
    heights = np.outer(w, x) + b[:, None]
    dead = np.asarray(dead_neurons(net, x[:, None]))
    linear = np.all(heights > 0, axis=1)
    gap = np.where(dead | linear | (w == 0), -1, np.searchsorted(x, knot))
    return KnotTable(knot, a * np.abs(w), w > 0, dead, linear, gap)


def explicit_interpolant(inputs: Float[RealArray, " n"], targets: Float[RealArray, " n"]) -> ShallowReLU:
    """The linear interpolant of n points as a network of n units: a constant one, and n − 1 right-hand ones with knots on data.

    **Raises:** `ValueError` for fewer than two data and for equal inputs.

    ```python
    >>> net = explicit_interpolant(np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0, 0.0]))
    >>> [float(net(np.array([x]))) for x in (0.0, 1.0, 2.0, 3.0)]
    [1.0, 2.0, 1.0, 0.0]

    ```
    """
    x, y = sorted_data(inputs, targets)
    jumps = np.diff(np.diff(y) / np.diff(x), prepend=0.0)
    weights = np.concatenate([[0.0], np.ones(len(jumps))])
    return ShallowReLU(weights[:, None], np.concatenate([[y[0]], jumps]), np.concatenate([[1.0], -x[:-1]]))


class MinimumNorm(NamedTuple):
    """An interpolant of least `Σ_j |a_j| |w_j|`: the norm, the output bias, which costs nothing, and the network."""

    norm: float
    output_bias: float
    network: ShallowReLU


def minimum_norm_interpolant(inputs: Float[RealArray, " n"], targets: Float[RealArray, " n"]) -> MinimumNorm:
    """The least `Σ_j |a_j| |w_j|` over networks of any width with free hidden and output biases that pass through the data.

    The norm of a function is `max(∫|f''|, |f'(−∞) + f'(∞)|)` (Savarese, Evron, Soudry, Srebro 2019), and a minimiser has its
    knots on the samples: a linear programme over both orientations at every sample.

    **Raises:** `ValueError` for fewer than two data and for equal inputs.

    ```python
    >>> round(minimum_norm_interpolant(np.arange(4.0), np.array([0.0, 1.0, 0.0, 1.0])).norm, 9)
    4.0

    ```
    """
    x, y = sorted_data(inputs, targets)
    knots = np.concatenate([x[:-1], x[1:]])
    sides = np.repeat([1.0, -1.0], len(x) - 1)
    bases = np.maximum(sides * (x[:, None] - knots), 0)
    cost = np.concatenate([np.ones(2 * len(knots)), np.zeros(2)])
    ones = np.ones((len(x), 1))
    solved = linprog(cost, A_eq=np.hstack([bases, -bases, ones, -ones]), b_eq=y, method="highs")
    up, down, bias_up, bias_down = np.split(solved.x, [len(knots), 2 * len(knots), 2 * len(knots) + 1])
    strength = up - down
    used = np.abs(strength) > 1e-12 * max(np.max(np.abs(strength)), 1e-300)
    net = ShallowReLU(sides[used, None], strength[used], -(sides * knots)[used])
    return MinimumNorm(float(solved.fun), float(bias_up[0] - bias_down[0]), net)


def _univariate(net):
    if net.dim != 1:
        raise ValueError(f"the network has {net.dim} inputs: it is a spline only for 1 input.")
    b = np.zeros(net.width) if net.biases is None else np.asarray(net.biases)
    return np.asarray(net.weights)[:, 0], np.asarray(net.amplitudes), b


def sorted_data(
    inputs: Float[RealArray, " n"], targets: Float[RealArray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Data in the order of their inputs.

    **Raises:** `ValueError` for fewer than two data and for equal inputs.
    """
    order = np.argsort(np.asarray(inputs, float))
    x, y = np.asarray(inputs, float)[order], np.asarray(targets, float)[order]
    if len(x) < 2 or np.any(np.diff(x) == 0):
        raise ValueError(f"the inputs are {x.tolist()}: give at least two, all different.")
    return x, y
