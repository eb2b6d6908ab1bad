"""Observables: functions of one network, for the `observe` argument of a flow.

Those that need more than the network (a loss, data, directions) are made by a function that binds it. Everything is scaled by
its largest entry before it is squared, so that neurons of size 1e-50, or 1e-300, have norms, angles and singular values too.

```python
>>> import relujax as rj
>>> from relujax.flow import observe
>>> loss = rj.EmpiricalLoss(jnp.eye(2), jnp.array([1.0, -1.0]))
>>> nets = rj.initialise.balanced(jax.random.key(0), number=3, width=4, dim=2, scale=1e-3)
>>> watch = {"norm": observe.neuron_norms, "active": observe.active_counts(loss.inputs)}
>>> run = rj.flow_ensemble(loss, nets, end_time=1.0, save_at=jnp.array([0.0, 1.0]), observe=watch)
>>> run.observed["norm"].shape, run.observed["active"].shape
((3, 2, 4), (3, 2, 2))

```
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..loss import AbstractLoss, EmpiricalLoss
from ..network import RealArray, ShallowReLU, activation_pattern, dead_neurons, hidden_vectors, preactivations, ravel, relu

Observable = Callable[[ShallowReLU], Array]


def neuron_norms(net: ShallowReLU) -> Float[Array, " m"]:
    """`|(w, b)|` of every neuron."""
    unit, size = _normalised(hidden_vectors(net))
    return size * jnp.linalg.norm(unit, axis=1)


def log_norms(net: ShallowReLU) -> Float[Array, " m"]:
    """`ln |(w, b)|` of every neuron, −∞ for one that is 0."""
    return jnp.log(neuron_norms(net))


def directions(net: ShallowReLU) -> Float[Array, "m q"]:
    """(w, b) of every neuron scaled to length 1; 0 for a neuron that is 0."""
    unit, _ = _normalised(hidden_vectors(net))
    length = jnp.linalg.norm(unit, axis=1, keepdims=True)
    return unit / jnp.where(length > 0, length, 1.0)


def signs(net: ShallowReLU) -> Float[Array, " m"]:
    """The sign of every amplitude."""
    return jnp.sign(jnp.asarray(net.amplitudes))


def signed_strengths(net: ShallowReLU) -> Float[Array, " m"]:
    """`a |(w, b)|` of every neuron, what it adds to the function in its direction."""
    return jnp.asarray(net.amplitudes) * neuron_norms(net)


def relative_balance(net: ShallowReLU) -> Float[Array, " m"]:
    """`(a² − |(w, b)|²)/(a² + |(w, b)|²)` of every neuron, between −1 and 1; the numerator is conserved by the flow."""
    norm, a = neuron_norms(net), jnp.abs(jnp.asarray(net.amplitudes))
    largest = jnp.maximum(norm, a)
    norm, a = (x / jnp.where(largest > 0, largest, 1.0) for x in (norm, a))
    return jnp.where(largest > 0, (a**2 - norm**2) / jnp.where(largest > 0, a**2 + norm**2, 1.0), 0.0)


def lorentz_invariants(net: ShallowReLU) -> Float[Array, "m m"]:
    """`a_i a_j − (w_i, b_i)·(w_j, b_j)` of every pair of neurons, conserved while the two are active on the same data.

    Both then follow one linear equation `(w, a)' = (a g, w·g)`, which preserves the Lorentz form; the diagonal is the balance.
    For balanced neurons of one sign it is `a_i a_j (1 − cos)`, from which `angles_of_invariants` has the angle to full relative
    accuracy however small it has become.
    """
    hidden, amplitudes = hidden_vectors(net), jnp.asarray(net.amplitudes)
    return jnp.outer(amplitudes, amplitudes) - hidden @ hidden.T


def angles_of_invariants(invariants: Float[RealArray, "m m"], amplitudes: Float[RealArray, " m"]) -> Float[Array, "m m"]:
    """The angles between balanced neurons of one sign whose `lorentz_invariants` were these at an earlier time.

    `sin²(angle/2) = I_ij/(2 a_i a_j)`; right as long as the two have been active on the same data since.
    """
    a = jnp.asarray(amplitudes)
    half = invariants / (2 * jnp.outer(a, a))
    return 2 * jnp.arcsin(jnp.sqrt(jnp.clip(half, 0.0, 1.0)))


def angles(net: ShallowReLU) -> Float[Array, "m m"]:
    """The angle between the hidden vectors of every pair of neurons, accurate to rounding where it is tiny (Kahan)."""
    unit = directions(net)
    apart = jnp.linalg.norm(unit[:, None] - unit, axis=-1)
    together = jnp.linalg.norm(unit[:, None] + unit, axis=-1)
    return 2 * jnp.arctan2(apart, together)


def largest_angle(inputs: Float[RealArray, "n d"], sign: int = 1) -> Observable:
    """The largest angle between neurons of one amplitude's sign that are active on some datum; 0 for fewer than two."""

    def largest_angle(net):
        counted = ~dead_neurons(net, inputs) & (signs(net) == sign)
        return jnp.max(jnp.where(counted[:, None] & counted, angles(net), 0.0))

    return largest_angle


