"""Flows with friction through the kinks of an empirical loss: `θ'' = −γ(t) θ' + F`, F an element of −∂L (Clarke 1983).

Inside one activation state the force is smooth. Velocities are continuous: a neuron that meets the boundary of a datum goes on
through it, and only its force changes, by `a ρ x̃` along the normal. Where the forces on both sides push it back it comes again:
it oscillates about the boundary, with speed u at the boundary and forces F₊ and F₋ along the normal for the times 2u/F₊ and
2u/F₋ on its two sides, up to u²/2F away from it. Friction takes a third of γ off u in unit time, so that what is left of the
oscillation is ever faster and smaller, without end. The force that it feels on average weighs the sides by those times, as
does the force of a neuron that slides along the boundary, the one of least norm. Normal forces do not move it along the
boundary, and outputs depend on the oscillation through u² alone: an oscillation whose excursions are within the tolerance of
positions is taken as a slide, with an error of that size. The slide ends where its multiplier leaves [0, 1].

Source of the sliding law: Filippov 1988, section 4; of mechanical systems with unilateral forces: Brogliato 2016, section 2.
"""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..network import ShallowReLU
from ..parallel import branch
from .crossings import ACTIVE, CROSSING, INACTIVE, NONE, TURN, Event, Slack, first_event
from .inclusion import Activation, Inclusion
from .integrate import RUNNING
from .pieces import Piece, dense_weights, fitted, horner
from .record import Recorder, Records
from .sliding import boundary_width, decide, first_activation
from .status import FlowStatus
from .steppers import combine, one_tableau

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0
# events without progress in time, one after another, before a trajectory counts as stuck: so many and so many a neuron
_PATIENCE, _PATIENCE_PER_NEURON = 64, 4


class Motion(NamedTuple):
    """Hidden vectors and amplitudes, and their velocities."""

    hidden: Float[Array, "m q"]
    amplitudes: Float[Array, " m"]
    hidden_speed: Float[Array, "m q"]
    amplitude_speed: Float[Array, " m"]


class Moved(NamedTuple):
    """Where a flow with friction stopped, why, and what it cost."""

    network: ShallowReLU
    time: Array
    status: Array
    steps: Array
    rejected: Array
    kinks: Array
    slides: Array
    records: Records


class _Carry(NamedTuple):
    time: Array
    motion: Motion
    activation: Activation
    length: Array
    idle: Array
    status: Array
    steps: Array
    rejected: Array
    kinks: Array
    slides: Array
    records: Records


