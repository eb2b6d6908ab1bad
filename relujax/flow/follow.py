"""One network followed from its start to its end, by whatever method was chosen."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..loss import AbstractLoss, EmpiricalLoss
from ..network import ShallowReLU, unravel
from .balance import balance_drift, conserves_balance
from .boundaries import SharedBoundaries
from .field import Field
from .finish import finish_smooth
from .inclusion import Inclusion
from .integrate import RUNNING, Limits, integrate
from .located import Located
from .observe import Observable
from .pieces import AbstractPieces
from .record import EventLog, Recorder
from .status import FlowStatus
from .steppers import AbstractStepper


class Method(eqx.Module):
    """How flows are followed.

    - `stepper`: steps over kinks; `pieces`: locates them. With both, the first goes on to where it no longer can.
    - `aligns`: whether some starts are so small that a closed form takes them through the alignment of their neurons.
    - `relaxes`: whether relaxation takes them on from there.
    - `finishes`: whether the last stretch is left to a Gauss–Newton or Newton iteration.
    - `log_size`: how many events are kept.
    - `shared`: the boundaries that several data have in common.
    """

    stepper: AbstractStepper | None
    pieces: AbstractPieces | None
    aligns: bool = eqx.field(static=True)
    relaxes: bool = eqx.field(static=True)
    finishes: bool = eqx.field(static=True)
    log_size: int = eqx.field(static=True)
    shared: SharedBoundaries | None = None


class Followed(NamedTuple):
    """The end of one flow and what was recorded on the way."""

    network: ShallowReLU
    time: Float[Array, ""]
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    status: Array
    stats: dict[str, Array]
    observed: dict[str, Any]
    level_times: Float[Array, " l"] | None
    events: EventLog | None


class Plan(eqx.Module):
    """What is the same for all networks of an ensemble: the loss, the method, and what is recorded."""

    loss: AbstractLoss
    method: Method
    save_times: Float[Array, " s"]
    levels: Float[Array, " l"]
    observables: tuple[tuple[str, Observable], ...]

    def follow(self, net: ShallowReLU, limits: Limits) -> Followed:
        """The flow of one network."""
        followed = self._follow(net, limits)
        if not conserves_balance(net):
            return followed
        return followed._replace(stats=followed.stats | {"balance_drift": balance_drift(net, followed.network)})

    def _follow(self, net, limits):
        field = Field(self.loss, net)
        recorder = Recorder(self.loss, self.save_times, self.levels, self.observables)
        stepper = self.method.stepper
        if stepper is None:
            return self._through_kinks(field, net, limits, recorder)
        if not self.method.finishes:
            return self._over_kinks(field, stepper, net, limits, recorder)[0]
        floor = jnp.maximum(limits.gradient_norm, 10 * (limits.rtol + limits.atol))
        first, state = self._over_kinks(field, stepper, net, limits._replace(gradient_norm=floor), recorder)
        if isinstance(self.loss, EmpiricalLoss):
            return self._on_through_kinks(field, first, state, limits, recorder)
        return self._finish(first, limits)

    def _over_kinks(self, field, stepper, net, limits, recorder):
        end = integrate(field, stepper, net, limits, recorder)
        network = unravel(net, end.state)
        none = jnp.zeros_like(end.steps)
        stats = {
            "steps": end.steps,
            "rejected": end.rejected,
            "field_evaluations": end.evaluations,
            "kinks": none,
            "slides": none,
        }
        return self._followed(network, end, jnp.linalg.norm(end.velocity), stats, recorder), end

    def _through_kinks(self, field, net, limits, recorder):
        located = self._located(field, net, recorder)
        return self._followed_through(located, net, located.integrate(net, limits))

    def _on_through_kinks(self, field, first, end, limits, recorder):
        """The rest of a flow whose kinks were stepped over until its gradient norm could fall no further that way."""
        located = self._located(field, first.network, recorder)
        status = jnp.where(first.status == FlowStatus.CONVERGED, RUNNING, first.status)
        rest = located.resume(first.network, limits, end.time, end.records, status)
        followed = self._followed_through(located, first.network, rest)
        return followed._replace(stats={name: value + first.stats.get(name, 0) for name, value in followed.stats.items()})

    def _located(self, field, net, recorder):
        loss, method = self.loss, self.method
        assert isinstance(loss, EmpiricalLoss)
        assert method.pieces is not None
        inclusion = Inclusion(loss, net, method.shared)
        early = {"aligns": method.aligns, "relaxes": method.relaxes}
        return Located(inclusion, field, method.pieces, recorder, **early, finishes=method.finishes, log_size=method.log_size)

    def _followed_through(self, located, net, end):
        network = located.inclusion.network(end.state, net)
        stats = {
            "steps": end.steps,
            "rejected": end.rejected,
            "field_evaluations": end.evaluations,
            "kinks": end.kinks,
            "slides": end.slides,
            "finish_distance": end.finish_distance,
            "finish_conditioning": end.finish_conditioning,
        }
        followed = self._followed(network, end, end.gradient_norm, stats, located.recorder)
        return followed._replace(events=end.log if self.method.log_size else None)

    def _finish(self, first, limits):
        """The last stretch on a smooth loss."""
        done = finish_smooth(self.loss, first.network, limits.gradient_norm)
        taken = (first.status == FlowStatus.CONVERGED) & done.succeeded
        network = jax.tree.map(lambda new, old: jnp.where(taken, new, old), done.state, first.network)
        # what a finish does not reach, the method has come to its limit before
        status = jnp.where((first.status == FlowStatus.CONVERGED) & ~taken, FlowStatus.STEP_TOO_SMALL, first.status)
        return first._replace(
            network=network,
            loss=self.loss(network),
            gradient_norm=jnp.where(taken, done.gradient_norm, first.gradient_norm),
            status=jnp.where(first.gradient_norm <= limits.gradient_norm, first.status, status),
            stats=first.stats | {"finish_distance": jnp.where(taken, done.distance, 0.0)},
        )

    def _followed(self, network, end, gradient_norm, stats, recorder):
        records = recorder.finish(end.records, network, end.status)
        return Followed(
            network=network,
            time=end.time,
            loss=self.loss(network),
            gradient_norm=gradient_norm,
            status=end.status,
            stats=stats,
            observed=records.saved,
            # batched maps take no empty arrays
            level_times=records.level_times if self.levels.size else None,
            events=None,
        )
