"""Detectors: what a recorded flow, or the network at its end, is made of."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import connected_components

from .._status import Status
from ..network import RealArray, ShallowReLU, activation_pattern, dead_neurons, hidden_vectors
from .observe import angles, relative_balance, singular_values


class Plateau(NamedTuple):
    """A stretch of time on which the loss hardly moves.

    - `start`, `end`: recorded times; `level`: the loss half-way through.
    - `predicted`: the nearest of the levels that theory gives, NaN when none was given.
    """

    start: float
    end: float
    level: float
    predicted: float


def plateaus(
    times: Float[RealArray, " s"],
    losses: Float[RealArray, " s"],
    *,
    levels: Float[RealArray, " l"] | None = None,
    slope: float = 0.05,
    ratio: float = 1.1,
) -> list[Plateau]:
    """The stretches on which `|d ln L / d ln t|` stays below `slope` while t grows at least by the factor `ratio`.

    **Arguments:**

    - `times`, `losses`: a recorded flow, shape (s,); log-spaced times resolve all phases.
    - `levels`: losses that theory predicts, to tag each plateau with the nearest.

    The start near the origin is a plateau too, and so is the end, unless the loss vanishes there. Only positive times and
    losses count.

    ```python
    >>> t = np.geomspace(1, 1e4, 400)
    >>> [(round(p.level, 3), p.predicted) for p in plateaus(t, 0.5 / (1 + (t / 10) ** 8) + 0.25, levels=np.array([0.25, 0.75]))]
    [(0.75, 0.75), (0.25, 0.25)]

    ```
    """
    times, losses = np.asarray(times, float), np.asarray(losses, float)
    usable = (times > 0) & (losses > 0)
    times, losses = times[usable], losses[usable]
    flat = np.abs(np.diff(np.log(losses)) / np.diff(np.log(times))) < slope
    found = []
    for first, last in _runs(flat):
        if times[last] < ratio * times[first]:
            continue
        level = float(losses[(first + last) // 2])
        nearest = np.nan if levels is None else float(levels[np.argmin(np.abs(np.asarray(levels) - level))])
        found.append(Plateau(float(times[first]), float(times[last]), level, nearest))
    return found


def _runs(flags):
    """First and last point of every run of intervals that are flagged."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return list(zip(edges[::2], edges[1::2], strict=True))


class Phase(Status):
    """What the flow from a small start is doing.

    - `ALIGNMENT`: the loss is that of the start, and directions still turn.
    - `GROWTH`: the loss is that of the start, and the directions are those of extremal vectors.
    - `FIT`: the loss falls.
    - `SADDLE`: the loss rests between its start and its end.
    - `REST`: the loss rests at its end.
    """

    ALIGNMENT = 0
    GROWTH = 1
    FIT = 2
    SADDLE = 3
    REST = 4


def phases(
    times: Float[RealArray, " s"],
    losses: Float[RealArray, " s"],
    alignment: Float[RealArray, " s"],
    *,
    aligned: float = 0.99,
    moved: float = 0.01,
) -> list[Phase]:
    """The phase at every recorded time.

    **Arguments:**

    - `alignment`: the least cosine, over the neurons that will matter, to the direction they take, shape (s,).
    - `aligned`: the cosine from which directions count as taken.
    - `moved`: the share of the way from the first to the last loss below which the loss counts as at its start, or its end.

    ```python
    >>> t = np.array([1.0, 2.0, 3.0, 4.0, 8.0, 9.0, 20.0])
    >>> loss = np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.2, 0.0])
    >>> [str(p) for p in phases(t, loss, np.array([0.1, 0.5, 1, 1, 1, 1, 1]))]
    ['alignment', 'alignment', 'growth', 'saddle', 'saddle', 'fit', 'rest']

    ```
    """
    times, losses, alignment = (np.asarray(x, float) for x in (times, losses, alignment))
    way = (losses[0] - losses) / max(losses[0] - losses[-1], np.finfo(float).tiny)
    rests = np.zeros(len(times), bool)
    for plateau in plateaus(times, losses):
        rests |= (times >= plateau.start) & (times <= plateau.end)
    words = np.where(rests, Phase.SADDLE, Phase.FIT)
    words = np.where(way > 1 - moved, Phase.REST, words)
    words = np.where(way < moved, np.where(alignment < aligned, Phase.ALIGNMENT, Phase.GROWTH), words)
    return [Phase(word) for word in words]


class Clusters(NamedTuple):
    """Neurons that do the same thing.

    - `labels`: the cluster of every neuron, the strongest cluster 0; −1 for dead neurons, shape (m,).
    - `sizes`: neurons in each cluster; `strengths`: the sum of their `|a| |(w, b)|`.
    - `signs`: the sign of their amplitudes; `active`: the data that its first neuron is active on, shape (c, n).
    """

    labels: Int[np.ndarray, " m"]
    sizes: Int[np.ndarray, " c"]
    strengths: Float[np.ndarray, " c"]
    signs: Int[np.ndarray, " c"]
    active: Bool[np.ndarray, "c n"]


def clusters(net: ShallowReLU, inputs: Float[RealArray, "n d"], *, angle: float = 1e-3) -> Clusters:
    """Group living neurons of one amplitude's sign whose hidden vectors are linked by angles below `angle`, in radians.

    ```python
    >>> net = ShallowReLU(np.array([[1.0, 0.0], [2.0, 1e-5], [0.0, 1.0], [-1.0, -1.0]]), np.ones(4))
    >>> clusters(net, np.eye(2)).labels.tolist()
    [0, 0, 1, -1]

    ```
    """
    amplitudes = np.asarray(net.amplitudes)
    living = ~np.asarray(dead_neurons(net, inputs)) & (amplitudes != 0)
    alike = (np.asarray(angles(net)) < angle) & (np.sign(amplitudes)[:, None] == np.sign(amplitudes))
    members = np.flatnonzero(living)
    number, raw = connected_components(alike[np.ix_(members, members)], directed=False)
    strength = np.abs(amplitudes) * np.linalg.norm(np.asarray(hidden_vectors(net)), axis=1)
    totals = np.bincount(raw, strength[members], number)
    order = np.argsort(-totals, kind="stable")
    labels = np.full(net.width, -1)
    labels[members] = np.argsort(order)[raw]
    first = np.array([np.flatnonzero(labels == c)[0] for c in range(number)], int)
    pattern = np.asarray(activation_pattern(net, inputs)).T
    sizes = np.bincount(raw, minlength=number)[order]
    return Clusters(labels, sizes, totals[order], np.sign(amplitudes[first]).astype(int), pattern[first])


def rank(net: ShallowReLU, *, tolerance: float = 1e-6) -> int:
    """The number of singular values of the hidden vectors above `tolerance` times the largest."""
    values = np.asarray(singular_values(net))
    return int(np.sum(values > tolerance * values[0]))


def sign_component(net: ShallowReLU) -> Int[np.ndarray, " m"]:
    """Which component of the invariant set a network with one output lies in: the sign of a where `a² >= |(w, b)|²`, else 0.

    The flow changes none of these signs. Balances within 1e-12 of 0, relative to the neuron, count as 0: the set is then
    connected through the origin, which the flow does not reach in finite time.
    """
    pathological = np.asarray(relative_balance(net)) >= -1e-12
    return np.where(pathological, np.sign(np.asarray(net.amplitudes)), 0).astype(int)
