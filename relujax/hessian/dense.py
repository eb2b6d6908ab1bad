"""The Hessian as a matrix, by closed forms that use the structure of the network, one network or many."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..loss import AbstractLoss, EmpiricalLoss
from ..network import ShallowReLU, is_stacked, number_of_parameters, ravel, take, unravel
from .pairs import pair_hessian, suits_pairs
from .solver import eigenvalues, one_blas_thread

Mode = Literal["auto", "closed", "pair", "ad"]

# numbers in the Hessians that are held at once
_CHUNK = {"cpu": 2**23, "other": 2**27}


def hessian(loss: AbstractLoss, net: ShallowReLU, mode: Mode = "auto") -> Float[Array, "*batch p p"]:
    """The Hessian over the trained parameters, in the order of `ravel`; a stack of networks gives a stack of matrices.

    **Arguments:**

    - `mode`: `"closed"` is `loss.hessian`, for an empirical loss the Gauss–Newton product. `"pair"`, for an empirical loss,
      is one product of (pairs of neurons x data) with (data x pairs of inputs), a quarter of its work. `"auto"` takes the
      faster one by size. `"ad"` is `jax.hessian` of the loss, for comparison.

    Of an empirical loss this is the almost-everywhere Hessian: it does not see the curvature on the kinks of the sample, and
    it does not tend to the Hessian of the population loss as data are added. At a saddle of the population loss it can have
    no negative eigenvalue at all (`boundary_term` estimates what is missing).

    Networks may hold NumPy or JAX arrays, and the call may stand inside `jax.jit`.

    **Raises:** `ValueError` for an unknown mode, and for `"pair"` on a loss that is not empirical.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([1.0]))
    >>> rj.hessian.hessian(loss, rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]

    ```
    """
    if mode not in ("auto", "closed", "pair", "ad"):
        raise ValueError(f"mode is {mode!r}: choose among auto, closed, pair and ad.")
    if mode == "pair" and not isinstance(loss, EmpiricalLoss):
        raise ValueError(f"mode 'pair' is a form of the empirical loss and this is {type(loss).__name__}: choose 'closed'.")
    net = jax.tree.map(jnp.asarray, net)
    if not is_stacked(net):
        return _one(loss, net, mode)
    return jax.lax.map(lambda one: _one(loss, one, mode), net, batch_size=_together(net))


def _one(loss, net, mode):
    if mode == "ad":
        return jax.hessian(lambda vector: loss(unravel(net, vector)))(ravel(net))
    if mode == "pair" or (mode == "auto" and isinstance(loss, EmpiricalLoss) and suits_pairs(loss, net)):
        return pair_hessian(loss, net)
    return loss.hessian(net)


def _together(nets):
    """How many networks are one batched operation: on a CPU a batch of intermediates would leave the cache."""
    if jax.default_backend() == "cpu":
        return 1
    return int(np.clip(2**25 // number_of_parameters(nets) ** 2, 1, len(nets.weights)))


def dense_eigenvalues(loss: AbstractLoss, nets: ShallowReLU, mode: Mode = "auto") -> Float[np.ndarray, "*batch p"]:
    """All eigenvalues of the Hessian, ascending, of a network or of every network of a stack.

    Hessians are made and used up 64 MB at a time (1 GB on an accelerator), so that thousands of networks need no more memory
    than a few. Not for use inside `jax.jit`.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([1.0]))
    >>> dense_eigenvalues(loss, rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1))).round(15).tolist()
    [0.0, 2.0]

    ```
    """
    if not is_stacked(nets):
        return eigenvalues(compiled_hessian(loss, nets, mode))
    number, p = len(nets.weights), number_of_parameters(nets)
    elements = _CHUNK["cpu" if jax.default_backend() == "cpu" else "other"]
    size = min(max(elements // max(p, 1) ** 2, 1), number)
    # the last chunk overlaps the one before, so that one size is compiled
    starts = [*range(0, number - size, size), number - size] if number else []
    values = np.empty((number, p))
    with one_blas_thread():
        for start in starts:
            values[start : start + size] = eigenvalues(compiled_hessian(loss, take(nets, slice(start, start + size)), mode))
    return values


@eqx.filter_jit
def compiled_hessian(loss: AbstractLoss, nets: ShallowReLU, mode: Mode = "auto") -> Float[Array, "*batch p p"]:
    """`hessian` as one compiled call."""
    return hessian(loss, nets, mode)
