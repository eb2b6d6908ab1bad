"""Networks that their loss carries to infinity: criteria that are never attained, on data that can be separated."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Float
from scipy.optimize import linprog

from ..loss import AbstractLoss, EmpiricalLoss
from ..network import ShallowReLU, ravel
from .piece import Pieces

# outputs at which a criterion with a minimum has passed it, in Newton steps from output 0
_FAR = 100.0
# violations of a direction that a linear programme found, relative to what it gains
_VIOLATION = 1e-9


def is_escaping(loss: AbstractLoss, net: ShallowReLU) -> bool:
    """Whether the flow carries a network that is not critical to infinity.

    Under a criterion that is never attained, as the logistic and the exponential one, that is so wherever all data are on
    their right side. Otherwise the network must be far out and moving outwards at a loss that is nearly flat: a norm above
    1000 √m, a velocity within 60° of the outward direction, and a loss that changes by less than a tenth, to first order,
    while the network doubles.
    """
    if isinstance(loss, EmpiricalLoss) and is_separated(loss, net):
        return True
    value, gradient = (np.asarray(x) for x in _value_gradient(loss, net))
    state = np.asarray(ravel(net))
    size, norm = np.linalg.norm(state), np.linalg.norm(gradient)
    return bool(size > 1e3 * np.sqrt(net.width) and -gradient @ state > 0.5 * norm * size and norm * size < 0.1 * value)


def is_separated(loss: EmpiricalLoss, net: ShallowReLU) -> bool:
    """Whether every datum is on its right side, under a criterion that falls for ever there, and the network can grow."""
    sides = never_attained(loss)
    if sides is None:
        return False
    pieces = Pieces(loss, net)
    told = sides != 0
    return bool(np.any(told) and np.all((sides * pieces.outputs)[told] > 0) and recedes(loss, pieces))


def never_attained(loss: EmpiricalLoss) -> Float[np.ndarray, " n"] | None:
    """The side, ±1, towards which the criterion of every datum falls for ever, 0 where it is flat; None where one is attained."""
    targets, criterion = jnp.asarray(loss.targets), loss.criterion
    start = jnp.zeros(len(loss.targets))
    slopes, bends = (np.asarray(derivative(start, targets)) for derivative in (criterion.slope, criterion.curvature))
    sides = -np.sign(slopes)
    steps = np.abs(slopes) / np.where(bends > 0, bends, 1.0)
    beyond = np.asarray(criterion.slope(jnp.asarray(_FAR * steps * sides), targets))
    return sides if np.all(np.sign(beyond) == np.sign(slopes)) else None


def recedes(loss: EmpiricalLoss, pieces: Pieces) -> bool:
    """Whether the network can move for ever, in its linear piece, so that no datum's criterion rises and some fall for ever.

    The directions of a piece are those of the products `|a_j| (w_j, b_j)` that keep every datum on its side. One that raises
    the margin of some data and lowers none exists or not by a linear programme (Rockafellar 1970, section 27: a convex
    function that has one attains no minimum there).
    """
    sides = never_attained(loss)
    if sides is None:
        return False
    net, n = pieces.net, len(pieces.z)
    hidden, outer = pieces.normals.shape[1], "amplitudes" in net.trained
    outputs, cones = [], []
    for j in np.flatnonzero(~pieces.vanished):
        active, sign = pieces.active[:, [j]], np.sign(pieces.amplitudes[j])
        moves = pieces.normals if hidden and sign else np.zeros((n, 0))
        grow = np.maximum(pieces.z[:, [j]], 0.0) / pieces.sizes[j] if outer else np.zeros((n, 0))
        outputs.append(np.where(active, np.concatenate([sign * moves, grow], axis=1), 0.0))
        if hidden and sign:
            along = sign * pieces.z[:, [j]] / pieces.sizes[j]
            cone = np.concatenate([moves, along[:, : grow.shape[1]]], axis=1)
            cones.append(np.where(active, -cone, cone))
        else:
            cones.append(np.zeros((0, outputs[-1].shape[1])))
    if not outputs or sum(block.shape[1] for block in outputs) == 0:
        return False
    units = np.where(pieces.lengths > 0, pieces.lengths, 1.0)[:, None]
    margins = np.concatenate(outputs, axis=1) * sides[:, None] / units
    walls = scipy.sparse.block_diag([block / units if len(block) else block for block in cones], format="csr")
    limits = scipy.sparse.vstack([scipy.sparse.csr_matrix(-margins), walls], format="csr")
    found = linprog(-np.sum(margins, axis=0), A_ub=limits, b_ub=np.zeros(limits.shape[0]), bounds=(-1, 1), method="highs")
    if found.x is None:
        return False
    gains = margins @ found.x
    return bool(np.max(gains) > 1e3 * _VIOLATION and np.max(limits @ found.x) <= _VIOLATION * np.max(gains))


@eqx.filter_jit
def _value_gradient(loss, net):
    return loss(net), ravel(loss.gradient(net))
