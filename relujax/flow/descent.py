"""Descent methods in discrete steps, many networks at once: what a paper iterated, iteration for iteration."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ..loss import AbstractLoss, EmpiricalLoss
from ..network import RealArray, ShallowReLU, ravel, unravel
from ..parallel import Progress, chunk_size, map_chunks, map_first
from .ensemble import Observables
from .observe import gradient_norm, named
from .status import FlowStatus


class Descent(eqx.Module):
    """What B networks did under an optimiser.

    - `networks`, `losses`, `gradient_norms`: at the end, leading axis B.
    - `status`: `END_TIME` where all steps were made, `DIVERGED` where the end is not finite.
    - `observed`: name -> (B, s, ...) along `save_steps`; the loss is always there when steps were saved.
    - `save_steps`: after how many iterations, shape (s,), or None.
    """

    networks: ShallowReLU
    losses: Float[RealArray, " B"]
    gradient_norms: Float[RealArray, " B"]
    status: Int[np.ndarray, " B"]
    observed: dict[str, Array | np.ndarray]
    save_steps: Int[np.ndarray, " s"] | None


def descent(
    loss: AbstractLoss,
    nets: ShallowReLU,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    save_at: Int[RealArray, " s"] | None = None,
    observe: Observables = (),
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
    progress: Progress | None = None,
    block: int = 16,
) -> Descent:
    """Iterate an optax optimiser on every network of a stack, in the precision of the networks.

    **Arguments:**

    - `nets`: a stack of B networks; float32 ones are iterated in float32, with the loss's arrays cast.
    - `optimiser`: `optax.sgd(η)` for gradient descent, `optax.adam(η)`, `heavy_ball(η, friction=b)`, `nesterov(η, r=3)`, ….
    - `steps`: iterations.
    - `save_at`: ascending numbers of iterations after which the loss and the observables are recorded.
    - `batch_size`, `key`: data drawn without replacement at every step, for stochastic gradient descent on an empirical loss.
    - `block`: networks that step together in one batch.

    Gradient descent with learning rate η is at flow time η k after k iterations; on `MSELoss` of other frameworks, which is twice
    the loss here, at 2 η k. Heavy ball and Nesterov are at √η k of their own limits (`momentum_flow`).

    **Returns:** a `Descent`.

    **Raises:** `ValueError` for an unstacked network, numbers out of range, and a batch without a key or without data.

    ```python
    >>> import optax, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([1.0]))
    >>> nets = rj.ShallowReLU(jnp.array([[[0.1]]]), jnp.array([[0.1]]))
    >>> run = descent(loss, nets, optax.sgd(0.1), steps=400, save_at=np.array([0, 400]))
    >>> run.observed["loss"].shape, bool(run.losses[0] < 1e-12)
    ((1, 2), True)

    ```
    """
    saves = _check(loss, nets, steps, save_at, batch_size, key)
    dtype = jnp.asarray(nets.weights).dtype
    loss = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array_like(leaf) else leaf, loss)
    observables = named(loss, observe) if saves.size else ()
    keys = None if key is None else jax.random.key_data(jax.random.split(key, nets.weights.shape[0]))

    def run(part, count):
        return _descend_chunk(
            loss, part, count, optimiser, jnp.asarray(steps), jnp.asarray(saves), observables, batch_size, block
        )

    chunk = chunk_size(nets.weights.shape[0], block=block)
    given = (jax.tree.map(np.asarray, nets), keys if keys is None else np.asarray(keys))
    networks, losses, norms, saved = map_chunks(run, given, chunk=chunk, progress=progress)
    finite = np.isfinite(losses) & np.isfinite(norms)
    status = np.where(finite, int(FlowStatus.END_TIME), int(FlowStatus.DIVERGED))
    return Descent(networks, losses, norms, status, saved, None if save_at is None else saves)


@eqx.filter_jit
def _descend_chunk(loss, given, count, optimiser, steps, saves, observables, batch_size, block):
    def one(given):
        net, key = given

        def update(step, carry):
            vector, memory = carry
            gradient = ravel(_batch(loss, key, step, batch_size).gradient(unravel(net, vector)))
            change, memory = optimiser.update(gradient, memory, vector)
            return optax.apply_updates(vector, change), memory

        def go_on(carry, until):
            step, inner = carry
            inner = jax.lax.fori_loop(step, until, update, inner)
            return (until, inner), {name: jnp.asarray(f(unravel(net, inner[0]))) for name, f in observables}

        vector = ravel(net)
        carry = (jnp.zeros((), steps.dtype), (vector, optimiser.init(vector)))
        carry, saved = jax.lax.scan(go_on, carry, saves)
        (_, (vector, _)), _ = go_on(carry, steps)
        end = unravel(net, vector)
        return end, loss(end), gradient_norm(loss)(end), saved

    return map_first(one, given, count, block=block)


def _batch(loss, key, step, batch_size):
    if batch_size is None:
        return loss
    drawn = jax.random.fold_in(jax.random.wrap_key_data(key), step)
    index = jax.random.choice(drawn, loss.targets.shape[0], (batch_size,), replace=False)
    return EmpiricalLoss(loss.inputs[index], loss.targets[index], loss.criterion)


def _check(loss, nets, steps, save_at, batch_size, key):
    if np.ndim(nets.weights) != 3:
        raise ValueError(
            f"the weights have shape {np.shape(nets.weights)}: a stack (B, m, d) is needed; relujax.stack makes one."
        )
    if steps < 1:
        raise ValueError(f"steps is {steps}: give at least 1.")
    saves = np.asarray([] if save_at is None else save_at)
    if np.any(saves != np.floor(saves)) or np.any(np.diff(saves) < 0) or np.any((saves < 0) | (saves > steps)):
        raise ValueError(f"save_at must be ascending whole numbers between 0 and steps, {steps}.")
    if batch_size is not None:
        if key is None or not isinstance(loss, EmpiricalLoss):
            raise ValueError(f"batch_size is {batch_size}: batches need a key to draw them and an empirical loss to draw from.")
        if not 1 <= batch_size <= len(loss.targets):
            raise ValueError(f"batch_size is {batch_size}: give a number between 1 and {len(loss.targets)}, the number of data.")
    return saves.astype(int)


def heavy_ball(rate: float, *, friction: float) -> optax.GradientTransformation:
    """Polyak's heavy ball as the discretisation of `θ'' + b θ' + ∇L = 0`: momentum `1 − b√η`, time `√η` a step.

    **Raises:** `ValueError` when the momentum is not between 0 and 1.
    """
    momentum = 1 - friction * rate**0.5
    if not 0 <= momentum <= 1:
        raise ValueError(f"the momentum 1 - {friction} * sqrt({rate}) is {momentum:.3g}: lower the friction or the rate.")
    return optax.sgd(rate, momentum=momentum)


class _Nesterov(eqx.Module):
    step: Array
    before: Array


def nesterov(rate: float, *, r: float = 3.0) -> optax.GradientTransformation:
    """Nesterov's method with momentum `(k − 1)/(k + r − 1)`, the discretisation of `θ'' + (r/t) θ' + ∇L = 0`, time `√η` a step.

    The parameters that the optimiser sees are the points at which gradients are taken (Su, Boyd, Candès 2016, equation 1).
    """

    def init(params):
        return _Nesterov(jnp.ones(()), params)

    def update(gradient, state, params=None):
        forward = params - rate * gradient
        share = state.step / (state.step + r)
        ahead = forward + (share * (forward - state.before)).astype(params.dtype)
        return ahead - params, _Nesterov(state.step + 1, forward)

    return optax.GradientTransformation(init, update)
