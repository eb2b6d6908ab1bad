"""Integration of one network's flow through its kinks: each crossing, slide and exit is located and the state changed there."""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ..network import ShallowReLU, ravel
from ..parallel import branch
from .alignment import Aligned, align
from .crossings import ACTIVE, CROSSING, INACTIVE, NONE, TURN, Event, Slack, first_event
from .field import Field
from .finish import finish, on_the_way, way_to_the_end
from .inclusion import Activation, Inclusion, State
from .integrate import RUNNING, Limits, first_length
from .pieces import AbstractPieces
from .record import EventLog, Recorder, Records
from .relaxation import relax
from .sliding import decide, first_activation, on_boundaries, on_one_ray, onto_boundary, slides_too_often
from .status import FlowStatus
from .tail import Tail

# events without progress in time, one after another, before a trajectory counts as stuck: so many and so many a neuron, as
# neurons that have gathered in one direction leave a boundary together
_PATIENCE, _PATIENCE_PER_NEURON = 64, 4
# a step that ends in an event is checked for convergence once in so many
_CHECKED = 16
# A finish has an error of third order in what is left to go, and is tried from this many times the cube root of the tolerance
# on, and again at this share of the gradient norm. What is recorded on the way is right to first order: that waits for this
# many times the tolerance.
_FINISH, _AGAIN, _RECORDS = 0.05, 0.3, 10.0


class LocatedEnd(NamedTuple):
    """Where a trajectory stopped, why, and what it cost."""

    state: State
    activation: Activation
    time: Array
    gradient_norm: Array
    status: Array
    steps: Array
    rejected: Array
    evaluations: Array
    kinks: Array
    slides: Array
    finish_distance: Array
    finish_conditioning: Array
    records: Records
    log: EventLog


class _Pending(NamedTuple):
    """Neurons whose activation is to be decided: at an event one, at the start all that lie on boundaries.

    `event` is what happened.
    """

    neurons: Bool[Array, " m"]
    event: Event


class _Trial(NamedTuple):
    """What a step proposes: the state at its event, or at its end when there is none."""

    state: State
    event: Event
    gone: Array
    accepted: Array
    evaluations: Array
    length: Array
    records: Records


