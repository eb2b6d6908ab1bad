"""Random small flows, degenerate ones most of all, in few shapes; problem i of a seed is always the same."""

from typing import NamedTuple

import numpy as np
from small_flows import Problem, drive, hidden_vectors, rows

BOTH, HIDDEN, OUTER = ("weights", "biases", "amplitudes"), ("weights", "biases"), ("biases", "amplitudes")


class Shape(NamedTuple):
    """What a compiled flow depends on; smaller problems are padded with zero rows and absent neurons."""

    n: int
    d: int
    m: int
    biases: bool = False
    train: tuple[str, ...] = BOTH
    criterion: str = "squared"


SHAPES = (
    Shape(2, 1, 1),
    Shape(2, 1, 1, biases=True),
    Shape(4, 2, 2),
    Shape(6, 2, 4),
    Shape(6, 2, 3, biases=True),
    Shape(12, 2, 8),
    Shape(12, 3, 8, biases=True),
    Shape(8, 1, 4, biases=True),
    Shape(8, 3, 3),
    Shape(6, 2, 4, train=HIDDEN),
    Shape(6, 2, 3, biases=True, train=HIDDEN),
    Shape(4, 1, 4, biases=True, train=OUTER),
    Shape(6, 2, 4, biases=True, criterion="logistic"),
    Shape(6, 2, 3, criterion="exponential"),
)


def problem(seed, number, shape):
    """Problem `number` of a seed, without units."""
    r = np.random.default_rng([seed, number])
    n = shape.n if r.random() < 0.6 else int(r.integers(1, shape.n + 1))
    m = shape.m if r.random() < 0.6 else int(r.integers(1, shape.m + 1))
    is_exact = r.random() < 0.35
    data, inputs = _inputs(r, n, shape.d, is_exact)
    label, targets = _targets(r, inputs, is_exact)
    if shape.criterion != "squared":
        targets = np.where(targets > 0, 1.0, -1.0)
    full = np.column_stack([inputs, np.ones(n)]) if shape.biases else inputs
    law, hidden, amplitudes = _start(r, full, targets, m, is_exact)
    inputs = np.concatenate([inputs, np.zeros((shape.n - n, shape.d))])
    targets = np.concatenate([targets, np.zeros(shape.n - n) + (shape.criterion != "squared")])
    hidden = np.concatenate([hidden, np.zeros((shape.m - m, hidden.shape[1]))])
    amplitudes = np.concatenate([amplitudes, np.zeros(shape.m - m)])
    weights, biases = (hidden[:, :-1], hidden[:, -1]) if shape.biases else (hidden, None)
    made = Problem(inputs, targets, weights, biases, amplitudes, shape.train, 1.0, shape.criterion, f"{data}, {label}, {law}")
    return made._replace(end_time=_end_time(r, made))


