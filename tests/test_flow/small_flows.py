"""A small problem, descent in short steps, and its data by the boundaries that they share. Plain NumPy."""

from typing import NamedTuple

import numpy as np


class Unresolved(Exception):
    """The reference has no answer: descent has no limit there, or too much happens."""


class Problem(NamedTuple):
    """Data, one start and a time; `biases` is None where there are none."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    biases: np.ndarray | None
    amplitudes: np.ndarray
    train: tuple[str, ...]
    end_time: float
    criterion: str = "squared"
    kind: str = ""


class Flowed(NamedTuple):
    """Hidden vectors with biases as last column, amplitudes, outputs at the data, loss; what happened on the way."""

    hidden: np.ndarray
    amplitudes: np.ndarray
    outputs: np.ndarray
    loss: float
    events: int
    slides: int
    notes: frozenset


def hidden_vectors(problem):
    if problem.biases is None:
        return np.array(problem.weights, float)
    return np.column_stack([problem.weights, problem.biases])


def rows(problem):
    """The data as hidden vectors see them, and the same without what is not trained."""
    inputs = np.asarray(problem.inputs, float)
    n, d = inputs.shape
    full = inputs if problem.biases is None else np.column_stack([inputs, np.ones(n)])
    moved = full.copy()
    if "weights" not in problem.train:
        moved[:, :d] = 0
    if problem.biases is not None and "biases" not in problem.train:
        moved[:, d:] = 0
    return full, moved


def drive(problem, outputs):
    """−c'(f)/n."""
    y = problem.targets
    with np.errstate(over="ignore"):
        return {
            "squared": lambda: y - outputs,
            "logistic": lambda: y / (1 + np.exp(y * outputs)),
            "exponential": lambda: y * np.exp(-y * outputs),
        }[problem.criterion]() / len(y)


def loss_of(problem, outputs):
    y = problem.targets
    with np.errstate(over="ignore"):
        return float(
            np.mean(
                {
                    "squared": lambda: (outputs - y) ** 2 / 2,
                    "logistic": lambda: np.logaddexp(0, -y * outputs),
                    "exponential": lambda: np.exp(-y * outputs),
                }[problem.criterion]()
            )
        )


def descend(problem, steps):
    """Gradient descent with relu'(0) = 0 in so many equal steps: what decides where two programs disagree."""
    full, moved = rows(problem)
    v, a, h = hidden_vectors(problem), np.array(problem.amplitudes, float), problem.end_time / steps
    trains = "amplitudes" in problem.train
    for _ in range(steps):
        z = v @ full.T
        active = z > 0
        kept = np.where(active, z, 0.0)
        rho = drive(problem, a @ kept)
        step = (a[:, None] * (active * rho)) @ moved
        a = a + h * (kept @ rho) if trains else a
        v = v + h * step
    outputs = a @ np.maximum(v @ full.T, 0)
    return Flowed(v, a, outputs, loss_of(problem, outputs), 0, 0, frozenset())


class Classes:
    """The data by boundary: unit vectors, and the matrices that take drives to forces on either side."""

    def __init__(self, problem):
        full, _ = rows(problem)
        length = np.linalg.norm(full, axis=1)
        units, members, signs = [], [], []
        for i in np.flatnonzero(length > 0):
            unit = full[i] / length[i]
            same = [c for c, other in enumerate(units) if min(np.linalg.norm(unit - other), np.linalg.norm(unit + other)) < 1e-12]
            if not same:
                same = [len(units)]
                units.append(unit)
            sign = np.sign(unit @ units[same[0]])
            members.append((same[0], i))
            signs.append(sign)
        self.units = np.array(units).reshape(-1, full.shape[1])
        trained = np.zeros(full.shape[1])
        trained[: problem.inputs.shape[1]] = "weights" in problem.train
        trained[problem.inputs.shape[1] :] = "biases" in problem.train
        self.moved = self.units * trained
        self.gram = self.units @ self.moved.T
        self.moves = np.diag(self.gram) > 0
        self.plus, self.minus = np.zeros((2, len(units), len(full)))
        for (c, i), sign in zip(members, signs, strict=True):
            (self.plus if sign > 0 else self.minus)[c, i] = sign * length[i]
        self.both = np.any(self.plus, axis=1) & np.any(self.minus, axis=1)
        # the side on which nothing is active
        self.quiet = np.where(np.any(self.plus, axis=1), -1, 1)
        self.noise = 1e-14 * (self.plus - self.minus) @ np.maximum(np.abs(problem.targets), 1e-300) / len(full)
