"""The flow of an empirical loss from event to event, independently of the package: plain NumPy, SciPy's DOP853 between events.

Rows of the data whose (x, 1) are proportional share one boundary and count as one class, with a unit vector u and a factor of
either sign a row. With sides S (±1, or 0 where a neuron slides) everything is a sum over classes: what a class adds to a
neuron's force is P u on its positive side and N u on its negative side, and anything between where the neuron slides. Which way
a neuron goes from several boundaries at once, from boundaries that repel and from the origin is found by following descent
itself, with the forces frozen and steps of one: near such a point the flow has no scale, so that this is descent with steps → 0.
"""

import itertools

import numpy as np
from boundary_decisions import Decisions
from scipy.integrate import DOP853
from scipy.optimize import brentq, minimize_scalar
from small_flows import Classes, Flowed, Unresolved, drive, hidden_vectors, loss_of

FRACTIONS = (1 - np.cos(np.linspace(0, np.pi, 18)[1:])) / 2
# a multiplier counts as beyond its range by so much of the forces
BEYOND = 1e-10


class Reference(Decisions):
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


def flow(problem, *, tolerance=1e-11):
    """The end of the flow; raises `Unresolved`."""
    return Reference(problem, tolerance).run()