def _inputs(r, n, d, is_exact):
    x = r.integers(-2, 3, (n, d)).astype(float) if is_exact else r.standard_normal((n, d))
    kind = r.choice(
        ["generic", "duplicates", "proportional", "collinear", "orthogonal", "zeros", "flipped"],
        p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
    )
    pairs = [r.integers(0, n, 2) for _ in range(max(1, n // 2))]
    if kind == "duplicates":
        for i, j in pairs:
            x[i] = x[j]
    elif kind == "proportional":
        for i, j in pairs:
            x[i] = r.choice([-2.0, -1.0, -0.5, 0.5, 2.0, 3.0]) * x[j]
    elif kind == "flipped":
        for i, j in pairs:
            x[i] = -x[j]
    elif kind == "collinear":
        x = x[:1] + r.integers(-3, 4, (n, 1)) * (x[-1:] if n > 1 else 1.0)
    elif kind == "orthogonal":
        x = np.eye(d)[r.integers(0, d, n)] * r.choice([-1.0, 1.0, 2.0], (n, 1))
    elif kind == "zeros":
        x[r.integers(0, n)] = 0
        x[:, r.integers(0, d)] *= r.random() < 0.5
    return kind, x


def _targets(r, x, is_exact):
    n, d = x.shape
    y = r.integers(-2, 3, n).astype(float) if is_exact else r.standard_normal(n)
    kind = r.choice(["any", "taught", "positive", "zeros", "balanced"], p=[0.5, 0.2, 0.1, 0.1, 0.1])
    if kind == "taught":
        v = r.standard_normal((2, d))
        y = np.maximum(x @ v.T, 0) @ r.choice([-1.0, 1.0], 2)
    elif kind == "positive":
        y = np.abs(y)
    elif kind == "zeros":
        y[r.integers(0, n)] = 0
    elif kind == "balanced":
        y = y - np.mean(y)
    return kind, y if np.any(y) else np.ones(n)


def _start(r, full, targets, m, is_exact):
    q = full.shape[1]
    v = r.integers(-2, 3, (m, q)) / 2.0 if is_exact else r.standard_normal((m, q))
    a = r.choice([-1.0, -0.5, 0.5, 1.0], m) if is_exact else r.standard_normal(m)
    law = r.choice(["free", "balanced", "dominated"], p=[0.45, 0.4, 0.15])
    if law == "balanced":
        a = np.sign(a) * np.linalg.norm(v, axis=1)
    elif law == "dominated":
        a = np.sign(a) * 2 * np.linalg.norm(v, axis=1)
    scale = 10.0 ** r.choice([0.0, r.uniform(-1, 0.3), r.uniform(-30, -1)], p=[0.4, 0.4, 0.2])
    if is_exact:
        scale = 2.0 ** np.round(np.log2(scale))
    v, a = scale * v, scale * a
    sorts = r.choice(
        ["plain", "zero", "dead", "tiny", "twins", "parallel", "antipodal", "silent", "on boundary"], size=m,
        p=[0.52, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06, 0.06],
    )  # fmt: skip
    for j, sort in enumerate(sorts):
        i = int(r.integers(0, m))
        if sort == "zero":
            v[j] = 0
            a[j] *= r.random() < 0.5
        elif sort == "dead":
            v[j] *= -np.sign(full @ v[j]).sum() or 1.0
        elif sort == "tiny":
            factor = 10.0 ** r.uniform(-14, -3)
            v[j], a[j] = factor * v[j], factor * a[j]
        elif sort == "twins":
            v[j], a[j] = v[i], a[i]
        elif sort == "parallel":
            v[j], a[j] = 2 * v[i], 2 * a[i]
        elif sort == "antipodal":
            v[j], a[j] = -v[i], r.choice([-1, 1]) * a[i]
        elif sort == "silent":
            a[j] = 0
        elif sort == "on boundary" and is_exact:
            v[j] = _perpendicular(r, full[r.integers(0, len(full))]) * scale
    degenerate = sorted(set(sorts) - {"plain"})
    return f"{law} {scale:.0e}{' ' if degenerate else ''}{' '.join(degenerate)}", v, a


def _perpendicular(r, row):
    """A vector whose product with `row` is 0 to the last bit, as the entries are small integers."""
    q = len(row)
    if q == 1:
        return np.zeros(1)
    out = np.zeros(q)
    i, j = r.choice(q, 2, replace=False)
    out[i], out[j] = row[j], -row[i]
    return out * r.choice([-1.0, 1.0])


def _end_time(r, problem):
    """From a fraction of the time of growth to long after it, as far as the flow is not too stiff."""
    full, _ = rows(problem)
    n, v, a = len(full), hidden_vectors(problem), problem.amplitudes
    length = np.linalg.norm(full, axis=1)
    y = drive(problem, np.zeros(n)) * n
    growth = np.sum(np.abs(y) * length) / n
    sizes = np.hypot(np.linalg.norm(v, axis=1), a)
    size = np.max(sizes)
    if growth == 0 or size == 0:
        return 10.0
    wait = max(0.0, np.log(1 / size))
    stiff = np.sum(length**2) / n * (np.sum(sizes**2) + 2 * np.max(np.abs(y)) / max(np.max(length), 1e-300))
    time = 10.0 ** r.uniform(-0.5, 1.5) * (1 + wait) / growth
    return float(min(time, 2000 / stiff + 2 * wait / growth))


def variant(problem, seed, number):
    """The same problem in other units, turned, or in another order, and how its outputs follow from the plain one's."""
    r = np.random.default_rng([seed, number, 1])
    kind = r.choice(["same", "targets", "inputs", "turned", "order"])
    if kind == "targets" and problem.criterion == "squared":
        # f → c f for y → c y, θ → √c θ, at t/c
        c = 4.0 ** r.integers(-10, 11)
        return _scaled(problem, np.sqrt(c))._replace(targets=c * problem.targets, end_time=problem.end_time / c), lambda f: c * f
    if kind == "inputs" and problem.biases is None and "amplitudes" in problem.train:
        # f → f for x → s x, θ → θ/√s, at t/s
        s = 4.0 ** r.integers(-10, 11)
        changed = _scaled(problem, 1 / np.sqrt(s))
        return changed._replace(inputs=s * problem.inputs, end_time=problem.end_time / s), lambda f: f
    if kind == "turned":
        turn = (
            np.linalg.qr(r.standard_normal((problem.inputs.shape[1],) * 2))[0]
            if not _has_exact_boundaries(problem)
            else _flip(r, problem)
        )
        return problem._replace(inputs=problem.inputs @ turn, weights=problem.weights @ turn), lambda f: f
    if kind == "order":
        i, j = r.permutation(len(problem.targets)), r.permutation(len(problem.amplitudes))
        return problem._replace(
            inputs=problem.inputs[i],
            targets=problem.targets[i],
            weights=problem.weights[j],
            biases=None if problem.biases is None else problem.biases[j],
            amplitudes=problem.amplitudes[j],
        ), lambda f: f[i]
    return problem, lambda f: f


def _scaled(problem, factor):
    biases = None if problem.biases is None else factor * problem.biases
    return problem._replace(weights=factor * problem.weights, biases=biases, amplitudes=factor * problem.amplitudes)


def _has_exact_boundaries(problem):
    full, _ = rows(problem)
    v = hidden_vectors(problem)
    return bool(np.any((v @ full.T == 0) & (np.linalg.norm(v, axis=1, keepdims=True) > 0) & np.any(full, axis=1)))


def _flip(r, problem):
    d = problem.inputs.shape[1]
    return np.eye(d)[r.permutation(d)] * r.choice([-1.0, 1.0], d)
