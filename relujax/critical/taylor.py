"""Losses, and values with two derivatives, compiled once for all that needs them at the points of a census."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from ..loss import AbstractLoss
from ..network import ShallowReLU, ravel
from ..parallel import map_chunks, map_first

_CHUNK = 16


@eqx.filter_jit
def taylor(loss: AbstractLoss, net: ShallowReLU) -> tuple[Float[Array, ""], Float[Array, " p"], Float[Array, "p p"]]:
    """Value, gradient and Hessian over the trained parameters."""
    return loss(net), ravel(loss.gradient(net)), loss.hessian(net)


def losses(loss: AbstractLoss, nets: ShallowReLU) -> Float[np.ndarray, " B"]:
    """The loss of every network of a stack."""
    if nets.weights.shape[0] == 0:
        return np.zeros(0)
    return map_chunks(lambda part, count: _losses(loss, part, count), jax.tree.map(np.asarray, nets), chunk=_CHUNK)


@eqx.filter_jit
def _losses(loss, nets, count):
    return map_first(loss, nets, count)
