"""Eigenvalues of stacks of symmetric matrices."""

import contextlib
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..network import RealArray

# an accelerator's answer is taken when its residual is within this many roundings of the norm of the matrix
_RESIDUAL = 64
_LARGE = 2048


def eigenvalues(matrices: Float[RealArray, "*batch p p"]) -> Float[np.ndarray, "*batch p"]:
    """The eigenvalues of symmetric matrices, ascending, without eigenvectors; the lower triangles are read.

    On a CPU this calls LAPACK's routine for eigenvalues alone, a stack on all cores: `jnp.linalg.eigvalsh` computes the
    vectors as well and drops them, which takes about twice as long. On an accelerator the batched solver runs, and matrices
    whose residual `|AV − VΛ|` is not at the level of rounding are solved again on the CPU. Not for use inside `jax.jit`.

    ```python
    >>> import numpy as np
    >>> eigenvalues(np.diag([2.0, 1.0])).tolist()
    [1.0, 2.0]

    ```
    """
    if jax.default_backend() == "cpu":
        return _on_cpu(np.asarray(matrices))
    values, residuals = _on_accelerator(jnp.asarray(matrices))
    values = np.array(values)
    wrong = ~(np.asarray(residuals) <= 1)
    if np.any(wrong):
        values[wrong] = _on_cpu(np.asarray(matrices)[wrong])
    return values


def _on_cpu(matrices):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with one_blas_thread(matrices.shape[-1]):
        if matrices.ndim < 3 or cores == 1 or matrices.size < 2**18:
            return np.linalg.eigvalsh(matrices)
        flat = matrices.reshape(-1, *matrices.shape[-2:])
        parts = np.array_split(flat, min(4 * cores, len(flat)))
        with ThreadPoolExecutor(cores) as pool:
            values = np.concatenate(list(pool.map(np.linalg.eigvalsh, parts)))
    return values.reshape(matrices.shape[:-1])


@jax.jit
def _on_accelerator(matrices):
    """Eigenvalues, and residuals in units of what rounding explains."""
    values, vectors = jnp.linalg.eigh(matrices, symmetrize_input=False)
    lower = jnp.tril(matrices)
    matrices = lower + jnp.swapaxes(jnp.tril(matrices, -1), -1, -2)
    residual = jnp.linalg.norm(matrices @ vectors - vectors * values[..., None, :], axis=(-2, -1))
    allowed = _RESIDUAL * matrices.shape[-1] * jnp.finfo(matrices.dtype).eps * jnp.linalg.norm(matrices, axis=(-2, -1))
    return values, residual / jnp.maximum(allowed, jnp.finfo(matrices.dtype).tiny)


_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def one_blas_thread(size: int = 0):
    """Keep NumPy's BLAS to one thread a call for matrices of less than 2048 rows, where threadpoolctl is installed.

    Its own threads gain little there, compete with a pool of workers, and on a busy machine cost a hundred times more. The
    limit is one of the process, hence the lock: a second caller would restore the first one's limit instead of what was
    there before.
    """
    controller = _blas_controller() if size < _LARGE else None
    if controller is None:
        yield
        return
    with _one_at_a_time, controller.limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _blas_controller():
    try:
        import threadpoolctl
    except ImportError:
        return None
    return threadpoolctl.ThreadpoolController()
