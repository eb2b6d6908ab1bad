"""What kind of point a network is at."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._precision import require_x64
from .._status import Status
from ..hessian import eigenvalues
from ..loss import AbstractLoss, EmpiricalLoss, PopulationLoss
from ..network import (
    RealArray,
    ShallowReLU,
    dead_neurons,
    hidden_vectors,
    is_stacked,
    number_of_parameters,
    ravel,
    take,
)
from .kinks import curvature_along, kink_conditions
from .taylor import taylor


class PointStatus(Status):
    """The kinds of points; printed with spaces, `PointStatus.NOT_CRITICAL.words == "not critical"`.

    - `MINIMUM`: critical, no negative eigenvalue, and every null direction explained (`Verdict.nullity_explained`).
    - `KINK_MINIMUM`: on kinks of an empirical loss, critical in Clarke's sense, without a direction of first-order descent,
      and without a negative eigenvalue of the Hessian along the directions that are flat to first order.
    - `SADDLE`: critical, with a negative eigenvalue, or with descent of second order across a kink of silent neurons.
    - `DESCENT_POINT`: on kinks of an empirical loss, with a direction of first-order descent that the almost-everywhere
      gradient does not show.
    - `DEGENERATE`: critical, no negative eigenvalue, with null directions that nothing explains.
    - `NOT_CRITICAL`: the gradient norm is above the tolerance.
    - `ESCAPING`: not critical, far from the origin and moving away from it while the loss is flat.
    - `UNDECIDED`: the Hessian does not exist or is not finite, or on kinks the conditions that were tested do not settle it.
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
    - `index`, `nullity`: eigenvalues below `−null_tolerance λ_max`, and within it.
    - `nullity_explained`: null directions that rescaling, dead neurons and parallel neurons account for.
    - `min_eigenvalue`, `max_eigenvalue`, and all `eigenvalues`, ascending. On kinks they are those of the Hessian along the
      directions that stay on them, or leave them without first-order change, filled up with NaN.
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

    - `gradient_tolerance`: a point with a larger gradient norm is not critical.
    - `null_tolerance`: eigenvalues within this times the largest count as zero.

    The judgement is on eigenvalues of the dense Hessian over the trained parameters. Three things make a critical point with
    null directions a minimum all the same: they are explained, one by one, by positive rescaling (when both layers move),
    dead neurons and parallel neurons; or the loss is zero to rounding, and it is never negative; or the loss is empirical
    and convex in the products `a_j (w_j, b_j)` on the linear piece that the point lies inside.

    Of an empirical loss the Hessian is the almost-everywhere one. On kinks the verdict takes one-sided derivatives as well
    (`critical.kinks`).

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
    value, gradient, hessian = taylor(loss, net)
    matrix, norm = np.asarray(hessian), float(jnp.linalg.norm(gradient))
    finite = all(np.all(np.isfinite(array)) for array in (matrix, norm, *jax.tree.leaves(net)))
    kinks = kink_conditions(loss, net) if isinstance(loss, EmpiricalLoss) and finite else None
    if kinks is not None:
        matrix, norm = kinks.tangent.T @ kinks.hessian @ kinks.tangent, kinks.clarke_residual
    values = np.asarray(eigenvalues(matrix)) if finite else np.full(len(matrix), np.nan)
    largest = np.max(np.abs(values), initial=0.0)
    index = int(np.sum(values < -null_tolerance * largest))
    nullity = int(np.sum(np.abs(values) <= null_tolerance * largest))
    # on kinks, too, the loss is convex in the products a_j (w_j, b_j) along directions that stay on them
    convex = not finite or (kinks is not None and kinks.pairs > 0)
    explained = nullity if convex else min(_explained_nullity(loss, net), nullity)
    status = _status(loss, net, float(value), norm, values, index, nullity - explained, gradient_tolerance)
    if kinks is not None and status in (PointStatus.MINIMUM, PointStatus.SADDLE, PointStatus.DEGENERATE):
        status = _status_at_kinks(status, loss, net, kinks, gradient_tolerance, null_tolerance * largest)
    padding = np.full(number_of_parameters(net) - len(values), np.nan)
    return Verdict(
        status=status,
        index=np.asarray(index),
        nullity=np.asarray(nullity),
        nullity_explained=np.asarray(explained),
        min_eigenvalue=np.asarray(values[0] if len(values) else np.nan),
        max_eigenvalue=np.asarray(values[-1] if len(values) else np.nan),
        eigenvalues=np.concatenate([values, padding]),
        gradient_norm=np.asarray(norm),
        loss=np.asarray(value),
        dead=np.asarray(count_dead(loss, net)),
    )


