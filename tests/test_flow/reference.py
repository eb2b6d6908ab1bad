"""The flow of an empirical loss from event to event, independently of the package: plain NumPy, SciPy's DOP853 between events.

Rows of the data whose (x, 1) are proportional share one boundary and count as one class, with a unit vector u and a factor of
either sign a row. With sides S (±1, or 0 where a neuron slides) everything is a sum over classes: what a class adds to a
neuron's force is P u on its positive side and N u on its negative side, and anything between where the neuron slides. Which way
a neuron goes from several boundaries at once, from boundaries that repel and from the origin is found by following descent
itself, with the forces frozen and steps of one: near such a point the flow has no scale, so that this is descent with steps → 0.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.integrate import DOP853
from scipy.optimize import brentq, minimize_scalar

FRACTIONS = (1 - np.cos(np.linspace(0, np.pi, 18)[1:])) / 2
# what counts as on a boundary, beside the size of a neuron; a multiplier beyond its range, beside the forces
TOUCHES, BEYOND = 1e-12, 1e-10


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


class Reference:
    """One problem on its way."""

    def __init__(self, problem, tolerance):
        self.problem, self.tolerance = problem, tolerance
        self.data = Classes(problem)
        self.amplitudes_move = "amplitudes" in problem.train
        self.v, self.a = hidden_vectors(problem), np.array(problem.amplitudes, float)
        self.m, self.q = self.v.shape
        # neurons that are multiples of one another are carried as one: original neuron j is factor[j] times row group[j]
        self.group, self.factor = np.arange(self.m), np.ones(self.m)
        self.time, self.events, self.slides, self.notes = 0.0, 0, 0, set()
        self.left_origin = np.zeros(self.m, bool)
        self.random = np.random.default_rng(0)
        self.length = None

    def outputs(self, z, a, side):
        """f at the data, from the side each neuron is on; leading axes are kept."""
        data = self.data
        positive = np.einsum("...j,...jc->...c", a, z * (side > 0))
        negative = np.einsum("...j,...jc->...c", a, z * (side < 0))
        return positive @ data.plus + negative @ data.minus

    def forces(self, v, a, side):
        """P and N."""
        rho = drive(self.problem, self.outputs(v @ self.data.units.T, a, side))
        return rho @ self.data.plus.T, rho @ self.data.minus.T

    def field(self):
        data, side, m, q = self.data, self.side, self.m, self.q
        up, down = (side > 0) * 1.0, (side < 0) * 1.0
        live = np.any(self.v != 0, axis=1) | self.left_origin
        holds = [(j, self.projector(j)) for j in range(m) if self.sliding(j).size]

        def velocity(_, u):
            v, a = u[: m * q].reshape(m, q), u[m * q :]
            z = v @ data.units.T
            rho = drive(self.problem, (a @ (z * up)) @ data.plus + (a @ (z * down)) @ data.minus)
            phi = up * (data.plus @ rho) + down * (data.minus @ rho)
            dv = (a * live)[:, None] * (phi @ data.moved)
            for j, p in holds:
                dv[j] = p @ dv[j]
            da = np.sum(phi * z, axis=1) if self.amplitudes_move else np.zeros(m)
            return np.concatenate([dv.ravel(), da])

        return velocity

    def sliding(self, j):
        return np.flatnonzero((self.side[j] == 0) & self.data.moves)

    def projector(self, j):
        k = self.sliding(j)
        basis, singular, _ = np.linalg.svd(self.data.moved[k].T, full_matrices=False)
        basis = basis[:, singular > 1e-10 * singular[0]]
        return np.eye(self.q) - basis @ basis.T

    # -- the start

    def begin(self):
        data = self.data
        z = self.v @ data.units.T
        size = np.linalg.norm(self.v, axis=1, keepdims=True)
        on = (np.abs(z) <= 1e-15 * size) & data.moves
        self.side = np.where(z > 0, 1, np.where(z < 0, -1, data.quiet))
        self.side = np.where(on, data.quiet, self.side)
        trained = np.any(data.moved != 0, axis=0) if len(data.moved) else np.zeros(self.q, bool)
        self.trained = trained
        self.merge()
        for j in range(self.m):
            if np.any(on[j]) and size[j] > 0:
                self.decide_by_descent(j, np.flatnonzero(on[j]), None)
        self.balance = self.a**2 - np.sum(self.v[:, trained] ** 2, axis=1)
        balanced = np.abs(self.balance) <= 1e-12 * self.a**2
        self.balance = np.where(balanced, 0.0, self.balance)

    def merge(self):
        """Carry neurons that are multiples of one another as one."""
        size = np.hypot(np.linalg.norm(self.v, axis=1), np.abs(self.a))
        for i, j in itertools.combinations(range(self.m), 2):
            if not (size[i] > 0 and size[j] > 0 and np.array_equal(self.side[i], self.side[j])):
                continue
            gap = np.abs(np.append(self.v[i], self.a[i]) / size[i] - np.append(self.v[j], self.a[j]) / size[j])
            if np.max(gap) > 1e-14:
                continue
            total = np.hypot(size[i], size[j])
            self.factor[self.group == i] *= size[i] / total
            self.factor[self.group == j] *= size[j] / total
            self.group[self.group == j] = i
            if hasattr(self, "balance"):
                self.balance[i] *= (total / size[i]) ** 2
                self.balance[j] = 0.0
            self.v[i] *= total / size[i]
            self.a[i] *= total / size[i]
            self.v[j] = 0.0
            self.a[j] = 0.0
            size[i], size[j] = total, 0.0

    # -- between events

    def run(self):
        self.begin()
        idle = 0
        while self.time < self.problem.end_time:
            before = self.time
            event = self.smooth()
            if event is None:
                break
            self.happen(*event)
            if idle > 2 and event[2] == "cross":
                self.rest_by_rounding(*event[:2])
            self.events += 1
            idle = idle + 1 if self.time - before <= 1e-14 * self.time else 0
            if idle > 8 and self.hardly_moves():
                self.notes.add("ends by rounding")
                break
            if self.events > 400 or idle > 12 + 4 * self.m:
                raise Unresolved(f"{self.events} events, {idle} without progress")
            self.merge()
        return self.result()

    def result(self):
        # a sliding neuron lies on its boundary
        v, a = self.factor[:, None] * self.v[self.group], self.factor * self.a[self.group]
        outputs = self.outputs(self.v @ self.data.units.T, self.a, self.side)
        loss = loss_of(self.problem, outputs)
        return Flowed(v, a, outputs, loss, self.events, self.slides, frozenset(self.notes))

    def pack(self):
        return np.concatenate([self.v.ravel(), self.a])

    def unpack(self, u):
        return u[..., : self.m * self.q].reshape(*u.shape[:-1], self.m, self.q), u[..., self.m * self.q :]

    def allowed(self, u):
        v, a = self.unpack(u)
        size = np.maximum(np.abs(v).max(axis=1), np.abs(a))
        size = np.where(size > 0, size, 1e-300)
        return self.tolerance * np.concatenate([np.repeat(size, self.q), size])

    def smooth(self):
        """Follow the frozen field to the next event, which is returned, or to the end."""
        u = self.hold(self.pack())
        velocity, end = self.field(), self.problem.end_time
        first = None if self.length is None else min(self.length, end - self.time)
        with np.errstate(all="ignore"):
            solver = DOP853(velocity, self.time, u, end, rtol=1e-13, atol=self.allowed(u), first_step=first)
        count = 0
        while solver.status == "running":
            start = solver.y
            solver.atol = self.allowed(start)
            with np.errstate(all="ignore"):
                message = solver.step()
            count += 1
            self.steps = getattr(self, "steps", 0) + 1
            if solver.status == "failed" or self.steps > 8000:
                raise Unresolved(f"solver: {message}, {self.steps} steps")
            events = self.events_in(solver.dense_output(), solver.t_old, solver.t, start, solver.y)
            if events:
                when, *what = min(events, key=lambda e: e[0])
                at = solver.dense_output()(when) if when > solver.t_old else start
                self.time, self.length = when, solver.h_abs
                self.before = self.unpack(start)[0]
                self.v, self.a = (x.copy() for x in self.unpack(self.hold(at)))
                return what
            held = self.hold(solver.y)
            solver.y, solver.f = held, velocity(solver.t, held)
        self.v, self.a = (x.copy() for x in self.unpack(solver.y))
        self.time = end
        return None

    def hold(self, u):
        """Sliding neurons on their boundaries, conserved balances as they were."""
        v, a = (x.copy() for x in self.unpack(u))
        for j in range(self.m):
            if self.sliding(j).size:
                fixed = v[j] * ~self.trained
                v[j] = np.where(self.trained, self.projector(j) @ v[j], fixed) if not np.any(fixed) else self.onto(v[j], j)
        # a² − |v|², where everything that a neuron is made of moves
        if self.amplitudes_move and np.all(self.trained):
            length = np.linalg.norm(v[:, self.trained], axis=1)
            outer = self.balance >= 0
            right = np.sqrt(np.maximum(length**2 + self.balance, 0))
            a = np.where(outer, np.copysign(right, a), a)
            wanted = np.sqrt(np.maximum(a**2 - self.balance, 0))
            scale = np.where(outer | (length == 0), 1.0, wanted / np.where(length > 0, length, 1.0))
            v[:, self.trained] *= scale[:, None]
        return np.concatenate([v.ravel(), a])

    def onto(self, v, j):
        k = self.sliding(j)
        shift, *_ = np.linalg.lstsq(self.data.gram[np.ix_(k, k)], self.data.units[k] @ v, rcond=1e-10)
        return v - shift @ self.data.moved[k]

    # -- finding events

    def events_in(self, dense, begin, end, start, stop):
        times = begin + FRACTIONS * (end - begin)
        u = dense(times).T
        u[-1] = stop
        v, a = self.unpack(u)
        found = self.crossings(dense, begin, times, start, v)
        for j in range(self.m):
            if self.sliding(j).size:
                found += self.exits(dense, begin, times, j, v, a)
                turned = np.flatnonzero(np.sign(a[:, j]) != np.sign(start[self.m * self.q + j]))
                if turned.size:
                    found.append(
                        self.locate(lambda t, j=j: dense(t)[self.m * self.q + j], begin, times, turned[0], j, None, "turn")
                    )
        return found

    def crossings(self, dense, begin, times, start, v):
        units = self.data.units
        watched = (self.side != 0) & self.data.moves & np.any(self.lively(), axis=1)[:, None]
        margin = np.where(watched, self.side * (v @ units.T), np.inf)
        first = self.side * (self.unpack(start)[0] @ units.T)
        size = np.maximum(np.linalg.norm(v, axis=2).max(axis=0), np.linalg.norm(self.unpack(start)[0], axis=1))
        noise = 1e-14 * size[:, None]
        found = []

        def along(j, c):
            return lambda t: self.side[j, c] * (dense(t)[j * self.q : (j + 1) * self.q] @ units[c])

        for j, c in zip(*np.nonzero(np.any(margin < -noise, axis=0)), strict=True):
            i = int(np.argmax(margin[:, j, c] < -noise[j]))
            found.append(self.bracketed(along(j, c), begin, times, i, first[j, c], margin[:, j, c], j, c))
        # what goes out and comes back between two samples
        low = np.where(watched, np.concatenate([first[None], margin]), 0.0)
        dips = (low[1:-1] < low[:-2]) & (low[1:-1] < low[2:]) & (low[1:-1] > 0)
        deep = dips & (low[1:-1] < 0.3 * np.minimum(low[:-2] - low[1:-1], low[2:] - low[1:-1]))
        ticks = np.concatenate([[begin], times])
        for i, j, c in zip(*np.nonzero(deep), strict=True):
            least = minimize_scalar(
                along(j, c), bounds=(ticks[i], ticks[i + 2]), method="bounded", options={"xatol": 1e-10 * times[-1]}
            )
            if least.fun < -noise[j]:
                root = brentq(along(j, c), ticks[i], least.x, xtol=4 * np.spacing(times[-1]), rtol=1e-15)
                found.append((root, j, c, "cross"))
        return found

    def bracketed(self, function, begin, times, i, first, margin, j, c):
        inside = [p for p in range(i) if margin[p] > 0]
        if inside:
            low = times[inside[-1]]
        elif first > 0 and function(begin) > 0:
            low = begin
        else:
            return begin, j, c, "cross"
        return brentq(function, low, times[i], xtol=4 * np.spacing(max(low, 1e-300)), rtol=1e-15), j, c, "cross"

    def lively(self):
        """Whether a class may move a neuron."""
        data = self.data
        active = ((self.side > 0) & np.any(data.plus, axis=1)) | ((self.side < 0) & np.any(data.minus, axis=1))
        return (active | (self.side == 0)) & (np.any(self.v != 0, axis=1) | self.left_origin)[:, None]

    def multipliers(self, j, v, a):
        """What sliding classes add to the force, and the ends N, P of its range."""
        p, n = self.forces(v, a, self.side)
        k = self.sliding(j)
        gram = self.data.gram
        phi = np.where(self.side[j] > 0, p, 0) + np.where(self.side[j] < 0, n, 0)
        held = -np.linalg.solve(gram[np.ix_(k, k)], (phi @ gram[:, k])[..., None])[..., 0]
        return held, n[..., k], p[..., k]

    def exits(self, dense, begin, times, j, v, a):
        k = self.sliding(j)
        if self.is_dependent(k):
            return self.leaves(dense, begin, times, j, v, a)
        held, n, p = self.multipliers(j, v, a)
        way = -np.sign(self.a[j])
        found = []
        for c in range(k.size):
            for bound, margin in ((-1, way * (held - n)[:, c]), (1, way * (p - held)[:, c])):
                noise = BEYOND * (np.abs(n) + np.abs(p) + np.abs(held))[:, c] + self.data.noise[k[c]]
                beyond = np.flatnonzero(margin < -noise)
                if beyond.size:

                    def at(t, c=c, bound=bound):
                        held, n, p = self.multipliers(j, *self.unpack(dense(t)))
                        return way * ((held - n) if bound < 0 else (p - held))[c]

                    found.append(self.locate(at, begin, times, beyond[0], j, k[c], "minus" if bound < 0 else "plus"))
        return found

    def is_dependent(self, k):
        return np.linalg.matrix_rank(self.data.moved[k], tol=1e-10) < k.size

    def rays(self, k):
        """The rays of the arrangement of the boundaries `k`, in the span of their normals: unit vectors, rows."""
        _, singular, basis = np.linalg.svd(self.data.moved[k], full_matrices=False)
        basis = basis[singular > 1e-10 * singular[0]]
        if len(basis) == 1:
            return np.concatenate([basis, -basis])
        found = []
        for few in itertools.combinations(k, len(basis) - 1):
            _, singular, right = np.linalg.svd(self.data.moved[list(few)] @ basis.T)
            if singular[-1] > 1e-10:
                found += [right[-1] @ basis, -right[-1] @ basis]
        return np.array(found)

    def steepness(self, j, k, rays, v, a):
        """The least slope, over the rays, of what a neuron at rest on the boundaries `k` descends."""
        p, n = self.forces(v, a, self.side)
        rest = np.where(self.side[j] > 0, p, 0) + np.where(self.side[j] < 0, n, 0)
        along = rays @ self.data.units[k].T
        gain = (rest @ self.data.moved) @ rays.T + p[..., k] @ np.maximum(along, 0).T - n[..., k] @ np.maximum(-along, 0).T
        scale = (np.abs(rest) @ np.abs(self.data.moved)).sum(-1) + np.abs(p[..., k]).sum(-1) + np.abs(n[..., k]).sum(-1)
        return np.min(-np.sign(a[..., j])[..., None] * gain, axis=-1), scale

    def leaves(self, dense, begin, times, j, v, a):
        k = self.sliding(j)
        rays = self.rays(k)
        slope, scale = self.steepness(j, k, rays, v, a)
        beyond = np.flatnonzero(slope < -1e-7 * scale - np.max(self.data.noise))
        if not beyond.size:
            return []
        return [
            self.locate(
                lambda t: self.steepness(j, k, rays, *self.unpack(dense(t)))[0], begin, times, beyond[0], j, None, "leave"
            )
        ]

    def locate(self, function, begin, times, i, j, c, kind):
        low = begin if i == 0 else times[i - 1]
        left, right = function(low), function(times[i])
        if np.sign(left) == np.sign(right) or left == 0:
            return low, j, c, kind
        return brentq(function, low, times[i], xtol=4 * np.spacing(max(low, 1e-300)), rtol=1e-15), j, c, kind

    # -- deciding

    def happen(self, j, c, kind):
        old = self.side[j].copy()
        if kind == "turn":
            self.notes.add("turn while sliding")
            k = self.sliding(j)
            self.side[j, k] = self.data.quiet[k]
            return
        if kind == "leave":
            self.leave(j)
            return
        if kind != "cross":
            self.side[j, c] = 1 if kind == "plus" else -1
            return
        data, k = self.data, self.sliding(j)
        touching = np.append(k, c)
        incoming = self.force(j)
        if np.linalg.norm(incoming) <= 100 * abs(self.a[j]) * np.max(data.noise):
            self.notes.add("rests by rounding")
            self.side[j, c] = 0
            return
        v = self.v[j].copy()
        shift, *_ = np.linalg.lstsq(data.gram[np.ix_(touching, touching)], data.units[touching] @ v, rcond=1e-10)
        v = v - shift @ data.moved[touching]
        size = max(np.linalg.norm(v), np.linalg.norm(self.before[j]))
        near = (np.abs(data.units @ v) <= TOUCHES * size) & data.moves
        near[touching] = True
        if np.linalg.norm(v) <= TOUCHES * size:
            self.notes.add("origin")
            self.left_origin[j] = True
            v = np.zeros_like(v)
        self.v[j] = v
        if np.sum(near) == touching.size and not self.is_dependent(touching) and self.decide(j, c, k):
            pass
        else:
            self.side[j] = old
            self.decide_by_descent(j, np.flatnonzero(near), incoming)
        self.slides += int(np.sum((self.side[j] == 0) & (old != 0)))

    def force(self, j):
        p, n = self.forces(self.v, self.a, self.side)
        phi = np.where(self.side[j] > 0, p, 0) + np.where(self.side[j] < 0, n, 0)
        k = self.sliding(j)
        out = self.a[j] * (phi @ self.data.moved)
        return self.projector(j) @ out if k.size else out

    def attracting(self, j, classes, p, n):
        return self.a[j] * (p - n)[classes] < 0

    def decide(self, j, c, k):
        """One class is met, `k` slide already. Whether what the least-norm element says agrees with itself."""
        p, n = self.forces(self.v, self.a, np.where(np.arange(self.m)[:, None] == j, self.side, self.side))
        if not np.all(self.attracting(j, k, p, n)):
            return False
        held = k
        if self.attracting(j, np.array([c]), p, n)[0]:
            held = np.append(k, c)
        else:
            self.side[j, c] = -self.side[j, c]
        velocity = self.least_norm(j, held, p, n)
        return held.size > k.size or self.side[j, c] * (self.data.units[c] @ velocity) > 0

    def least_norm(self, j, held, p, n):
        """The least-norm element over the multipliers of `held`, which are set; the velocity."""
        data, a = self.data, self.a[j]
        rest = np.where(self.side[j] > 0, p, 0) + np.where(self.side[j] < 0, n, 0)
        rest[held] = 0
        if held.size > 6:
            raise Unresolved("too many boundaries at once")
        base = a * ((rest @ data.moved) + n[held] @ data.moved[held])
        columns = (a * (p - n)[held])[:, None] * data.moved[held]
        best, least = None, np.inf
        scale = np.linalg.norm(base) + np.linalg.norm(columns)
        for pattern in sorted(itertools.product((0, 1, 2), repeat=held.size), key=lambda x: x.count(2)):
            pattern = np.array(pattern, int)
            s, free = (pattern == 1) * 1.0, pattern == 2
            if np.any(free):
                s[free], *_ = np.linalg.lstsq(columns[free].T, -(base + s @ columns), rcond=None)
            velocity = base + s @ columns
            rate = data.units[held] @ velocity
            off = np.select([pattern == 0, pattern == 1], [rate, -rate], np.maximum(-s, s - 1) * np.linalg.norm(columns, axis=1))
            fault = max(np.max(off, initial=0.0), np.max(np.abs(rate[free]), initial=0.0))
            if best is None or fault < least - 1e-14 * scale:
                best, least = (pattern, velocity), fault
        pattern, velocity = best
        self.side[j, held] = np.select([pattern == 2, pattern == 1], [0, 1], -1)
        return velocity

    def hardly_moves(self):
        u = self.pack()
        left = self.allowed(u) / self.tolerance
        return np.max(np.abs(self.field()(0.0, u)) / left) * (self.problem.end_time - self.time) < 1e-6

    def rest_by_rounding(self, j, c):
        """A boundary that is met again and again without progress: nothing but rounding drives the neuron to it."""
        p, n = self.forces(self.v, self.a, self.side)
        self.notes.add("rests by rounding")
        self.side[j, c] = 0 if self.attracting(j, np.array([c]), p, n)[0] else -self.side[j, c]

    def leave(self, j):
        """Off boundaries on which a neuron could rest, along the rays that have come to lead down."""
        k = self.sliding(j)
        rays = self.rays(k)
        down = np.array([self.steepness(j, k, rays[i : i + 1], self.v, self.a)[0] for i in range(len(rays))])
        p, n = self.forces(self.v, self.a, self.side)
        rest = np.where(self.side[j] > 0, p, 0) + np.where(self.side[j] < 0, n, 0)
        ends = {tuple(self.one_descent(j, k, rest, p, n, ray=ray)) for ray in rays[down < 0.5 * np.min(down)]}
        if len(ends) != 1:
            raise Unresolved("descent may leave several ways")
        self.side[j, k] = ends.pop()

    def decide_by_descent(self, j, touching, incoming):
        """Descent with frozen forces, in steps of one, from far along the way in; from the point itself at a start."""
        p, n = self.forces(self.v, self.a, self.side)
        rest = np.where(self.side[j] > 0, p, 0) + np.where(self.side[j] < 0, n, 0)
        rest[touching] = 0
        if self.a[j] == 0 and self.amplitudes_move:
            # the sign it is about to have
            self.a[j] = 1e-100 * np.sign(rest @ (self.data.units @ self.v[j]))
            if self.a[j] == 0:
                self.side[j, touching] = self.data.quiet[touching]
                return
            self.decide_by_descent(j, touching, incoming)
            self.a[j] = 0.0
            return
        self.notes.add("descent decides")
        starts = [None] if incoming is None else range(5)
        ends = {tuple(self.one_descent(j, touching, rest, p, n, incoming)) for _ in starts}
        if len(ends) > 1 and len({tuple(self.side_velocity(j, touching, end, rest, p, n)) for end in ends}) > 1:
            raise Unresolved("descent has no limit")
        self.side[j, touching] = max(ends, key=lambda end: end.count(0))
        held = touching[self.side[j, touching] == 0]
        if held.size:
            if self.is_dependent(held):
                self.notes.add("rests on dependent boundaries")
            elif not np.all(self.attracting(j, held, p, n)):
                raise Unresolved("descent stays where it is repelled")
            else:
                self.least_norm(j, held, p, n)

    def side_velocity(self, j, touching, end, rest, p, n):
        end, moved = np.array(end), self.data.moved
        phi = rest.copy()
        phi[touching] = np.select([end > 0, end < 0], [p[touching], n[touching]], 0)
        force, held = phi @ moved, moved[touching[end == 0]]
        scale = np.linalg.norm(np.concatenate([p, n])) or 1.0
        if len(held):
            force = force - np.linalg.pinv(held, rcond=1e-10) @ (held @ force)
        return np.round(force / scale, 9) + 0.0

    def one_descent(self, j, touching, rest, p, n, incoming=None, ray=None, away=300, after=3000):
        data, a = self.data, self.a[j]
        units, moved = data.units[touching], data.moved[touching]
        gram, base = a * (units @ moved.T), a * (units @ (rest @ data.moved))
        up, down = p[touching], n[touching]
        largest = np.abs(base) + np.abs(gram) @ (np.abs(up) + np.abs(down))
        if not np.any(largest):
            return data.quiet[touching]
        z, steps, middle = np.zeros(touching.size), after, None
        if incoming is not None:
            speed = np.linalg.norm(incoming) or np.max(largest)
            offset = self.random.uniform(-1, 1, self.q) * speed * self.trained
            z, steps = units @ (offset - away * incoming), away + after
        if ray is not None:
            z = 1000 * np.max(largest) * (units @ ray)
        for step in range(steps):
            if step == steps - after // 2:
                middle, lowest, highest = z, z, z
            if middle is not None:
                lowest, highest = np.minimum(lowest, z), np.maximum(highest, z)
            change = base + gram @ (up * (z > 0) + down * (z < 0))
            if not np.any(change):
                break
            z = z + change
        if not np.any(change):
            if np.any((z == 0) & data.both[touching]):
                raise Unresolved("rests on a boundary with data on either side")
            return np.where(z > 0, 1, np.where(z < 0, -1, data.quiet[touching]))
        if ray is not None:
            return np.where(np.abs(z) > 10 * np.max(largest), np.sign(z).astype(int), 0)
        drifts = np.abs(z - middle) > 4 * largest
        stays = (lowest > 0) | (highest < 0)
        held = np.where(np.abs(z) > 1e-13 * largest, 0, data.quiet[touching])
        return np.where(drifts | stays, np.sign(z).astype(int), held)


def flow(problem, *, tolerance=1e-11):
    """The end of the flow; raises `Unresolved`."""
    return Reference(problem, tolerance).run()
