"""What a flow hands back, for one network and for an ensemble."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from ..network import RealArray, ShallowReLU
from .record import EventLog
from .status import FlowStatus


class AbstractFlow(eqx.Module):
    """What one trajectory and an ensemble have in common; an ensemble has a leading axis on every array."""

    networks: eqx.AbstractVar[ShallowReLU]
    times: eqx.AbstractVar[Any]
    losses: eqx.AbstractVar[Any]
    gradient_norms: eqx.AbstractVar[Any]
    status: eqx.AbstractVar[Any]
    stats: eqx.AbstractVar[dict[str, Any]]
    observed: eqx.AbstractVar[dict[str, Any]]
    save_times: eqx.AbstractVar[Any]


class Trajectory(AbstractFlow):
    """The flow of one network.

    `networks` is the network at the end; `path`, a stack of networks along `save_times`, is there when times were asked for,
    with its losses in `observed["loss"]`. `times`, `losses`, `gradient_norms` and `status` are scalars that describe the
    end. `stats` counts `steps`, `rejected`, `field_evaluations` where an explicit Runge–Kutta method makes a known number of them
    a step, and the `kinks` and `slides` that were located, here none.
    """

    networks: ShallowReLU
    times: Float[Array, ""]
    losses: Float[Array, ""]
    gradient_norms: Float[Array, ""]
    status: Int[Array, ""]
    stats: dict[str, Array]
    observed: dict[str, Array]
    save_times: Float[Array, " s"] | None
    path: ShallowReLU | None

    def to_xarray(self):
        """An `xarray.Dataset` with dimensions `neuron`, `input` and, where times were saved, `time`."""
        return _dataset(self, [])


class Ensemble(AbstractFlow):
    """The flows of B networks.

    `networks` (a stack), `times`, `losses`, `gradient_norms` and `status` (members of `FlowStatus`), each of leading axis B,
    describe the ends; on kinks the gradient norm is that of the least-norm element of Clarke's set. `observed` maps names to
    arrays `(B, s, ...)` along `save_times`; `level_times` (B, l) are the times at which the loss first passed the levels asked
    for, infinite where it did not. `stats` counts, per network, `steps`, `rejected`, `field_evaluations`, and the `kinks` and
    `slides` that were located; where a finish was possible, `finish_distance` is the way that was not flowed but solved for,
    and on data `finish_conditioning` that of the kernel at the last attempt; where both layers are trained, `balance_drift` is
    how far `a² − |v|²` is from where it was, relative to the size of the worst neuron. `events`, where asked for, are an
    `EventLog`. `kinks` says what the answer rests on: "located", "stepped over", which may end in another basin than the flow
    does, or "none" for a smooth loss.
    """

    networks: ShallowReLU
    times: Float[RealArray, " B"]
    losses: Float[RealArray, " B"]
    gradient_norms: Float[RealArray, " B"]
    status: Int[Array | np.ndarray, " B"]
    stats: dict[str, Array | np.ndarray]
    observed: dict[str, Array | np.ndarray]
    save_times: Float[RealArray, " s"] | None
    level_times: Float[RealArray, "B l"] | None
    events: EventLog | None
    kinks: str = eqx.field(static=True, default="none")

    def to_xarray(self):
        """An `xarray.Dataset` with dimensions `start`, `neuron`, `input` and, where times were saved, `time`."""
        return _dataset(self, ["start"])


def _dataset(flow, lead):
    from .._extras import extra

    xarray = extra("xarray", "io")
    nets = flow.networks
    variables = {
        "weights": ([*lead, "neuron", "input"], np.asarray(nets.weights)),
        "amplitudes": ([*lead, "neuron"], np.asarray(nets.amplitudes)),
        "end_time": (lead, np.asarray(flow.times)),
        "end_loss": (lead, np.asarray(flow.losses)),
        "end_gradient_norm": (lead, np.asarray(flow.gradient_norms)),
        "flow_status": (lead, np.vectorize(lambda s: FlowStatus(s).words, otypes=[str])(np.asarray(flow.status))),
    }
    if nets.biases is not None:
        variables["biases"] = ([*lead, "neuron"], np.asarray(nets.biases))
    for name, counter in flow.stats.items():
        variables[name] = (lead, np.asarray(counter))
    coordinates = {}
    if flow.save_times is not None:
        coordinates["time"] = np.asarray(flow.save_times)
        for name, values in flow.observed.items():
            array = np.asarray(values)
            rest = [f"{name}_{axis}" for axis in range(array.ndim - len(lead) - 1)]
            variables[name] = ([*lead, "time", *rest], array)
    attributes = {"train": ",".join(nets.train)}
    if isinstance(flow, Ensemble):
        attributes["kinks"] = flow.kinks
    return xarray.Dataset(variables, coordinates, attrs=attributes)
