"""What kind of point a network is at."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._precision import require_x64
from .._status import Status
from ..hessian import eigenvalues
from ..loss import AbstractLoss, EmpiricalLoss
from ..network import RealArray, ShallowReLU, hidden_vectors, is_stacked, number_of_parameters, take
from .escape import is_escaping, recedes
from .kinks import along, inertia, kink_conditions
from .piece import ROUNDING, Pieces
from .smooth import departure, explained_nullity, inertia_of, is_zero, neurons_of, places_of, units_of
from .taylor import taylor


class PointStatus(Status):
    """The kinds of points; printed with spaces, `PointStatus.NOT_CRITICAL.words == "not critical"`.

    - `MINIMUM`: of an empirical loss, a local minimum (`critical.kinks` says why that is decided exactly). Of another loss,
      critical, no negative eigenvalue, and every null direction explained (`Verdict.nullity_explained`); or of loss zero.
    - `KINK_MINIMUM`: a local minimum of an empirical loss at which some neuron that is not 0 has a datum on its boundary where
      the slope jumps.
    - `SADDLE`: critical, without descent of first order, and with descent of second order: a negative eigenvalue, or a neuron
      of amplitude 0 that lowers the loss when it turns on, possibly across a kink only.
    - `DESCENT_POINT`: on kinks of an empirical loss, or with a neuron that is 0, with a direction of first-order descent that
      the almost-everywhere gradient does not show.
    - `DEGENERATE`: critical, no negative eigenvalue, with null directions that nothing explains.
    - `NOT_CRITICAL`: the gradient norm is above the tolerance.
    - `ESCAPING`: on the way to infinity: under a criterion that is never attained, as the logistic one, all data are on their
      right side, or some move there for ever while none leaves it; under another one, far from the origin and moving away
      from it while the loss is flat.
    - `UNDECIDED`: something is not finite, or the conditions that were tested do not settle it.
    """

    MINIMUM = 0
    KINK_MINIMUM = 1
    SADDLE = 2
    DESCENT_POINT = 3
    DEGENERATE = 4
    NOT_CRITICAL = 5
    ESCAPING = 6
    UNDECIDED = 7


class Verdict(eqx.Module):
    """The kind of a point, and what it was judged by; every field has the leading axis of the networks.

    - `status`: a `PointStatus`, of a stack an array of them; `words` says them.
    - `index`, `nullity`: eigenvalues below `−null_tolerance λ_max`, and within it, where every neuron that moves as a whole is
      rescaled to `|a| = |(w, b)|`: they do not depend on how neurons are scaled.
    - `nullity_explained`: null directions that rescaling, dead neurons and parallel neurons account for; of an empirical loss,
      all.
    - `min_eigenvalue`, `max_eigenvalue`, and all `eigenvalues`, ascending. On kinks they are those of the Hessian along the
      directions that keep data where the slope jumps on their boundaries, and for a neuron of a population loss that is 0
      along those of the others, filled up with NaN. A datum on a boundary without a jump is inactive.
    - `gradient_norm` (on kinks that of the smallest element of Clarke's set), `loss`, and `dead`, the number of
      neurons that never fire.
    """

    status: PointStatus | Int[Array | np.ndarray, "*batch"]
    index: Int[Array | np.ndarray, "*batch"]
    nullity: Int[Array | np.ndarray, "*batch"]
    nullity_explained: Int[Array | np.ndarray, "*batch"]
    min_eigenvalue: Float[RealArray, "*batch"]
    max_eigenvalue: Float[RealArray, "*batch"]
    eigenvalues: Float[RealArray, "*batch p"]
    gradient_norm: Float[RealArray, "*batch"]
    loss: Float[RealArray, "*batch"]
    dead: Int[Array | np.ndarray, "*batch"]

    @property
    def words(self) -> str | list[str]:
        """The status in words, of a stack a list of them."""
        return str(self.status) if isinstance(self.status, PointStatus) else [str(PointStatus(s)) for s in self.status]


def classify(loss: AbstractLoss, nets: ShallowReLU, *, gradient_tolerance: float = 1e-8, null_tolerance: float = 1e-9) -> Verdict:
    """Say of a network, or of every network of a stack, whether it is a minimum, a saddle, or something else.

    **Arguments:**

    - `gradient_tolerance`: a point with a larger gradient norm is not critical; in units of the gradient that residuals as large
      as the targets would make at the largest neuron, neurons rescaled to `|a| = |(w, b)|` where both move.
    - `null_tolerance`: eigenvalues within this times the largest count as zero.

    Of an empirical loss with a convex criterion the verdict is exact (`critical.kinks`): slopes of one piecewise linear function
    of a hidden vector decide, at kinks and off them. What is 0 there is so to 1e-9 of its own size: pre-activations beside
    |(w, b)| |(x, 1)|, amplitudes and hidden vectors by the neuron's share of the outputs. The Hessian is the almost-everywhere
    one, and does not decide.

    Of another loss the judgement is on eigenvalues of the dense Hessian over the trained parameters. Two things make a critical
    point with null directions a minimum all the same: they are explained, one by one, by positive rescaling (when both layers
    move) and parallel neurons; or the loss is zero to rounding, and it is never negative, and nothing else is asked. A
    population loss has no Hessian where a neuron is 0: the slope in every direction of that neuron decides, and no descent is
    a minimum only where nothing pulls it out and all neurons are 0.

    **Raises:** `ValueError` in single precision.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> teacher = rj.ShallowReLU(jnp.eye(3), jnp.ones(3))
    >>> verdict = rj.classify(rj.PopulationLoss(teacher), teacher)
    >>> verdict.words, int(verdict.nullity), int(verdict.nullity_explained)
    ('minimum', 3, 3)

    ```
    """
    require_x64("classify", nets)
    nets = jax.tree.map(jnp.asarray, nets)
    if is_stacked(nets):
        number = len(nets.weights)
        # an empty stack has the shapes of one network of ones
        nets = nets if number else jax.tree.map(lambda leaf: jnp.ones((1, *leaf.shape[1:]), leaf.dtype), nets)
        each = [_classify_one(loss, take(nets, i), gradient_tolerance, null_tolerance) for i in range(len(nets.weights))]
        return jax.tree.map(lambda *leaves: np.stack(leaves)[:number], *each)
    return _classify_one(loss, nets, gradient_tolerance, null_tolerance)


def _classify_one(loss, net, gradient_tolerance, null_tolerance):
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(net)):
        return _undecided(net)
    with np.errstate(over="ignore", invalid="ignore"):
        judge = _judge_sampled if isinstance(loss, EmpiricalLoss) else _judge_smooth
        return judge(loss, net, gradient_tolerance, null_tolerance)


def _judge_sampled(loss, net, gradient_tolerance, null_tolerance):
    pieces = Pieces(loss, net)
    if not (np.isfinite(pieces.value) and all(np.all(np.isfinite(x)) for x in (pieces.slopes, pieces.curvatures))):
        return _undecided(net, value=pieces.value)
    conditions = kink_conditions(pieces, gradient_tolerance)
    matrix = pieces.hessian(pieces.active, conditions.couplings)
    if not np.all(np.isfinite(matrix)):
        return _undecided(net, value=pieces.value)
    if conditions.critical:
        index, nullity = inertia(pieces, conditions, null_tolerance)
    else:
        scales = pieces.scales()
        scaled = along(pieces, conditions, scales[:, None] * matrix * scales)
        index, nullity = inertia_of(scaled, null_tolerance, ROUNDING * pieces.steepness)
    status = _status(loss, net, pieces, conditions)
    dead = int(np.sum(~np.any(pieces.active, axis=0)))
    matrix = along(pieces, conditions, matrix, pieces.units)
    return _verdict(net, status, (index, nullity, nullity), matrix, conditions.residual, pieces.value, dead)


def _status(loss, net, pieces, conditions):
    if not conditions.critical:
        return PointStatus.ESCAPING if is_escaping(loss, net) else PointStatus.NOT_CRITICAL
    if recedes(loss, pieces):
        return PointStatus.ESCAPING
    if conditions.descent:
        return PointStatus.DESCENT_POINT
    if conditions.saddle:
        return PointStatus.SADDLE
    if not conditions.complete or np.any(pieces.curvatures < 0):
        return PointStatus.UNDECIDED
    return PointStatus.KINK_MINIMUM if conditions.kinks else PointStatus.MINIMUM


def _judge_smooth(loss, net, gradient_tolerance, null_tolerance):
    value, gradient, matrix = (np.asarray(part) for part in taylor(loss, net))
    if not (np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(matrix))):
        return _undecided(net, value=value)
    neurons = neurons_of(loss, net)
    there = ~places_of(net, neurons.vanished)
    norm, matrix = float(np.linalg.norm(gradient[there])), matrix[np.ix_(there, there)]
    units = units_of(net)[there]
    index, nullity = inertia_of(units[:, None] * matrix * units, null_tolerance)
    explained = min(explained_nullity(net, ~neurons.vanished), nullity)
    if is_zero(loss, net, float(value)):
        # what is not convex there is the rounding of a residual that is 0
        status, index, nullity = PointStatus.MINIMUM, 0, index + nullity
    elif norm > gradient_tolerance * neurons.largest * neurons.gain:
        status = PointStatus.ESCAPING if is_escaping(loss, net) else PointStatus.NOT_CRITICAL
    elif np.any(neurons.vanished):
        status = _status_at_zero(loss, net, neurons, index, gradient_tolerance * neurons.largest)
    elif index > 0:
        status = PointStatus.SADDLE
    else:
        status = PointStatus.MINIMUM if explained == nullity else PointStatus.DEGENERATE
    return _verdict(net, status, (index, nullity, explained), matrix, norm, value, count_dead(loss, net))


def _status_at_zero(loss, net, neurons, index, nothing):
    """The status of a critical point of a population loss, some neurons of which are 0, where the loss is not 0."""
    slope = departure(loss, net, neurons)
    if slope.least < -nothing:
        return PointStatus.DESCENT_POINT
    # a residual that is not 0 correlates with a neuron somewhere, and amplitude and hidden vector then lower it together
    if index > 0 or np.any(neurons.vanished & neurons.silent & ("amplitudes" in net.trained)):
        return PointStatus.SADDLE
    return PointStatus.MINIMUM if slope.none_below and np.all(neurons.vanished) else PointStatus.UNDECIDED


def count_dead(loss: AbstractLoss, net: ShallowReLU) -> int:
    """Neurons that never fire: on no datum, or 0."""
    if isinstance(loss, EmpiricalLoss):
        return int(np.sum(~np.any(Pieces(loss, net).active, axis=0)))
    return int(np.sum(neurons_of(loss, net).vanished | np.all(np.asarray(hidden_vectors(net)) == 0, axis=-1)))


def _undecided(net, value=np.nan):
    p = number_of_parameters(net)
    nothing = np.full((p, p), np.nan)
    return _verdict(net, PointStatus.UNDECIDED, (0, 0, 0), nothing, np.nan, value, 0)


def _verdict(net, status, counts, matrix, norm, value, dead):
    values = np.asarray(eigenvalues(matrix)) if np.all(np.isfinite(matrix)) else np.full(len(matrix), np.nan)
    padding = np.full(number_of_parameters(net) - len(values), np.nan)
    return Verdict(
        status=status,
        index=np.asarray(counts[0]),
        nullity=np.asarray(counts[1]),
        nullity_explained=np.asarray(counts[2]),
        min_eigenvalue=np.asarray(values[0] if len(values) else np.nan),
        max_eigenvalue=np.asarray(values[-1] if len(values) else np.nan),
        eigenvalues=np.concatenate([values, padding]),
        gradient_norm=np.asarray(norm),
        loss=np.asarray(value),
        dead=np.asarray(dead),
    )
