"""From the neighbourhood of a critical point to the point itself, at the precision of the arithmetic."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._precision import require_x64
from .._status import Status
from ..loss import AbstractLoss, EmpiricalLoss
from ..network import RealArray, ShallowReLU, is_stacked, ravel, take, unravel
from ..parallel import Progress, chunk_size, map_chunks, map_first
from .escape import is_separated, never_attained

_ITERATIONS = 60
_DAMPED = 2
_FRACTIONS = np.array([1.0, 1 / 4, 1 / 16, 1 / 64])
_SHORT = 0.03  # relative to the network
_NEAR = 1e-3  # a gradient, relative to the largest eigenvalue times the size of the network
WAYPOINTS = (0.0, 1 / 3, 2 / 3, 1.0)


class PolishStatus(Status):
    """How a polish ended.

    - `CONVERGED`: the gradient norm is at the tolerance and the point lies in the basin it started from: the Hessian has the
      same signature on the whole way from the start, which is short unless the Hessian is positive definite all along.
    - `BASIN_CHANGED`: a critical point was reached, but the signature of the Hessian changed on the way, so that the flow
      from the start may end elsewhere.
    - `STALLED`: the gradient norm stopped falling above the tolerance.
    - `ESCAPING`: there is no critical point to reach: the criterion is never attained and all data are on their right side, so
      that a longer network is better.
    """

    CONVERGED = 0
    BASIN_CHANGED = 1
    STALLED = 2
    ESCAPING = 3


class Polished(eqx.Module):
    """Networks after a polish, with the gradient norm, the Euclidean distance moved and the `PolishStatus` of each."""

    networks: ShallowReLU
    gradient_norms: Float[RealArray, "*batch"]
    distances: Float[RealArray, "*batch"]
    status: PolishStatus | Int[Array | np.ndarray, "*batch"]


def polish(loss: AbstractLoss, nets: ShallowReLU, *, tolerance: float = 1e-13, progress: Progress | None = None) -> Polished:
    """Move a network, or every network of a stack, to the critical point it is close to.

    **Arguments:**

    - `tolerance`: the gradient norm to reach, over the trained parameters.

    **Returns:** a `Polished`; nothing is raised for a network that does not converge, its `status` says so.

    Where the Hessian is positive definite this is Newton's method. Elsewhere, and where its step is long, each step is a damped
    or the minimum-norm solution of `H s = −∇L` over the eigenvalues above rounding, so that nothing moves along flat
    directions, where an untruncated step would slide to another point of a manifold of minima; for an interpolating network
    this is the Gauss–Newton step. A step that does not lower the gradient norm is shortened. A point that converges but may
    have left its basin is reported as `BASIN_CHANGED`, with the distance it moved.

    On an empirical loss the activation pattern is re-evaluated at every step. Neurons parked on a kink make that pattern a
    matter of rounding; such points end as `STALLED`.

    **Raises:** `ValueError` in single precision.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(2), jnp.ones(2), train=("weights",)))
    >>> near = rj.ShallowReLU(jnp.array([[1.01, 0.0], [0.02, 0.99]]), jnp.ones(2), train=("weights",))
    >>> bool(rj.polish(loss, near).gradient_norms < 1e-13)
    True

    ```
    """
    require_x64("polish", nets)
    if not is_stacked(nets):
        one = polish(loss, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], nets), tolerance=tolerance)
        first = jax.tree.map(lambda leaf: np.asarray(leaf[0]), one)
        return Polished(first.networks, first.gradient_norms, first.distances, status=PolishStatus(int(first.status)))

    def run(part, count):
        return _polish_chunk(loss, part, count, jnp.asarray(tolerance))

    chunk = chunk_size(nets.weights.shape[0])
    ends = Polished(*map_chunks(run, jax.tree.map(np.asarray, nets), chunk=chunk, progress=progress))
    if not isinstance(loss, EmpiricalLoss) or never_attained(loss) is None:
        return ends
    gone = np.array([is_separated(loss, take(ends.networks, i)) for i in range(nets.weights.shape[0])], bool)
    status = np.where(gone, int(PolishStatus.ESCAPING), np.asarray(ends.status))
    return Polished(ends.networks, ends.gradient_norms, ends.distances, status=status)


@eqx.filter_jit
def _polish_chunk(loss, nets, count, tolerance):
    # one after another: the branches of a conditional are then taken, not both computed
    return map_first(lambda net: _polish_one(loss, net, tolerance), nets, count)


def _polish_one(loss, net, tolerance):
    start = ravel(net)

    def gradient(state):
        return ravel(loss.gradient(unravel(net, state)))

    def hessian(state):
        return loss.hessian(unravel(net, state))

    def advance(carry):
        state, force, norm, count, _ = carry
        steps = newton_steps(hessian(state), force, state)

        def shorten(trial):
            number, _, _, _ = trial
            new = state + steps[number]
            new_force = gradient(new)
            return number + 1, new, new_force, jnp.linalg.norm(new_force)

        def is_refused(trial):
            number, _, _, reached = trial
            # a damped step is shorter, and taken where it does at least half of what is asked for
            enough = reached <= jnp.where(number <= _DAMPED, 0.5, 1.0) * norm
            return (number < len(steps)) & ~(enough & (reached < norm))

        _, new, new_force, new_norm = jax.lax.while_loop(is_refused, shorten, (0, state, force, jnp.asarray(jnp.inf)))
        better = new_norm < norm
        keep = lambda a, b: jnp.where(better, a, b)  # noqa: E731
        return keep(new, state), keep(new_force, force), keep(new_norm, norm), count + 1, better

    force = gradient(start)
    first = (start, force, jnp.linalg.norm(force), jnp.asarray(0), jnp.asarray(True))
    state, _, norm, _, _ = jax.lax.while_loop(
        lambda carry: (carry[2] > tolerance) & (carry[3] < _ITERATIONS) & carry[4], advance, first
    )
    distance = jnp.linalg.norm(state - start)
    kept = _same_signature(hessian, start, state, distance)
    status = jnp.where(kept, PolishStatus.CONVERGED, PolishStatus.BASIN_CHANGED)
    return unravel(net, state), norm, distance, jnp.where(norm <= tolerance, status, PolishStatus.STALLED)


def newton_steps(
    hessian: Float[Array, "p p"], gradient: Float[Array, " p"], state: Float[Array, " p"]
) -> Float[Array, "steps p"]:
    """Steps to try in turn: `−H⁻¹∇L` where H is positive definite and that is short; else two damped ones, and what follows.

    That is the minimum-norm solution over the eigenvalues above rounding, and parts of it. At minima that form a manifold of
    overparametrised networks the loss grows with the third power of a distance δ: gradients are of the order δ², eigenvalues δ
    across the manifold and at most δ² along it, so that the minimum-norm solution slides along it by any length. Damping by
    `λ/(λ² + μ²)` with `μ² ~ |∇L|` leaves the first and takes away the second, and changes nothing where all eigenvalues are
    above μ.
    """
    size = jnp.linalg.norm(state)
    # not a number where the Hessian is not positive definite
    definite = -jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(hessian), True), gradient)

    def general():
        values, vectors = jnp.linalg.eigh(hessian)
        largest, along = jnp.max(jnp.abs(values)), vectors.T @ gradient
        seen = jnp.abs(values) > 1e-11 * largest
        damping = jnp.linalg.norm(gradient) * largest / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        # far from critical points steps are long anyway
        damping = jnp.where(damping <= _NEAR * largest**2, damping, 0.0)
        shares = [jnp.where(seen, values / jnp.where(seen, values**2 + share * damping, 1.0), 0.0) for share in (1e-2, 1e-6, 0.0)]
        damped = -jnp.stack(shares) * along @ vectors.T
        return jnp.concatenate([damped, _FRACTIONS[1:, None] * damped[-1]])

    return jax.lax.cond(
        jnp.linalg.norm(definite) <= _SHORT * size,
        lambda: jnp.concatenate([jnp.broadcast_to(definite, (_DAMPED, len(definite))), _FRACTIONS[:, None] * definite]),
        general,
    )


def _same_signature(hessian, start, end, distance):
    """Whether the Hessian keeps its number of negative eigenvalues along the segment.

    Cholesky settles the positive definite case, at any distance. Otherwise the segment must be short beside the network,
    and eigenvalues count as negative below −distance λ_max, at most −λ_max/100: null directions of the end have
    eigenvalues of the order of the distance at the start.
    """

    def index(t):
        values = jnp.linalg.eigvalsh(hessian(start + t * (end - start)))
        return jnp.sum(values < -jnp.clip(distance, 1e-9, 1e-2) * values[-1])

    def indefinite():
        short = distance <= 0.1 * jnp.linalg.norm(start)
        return short & jnp.all(jnp.diff(jax.lax.map(index, jnp.array(WAYPOINTS))) == 0)

    return jax.lax.cond(_is_definite_along(hessian, start, end), lambda: jnp.asarray(True), indefinite)


def _is_definite_along(hessian, start, end):
    def is_definite(t):
        return jnp.all(jnp.isfinite(jnp.linalg.cholesky(hessian(start + t * (end - start)))))

    return jnp.all(jax.lax.map(is_definite, jnp.array(WAYPOINTS)))
