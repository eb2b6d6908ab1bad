"""The Hessian as a matrix, by closed forms that use the structure of the network, one network or many."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..loss import AbstractLoss, EmpiricalLoss, assemble
from ..network import RealArray, ShallowReLU, hidden_vectors, is_stacked, preactivations, ravel, unravel

Mode = Literal["auto", "closed", "pair", "ad"]


def hessian(loss: AbstractLoss, net: ShallowReLU, mode: Mode = "auto") -> Float[Array, "*batch p p"]:
    """The Hessian over the trained parameters, in the order of `ravel`; a stack of networks gives a stack of matrices.

    **Arguments:**

    - `mode`: `"closed"` is `loss.hessian`. `"pair"`, for an empirical loss, is one product of (pairs of neurons x data) with
      (data x pairs of inputs), a quarter of the work of the Gauss–Newton product; `"auto"` takes it from 300 data on.
      `"ad"` is `jax.hessian` of the loss, for comparison.

    Of an empirical loss this is the almost-everywhere Hessian: it does not see the curvature on the kinks of the sample, and
    it does not tend to the Hessian of the population loss as data are added. At a saddle of the population loss it can have
    no negative eigenvalue at all.

    **Raises:** `ValueError` for an unknown mode, and for `"pair"` on a loss that is not empirical.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([1.0]))
    >>> rj.hessian.hessian(loss, rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]

    ```
    """
    form = _form(loss, mode)
    if not is_stacked(net):
        return form(loss, net)
    # a batch of intermediates would leave the cache of a CPU: one network at a time is several times faster there
    batch = 1 if jax.default_backend() == "cpu" else min(len(net.weights), 256)
    return jax.lax.map(lambda one: form(loss, one), jax.tree.map(jnp.asarray, net), batch_size=batch)


def _form(loss, mode):
    if mode not in ("auto", "closed", "pair", "ad"):
        raise ValueError(f"mode is {mode!r}: choose among auto, closed, pair and ad.")
    if mode == "pair" and not isinstance(loss, EmpiricalLoss):
        raise ValueError(f"mode 'pair' is a form of the empirical loss and this is {type(loss).__name__}: choose 'closed'.")
    if mode == "ad":
        return _by_differentiation
    if mode == "pair" or (mode == "auto" and isinstance(loss, EmpiricalLoss) and loss.targets.shape[0] >= 300):
        return _by_pairs
    return lambda loss, net: loss.hessian(net)


def _by_differentiation(loss, net):
    return jax.hessian(lambda vector: loss(unravel(net, vector)))(ravel(net))


def _by_pairs(loss, net):
    """With K[jk, ab] = Σ_i c_i s_ij s_ik x_ia x_ib, symmetric in both pairs, every block is a contraction of K."""
    inputs = jnp.asarray(loss.inputs)
    if net.biases is not None:
        inputs = jnp.concatenate([inputs, jnp.ones((len(inputs), 1), inputs.dtype)], axis=1)
    m, q = net.width, inputs.shape[1]
    curvature = loss.criterion.curvature(loss.outputs(net), loss.targets) / len(inputs)
    active = (preactivations(net, loss.inputs) > 0).astype(inputs.dtype)
    (left, right), (first, second) = np.triu_indices(m), np.triu_indices(q)
    compact = (active[:, left] * active[:, right]).T @ (curvature[:, None] * inputs[:, first] * inputs[:, second])
    moments = compact[_pair_number(m)][:, :, _pair_number(q)]  # (m, m, q, q)
    gain = jnp.asarray(net.amplitudes)
    hidden = jnp.swapaxes(gain[:, None, None, None] * gain[:, None, None] * moments, 1, 2)
    if "amplitudes" not in net.trained:
        return assemble(net, hidden, None, None)
    vectors = hidden_vectors(net)
    projected = jnp.einsum("jkab,kb->jak", moments, vectors)
    outer = jnp.einsum("jak,ja->jk", projected, vectors)
    cross = gain[:, None, None] * projected
    cross = cross.at[jnp.arange(m), :, jnp.arange(m)].add(loss.neuron_correlations(net))
    return assemble(net, hidden, cross, outer)


def _pair_number(size):
    """The position of pair (i, j), in either order, in the list that `np.triu_indices(size)` makes."""
    number = np.zeros((size, size), int)
    rows, columns = np.triu_indices(size)
    number[rows, columns] = number[columns, rows] = np.arange(len(rows))
    return number


def eigenvalues(matrices: Float[RealArray, "*batch p p"]) -> Float[np.ndarray, "*batch p"]:
    """The eigenvalues of symmetric matrices, ascending, without eigenvectors.

    On a CPU this calls LAPACK's routine for eigenvalues alone: `jnp.linalg.eigvalsh` computes the vectors as well and drops
    them, which takes about twice as long. Not for use inside `jax.jit`.

    ```python
    >>> import numpy as np
    >>> eigenvalues(np.diag([2.0, 1.0])).tolist()
    [1.0, 2.0]

    ```
    """
    if jax.default_backend() == "cpu":
        return np.linalg.eigvalsh(np.asarray(matrices))
    return np.asarray(jnp.linalg.eigvalsh(jnp.asarray(matrices)))