def _status_at_kinks(status, loss, net, kinks, gradient_tolerance, threshold):
    if kinks.descent > gradient_tolerance:
        return PointStatus.DESCENT_POINT
    if kinks.silent_saddle or (status == PointStatus.SADDLE and _falls_off(loss, net, kinks, threshold)):
        return PointStatus.SADDLE
    if status == PointStatus.SADDLE or not kinks.complete:
        return PointStatus.UNDECIDED
    return PointStatus.KINK_MINIMUM if status == PointStatus.MINIMUM and kinks.pairs else status


def _falls_off(loss, net, kinks, threshold):
    """Whether the loss falls to second order along an eigenvector of a negative eigenvalue or its opposite."""
    values, vectors = np.linalg.eigh(kinks.tangent.T @ kinks.hessian @ kinks.tangent)
    directions = (kinks.tangent @ vectors[:, values < -threshold]).T
    return any(curvature_along(loss, net, kinks, side * v) < -threshold for v in directions for side in (1, -1))


def _status(loss, net, value, norm, values, index, unexplained, tolerance):
    if not (np.isfinite(value) and np.isfinite(norm) and np.all(np.isfinite(values))):
        return PointStatus.UNDECIDED
    if isinstance(loss, PopulationLoss) and bool(loss.has_zero_neuron(net)):
        return PointStatus.UNDECIDED
    if norm > tolerance:
        return PointStatus.ESCAPING if is_escaping(loss, net) else PointStatus.NOT_CRITICAL
    if index > 0:
        return PointStatus.SADDLE
    nothing = jax.tree.map(jnp.zeros_like, net)
    if unexplained == 0 or value <= 1e-14 * float(loss(nothing)):
        return PointStatus.MINIMUM
    return PointStatus.DEGENERATE


def is_escaping(loss: AbstractLoss, net: ShallowReLU) -> bool:
    """Whether the flow carries a network to infinity: far out, moving outwards, at a loss that is nearly flat.

    That is a norm above 1000 √m, a velocity within 60° of the outward direction, and a loss that changes by less than a
    tenth, to first order, while the network doubles.
    """
    value, gradient = (np.asarray(x) for x in _value_gradient(loss, net))
    state = np.asarray(ravel(net))
    size, norm = np.linalg.norm(state), np.linalg.norm(gradient)
    return bool(size > 1e3 * np.sqrt(net.width) and -gradient @ state > 0.5 * norm * size and norm * size < 0.1 * value)


def count_dead(loss: AbstractLoss, net: ShallowReLU) -> int:
    """Neurons that never fire: on no datum, or exactly 0."""
    if isinstance(loss, EmpiricalLoss):
        return int(np.sum(dead_neurons(net, loss.inputs)))
    return int(np.sum(np.all(np.asarray(hidden_vectors(net)) == 0, axis=-1)))


@eqx.filter_jit
def _value_gradient(loss, net):
    return loss(net), ravel(loss.gradient(net))


def _explained_nullity(loss, net):
    if isinstance(loss, EmpiricalLoss):
        # inside a linear piece the loss is convex in the products a_j (w_j, b_j), unless some a_j = 0 couples to its C_j
        jacobian = np.asarray(loss.jacobian(net))
        return number_of_parameters(net) - int(np.linalg.matrix_rank(jacobian))
    rescaling = net.width if "amplitudes" in net.trained and len(net.trained) > 1 else 0
    return rescaling + _parallel_neurons(np.asarray(hidden_vectors(net)))


def _parallel_neurons(vectors):
    """Neurons that point in the direction of an earlier one: the two can exchange weight and the function stays the same."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(norms > 0, norms, 1.0))[norms[:, 0] > 0]
    apart = np.linalg.norm(units[:, None] - units, axis=-1)
    return int(np.sum(np.any(np.tril(apart < 1e-12, -1), axis=1)))
