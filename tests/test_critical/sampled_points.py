"""Points of sampled losses built backwards from their residuals, and what kind they are by enumeration and by descent.

Plain NumPy, and nothing of the package: an independent arbiter of verdicts.
"""

import itertools
from typing import NamedTuple

import numpy as np

SHAPES = [
    (n, d, m, biases, train)
    for (n, d, m) in ((1, 1, 1), (3, 1, 2), (3, 2, 1), (5, 2, 2), (8, 2, 3), (6, 3, 2), (12, 1, 4), (12, 2, 8))
    for biases, train in ((False, "w"), (False, "wa"), (True, "wba"))
]
NAMES = {"w": "weights", "b": "biases", "a": "amplitudes"}


class Point(NamedTuple):
    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    biases: np.ndarray | None
    amplitudes: np.ndarray
    train: tuple[str, ...]
    residuals: np.ndarray


class Kind(NamedTuple):
    """ "minimum", "falls" or "saddle"; and steps of hidden vectors and amplitudes along which the loss falls."""

    word: str
    hidden: np.ndarray | None = None
    amplitudes: np.ndarray | None = None


def extended(inputs, biases):
    return inputs if biases is None else np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def hidden_of(point):
    return point.weights if point.biases is None else np.concatenate([point.weights, point.biases[:, None]], axis=1)


def draw(r, shape) -> Point:
    """A network of neurons of all kinds, and targets that make it critical for some activations on its kinks."""
    n, d, m, biased, train = shape
    inputs = _inputs(r, n, d)
    rows = extended(inputs, np.zeros(m) if biased else None)
    hidden, amplitudes = _neurons(r, rows, m, "a" in train)
    z = rows @ hidden.T
    z[np.abs(z) <= 1e-10 * np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(hidden, axis=1)] = 0
    conditions = [np.eye(n)[r.random(n) < r.choice([0.0, 0.4])]]
    for j in range(m):
        if "a" in train:
            conditions.append(np.maximum(z[:, j], 0)[None])
        if amplitudes[j] != 0:
            mixed = np.where(z[:, j] == 0, r.choice([0.0, 0.0, 0.3, 1.0], size=n), z[:, j] > 0)
            conditions.append((mixed[:, None] * rows).T)
    _, sizes, right = np.linalg.svd(np.concatenate(conditions))
    free = right[np.sum(sizes > 1e-10 * max(sizes[0], 1e-300)) :]
    residuals = free.T @ r.standard_normal(len(free))
    residuals[np.abs(residuals) < 1e-12] = 0
    if r.random() < 0.15:
        residuals = residuals + r.standard_normal(n)
    outputs = np.maximum(z, 0) @ amplitudes
    names = tuple(NAMES[letter] for letter in train)
    return Point(inputs, outputs - residuals, hidden[:, :d], hidden[:, d] if biased else None, amplitudes, names, residuals)


def _inputs(r, n, d):
    inputs = r.standard_normal((n, d)) if r.random() < 0.5 else r.integers(-2, 3, (n, d)).astype(float)
    for i in range(1, n):
        if r.random() < 0.15:
            inputs[i] = inputs[r.integers(i)] * r.choice([1.0, 1.0, 2.0, 0.5, -1.0, -3.0])
    return inputs


def _neurons(r, rows, m, trained):
    q = rows.shape[1]
    hidden, amplitudes = r.standard_normal((m, q)), r.choice([-1.0, 1.0], m) * np.exp(r.standard_normal(m))
    for j in range(m):
        kind = r.choice(["plain", "zero", "dead", "duplicate", "opposite", "boundary", "boundary"])
        if kind == "zero":
            hidden[j] = 0
        elif kind == "dead":
            hidden[j] = -rows.T @ r.random(len(rows))
        elif kind == "duplicate" and j:
            hidden[j], amplitudes[j] = hidden[j - 1] * r.choice([1.0, 2.5]), amplitudes[j - 1]
        elif kind == "opposite" and j:
            hidden[j] = -hidden[j - 1]
        elif kind == "boundary" and q > 1:
            chosen = rows[r.integers(len(rows), size=r.integers(1, q))]
            _, sizes, right = np.linalg.svd(chosen)
            free = right[np.sum(sizes > 1e-10) :]
            hidden[j] = free.T @ r.standard_normal(len(free))
        if r.random() < 0.25 and trained:
            amplitudes[j] = 0
    return hidden, amplitudes


def moved(point, hidden, amplitudes):
    """How much the mean loss changes when hidden vectors and amplitudes step, without cancellation."""
    rows, old = extended(point.inputs, point.biases), hidden_of(point)
    before = np.maximum(rows @ old.T, 0) @ point.amplitudes
    after = np.maximum(np.einsum("nq,...mq->...nm", rows, old + hidden), 0) @ (point.amplitudes + amplitudes)[..., None]
    change = after[..., 0] - before
    return np.mean(point.residuals * change + change**2 / 2, axis=-1)


