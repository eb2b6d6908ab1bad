"""From random starts to the minima of a smooth loss that their gradient flows lead to."""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..flow import Chebyshev, FlowStatus, RungeKutta
from ..flow.field import Field
from ..flow.integrate import Limits, integrate
from ..flow.record import Recorder
from ..loss import AbstractLoss
from ..network import ShallowReLU, take, unravel
from ..parallel import Progress, map_chunks, map_first
from .known import KnownMinima
from .newton import polish_minima
from .polish import PolishStatus, polish
from .taylor import losses

# how loosely the flow may be followed without changing its end (more loosely is no cheaper: stability bounds the steps), and
# when its slow approach begins
_FAR, _NEAR = 1e-4, 3e-4
_APPROACH = 0.1
_MAX_STEPS = 100_000
_CHUNK = 16


class EndPoints(NamedTuple):
    """Where every start ended: networks and, per start, what the flow and the polish said."""

    networks: ShallowReLU
    resolved: np.ndarray
    flow_status: np.ndarray
    time: np.ndarray
    steps: np.ndarray
    distance: np.ndarray
    gradient_norm: np.ndarray


def descend(loss: AbstractLoss, nets: ShallowReLU, *, progress: Progress | None = None) -> EndPoints:
    """The minimum of a smooth loss that the gradient flow of every network leads to, at machine precision.

    The flow is followed loosely, which changes no end point but where it passes a saddle closely: by a Runge–Kutta pair to a
    gradient norm of 0.1, by a Chebyshev method to 1e-3. There it is handed over only where that cannot change its end: to a
    minimum that is known already, if the Hessian is positive definite on the whole segment to it (`KnownMinima`), or to
    Newton's method under the same condition, which makes another minimum known. A network for which neither holds goes on
    flowing to a gradient norm ten times smaller, and so on; what is then left is polished as it is, and unresolved if that
    fails.
    """
    number = nets.weights.shape[0]
    ends = EndPoints(
        networks=jax.tree.map(np.array, nets),
        resolved=np.zeros(number, bool),
        flow_status=np.full(number, int(FlowStatus.CONVERGED)),
        time=np.zeros(number),
        steps=np.zeros(number, int),
        distance=np.zeros(number),
        gradient_norm=np.full(number, np.inf),
    )
    known = KnownMinima(loss)
    for target in 10.0 ** -np.arange(3.0, 10.0):
        open_ = np.flatnonzero(~ends.resolved & (ends.flow_status == FlowStatus.CONVERGED))
        if open_.size == 0:
            break
        done = number - open_.size
        tell = None if progress is None else lambda finished, total, done=done: progress(done + finished, number)
        ends = _flow_on(loss, ends, open_, target, tell)
        ends = _hand_over(loss, ends, open_, known)
    open_ = np.flatnonzero(~ends.resolved & (ends.flow_status == FlowStatus.CONVERGED))
    return _take_up(ends, open_, polish(loss, take(ends.networks, open_))) if open_.size else ends


def _flow_on(loss, ends, which, target, progress):
    def run(part, count):
        return _approach(loss, part, count, jnp.asarray(target))

    networks, norms, time, steps, status = map_chunks(run, take(ends.networks, which), chunk=_CHUNK, progress=progress)
    ends.flow_status[which] = status
    ends.time[which] += time
    ends.steps[which] += steps
    ends.gradient_norm[which] = norms
    return ends._replace(networks=put(ends.networks, which, networks))


@eqx.filter_jit
def _approach(loss, nets, count, target):
    """The flow of every network of a stack to the gradient norm `target`, one compilation for all of its stages."""

    def limits(gradient_norm, tolerance):
        end, norm, rtol = (jnp.asarray(x, nets.weights.dtype) for x in (jnp.inf, gradient_norm, tolerance))
        return Limits(end_time=end, gradient_norm=norm, rtol=rtol, atol=rtol, max_steps=jnp.asarray(_MAX_STEPS))

    def one(net):
        field = Field(loss, net)
        far = integrate(field, RungeKutta(diffrax.Bosh3()), net, limits(_APPROACH, _FAR), nothing)
        near = integrate(field, Chebyshev(), unravel(net, far.state), limits(target, _NEAR), nothing)
        arrived = far.status == FlowStatus.CONVERGED
        state = jnp.where(arrived, near.state, far.state)
        norm = jnp.linalg.norm(jnp.where(arrived, near.velocity, far.velocity))
        time, steps = far.time + jnp.where(arrived, near.time, 0), far.steps + jnp.where(arrived, near.steps, 0)
        return unravel(net, state), norm, time, steps, jnp.where(arrived, near.status, far.status)

    none = jnp.zeros(0, nets.weights.dtype)
    nothing = Recorder(loss, none, none, ())
    # on a CPU a network at a time is as fast as a batch and compiles sooner
    if jax.default_backend() == "cpu":
        return map_first(one, nets, count)
    return jax.lax.map(one, nets, batch_size=_CHUNK)


def _hand_over(loss, ends, which, known):
    """Resolve what is near a known minimum, and let Newton's method make minima known until every network had its turn."""
    if not known.can_match(ends.networks):
        return _take_up(ends, which, polish_minima(loss, take(ends.networks, which)))
    while which.size:
        ends, which = _recognise(ends, which, known)
        if which.size == 0:
            break
        # evenly spread over the losses, to meet many minima at once
        by_loss = which[np.argsort(losses(loss, take(ends.networks, which)), kind="stable")]
        tried = by_loss[np.unique(np.linspace(0, len(by_loss) - 1, max(16, len(by_loss) // 64)).astype(int))]
        polished = polish_minima(loss, take(ends.networks, tried))
        good = np.flatnonzero(polished.status == PolishStatus.CONVERGED)
        known.add(take(polished.networks, good), polished.gradient_norms[good])
        ends = _take_up(ends, tried, polished)
        which = np.setdiff1d(which, tried)
    return ends


def _recognise(ends, which, known):
    """Resolve the networks that provably flow to a known minimum; returns the others as well."""
    match = known.match(take(ends.networks, which), ends.gradient_norm[which])
    good = np.flatnonzero(match.found)
    ends = _resolve(ends, which[good], *(jax.tree.map(lambda leaf: leaf[good], part) for part in match[1:]))
    return ends, which[~match.found]


def _take_up(ends, which, polished):
    good = np.flatnonzero(np.asarray(polished.status) == PolishStatus.CONVERGED)
    networks = take(polished.networks, good)
    return _resolve(ends, which[good], networks, polished.distances[good], polished.gradient_norms[good])


def _resolve(ends, which, networks, distances, gradient_norms):
    ends.resolved[which] = True
    ends.distance[which] = distances
    ends.gradient_norm[which] = gradient_norms
    return ends._replace(networks=put(ends.networks, which, networks))


def put(nets: ShallowReLU, which: np.ndarray, new: ShallowReLU) -> ShallowReLU:
    """A copy of a stack on the host, with the members at `which` replaced."""

    def place(old, values):
        out = np.array(old)
        out[which] = values
        return out

    return jax.tree.map(place, nets, new)