def cosines(targets: Float[RealArray, "k q"]) -> Observable:
    """The cosines of every neuron's (w, b) to given vectors, extremal vectors or a teacher, shape (m, k)."""
    unit = jnp.asarray(targets) / jnp.linalg.norm(jnp.asarray(targets), axis=1, keepdims=True)
    return lambda net: directions(net) @ unit.T


def singular_values(net: ShallowReLU) -> Float[Array, " r"]:
    """The singular values of the matrix whose rows are the hidden vectors, descending."""
    hidden = hidden_vectors(net)
    largest = jnp.max(jnp.abs(hidden))
    return largest * jnp.linalg.svd(hidden / jnp.where(largest > 0, largest, 1.0), compute_uv=False)


def nuclear_norm(net: ShallowReLU) -> Float[Array, ""]:
    """The sum of the singular values of the hidden vectors."""
    return jnp.sum(singular_values(net))


def effective_rank(net: ShallowReLU) -> Float[Array, ""]:
    """The exponential of the entropy of the singular values divided by their sum (Roy and Vetterli 2007)."""
    values = singular_values(net)
    share = values / jnp.maximum(jnp.sum(values), jnp.finfo(values.dtype).tiny)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


def signed_sum(sign: int) -> Observable:
    """`Σ a_j (w_j, b_j)` over the neurons whose amplitude has this sign: the linear map they are where all are active."""
    return lambda net: jnp.where(signs(net) == sign, net.amplitudes, 0.0) @ hidden_vectors(net)


def active_counts(inputs: Float[RealArray, "n d"]) -> Observable:
    """How many neurons are active on every datum, shape (n,)."""
    return lambda net: jnp.sum(activation_pattern(net, inputs), axis=1)


def dead_count(inputs: Float[RealArray, "n d"]) -> Observable:
    """How many neurons no datum activates."""
    return lambda net: jnp.sum(dead_neurons(net, inputs))


def outputs(points: Float[RealArray, "n d"]) -> Observable:
    """The network at given points, shape (n,)."""
    return lambda net: relu(preactivations(net, points)) @ net.amplitudes


def residuals(loss: EmpiricalLoss) -> Observable:
    """`f(x_i) − y_i` at every datum, shape (n,)."""
    return lambda net: loss.outputs(net) - loss.targets


def gradient_norm(loss: AbstractLoss) -> Observable:
    """`|∇L|` over the trained parameters."""

    def gradient_norm(net):
        gradient = ravel(loss.gradient(net))
        largest = jnp.max(jnp.abs(gradient))
        return largest * jnp.linalg.norm(gradient / jnp.where(largest > 0, largest, 1.0))

    return gradient_norm


def hessian_index(loss: AbstractLoss, *, null_tolerance: float = 1e-9) -> Observable:
    """The number of Hessian eigenvalues below `−null_tolerance` times the largest in size: the index of a saddle at a plateau.

    Dense, and so for small networks or few times. At a plateau every neuron that is still tiny and has a correlation
    `C_j = 1/n Σ_{i active} c'_i x_i` other than 0 adds one, its block being `[[0, C_j], [C_jᵀ, 0]]`.
    """

    def hessian_index(net) -> Int[Array, ""]:
        values = jnp.linalg.eigvalsh(loss.hessian(net))
        return jnp.sum(values < -null_tolerance * jnp.max(jnp.abs(values)))

    return hessian_index


def margin(loss: EmpiricalLoss) -> Observable:
    """`min_i y_i f(x_i) / |θ|²` for targets ±1, the margin of a classifier that is 2-homogeneous in its parameters."""
    return lambda net: jnp.min(loss.targets * loss.outputs(net)) / jnp.sum(ravel(net) ** 2)


def smoothed_margin(loss: EmpiricalLoss) -> Observable:
    """`−ln Σ_i exp(−y_i f(x_i)) / |θ|²`, which never falls along the flow of the exponential loss once it is positive.

    Lyu and Li 2020, theorem 4.1, for networks without biases or with hidden biases, all layers trained.
    """
    return lambda net: -jax.nn.logsumexp(-loss.targets * loss.outputs(net)) / jnp.sum(ravel(net) ** 2)


def _normalised(rows):
    """Rows divided by their largest entry, and that entry; rows of zeros stay."""
    size = jnp.max(jnp.abs(rows), axis=-1)
    return rows / jnp.where(size > 0, size, 1.0)[..., None], size


def named(loss: AbstractLoss, observe: Mapping[str, Observable] | Sequence[Observable]) -> tuple[tuple[str, Observable], ...]:
    """The loss and observables with their names, those of a sequence under their own.

    **Raises:** `ValueError` when two have one name, or another one than the loss has the name `loss`.
    """
    pairs = observe.items() if isinstance(observe, Mapping) else [(function.__name__, function) for function in observe]
    names = ["loss", *(name for name, _ in pairs)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two observables are named {twice!r}: give observe as a mapping with names of their own.")
    return ("loss", loss), *pairs