class Inertia(eqx.Module):
    """Flows with friction of networks laid out like one template on one empirical loss.

    **Arguments:**

    - `friction`: γ, or with `vanishing` the r of γ = r/t.
    - `rtol`, `atol`: of positions and velocities, in root mean square.
    """

    inclusion: Inclusion
    recorder: Recorder
    friction: Array
    rtol: Array
    atol: Array
    vanishing: bool = eqx.field(static=True)
    solver: diffrax.AbstractERK = diffrax.Tsit5()

    def follow(self, start: ShallowReLU, begins: Array, end_time: Array, max_steps: Array) -> Moved:
        """The flow from rest at time 0; where friction is r/t it is taken up at `begins`, with what it has moved by then."""
        carry = self._begin(start, begins)
        carry = jax.lax.while_loop(
            lambda carry: carry.status == RUNNING, lambda carry: self._advance(start, carry, end_time, max_steps), carry
        )
        network = self.inclusion.network(self._state(carry.motion, carry.activation), start)
        records = self.recorder.finish(carry.records, network, carry.status)
        return Moved(
            network, carry.time, carry.status, carry.steps, carry.rejected, carry.kinks, carry.slides, records
        )  # fmt: skip

    def _begin(self, start, begins):
        inclusion = self.inclusion
        state = inclusion.state(start)
        activation, undecided = first_activation(inclusion, state)
        at_rest = Motion(state.hidden, state.amplitudes, jnp.zeros_like(state.hidden), jnp.zeros_like(state.amplitudes))

        def decide_on(neuron, activation):
            touching = (jnp.abs(state.z[neuron]) <= boundary_width(inclusion, state)[neuron]) & (jnp.diag(inclusion.gram) > 0)
            return branch(
                undecided[neuron], lambda: decide(inclusion, state, activation, neuron, touching)[1], lambda: activation
            )

        activation = jax.lax.fori_loop(0, len(state.amplitudes), decide_on, activation)
        records = self.recorder.begin(start)
        records = self.recorder.save_until(records, begins, lambda time, now: (start, now))
        nothing, motion = jnp.asarray(0), at_rest
        if self.vanishing:
            pull = self._slope(jnp.ones_like(begins), at_rest, activation)
            motion = jax.tree.map(jnp.add, at_rest, Motion(*self._first_motion(pull, begins)))
        size = jnp.sqrt(sum(jnp.sum(x**2) for x in motion[:2]))
        pull = jnp.sqrt(sum(jnp.sum(x**2) for x in self._slope(jnp.maximum(begins, 1.0), at_rest, activation)[2:]))
        length = 0.01 * jnp.sqrt(size / jnp.where(pull > 0, pull, 1.0))
        length = jnp.where((pull > 0) & (size > 0), length, 1.0)
        running, slides = jnp.asarray(RUNNING), activation.slides
        return _Carry(begins, motion, activation, length, nothing, running, nothing, nothing, nothing, slides, records)

    def _first_motion(self, pull, time):
        """`θ'' = F/(1 + r)` at the start of a flow with friction r/t."""
        moved = [force * time**2 / (2 * (1 + self.friction)) for force in pull[2:]]
        speeds = [force * time / (1 + self.friction) for force in pull[2:]]
        return *moved, *speeds

    def _state(self, motion, activation):
        state = self.inclusion.at(motion.hidden, motion.amplitudes)
        return state._replace(z=jnp.where(activation.sliding, 0.0, state.z))

    def _slope(self, time, motion, activation):
        """The derivative of a motion."""
        rates = self.inclusion.rates(motion.hidden @ self.inclusion.inputs.T, motion.amplitudes, activation)
        hidden, amplitudes = self.inclusion.velocity(rates)
        friction = self.friction / time if self.vanishing else self.friction
        return Motion(
            motion.hidden_speed,
            motion.amplitude_speed,
            hidden - friction * motion.hidden_speed,
            amplitudes - friction * motion.amplitude_speed,
        )

    def _advance(self, template, carry, end_time, max_steps):
        left = end_time - carry.time
        is_last = carry.length >= left
        length = jnp.where(is_last, left, carry.length)
        rows, error = self._step(carry, length)
        slack = Slack.at(self.inclusion, self._state(carry.motion, carry.activation), carry.activation)
        event = first_event(self.inclusion, carry.activation, self._piece(carry, rows, length), slack)[0]
        accepted = error <= 1
        happens = accepted & (event.kind != NONE)
        gone = jnp.where(accepted, event.theta * length, 0.0)
        time = jnp.where(accepted & is_last & ~happens, end_time, carry.time + gone)
        motion = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), _at(rows, event.theta), carry.motion)

        def network_at(time, now):
            motion = _at(rows, (time - carry.time) / length)
            return self.inclusion.network(self._state(motion, carry.activation), template), now

        records = self.recorder.save_until(carry.records, jnp.where(accepted, time, -1.0), network_at)
        factor = jnp.clip(_SAFETY * jnp.maximum(error, 1e-10) ** -0.2, _SHRINK, _GROW)
        # what an event cuts off says nothing against the length
        following = jnp.where(
            jnp.isfinite(error), length * jnp.where(accepted, factor, jnp.minimum(factor, 0.9)), _SHRINK * length
        )
        after = carry._replace(
            time=time,
            motion=motion,
            length=jnp.where(is_last & accepted, jnp.maximum(following, carry.length), following),
            idle=jnp.where(happens & (gone <= 1e-13 * time), carry.idle + 1, 0),
            steps=carry.steps + 1,
            rejected=carry.rejected + ~accepted,
            kinks=carry.kinks + happens,
            records=records,
        )
        after = branch(happens, lambda: self._meet(after, event), lambda: after)
        return after._replace(status=self._status(after, end_time, max_steps))

    def _status(self, carry, end_time, max_steps):
        status = jnp.asarray(RUNNING)
        status = jnp.where(carry.time + carry.length <= carry.time, FlowStatus.STEP_TOO_SMALL, status)
        status = jnp.where(carry.steps >= max_steps, FlowStatus.STEP_LIMIT, status)
        patience = _PATIENCE + _PATIENCE_PER_NEURON * carry.motion.amplitudes.size
        status = jnp.where(carry.idle > patience, FlowStatus.STUCK_SLIDING, status)
        status = jnp.where(carry.time >= end_time, FlowStatus.END_TIME, status)
        finite = jnp.stack([jnp.all(jnp.isfinite(part)) for part in carry.motion])
        return jnp.where(jnp.all(finite), status, FlowStatus.DIVERGED)

    def _step(self, carry, length):
        """The polynomials of one step in its fraction, and its error over what is allowed."""
        tableau, begin = one_tableau(self.solver), carry.motion
        stages = [self._slope(carry.time, begin, carry.activation)]
        for c, row in zip(tableau.c, tableau.a_lower, strict=True):
            inner = jax.tree.map(lambda start, *slopes, row=row: start + length * combine(row, slopes), begin, *stages)
            stages.append(self._slope(carry.time + float(c) * length, inner, carry.activation))
        weights = jnp.asarray(np.array(dense_weights(self.solver)), length.dtype)

        def polynomial(start, *slopes):
            rows = length * jnp.tensordot(weights, jnp.stack(slopes), 1)
            return rows.at[0].add(start)

        rows = jax.tree.map(polynomial, begin, *stages)
        end = _at(rows, 1.0)
        errors = jax.tree.map(lambda *slopes: length * combine(tableau.b_error, slopes), *stages)
        ratios = [
            (error / (self.atol + self.rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)))).reshape(-1)
            for error, a, b in zip(errors, begin, end, strict=True)
        ]
        error = jnp.sqrt(jnp.mean(jnp.concatenate(ratios) ** 2))
        return rows, jnp.where(jnp.isfinite(error), error, jnp.inf)

    def _piece(self, carry, rows, length):
        """What `first_event` looks at."""
        inclusion, sliding = self.inclusion, carry.activation.sliding
        # outputs, and so the pull of the squared error, have twice the degree
        z, amplitudes = (
            [*part, *[jnp.zeros_like(part[0])] * (len(part) - 1)]
            for part in (
                [jnp.where(sliding, 0.0, row @ inclusion.inputs.T) for row in rows.hidden],
                list(rows.amplitudes),
            )
        )

        def pull(x):
            return inclusion.rho(inclusion.outputs(horner(z, x), horner(amplitudes, x), carry.activation.active))

        one = jnp.ones_like(length)
        # in units of its length; nothing asks for the coefficients
        return Piece(one, one, z, amplitudes, fitted(pull, len(z)), [], one, jnp.asarray(0))

    def _meet(self, carry, event: Event):
        """The motion and activation after an event of one neuron."""
        inclusion, activation, neuron = self.inclusion, carry.activation, event.neuron
        state = self._state(carry.motion, activation)
        row, speeds = activation.sliding[neuron], inclusion.inputs @ carry.motion.hidden_speed[neuron]
        met = event.kind == CROSSING
        touching = (jnp.abs(state.z[neuron]) <= boundary_width(inclusion, state)[neuron]) & ~row & (jnp.diag(inclusion.gram) > 0)
        # all data whose boundary is the same are met at once
        touching = met & touching.at[event.place].set(True, mode="drop")
        touching = touching & _alike(inclusion, event.place)
        upward = self._upward(activation, neuron, speeds, touching)
        rests = self._chatters(carry, state, neuron, touching, upward, speeds)
        ended = activation.held[neuron, jnp.minimum(event.place, inclusion.capacity - 1)]
        leaves = jnp.where(touching & ~rests, upward, -1.0)
        ends = (event.kind == INACTIVE) | (event.kind == ACTIVE)
        leaves = jnp.where(ends, leaves.at[ended].set(jnp.where(event.kind == ACTIVE, 1.0, 0.0)), leaves)
        # where the amplitude changes sign both sides push away, and relu'(0) = 0 decides
        leaves = jnp.where((event.kind == TURN) & row, 0.0, leaves)
        arrives = jnp.where(met & rests, event.place, -1)
        state, after = decide(inclusion, state, activation, neuron, row | (touching & rests), arrives, leaves)
        index = after.held[neuron]
        hidden_speed = carry.motion.hidden_speed
        off = after.inverse[neuron] @ (inclusion.inputs @ hidden_speed[neuron])[index]
        hidden_speed = hidden_speed.at[neuron].add(-off @ inclusion.moved[index])
        motion = Motion(state.hidden, state.amplitudes, hidden_speed, carry.motion.amplitude_speed)
        slides = carry.slides + jnp.sum(after.sliding & ~activation.sliding)
        return carry._replace(motion=motion, activation=after, slides=slides)

    def _upward(self, activation, neuron, speeds, touching) -> Float[Array, " n"]:
        """1 for data on which the neuron is active after it has met their boundary."""
        now = activation.active[neuron]
        return jnp.where(touching, jnp.where(speeds > 0, 1.0, jnp.where(speeds < 0, 0.0, 1.0 - now)), now)

    def _chatters(self, carry, state, neuron, touching, after, speeds) -> Bool[Array, ""]:
        """Whether forces on both sides of a boundary push back so strongly that excursions are within the tolerance."""
        inclusion, activation = self.inclusion, carry.activation

        def normal(row):
            there = activation._replace(active=activation.active.at[neuron].set(row))
            return inclusion.rates(state.z, state.amplitudes, there).z[neuron]

        before = jnp.where(touching, 1.0 - after, activation.active[neuron])
        side = 2 * after - 1
        back, forth = -side * normal(after), side * normal(before)
        weaker = jnp.minimum(back, forth)
        lengths = jnp.linalg.norm(inclusion.inputs, axis=1)
        size = jnp.linalg.norm(state.hidden[neuron])
        allowed = (self.rtol * size + self.atol) * lengths
        small = (weaker > 0) & (speeds**2 <= 2 * weaker * allowed)
        return jnp.any(touching) & jnp.all(small | ~touching)


def _alike(inclusion, datum):
    """The data whose boundary is that of one of them: inputs along one line."""
    place = jnp.minimum(datum, len(inclusion.gram) - 1)
    lengths = jnp.linalg.norm(inclusion.inputs, axis=1)
    products = inclusion.inputs @ inclusion.inputs[place]
    apart = inclusion.inputs * lengths[place] ** 2 - products[:, None] * inclusion.inputs[place]
    return (jnp.linalg.norm(apart, axis=1) <= 1e-13 * lengths * lengths[place] ** 2) | (jnp.arange(len(lengths)) == place)


def _at(rows: Any, fraction) -> Motion:
    """The motion at a fraction of a step."""
    return Motion(*(horner(list(part), fraction) for part in rows))
