"""Spurious minima and additional neurons: splitting, adding, and when either opens a way down."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from .. import arccos
from .._precision import require_x64
from ..flow import Chebyshev, FlowStatus, flow_ensemble
from ..loss import AbstractLoss, PopulationLoss
from ..network import RealArray, ShallowReLU

_NOTHING = 1e-6  # of a neuron's norm, below which it is on its way to 0
_MAX_STEPS = 4000


class SplitTest(NamedTuple):
    """For every neuron the smallest eigenvalue of its splitting matrix, and the direction of it in weights, a row each."""

    eigenvalues: Float[np.ndarray, " m"]
    directions: Float[np.ndarray, "m d"]

    @property
    def descends(self) -> bool:
        """Whether some neuron can be split so that the loss falls."""
        return bool(np.any(self.eigenvalues < -1e-9))


class Annihilation(NamedTuple):
    """The ends of flows from a point with additional neurons.

    - `losses`; `reached`: whether a flow ended at a global minimum, at less than 1 % of the loss it left; `died`: how many of
      its neurons shrank to nothing.
    - `status`: the `FlowStatus` of each.
    """

    losses: Float[np.ndarray, " s"]
    reached: Bool[np.ndarray, " s"]
    died: Int[np.ndarray, " s"]
    status: Int[np.ndarray, " s"]

    @property
    def share(self) -> float:
        """The share of flows that end at a global minimum."""
        return float(np.mean(self.reached))


def split(net: ShallowReLU, neuron: int, fraction: float = 0.5) -> ShallowReLU:
    """One neuron replaced by two parallel ones of lengths `fraction` and `1 − fraction`: the same function, one neuron more.

    The second part comes last.

    **Raises:** `ValueError` for a fraction outside (0, 1) and a neuron that is not there.

    ```python
    >>> split(ShallowReLU(jnp.eye(2), jnp.ones(2)), 0, 0.25).weights.tolist()
    [[0.25, 0.0], [0.0, 1.0], [0.75, 0.0]]

    ```
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction is {fraction}: give a number between 0 and 1.")
    if not 0 <= neuron < net.width:
        raise ValueError(f"there is no neuron {neuron}: the network has {net.width}, counted from 0.")
    parts = {"weights": net.weights, "biases": net.biases}
    grown = {name: _split_rows(array, neuron, fraction) for name, array in parts.items() if array is not None}
    amplitudes = jnp.append(jnp.asarray(net.amplitudes), net.amplitudes[neuron])
    return ShallowReLU(grown["weights"], amplitudes, grown.get("biases"), train=net.train)


def _split_rows(array, neuron, fraction):
    array = jnp.asarray(array)
    return jnp.concatenate([array.at[neuron].multiply(fraction), (1 - fraction) * array[neuron][None]])


def add_neurons(net: ShallowReLU, weights: Float[RealArray, "n d"]) -> ShallowReLU:
    """A network without biases with further neurons of amplitude 1.

    **Raises:** `ValueError` for a network with biases.

    ```python
    >>> add_neurons(ShallowReLU(jnp.eye(2), jnp.ones(2)), jnp.zeros((1, 2))).width
    3

    ```
    """
    if net.biases is not None:
        raise ValueError("the network has biases: neurons are added to networks without.")
    amplitudes = jnp.concatenate([jnp.asarray(net.amplitudes), jnp.ones(len(weights))])
    return ShallowReLU(jnp.concatenate([jnp.asarray(net.weights), weights]), amplitudes, train=net.train)


def split_test(loss: PopulationLoss, net: ShallowReLU) -> SplitTest:
    """Whether splitting a neuron of a critical point opens a direction of descent: exact, one small matrix a neuron.

    A neuron w split into `α w` and `(1 − α) w`, which then move apart by u, changes the loss at second order by
    `uᵀNu/(2α(1 − α))`, with N the second derivative of the loss in w without the part `a² I/2` of the neuron with itself. A
    negative eigenvalue of N makes the split point a saddle; else every split of that neuron leaves a minimum a minimum at
    second order. N is 0 along w, so that the smallest eigenvalue is never positive.

    **Raises:** `ValueError` for networks with biases and in single precision.

    Source: Safran, Yehudai, Shamir 2021 (arXiv 2006.01005).

    ```python
    >>> import relujax as rj
    >>> loss = rj.problems.orthonormal_teacher(6)
    >>> minimum = rj.symmetry.family("II", 6).weights
    >>> split_test(loss, ShallowReLU(minimum, jnp.ones(6), train=("weights",))).descends
    True

    ```
    """
    require_x64("split_test", net)
    if net.biases is not None or loss.teacher.biases is not None:
        raise ValueError("the network or its teacher has biases: the test is for networks without.")
    values, vectors = np.linalg.eigh(np.asarray(_splitting_matrices(loss, net)))
    return SplitTest(values[:, 0], vectors[:, :, 0])


