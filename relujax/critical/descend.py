"""From random starts to the minima of a smooth loss that their gradient flows lead to."""

from typing import NamedTuple

import diffrax
import jax
import numpy as np

from ..flow import Chebyshev, FlowStatus, flow_ensemble
from ..loss import AbstractLoss
from ..network import ShallowReLU, take
from ..parallel import Progress
from .polish import PolishStatus, polish, polish_minima


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

    The flow is followed loosely, which changes no end point but where it passes a saddle closely, and handed to Newton's
    method only where that cannot change the end: the Hessian must be positive definite along the whole way to the point
    that Newton finds. A network for which it is not goes on flowing to a gradient norm ten times smaller, and so on; what
    is then left is polished as it is, and unresolved if that fails.
    """
    number = nets.weights.shape[0]
    flow = flow_ensemble(loss, nets, gradient_norm=1e-1, solver=diffrax.Bosh3(), rtol=1e-3, atol=1e-3)
    ends = EndPoints(
        networks=flow.networks,
        resolved=np.zeros(number, bool),
        flow_status=np.array(flow.status),
        time=np.array(flow.times),
        steps=np.array(flow.stats["steps"]),
        distance=np.zeros(number),
        gradient_norm=np.array(flow.gradient_norms),
    )
    for target in 10.0 ** -np.arange(3.0, 10.0):
        open_ = np.flatnonzero(~ends.resolved & (ends.flow_status == FlowStatus.CONVERGED))
        if open_.size == 0:
            break
        ends = _flow_on(loss, ends, open_, target)
        ends = _hand_over(loss, ends, open_, polish_minima)
        if progress is not None:
            progress(int(ends.resolved.sum()), number)
    open_ = np.flatnonzero(~ends.resolved & (ends.flow_status == FlowStatus.CONVERGED))
    return _hand_over(loss, ends, open_, polish) if open_.size else ends


def _flow_on(loss, ends, which, target):
    flow = flow_ensemble(loss, take(ends.networks, which), gradient_norm=target, solver=Chebyshev(), rtol=3e-4, atol=3e-4)
    ends.flow_status[which] = flow.status
    ends.time[which] += flow.times
    ends.steps[which] += flow.stats["steps"]
    ends.gradient_norm[which] = flow.gradient_norms
    return ends._replace(networks=put(ends.networks, which, flow.networks))


def _hand_over(loss, ends, which, method):
    polished = method(loss, take(ends.networks, which))
    good = np.asarray(polished.status) == PolishStatus.CONVERGED
    kept = which[good]
    ends.resolved[kept] = True
    ends.distance[kept] = polished.distances[good]
    ends.gradient_norm[kept] = polished.gradient_norms[good]
    return ends._replace(networks=put(ends.networks, kept, take(polished.networks, np.flatnonzero(good))))


def put(nets: ShallowReLU, which: np.ndarray, new: ShallowReLU) -> ShallowReLU:
    """A copy of a stack on the host, with the members at `which` replaced."""

    def place(old, values):
        out = np.array(old)
        out[which] = values
        return out

    return jax.tree.map(place, nets, new)