def kind_of(point: Point) -> Kind:
    """By one-sided slopes of every neuron on every ray of the arrangement of its boundaries, then of amplitudes that are 0."""
    rows, hidden, a = extended(point.inputs, point.biases), hidden_of(point), point.amplitudes
    z, r = rows @ hidden.T, point.residuals / len(rows)
    near = np.abs(z) <= 1e-10 * np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(hidden, axis=1)
    size = np.sum(np.abs(r) * np.linalg.norm(rows, axis=1)) + 1e-300
    both = "amplitudes" in point.train
    silent = Kind("minimum")
    for j in range(len(a)):
        active = (z[:, j] > 0) & ~near[:, j]
        step, outer = np.zeros_like(hidden), np.zeros_like(a)
        if both and abs(pull := r @ np.where(active, z[:, j], 0)) > 1e-9 * size * (1 + np.linalg.norm(hidden[j])):
            outer[j] = -np.sign(pull)
            return Kind("falls", step, outer)
        rays = _rays(rows[near[:, j]])
        y = rays @ rows.T
        slopes = np.where(active, y, 0) @ r + np.where(near[:, j], np.maximum(y, 0), 0) @ r
        if a[j] != 0 and np.min(a[j] * slopes) < -1e-9 * size * abs(a[j]):
            step[j] = rays[np.argmin(a[j] * slopes)]
            return Kind("falls", step, outer)
        if a[j] == 0 and both and silent.word == "minimum" and np.max(np.abs(slopes)) > 1e-9 * size:
            best = np.argmax(np.abs(slopes))
            step[j], outer[j] = rays[best], -np.sign(slopes[best])
            silent = Kind("saddle", step, outer)
    return silent


def _rays(normals):
    """Unit vectors on which as many normals vanish as their span allows, with their opposites, and across the span."""
    q = normals.shape[1]
    if len(normals) == 0:
        return np.concatenate([np.eye(q), -np.eye(q)])
    _, sizes, right = np.linalg.svd(normals)
    rank = int(np.sum(sizes > 1e-10 * max(sizes[0], 1e-300)))
    rays = [*right[rank:]]
    frame = right[:rank]
    for subset in itertools.combinations(normals @ frame.T, max(rank - 1, 0)) if rank else ():
        _, heights, across = np.linalg.svd(np.reshape(subset, (rank - 1, rank)))
        if rank == 1 or heights[-1] > 1e-9 * np.max(np.linalg.norm(subset, axis=1)):
            rays.append(across[-1] @ frame)
    return np.concatenate([rays, -np.array(rays)])


def falls_along(point: Point, kind: Kind) -> bool:
    """Whether the loss is lower some way along a direction of descent, by evaluation; amplitudes in small proportion."""
    ways = [(t, t * share) for t in 10.0 ** -np.arange(1, 8) for share in 10.0 ** -np.arange(0, 10)]
    hidden = np.array([t * kind.hidden for t, _ in ways])
    amplitudes = np.array([u * kind.amplitudes for _, u in ways])
    return bool(np.min(moved(point, hidden, amplitudes)) < 0)


def lowest_nearby(r, point: Point, starts=24, steps=40) -> float:
    """The lowest change of the loss that projected descent finds in a ball that holds no other kinks, in units of its size."""
    rows, old, a = extended(point.inputs, point.biases), hidden_of(point), point.amplitudes
    z = np.abs(rows @ old.T) / np.maximum(np.linalg.norm(rows, axis=1)[:, None], 1e-300)
    away = z[z > 1e-10 * (np.linalg.norm(old, axis=1) + 1e-300)]
    both = "amplitudes" in point.train
    radius = 0.3 * min([0.1, *away, *(np.abs(a[a != 0]) if both else [])])
    h, u = r.standard_normal((starts, *old.shape)), both * r.standard_normal((starts, len(a)))
    lowest = 0.0
    for k in range(steps):
        size = np.sqrt(np.sum(h**2, axis=(1, 2)) + np.sum(u**2, axis=1))
        shrink = radius / np.maximum(size, radius)
        h, u = h * shrink[:, None, None], u * shrink[:, None]
        new = np.einsum("nq,smq->snm", rows, old + h)
        change = np.einsum("snm,sm->sn", np.maximum(new, 0), a + u) - np.maximum(rows @ old.T, 0) @ a
        lowest = min(lowest, float(np.min(np.mean(point.residuals * change + change**2 / 2, axis=1))))
        slope = (point.residuals + change) / len(rows)
        force_h = np.einsum("sn,snm,sm,nq->smq", slope, new > 0, a + u, rows)
        force_u = both * np.einsum("sn,snm->sm", slope, np.maximum(new, 0))
        norm = np.sqrt(np.sum(force_h**2, axis=(1, 2)) + np.sum(force_u**2, axis=1)) + 1e-300
        stride = radius * 0.5 * 0.9**k / norm
        h, u = h - stride[:, None, None] * force_h, u - stride[:, None] * force_u
    scale = np.mean(np.abs(point.residuals) * np.linalg.norm(rows, axis=1)) * (np.max(np.abs(a)) + radius) * radius
    return lowest / (scale + 1e-12 * radius**2)


def transformed(r, point: Point) -> Point:
    """The same point with neurons and data permuted, inputs rotated or reflected and in other units, neurons rescaled."""
    n, d = point.inputs.shape
    data, order = r.permutation(n), r.permutation(len(point.amplitudes))
    turn = np.linalg.qr(r.standard_normal((d, d)))[0]
    unit, high = 10.0 ** r.uniform(-6, 6), 10.0 ** r.uniform(-6, 6)
    each = np.exp(2 * r.standard_normal(len(order))) if "amplitudes" in point.train else np.ones(len(order))
    biases = None if point.biases is None else (point.biases * each)[order]
    weights, amplitudes = (point.weights @ turn.T / unit * each[:, None])[order], (point.amplitudes * high / each)[order]
    inputs, targets = (point.inputs @ turn.T * unit)[data], point.targets[data] * high
    return Point(inputs, targets, weights, biases, amplitudes, point.train, point.residuals[data] * high)