@eqx.filter_jit
def _splitting_matrices(loss, net):
    rows = jnp.asarray(net.weights)
    vectors = jnp.concatenate([rows, loss.teacher.weights])
    coefficients = jnp.concatenate([net.amplitudes, -jnp.asarray(loss.teacher.amplitudes)])
    return net.amplitudes[:, None, None] * arccos.own_hessian(rows, vectors, coefficients)


def annihilation(
    loss: AbstractLoss,
    net: ShallowReLU,
    key: Key[Array, ""],
    *,
    added: int = 1,
    starts: int = 32,
    size: float = 1e-3,
    gradient_norm: float = 1e-8,
) -> Annihilation:
    """Flows from a spurious minimum with a few tiny neurons added: how many leave it for a global minimum?

    **Arguments:**

    - `net`: the minimum, without biases.
    - `added`: how many neurons; their weights are normal with this `size` of standard deviation.
    - `starts`: how many draws of them.
    - `gradient_norm`: where a flow counts as ended.

    **Returns:** an `Annihilation`.

    A tiny neuron w follows `−∇Φ(w)` with Φ homogeneous of degree 1, and may reach 0 in finite time. It then stays there, which
    is a solution of the differential inclusion, and the others flow on.

    **Raises:** as `add_neurons` and `flow_ensemble` do; `ValueError` for no neurons or no starts.

    ```python
    >>> import jax, relujax as rj
    >>> loss = rj.problems.orthonormal_teacher(6)
    >>> minimum = ShallowReLU(rj.symmetry.family("II", 6).weights, jnp.ones(6), train=("weights",))
    >>> annihilation(loss, minimum, jax.random.key(0), added=2, starts=4).share
    1.0

    ```
    """
    if added < 1 or starts < 1:
        raise ValueError(f"added is {added} and starts is {starts}: give at least 1 of each.")
    tiny = size * jax.random.normal(key, (starts, added, net.dim))
    nets = jax.vmap(lambda extra: add_neurons(net, extra))(tiny)
    bound = 0.01 * float(loss(net))
    losses, status, died = np.zeros(starts), np.zeros(starts, int), np.zeros(starts, int)
    open_ = np.arange(starts)
    # most are past everything at a gradient of 1e-5; the others may only linger at a saddle
    for norm in (max(1e-5, gradient_norm), *[gradient_norm] * (added + 1)):
        ends = _flow(loss, nets, norm)
        losses[open_], status[open_] = ends.losses, ends.status
        vanished = np.linalg.norm(ends.networks.weights, axis=-1) < _NOTHING
        vanished &= (np.asarray(ends.status) == FlowStatus.STEP_TOO_SMALL)[:, None]
        died[open_] += vanished.sum(axis=1)
        left = np.flatnonzero((losses[open_] >= bound) & ((norm > gradient_norm) | np.any(vanished, axis=1)))
        if left.size == 0:
            break
        # with amplitude 0 and any weights a neuron is as good as at 0, and the field stays smooth
        weights = np.where(vanished[:, :, None], 1.0, ends.networks.weights)
        amplitudes = np.where(vanished, 0.0, ends.networks.amplitudes)
        open_, nets = open_[left], ShallowReLU(weights[left], amplitudes[left], train=net.train)
    return Annihilation(losses, losses < bound, died, status)


def _flow(loss, nets, gradient_norm):
    return flow_ensemble(loss, nets, gradient_norm=gradient_norm, solver=Chebyshev(), rtol=1e-4, atol=1e-4, max_steps=_MAX_STEPS)
