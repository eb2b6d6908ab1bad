"""Newton's method to the minima that gradient flows lead to."""

import jax
import numpy as np
import scipy.linalg

from .._precision import require_x64
from ..loss import AbstractLoss
from ..network import ShallowReLU, ravel, take, unravel
from .polish import WAYPOINTS, Polished, PolishStatus
from .taylor import taylor

_ITERATIONS = 30
_SHORTEST = 1 / 64
_FARTHEST = 0.1  # relative to the network: along a manifold of minima a definite Hessian is nearly flat


def polish_minima(loss: AbstractLoss, nets: ShallowReLU, *, tolerance: float = 1e-13) -> Polished:
    """`polish` of a stack for points that may be near a minimum: `STALLED` where the Hessian is not positive definite.

    A network that ends as `CONVERGED` lies with its start, not far away, in a region where the Hessian is positive definite
    along the segment between them, and the gradient flow from that start ends there too.
    """
    require_x64("polish_minima", nets)

    # one after another: the linear algebra has threads of its own
    ends = [_to_minimum(loss, take(nets, i), tolerance) for i in range(nets.weights.shape[0])]
    networks = jax.tree.map(lambda *leaves: np.stack(leaves), *(end[0] for end in ends))
    return Polished(networks, *(np.array(column) for column in list(zip(*ends, strict=True))[1:]))


def _to_minimum(loss, net, tolerance):
    start = state = np.asarray(ravel(net))
    _, force, hessian = (np.asarray(part) for part in taylor(loss, net))
    norm = np.linalg.norm(force)
    for _ in range(_ITERATIONS):
        step = _definite_step(hessian, force)
        if step is None or norm <= tolerance:
            break
        fraction = 1.0
        while fraction >= _SHORTEST:
            new = state + fraction * step
            _, new_force, new_hessian = (np.asarray(part) for part in taylor(loss, unravel(net, new)))
            if np.linalg.norm(new_force) < norm:
                break
            fraction /= 4
        else:
            break
        state, force, hessian, norm = new, new_force, new_hessian, np.linalg.norm(new_force)
    status = int(PolishStatus.STALLED)
    if norm <= tolerance and np.linalg.norm(state - start) <= _FARTHEST * np.linalg.norm(start):
        definite = all(_is_definite(loss, unravel(net, start + t * (state - start))) for t in WAYPOINTS)
        status = int(PolishStatus.CONVERGED if definite else PolishStatus.BASIN_CHANGED)
    return jax.tree.map(np.asarray, unravel(net, state)), norm, np.linalg.norm(state - start), status


def _definite_step(hessian, force):
    """Newton's step by Cholesky, None where the Hessian is not positive definite."""
    if not (np.all(np.isfinite(hessian)) and np.all(np.isfinite(force))):
        return None
    try:
        return -scipy.linalg.cho_solve(scipy.linalg.cho_factor(hessian, check_finite=False), force)
    except np.linalg.LinAlgError:
        return None


def _is_definite(loss, net):
    return exceeds(np.asarray(taylor(loss, net)[2]), 0.0)


def exceeds(hessian: np.ndarray, bound: float) -> bool:
    """Whether the smallest eigenvalue of a symmetric matrix exceeds a bound, by Cholesky's factorisation."""
    try:
        np.linalg.cholesky(hessian - bound * np.eye(len(hessian)))
    except np.linalg.LinAlgError:
        return False
    return True