class Located(eqx.Module):
    """The integration of networks laid out like one template on one empirical loss.

    **Arguments:**

    - `pieces`: how the smooth flow between events is followed.
    - `aligns`: whether small starts are brought in closed form to where they are small no longer; the events on that way have
      no order between neurons and are not kept.
    - `relaxes`: whether relaxation goes on from there while kinks are dense.
    - `finishes`: whether the last stretch may be solved for.
    - `log_size`: how many events are kept.
    """

    inclusion: Inclusion
    field: Field
    pieces: AbstractPieces
    recorder: Recorder
    aligns: bool = eqx.field(static=True)
    relaxes: bool = eqx.field(static=True)
    finishes: bool = eqx.field(static=True)
    log_size: int = eqx.field(static=True)

    def integrate(self, start: ShallowReLU, limits: Limits) -> LocatedEnd:
        """Follow the flow until it settles, reaches its end time, gets stuck, diverges or has made `max_steps` steps."""
        begin = self._start(start, jnp.zeros((), jnp.asarray(start.weights).dtype))
        records = self.recorder.begin(start)
        if self.aligns:
            begin, records = self._align(start, begin, records, limits)
        return self._run(start, limits, begin, records, jnp.asarray(RUNNING))

    def resume(self, start: ShallowReLU, limits: Limits, time, records: Records, status) -> LocatedEnd:
        """The same from a later time on, for a flow that came to `start` by stepping over kinks. Ends at once unless `status`
        says that it runs."""
        return self._run(start, limits, self._start(start, time), records, status)

    def _start(self, start, time):
        state, nothing = self.inclusion.state(start), jnp.asarray(0)
        return Aligned(time, state, *first_activation(self.inclusion, state), nothing, nothing, nothing)

    def _align(self, start, begin, records, limits):
        """The early phase, from save time to save time: in closed form, then by relaxation."""
        tolerance = limits.rtol + limits.atol

        def in_closed_form(begin, until):
            further = align(self.inclusion, begin, until, tolerance)
            return further, further.time >= until

        def by_relaxation(begin, until):
            further, is_early = relax(self.inclusion, begin, until, tolerance)
            return further, is_early & (further.time >= until)

        begin, records = self._until_late(in_closed_form, start, begin, records, limits)
        # its windows are too long for the time at which the loss passes a level
        if self.recorder.levels.size or not self.relaxes:
            return begin, records
        return self._until_late(by_relaxation, start, begin, records, limits)

    def _until_late(self, follow, start, begin, records, limits):
        """What `follow` makes of the early phase, until it says that this is over."""

        def advance(carry):
            begin, records, _ = carry
            until = jnp.minimum(self.recorder.next_time(records), limits.end_time)
            further, is_early = follow(begin, until)
            network = self.inclusion.network(further.state, start)
            records = self.recorder.record(records, begin.time, further.time, lambda _: network)
            return further, records, is_early & (until < limits.end_time)

        return jax.lax.while_loop(lambda carry: carry[2], advance, (begin, records, jnp.asarray(True)))[:2]

    def _run(self, start, limits, begin, records, status):
        carry = self._begin(start, limits, begin, records, status)

        def to_next_event(carry):
            return jax.lax.while_loop(
                lambda carry: (carry.status == RUNNING) & ~jnp.any(carry.pending.neurons),
                lambda carry: self._advance(start, carry, limits),
                carry,
            )

        def decide_all(carry):
            return jax.lax.while_loop(
                lambda carry: (carry.status == RUNNING) & jnp.any(carry.pending.neurons),
                lambda carry: self._decide(start, carry, limits),
                carry,
            )

        carry = jax.lax.while_loop(lambda carry: carry.status == RUNNING, lambda carry: to_next_event(decide_all(carry)), carry)
        return LocatedEnd(
            state=carry.state,
            activation=carry.activation,
            time=carry.time,
            gradient_norm=_length(*self._velocity(carry)),
            status=carry.status,
            steps=carry.steps,
            rejected=carry.rejected,
            evaluations=carry.evaluations,
            kinks=carry.kinks,
            slides=carry.slides,
            finish_distance=carry.finish_distance,
            finish_conditioning=carry.finish_conditioning,
            records=carry.records,
            log=carry.log,
        )

    def _begin(self, start, limits, begin, records, status):
        time, nothing, vector = begin.time, jnp.asarray(0), ravel(start)
        tolerance = limits.rtol + limits.atol
        carry = _Carry(
            time=time,
            state=begin.state,
            activation=begin.activation,
            pending=_Pending(begin.undecided, Event(time, nothing + NONE, nothing, nothing)),
            length=first_length(self.field, vector, self.field(vector)),
            tail=Tail.begin(time.dtype),
            idle=nothing,
            finish_below=jnp.maximum(_FINISH * jnp.cbrt(tolerance), _RECORDS * tolerance),
            finish_distance=jnp.zeros_like(time),
            finish_conditioning=jnp.full_like(time, jnp.nan),
            status=status,
            steps=nothing,
            rejected=nothing,
            evaluations=begin.sweeps,
            kinks=begin.kinks,
            slides=begin.slides,
            records=records,
            log=EventLog.begin(self.log_size, time.dtype),
        )
        # a network that starts settled must not take one step
        running = (status == RUNNING) & ~jnp.any(begin.undecided)
        return carry._replace(status=jnp.where(running, self._status(start, carry, limits), status))

    def _decide(self, template, carry, limits):
        """The new activation of one pending neuron."""
        inclusion, event = self.inclusion, carry.pending.event
        neuron = jnp.argmax(carry.pending.neurons)
        crosses = event.kind == CROSSING
        state = branch(crosses, lambda: onto_boundary(inclusion, carry.state, neuron, event.place), lambda: carry.state)
        row = carry.activation.sliding[neuron]
        touching = on_boundaries(inclusion, state, carry.activation)[neuron]
        touching = jnp.where(crosses, touching.at[event.place].set(True), touching)
        leaves = jnp.full_like(state.z[neuron], -1.0)
        ended = carry.activation.held[neuron, jnp.minimum(event.place, inclusion.capacity - 1)]
        ends = (event.kind == INACTIVE) | (event.kind == ACTIVE)
        leaves = jnp.where(ends, leaves.at[ended].set(jnp.where(event.kind == ACTIVE, 1.0, 0.0)), leaves)
        # where the amplitude changes sign both sides push away, and relu'(0) = 0 decides
        leaves = jnp.where((event.kind == TURN) & row, 0.0, leaves)
        arrives = jnp.where(crosses, event.place, -1)
        state, activation = decide(inclusion, state, carry.activation, neuron, touching, arrives, leaves)
        after = carry._replace(
            state=state,
            activation=activation,
            pending=carry.pending._replace(neurons=carry.pending.neurons.at[neuron].set(False)),
            slides=carry.slides + jnp.sum(activation.sliding & ~carry.activation.sliding),
        )
        if self.log_size:
            after = after._replace(log=carry.log.with_changes(carry.time, neuron, carry.activation, activation))
        stuck = slides_too_often(inclusion, activation)
        return after._replace(status=jnp.where(stuck, FlowStatus.STUCK_SLIDING, carry.status))

    def _advance(self, template, carry, limits):
        slack = Slack.at(self.inclusion, carry.state, carry.activation)
        trial, tail = self._try(template, carry, slack, limits)
        happens = trial.accepted & (trial.event.kind != NONE)
        time = jnp.where(trial.accepted, carry.time + trial.gone, carry.time)
        neurons = happens & self._meet(trial, carry.activation)
        after = carry._replace(
            time=time,
            state=jax.tree.map(lambda a, b: jnp.where(trial.accepted, a, b), trial.state, carry.state),
            pending=_Pending(neurons, trial.event),
            length=trial.length,
            tail=tail,
            idle=jnp.where(happens & (trial.gone <= 1e-13 * time), carry.idle + 1, 0),
            steps=carry.steps + 1,
            rejected=carry.rejected + ~trial.accepted,
            evaluations=carry.evaluations + trial.evaluations,
            kinks=carry.kinks + jnp.sum(neurons),
            records=trial.records,
        )

        def after_whole_step():
            status = self._status(template, after, limits)
            return self._finish_if_near(template, after._replace(status=status), limits)

        # events may follow each other to the end
        unchecked = happens & (after.steps % _CHECKED != 0)
        return branch(~unchecked, after_whole_step, lambda: after._replace(status=self._limit(after, limits)))

    def _meet(self, trial, activation):
        """The neurons to which the event of a step happens."""
        event, alone = trial.event, jnp.arange(len(trial.state.amplitudes)) == trial.event.neuron
        # amplitudes change their signs one by one
        return branch(
            event.kind == TURN, lambda: alone, lambda: on_one_ray(self.inclusion, trial.state, activation, event.neuron)
        )

    def _try(self, template, carry, slack, limits):
        if not Tail.serves(self.inclusion):
            return self._explicit(template, carry, slack, limits), carry.tail
        return branch(
            carry.tail.is_on,
            lambda: self._implicit(template, carry, slack, limits),
            lambda: self._explicit_and_watch(template, carry, slack, limits),
        )

    def _explicit_and_watch(self, template, carry, slack, limits):
        trial = self._explicit(template, carry, slack, limits)
        return trial, carry.tail.watch(self.inclusion, carry.state, carry.activation, trial.gone, trial.event.kind == NONE)

    def _explicit(self, template, carry, slack, limits):
        tolerance = limits.rtol + limits.atol
        longest = jnp.minimum(limits.end_time - carry.time, carry.length)
        inclusion, pieces, state, activation = self.inclusion, self.pieces, carry.state, carry.activation

        # one program looks for events twice: from samples in a short piece, and where none is found for certain, thoroughly
        # in the extended one
        def look(carry):
            piece, _, _, extends = carry
            further = partial(pieces.extend, inclusion, state, activation, piece, tolerance, longest)
            piece = branch(extends, further, lambda: piece)
            event, certain = first_event(inclusion, activation, piece, slack, thorough=extends)
            return piece, event, ~extends & ((event.kind == NONE) | ~certain), jnp.asarray(True)

        piece = pieces.piece(inclusion, state, activation, tolerance, longest)
        nothing = jnp.asarray(NONE)
        start = (piece, Event(jnp.zeros_like(longest), nothing, nothing, nothing), jnp.asarray(True), jnp.asarray(False))
        whole, event, _, _ = jax.lax.while_loop(lambda carry: carry[2], look, start)
        cut = partial(pieces.cut, inclusion, state, activation, whole, event.theta, tolerance)
        piece, theta = branch(event.kind != NONE, cut, lambda: (whole, event.theta))
        gone, accepted = theta * piece.length, piece.error <= 1

        def at(fraction):
            return inclusion.network(piece.at(inclusion, state, activation, fraction * theta), template)

        end = piece.at(inclusion, state, activation, theta)
        records = self.recorder.record(carry.records, carry.time, jnp.where(accepted, carry.time + gone, carry.time), at)
        event, following = event._replace(theta=theta), pieces.next_length(whole)
        return _Trial(end, event, gone, accepted, piece.evaluations, following, records)

    def _implicit(self, template, carry, slack, limits):
        left = limits.end_time - carry.time
        step = carry.tail.step(self.inclusion, carry.state, carry.activation, slack, left, limits.rtol + limits.atol)

        def at(fraction):
            state = step.at(self.inclusion, carry.state, carry.activation, fraction)
            return self.inclusion.network(state, template)

        end = jnp.where(step.accepted, carry.time + step.gone, carry.time)
        records = self.recorder.record(carry.records, carry.time, end, at)
        trial = _Trial(step.state, step.event, step.gone, step.accepted, step.evaluations, carry.length, records)
        return trial, step.tail

    def _velocity(self, carry):
        return self.inclusion.velocity(self.inclusion.rates(carry.state.z, carry.state.amplitudes, carry.activation))

    def _settled(self, template, carry, *gradient_norms):
        network = self.inclusion.network(carry.state, template)
        hidden, amplitudes = self._velocity(carry)
        velocity = self.inclusion.network(State(hidden, amplitudes, carry.state.z), template)
        return [self.field.is_settled(ravel(network), ravel(velocity), norm) for norm in gradient_norms]

    def _limit(self, carry, limits):
        """The status by everything but convergence."""
        finite = jnp.all(jnp.isfinite(carry.state.hidden)) & jnp.all(jnp.isfinite(carry.state.amplitudes))
        status = jnp.asarray(RUNNING)
        status = jnp.where(carry.steps >= limits.max_steps, FlowStatus.STEP_LIMIT, status)
        patience = _PATIENCE + _PATIENCE_PER_NEURON * carry.state.amplitudes.size
        status = jnp.where(carry.idle > patience, FlowStatus.STUCK_SLIDING, status)
        status = jnp.where(carry.time >= limits.end_time, FlowStatus.END_TIME, status)
        return jnp.where(finite, status, FlowStatus.DIVERGED)

    def _status(self, template, carry, limits):
        """The status, convergence included."""
        status = self._limit(carry, limits)
        noise = self.inclusion.velocity_noise(carry.state, carry.activation)
        settled, resting = self._settled(template, carry, limits.gradient_norm, noise)
        status = jnp.where(resting & (limits.gradient_norm > 0) & (status == RUNNING), FlowStatus.ROUNDING, status)
        return jnp.where(settled & (status != FlowStatus.DIVERGED), FlowStatus.CONVERGED, status)

    def _finish_if_near(self, template, carry, limits):
        """A finish where the flow has come close to its end, and could not or need not come as close as is asked for."""
        if not (self.finishes and Tail.serves(self.inclusion)):
            return carry
        ongoing = (carry.status == RUNNING) | (carry.status == FlowStatus.CONVERGED)
        near = ongoing & self._settled(template, carry, carry.finish_below)[0]
        return branch(near, lambda: self._finish(template, carry, limits), lambda: carry)

    def _finish(self, template, carry, limits):
        inclusion, state, activation = self.inclusion, carry.state, carry.activation
        tolerance = limits.rtol + limits.atol
        kernel, approach = way_to_the_end(inclusion, state, activation)
        done = finish(inclusion, state, activation, kernel, approach, limits.gradient_norm, tolerance)
        left = approach.time_until(limits.gradient_norm)
        end_time = carry.time + left
        possible = done.succeeded & (end_time <= limits.end_time)

        def at(fraction):
            return inclusion.network(on_the_way(inclusion, state, activation, approach, done.state, fraction * left), template)

        def recorded():
            return self.recorder.record(carry.records, carry.time, end_time, at)

        finished = carry._replace(
            state=done.state,
            time=end_time,
            status=jnp.asarray(FlowStatus.CONVERGED),
            finish_distance=done.distance,
            records=branch(possible, recorded, lambda: carry.records),
        )
        norm = _length(*self._velocity(carry))
        unrecorded = finished.records.is_as(carry.records)
        ends = possible & (unrecorded | (norm <= _RECORDS * tolerance))
        # a critical point may be a saddle that small neurons leave
        ends = ends & self._settled(template, finished, limits.gradient_norm)[0]
        after = jax.tree.map(lambda new, old: jnp.where(ends, new, old), finished, carry)
        return after._replace(finish_conditioning=done.conditioning, finish_below=_AGAIN * norm)


class _Carry(NamedTuple):
    time: Array
    state: State
    activation: Activation
    pending: _Pending
    length: Array
    tail: Tail
    idle: Array
    finish_below: Array
    finish_distance: Array
    finish_conditioning: Array
    status: Array
    steps: Array
    rejected: Array
    evaluations: Array
    kinks: Array
    slides: Array
    records: Records
    log: EventLog


def _length(hidden, amplitudes):
    return jnp.sqrt(jnp.sum(hidden**2) + jnp.sum(amplitudes**2))
