"""Which side of a boundary a neuron takes, or whether it slides: least-norm elements, and descent with frozen forces."""

import itertools

import numpy as np
from small_flows import Unresolved

# what counts as on a boundary, beside the size of a neuron
TOUCHES = 1e-12


class Decisions:
    """The part of a reference that decides at events; `sliding`, `projector`, `forces` and the state are the reference's."""

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
