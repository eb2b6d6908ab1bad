"""The curvature of a population loss that a sample of it has on its kinks, estimated from the data next to them.

For data drawn from a density the expected loss has the Hessian of the samples' linear pieces plus
`a_j E[c'(f(x)) δ(w_j·x + b_j) x̃ x̃ᵀ]` for every neuron. Of a finite sample nothing of the second term is left, however large
the sample: its kinks are jumps of the gradient at single points. The delta function is replaced by a kernel here.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._precision import require_x64
from ..loss import EmpiricalLoss, assemble
from ..network import ShallowReLU, hidden_vectors, preactivations, unravel
from .dense import compiled_hessian
from .solver import eigenvalues

# numbers in one slice of the data times eigenvectors
_ROWS = 2**23


class BoundaryTerm(NamedTuple):
    """An estimate of the boundary term, over the trained parameters, and of the spectral norm of its error: no bound."""

    matrix: Float[Array, "p p"]
    error: float


def boundary_term(loss: EmpiricalLoss, net: ShallowReLU, *, bandwidth: float | None = None) -> BoundaryTerm:
    """What the Hessian of the population loss has more than the one of this sample, by a density estimate on each boundary.

    **Arguments:**

    - `bandwidth`: the half width h of Epanechnikov's kernel, in standard deviations of a neuron's pre-activation over the data;
      `1.5 n^(−1/5)` when it is None. The estimate is `(4 B_h − B_2h)/3`, in which the smoothing cancels to leading order.

    The error bar adds what is expected of the noise of the sample (matrix Bernstein; Tropp 2015, theorem 1.6.2) and `|B_h −
    B_2h|/3` for the smoothing. It is an estimate and certifies nothing.

    **Raises:** `ValueError` in single precision and for a loss that is not empirical.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> x = jax.random.normal(jax.random.key(0), (20_000, 2))
    >>> loss = rj.EmpiricalLoss(x, -jnp.maximum(x @ jnp.array([1.0, 0.0]), 0))
    >>> net = rj.ShallowReLU(jnp.array([[0.0, 1.0]]), jnp.ones(1), train=("weights",))
    >>> found = boundary_term(loss, net)  # the exact matrix is diag(1/π, 0)
    >>> bool(jnp.linalg.norm(found.matrix - jnp.diag(jnp.array([1 / jnp.pi, 0.0])), 2) < found.error < 0.1)
    True

    ```
    """
    require_x64("boundary_term", net)
    _only_empirical(loss)
    width = _bandwidth(loss, bandwidth)
    blocks, noise = _blocks(loss, net, _strengths(loss, net, width))
    narrow, _ = _blocks(loss, net, _strengths(loss, net, width, smoothed=True))
    bias = np.linalg.norm(np.asarray(narrow - blocks), 2, axis=(1, 2))
    m, q = blocks.shape[:2]
    neurons = jnp.arange(m)
    hidden = jnp.zeros((m, q, m, q)).at[neurons, :, neurons, :].set(blocks)
    matrix = assemble(net, hidden, jnp.zeros((m, q, m)), jnp.zeros((m, m)))
    return BoundaryTerm(matrix, float(np.max(bias, initial=0.0) + np.max(noise, initial=0.0)))


class SampledSpectrum(NamedTuple):
    """Two spectra at a point of a sampled problem, ascending.

    - `almost_everywhere`: of the sample's own Hessian, which is exact for the sample.
    - `with_boundary`: with the estimated boundary term added, for the population that the sample was drawn from.
    - `errors`: the error bar of each of the latter.
    """

    almost_everywhere: Float[np.ndarray, " p"]
    with_boundary: Float[np.ndarray, " p"]
    errors: Float[np.ndarray, " p"]


def sampled_spectrum(loss: EmpiricalLoss, net: ShallowReLU, *, bandwidth: float | None = None) -> SampledSpectrum:
    """The spectrum of the almost-everywhere Hessian, and beside it that of the population Hessian as estimated.

    `bandwidth` and exceptions are those of `boundary_term`. The error bars are one standard error of the sample along each
    eigenvector, and what smoothing changes along it, to first order: they hold no certainty, and close eigenvalues repel each
    other by more.

    A saddle of ten students and ten orthonormal teachers, with isotropy S_4 x S_6 and index 3: the Hessian of 100 000 samples
    has no eigenvalue below 0.08 there, and would call it a strict minimum.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> space = rj.fixed_space.FixedSpace((4, 6))
    >>> weights = space.embed(jnp.array([-0.467283, 1.035844, 0.471199, -0.008176, 0.008509, -0.000503]))
    >>> saddle = rj.ShallowReLU(weights, jnp.ones(10), train=("weights",))
    >>> rj.hessian.dense_eigenvalues(rj.problems.orthonormal_teacher(10), saddle)[:4].round(3).tolist()
    [-0.018, -0.018, -0.018, 0.005]
    >>> x = jax.random.normal(jax.random.key(1), (100_000, 10))
    >>> found = sampled_spectrum(rj.EmpiricalLoss(x, jnp.sum(jnp.maximum(x, 0), axis=1)), saddle)
    >>> bool(found.almost_everywhere[0] > 0.08), bool(jnp.all(found.with_boundary[:3] + found.errors[:3] < 0))
    (True, True)

    ```
    """
    term = boundary_term(loss, net, bandwidth=bandwidth)
    smooth = compiled_hessian(loss, net)
    values, vectors = jnp.linalg.eigh(smooth + term.matrix)
    width, n = _bandwidth(loss, bandwidth), len(loss.targets)
    sums, squares, smoothed = np.zeros(len(values)), np.zeros(len(values)), np.zeros(len(values))
    step = max(_ROWS // len(values), 1)
    spreads = jnp.std(preactivations(net, loss.inputs), axis=0)
    for start in range(0, n, step):
        part = EmpiricalLoss(loss.inputs[start : start + step], loss.targets[start : start + step], loss.criterion)
        curvatures, change = _curvatures(part, net, vectors, width, spreads)
        sums += np.sum(curvatures, axis=0) / n
        squares += np.sum(curvatures**2, axis=0) / n
        smoothed += np.sum(change, axis=0) / n
    errors = np.sqrt(np.maximum(squares - sums**2, 0) / n) + np.abs(smoothed)
    return SampledSpectrum(eigenvalues(smooth), np.asarray(values), errors)


def _only_empirical(loss):
    if not isinstance(loss, EmpiricalLoss):
        raise ValueError(f"only an empirical loss lacks a boundary term and this is {type(loss).__name__}: take its Hessian.")


def _bandwidth(loss, bandwidth):
    return 1.5 * len(loss.targets) ** -0.2 if bandwidth is None else float(bandwidth)


@eqx.filter_jit
def _strengths(loss, net, width, *, smoothed=False, spreads=None):
    """`a_j c'_i K(z_ij)` with K in place of the delta function: `(4 K_h − K_2h)/3`, or K_h."""
    z = preactivations(net, loss.inputs)
    spreads = jnp.std(z, axis=0) if spreads is None else spreads
    spreads = jnp.where(spreads > 0, spreads, jnp.inf)

    def kernel(h):
        return jnp.where(jnp.abs(z) < h * spreads, 0.75 * (1 - (z / (h * spreads)) ** 2) / (h * spreads), 0.0)

    delta = kernel(width) if smoothed else (4 * kernel(width) - kernel(2 * width)) / 3
    return net.amplitudes * loss.criterion.slope(loss.outputs(net), loss.targets)[:, None] * delta


@eqx.filter_jit
def _blocks(loss, net, strengths):
    """`1/n Σ_i strength_ij x̃_i x̃_iᵀ` of every neuron, and for each the expected norm of its noise."""
    inputs, n = _extended(loss, net), len(loss.targets)
    lengths = jnp.sum(inputs**2, axis=1)

    def block(strength):
        variance = (inputs * (strength**2 * lengths)[:, None]).T @ inputs / n**2
        return (inputs * strength[:, None]).T @ inputs / n, jnp.linalg.eigvalsh(variance)[-1]

    blocks, variances = jax.lax.map(block, strengths.T)
    return blocks, jnp.sqrt(2 * variances * jnp.log(2.0 * inputs.shape[1]))


@eqx.filter_jit
def _curvatures(loss, net, vectors, width, spreads):
    """What every datum contributes to each `vᵀ(H + B)v`, and to what smoothing changes of it, both of shape (n, p)."""
    inputs, strengths = _extended(loss, net), _strengths(loss, net, width, spreads=spreads)
    smoothed = _strengths(loss, net, width, smoothed=True, spreads=spreads) - strengths
    outputs = loss.outputs(net)
    slopes = loss.criterion.slope(outputs, loss.targets)
    active = preactivations(net, loss.inputs) > 0
    directions = jax.vmap(lambda vector: unravel(jax.tree.map(jnp.zeros_like, net), vector))(vectors.T)
    hidden = jnp.moveaxis(hidden_vectors(directions), 0, -1)  # (m, q, p)
    curvatures = loss.criterion.curvature(outputs, loss.targets)[:, None] * (loss.jacobian(net) @ vectors) ** 2

    def add(sums, neuron):
        vector, amplitude, on, strength, change = neuron
        z = inputs @ vector
        coupled = 2 * (slopes * on)[:, None] * z * amplitude
        return (sums[0] + coupled + strength[:, None] * z**2, sums[1] + change[:, None] * z**2), None

    neurons = (hidden, directions.amplitudes.T, active.T, strengths.T, smoothed.T)
    return jax.lax.scan(add, (curvatures, jnp.zeros_like(curvatures)), neurons)[0]


def _extended(loss, net):
    inputs = jnp.asarray(loss.inputs)
    return inputs if net.biases is None else jnp.concatenate([inputs, jnp.ones((len(inputs), 1), inputs.dtype)], axis=1)
