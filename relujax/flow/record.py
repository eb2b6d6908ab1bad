"""What is kept of a trajectory while it is integrated: observables at given times, passages of levels of the loss, events."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..loss import AbstractLoss
from ..network import ShallowReLU
from ..parallel import branch, one_by_one
from .inclusion import Activation
from .observe import Observable
from .status import EventKind, FlowStatus

# halvings of a step in which the loss passes a level
_HALVINGS = 52
# the rounding of a loss, relative to it
_ROUNDING = 1e-14


class Records(NamedTuple):
    """Observables at the save times reached so far, the times at which levels were passed, and the loss at present."""

    saved: Any
    next_save: Array
    level_times: Float[Array, " l"]
    loss: Float[Array, ""]

    def is_as(self, before: "Records") -> Array:
        """Whether nothing has been recorded since `before`."""
        return (self.next_save == before.next_save) & jnp.all(self.level_times == before.level_times)


class Recorder(eqx.Module):
    """Records named `observables` at ascending `save_times`, and when the loss first is at or below each of `levels`.

    Both are read off the same curve: inside a step the loss goes from that at its start to that at its end and never leaves
    their range, nor does it fall and rise again. The interpolant of a step over a kink does; what it gives out of range is
    moved towards that end of the step on the other side, as far as is needed. So a record is at or below a level from the time
    of the level on, up to where a later step ends higher than it began, and never before.
    """

    loss: AbstractLoss
    save_times: Float[Array, " s"]
    levels: Float[Array, " l"]
    observables: tuple[tuple[str, Observable], ...]

    def begin(self, net: ShallowReLU) -> Records:
        """Nothing saved yet, and levels above the loss at the start passed at time 0."""
        saved = jax.tree.map(
            lambda leaf: jnp.zeros((self.save_times.size, *leaf.shape), leaf.dtype),
            jax.eval_shape(self.observe, net),
        )
        records = self.save_times.size or self.levels.size
        loss = self.loss(net) if records else jnp.zeros(())
        return Records(saved, jnp.asarray(0), jnp.where(loss <= self.levels, 0.0, jnp.inf), loss)

    def record(self, records: Records, start, end, at: Callable[[Any], ShallowReLU]) -> Records:
        """Records what falls into a step from time `start` to `end`, of which `at` gives the network at a fraction."""
        if self.save_times.size == 0 and self.levels.size == 0:
            return records
        length = jnp.where(end > start, end - start, 1.0)
        # a step that was rejected has no end
        loss = jnp.where(end > start, self.loss(at(1.0)), records.loss)
        passed = jnp.isinf(records.level_times) & (loss <= self.levels)

        before = records.level_times

        def times():
            roots = jax.vmap(lambda level: _first_below(lambda x: self.loss(at(x)), level))(self.levels)
            # a lower level is passed later
            above = passed & (self.levels >= self.levels[:, None])
            return jnp.where(passed, start + jnp.max(jnp.where(above, roots, 0.0), axis=1) * length, before)

        if self.levels.size:
            records = records._replace(level_times=branch(jnp.any(passed), times, lambda: before))

        def network_at(time, now):
            return self._inside(records, time, (time - start) / length, at, loss, now)

        return self.save_until(records, end, network_at)._replace(loss=loss)

    def finish(self, records: Records, net: ShallowReLU, status: Array) -> Records:
        """What is recorded at save times that were not reached: the observables at the end where the flow rests there, else
        NaN, and −1 where an observable is an integer."""
        rests = (status == FlowStatus.CONVERGED) | (status == FlowStatus.ROUNDING)
        after = self.save_until(records, jnp.inf, lambda time, now: (net, now))
        late = ~rests & (jnp.arange(self.save_times.size) >= records.next_save)
        return after._replace(saved=jax.tree.map(lambda values: unknown_where(late, values), after.saved))

    def save_until(self, records, reached, network_at):
        """Observables at the save times up to one; `network_at` gives the network and its loss at a time, given the loss at
        the one before."""
        if self.save_times.size == 0:
            return records
        last = self.save_times.size - 1

        def is_due(state):
            index, _, _ = state
            return (index <= last) & (self.save_times[jnp.minimum(index, last)] <= reached)

        def save(state):
            index, now, saved = state
            network, now = network_at(self.save_times[index], now)
            values = self.observe(network)
            return index + 1, now, jax.tree.map(lambda all_, one: all_.at[index].set(one), saved, values)

        index, _, saved = jax.lax.while_loop(is_due, save, (records.next_save, records.loss, records.saved))
        return records._replace(next_save=index, saved=saved)

    def next_time(self, records: Records) -> Array:
        """The save time to be reached next; infinite after the last."""
        later = jnp.append(self.save_times, jnp.inf)
        return later[jnp.minimum(records.next_save, self.save_times.size)]

    def observe(self, net: ShallowReLU) -> dict[str, Array]:
        """The observables of one network, by name."""
        arrays, rest = eqx.partition(self.observables, eqx.is_array)

        def observe(given):
            observables, net = eqx.combine(given[0], rest), given[1]
            return {name: jnp.asarray(function(net)) for name, function in observables}

        # an observable may well be the eigenvalues of something
        return one_by_one(observe)((arrays, net))

    def _inside(self, records, time, fraction, at, loss, now):
        """The network at a fraction of a step, and its loss, which lies between those of the record before and of the end of
        the step, and on the right side of all levels."""
        network = at(fraction)
        value = self.loss(network)
        low, high = jnp.minimum(now, loss), jnp.maximum(now, loss)
        if self.levels.size:
            passed = (records.level_times <= time) & (self.levels >= low)
            ahead = (records.level_times > time) & (self.levels <= high)
            high = jnp.min(jnp.where(passed, self.levels, high))
            low = jnp.max(jnp.where(ahead, jnp.nextafter(self.levels, jnp.inf), low))
        slack = _ROUNDING * jnp.maximum(now, loss)
        too_high = value > high + slack

        def moved():
            # the end of the step on whose side of the range the way back lies
            towards = jnp.where(too_high == (loss <= now), 1.0, 0.0)
            other = at(towards)

            def between(x):
                return jax.tree.map(lambda a, b: a + x * (b - a), network, other)

            def is_inside(x):
                there = self.loss(between(x))
                return jnp.where(too_high, there <= high, there >= low)

            inside = between(_first(is_inside, value))
            return inside, self.loss(inside)

        return branch(too_high | (value < low - slack), moved, lambda: (jax.tree.map(jnp.asarray, network), value))


def unknown_where(late: Bool[Array, " s"], values: Array) -> Array:
    """Records with NaN, or −1 for integers, at some of the times."""
    nothing = jnp.asarray(jnp.nan if jnp.issubdtype(values.dtype, jnp.inexact) else -1)
    return jnp.where(late.reshape(-1, *[1] * (values.ndim - 1)), nothing.astype(values.dtype), values)


class EventLog(NamedTuple):
    """The first events of a trajectory in order of time, with members of `EventKind`, and how many there were in all."""

    time: Float[Array, "*batch e"]
    neuron: Int[Array, "*batch e"]
    datum: Int[Array, "*batch e"]
    kind: Int[Array, "*batch e"]
    number: Int[Array, "*batch"]

    @staticmethod
    def begin(size: int, dtype) -> "EventLog":
        """A log with room for `size` events."""
        none = jnp.zeros(size, int)
        return EventLog(jnp.zeros(size, dtype), neuron=none, datum=none, kind=none, number=jnp.asarray(0))

    def with_changes(self, time, neuron, before: Activation, after: Activation) -> "EventLog":
        """The log with every change of the activation of one neuron."""
        was_sliding, is_sliding = before.sliding[neuron], after.sliding[neuron]
        was_active, is_active = before.active[neuron] > 0, after.active[neuron] > 0
        changed = (was_sliding != is_sliding) | (was_active != is_active)
        ended = jnp.where(is_active, EventKind.EXIT_ON, EventKind.EXIT_OFF)
        crossed = jnp.where(is_active, EventKind.ON, EventKind.OFF)
        kind = jnp.where(is_sliding, EventKind.SLIDE, jnp.where(was_sliding, ended, crossed))
        place = jnp.where(changed, self.number + jnp.cumsum(changed) - 1, len(self.time))
        return EventLog(
            time=self.time.at[place].set(time, mode="drop"),
            neuron=self.neuron.at[place].set(neuron, mode="drop"),
            datum=self.datum.at[place].set(jnp.arange(len(changed)), mode="drop"),
            kind=self.kind.at[place].set(kind, mode="drop"),
            number=self.number + jnp.sum(changed),
        )


def _first_below(loss, level):
    """The fraction at which a loss that falls along the flow passes a level."""
    return _first(lambda x: loss(x) <= level, level)


def _first(holds, like):
    """A fraction at which something that holds at 1 begins to hold, by bisection."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        there = holds(middle)
        return jnp.where(there, low, middle), jnp.where(there, middle, high)

    zero = jnp.zeros_like(like)
    return jax.lax.fori_loop(0, _HALVINGS, halve, (zero, zero + 1))[1]
