"""What is kept of a trajectory while it is integrated: observables at given times, passages of levels of the loss, events."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..loss import AbstractLoss
from ..network import ShallowReLU
from ..parallel import branch, one_by_one
from .inclusion import Activation
from .observe import Observable
from .status import EventKind

# halvings of a step in which the loss passes a level
_HALVINGS = 52


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
    """Records named `observables` at ascending `save_times`, and when the loss first is at or below each of `levels`."""

    loss: AbstractLoss
    save_times: Float[Array, " s"]
    levels: Float[Array, " l"]
    observables: tuple[tuple[str, Observable], ...]

    def begin(self, net: ShallowReLU) -> Records:
        """Nothing saved yet, and levels above the loss at the start passed at time 0."""
        saved = jax.tree.map(
            lambda leaf: jnp.zeros((self.save_times.size, *leaf.shape), leaf.dtype),
            jax.eval_shape(self._observe, net),
        )
        loss = self.loss(net) if self.levels.size else jnp.zeros(())
        return Records(saved, jnp.asarray(0), jnp.where(loss <= self.levels, 0.0, jnp.inf), loss)

    def record(self, records: Records, start, end, at: Callable[[Any], ShallowReLU]) -> Records:
        """Records what falls into a step from time `start` to `end`, of which `at` gives the network at a fraction."""
        length = jnp.where(end > start, end - start, 1.0)
        records = self._save_until(records, end, lambda time: at((time - start) / length))
        if self.levels.size == 0:
            return records
        # a step that was rejected has no end
        loss = jnp.where(end > start, self.loss(at(1.0)), records.loss)
        passed = jnp.isinf(records.level_times) & (loss <= self.levels)

        def times():
            roots = jax.vmap(lambda level: _first_below(lambda x: self.loss(at(x)), level))(self.levels)
            return jnp.where(passed, start + roots * (end - start), records.level_times)

        return records._replace(loss=loss, level_times=branch(jnp.any(passed), times, lambda: records.level_times))

    def finish(self, records: Records, net: ShallowReLU, settled: Array) -> Records:
        """The observables at the end for save times that were not reached; not a number where the flow had not settled."""
        filled = self._save_until(records, jnp.inf, lambda time: net)
        beyond = (jnp.arange(self.save_times.size) >= records.next_save) & ~settled

        def blank(saved):
            if not jnp.issubdtype(saved.dtype, jnp.inexact):
                return saved
            return jnp.where(beyond.reshape(-1, *[1] * (saved.ndim - 1)), jnp.nan, saved)

        return filled._replace(saved=jax.tree.map(blank, filled.saved))

    def next_time(self, records: Records) -> Array:
        """The save time to be reached next; infinite after the last."""
        later = jnp.append(self.save_times, jnp.inf)
        return later[jnp.minimum(records.next_save, self.save_times.size)]

    def _observe(self, net):
        arrays, rest = eqx.partition(self.observables, eqx.is_array)

        def observe(given):
            observables, net = eqx.combine(given[0], rest), given[1]
            return {name: jnp.asarray(function(net)) for name, function in observables}

        # an observable may well be the eigenvalues of something
        return one_by_one(observe)((arrays, net))

    def _save_until(self, records, reached, network_at):
        if self.save_times.size == 0:
            return records
        last = self.save_times.size - 1

        def is_due(state):
            index, _ = state
            return (index <= last) & (self.save_times[jnp.minimum(index, last)] <= reached)

        def save(state):
            index, saved = state
            values = self._observe(network_at(self.save_times[index]))
            return index + 1, jax.tree.map(lambda all_, one: all_.at[index].set(one), saved, values)

        index, saved = jax.lax.while_loop(is_due, save, (records.next_save, records.saved))
        return records._replace(next_save=index, saved=saved)


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
    """The fraction at which a loss that falls along the flow passes a level, by bisection."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = loss(middle) <= level
        return jnp.where(below, low, middle), jnp.where(below, middle, high)

    zero = jnp.zeros_like(level)
    return jax.lax.fori_loop(0, _HALVINGS, halve, (zero, zero + 1))[1]
