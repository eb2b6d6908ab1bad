"""Products with the Hessian, and its extreme eigenvalues by Lanczos' method, without the matrix."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._extras import extra
from .._precision import require_x64
from ..loss import AbstractLoss, EmpiricalLoss
from ..network import ShallowReLU, is_stacked, number_of_parameters, ravel, unravel
from .solver import one_blas_thread


def linear_operator(loss: AbstractLoss, nets: ShallowReLU):
    """The map `v -> H v` over the trained parameters: `jax.linearize` of the gradient, which is computed once.

    Of a stack of B networks it maps (B, p) to (B, p), every row by its own Hessian.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.array([[2.0]]), jnp.array([1.0]))
    >>> rj.hessian.linear_operator(loss, rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1), train=("weights",)))(jnp.ones(1)).tolist()
    [4.0]

    ```
    """

    def value(net, vector):
        return loss(unravel(net, vector))

    def closed(net, vector):
        return ravel(loss.gradient(unravel(net, vector)))

    # over data the automatic gradient leaves less to do for each vector, otherwise the closed form does
    gradient = jax.grad(value, argnums=1) if isinstance(loss, EmpiricalLoss) else closed
    gradient = jax.vmap(gradient) if is_stacked(nets) else gradient
    return jax.linearize(lambda vectors: gradient(nets, vectors), ravel(nets))[1]


class Extremes(NamedTuple):
    """Approximate eigenvalues at both ends, ascending: within its `residual` of each of `values` there is an exact one.

    The smallest value is never below the smallest eigenvalue, and the largest never above the largest, but for rounding: a
    negative value further from 0 than its residual proves a negative eigenvalue, a positive one proves nothing about others.
    """

    values: Float[np.ndarray, " e"]
    residuals: Float[np.ndarray, " e"]


def extreme_eigenvalues(
    loss: AbstractLoss, net: ShallowReLU, *, key: Key[Array, ""], number: int = 3, depth: int = 80
) -> Extremes:
    """The `number` smallest and `number` largest eigenvalues, from `depth` products with the Hessian.

    Lanczos' method with full orthogonalisation from a random vector, cut short where it has found an invariant subspace. The
    residual `|Hv − θv|` is measured with a further product. Eigenvalues in a cluster and the smallest ones next to 0 need more
    depth: their residuals say so. Several copies of one eigenvalue are found once.

    **Raises:** `ValueError` in single precision; `ImportError` without matfree.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> net = rj.ShallowReLU(jnp.eye(6), jnp.ones(6), train=("weights",))
    >>> found = extreme_eigenvalues(rj.PopulationLoss(net), net, key=jax.random.key(0), number=1)
    >>> found.values.round(8).tolist(), bool(found.residuals.max() < 1e-12)
    ([0.09084506, 2.06526692], True)

    ```
    """
    require_x64("extreme_eigenvalues", net)
    depth = min(depth, number_of_parameters(net))
    start = jax.random.normal(key, (number_of_parameters(net),), jnp.float64)
    basis, matrices = krylov(loss, net, start[None], depth)
    small = leading_block(np.asarray(matrices[0]))
    with one_blas_thread(len(small)):
        values, vectors = np.linalg.eigh(small)
    chosen = np.unique(np.r_[:number, len(values) - number : len(values)].clip(0, len(values) - 1))
    ritz = jnp.asarray(vectors[:, chosen].T) @ basis[0, : len(small)]
    residuals, lengths = (np.asarray(x) for x in _residuals(loss, net, ritz, jnp.asarray(values[chosen])))
    return Extremes(values[chosen], residuals / lengths)


@eqx.filter_jit
def krylov(loss, net, starts, depth):
    """Orthonormal bases of Krylov spaces, one for every start, and the Hessian in them: tridiagonal matrices."""
    decomp = extra("matfree.decomp", "spectra")
    apply = linear_operator(loss, net)
    lanczos = decomp.tridiag_sym(depth, reortho="full", custom_vjp=False)

    def one(start):
        result = lanczos(apply, start / jnp.linalg.norm(start))
        return result.Q_tall, result.J_small

    return jax.lax.map(one, starts)


def leading_block(matrix: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "l l"]:
    """The tridiagonal matrix up to where Lanczos' method found an invariant subspace; what follows is noise or NaN."""
    beside = np.abs(np.diag(matrix, 1))
    size = np.nanmax(np.abs(matrix), initial=0.0)
    ends = np.flatnonzero(~(beside > 1e-12 * size))
    return matrix[: ends[0] + 1, : ends[0] + 1] if len(ends) else matrix


@eqx.filter_jit
def _residuals(loss, net, vectors, values):
    apply = linear_operator(loss, net)
    off = jax.lax.map(apply, vectors) - values[:, None] * vectors
    return jnp.linalg.norm(off, axis=1), jnp.linalg.norm(vectors, axis=1)
