"""The spectral density of a Hessian that is too large for its spectrum, by stochastic Lanczos quadrature."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.optimize import brentq
from scipy.special import logsumexp

from .._extras import extra
from .._precision import require_x64
from ..loss import AbstractLoss, EmpiricalLoss, PopulationLoss
from ..network import ShallowReLU, number_of_parameters
from .matrix_free import krylov, leading_block
from .solver import one_blas_thread


class Density(eqx.Module):
    """A spectral density as a weighted sum of points: `nodes`, ascending, and `weights`, which add up to 1.

    `trace` is the exact one of the Hessian, which the weights reproduce; `trace_estimate` is what they gave before they did,
    and tells by its distance how good the probes were. `parameters` is p.
    """

    nodes: Float[np.ndarray, " s"]
    weights: Float[np.ndarray, " s"]
    trace: float
    trace_estimate: float
    parameters: int

    def mass(self, low: float = -np.inf, high: float = np.inf) -> float:
        """The share of eigenvalues between `low` and `high`."""
        return float(np.sum(self.weights[(self.nodes >= low) & (self.nodes <= high)]))

    def __call__(self, grid: Float[np.ndarray, " g"], width: float) -> Float[np.ndarray, " g"]:
        """The density on a grid, every node spread out as a Gaussian of standard deviation `width`."""
        bells = np.exp(-(((grid[:, None] - self.nodes) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
        return bells @ self.weights


def density(loss: AbstractLoss, net: ShallowReLU, *, key: Key[Array, ""], probes: int = 8, depth: int = 60) -> Density:
    """The spectral density from `probes` random vectors and `probes * depth` products with the Hessian.

    Each probe gives a Gauss quadrature of the density (Golub and Meurant 2010; Ghorbani, Krishnan and Xiao 2019). Their mean
    is calibrated to the exact trace, known in closed form for the losses of this package: weights are multiplied by
    `exp(t node)` with the one t that makes it so. That moves mass among the few large eigenvalues, which random probes
    miscount most, and hardly any near zero.

    **Raises:** `ValueError` in single precision; `ImportError` without matfree.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> net = rj.ShallowReLU(jnp.eye(8), jnp.ones(8), train=("weights",))
    >>> found = density(rj.PopulationLoss(net), net, key=jax.random.key(0))
    >>> round(found.trace, 12), round(float(64 * found.nodes @ found.weights), 9)
    (32.0, 32.0)

    ```
    """
    require_x64("density", net)
    p = number_of_parameters(net)
    depth = min(depth, p)
    sampler: Any = extra("matfree.stochtrace", "spectra").sampler_normal(jnp.zeros(p), num=probes)
    matrices = np.asarray(krylov(loss, net, sampler(key), depth)[1])
    nodes, weights = [], []
    with one_blas_thread(depth):
        for matrix in matrices:
            values, vectors = np.linalg.eigh(leading_block(matrix))
            nodes.append(values)
            weights.append(vectors[0] ** 2 / probes)
    points, shares = np.concatenate(nodes), np.concatenate(weights)
    order = np.argsort(points)
    points, shares = points[order], shares[order]
    exact = hessian_trace(loss, net)
    return Density(points, _calibrated(points, shares, exact / p), exact, float(p * points @ shares), p)


def hessian_trace(loss: AbstractLoss, net: ShallowReLU) -> float:
    """The trace of the Hessian in closed form, without the matrix.

    **Raises:** `ValueError` for a loss that is neither empirical nor over Gaussian inputs.
    """
    net = jax.tree.map(jnp.asarray, net)
    if isinstance(loss, EmpiricalLoss):
        return float(_empirical_trace(loss, net))
    if isinstance(loss, PopulationLoss):
        return float(_population_trace(loss, net))
    raise ValueError(f"the trace of the Hessian of this {type(loss).__name__} is not known in closed form.")


@eqx.filter_jit
def _empirical_trace(loss, net):
    """The coupling of amplitudes and hidden vectors is off the diagonal."""
    z = net.weights @ loss.inputs.T + (0.0 if net.biases is None else net.biases[:, None])
    active = z > 0
    curvature = loss.criterion.curvature(loss.outputs(net), loss.targets) / loss.targets.shape[0]
    squares = ("weights" in net.trained) * jnp.sum(loss.inputs**2, axis=1) + ("biases" in net.trained)
    total = jnp.where(active, net.amplitudes[:, None] ** 2 * squares, 0.0)
    if "amplitudes" in net.trained:
        total += jnp.where(active, z, 0.0) ** 2
    return jnp.sum(total @ curvature)


@eqx.filter_jit
def _population_trace(loss, net):
    kernel, rows, vectors, coefficients = loss.sum_of_neurons(net)
    trained = jnp.array(
        [float("weights" in net.trained)] * net.dim + [float("biases" in net.trained)] * (rows.shape[1] - net.dim)
    )

    def of_neuron(pair):
        row, amplitude = pair[0][None], pair[1]
        bend = kernel.own_hessian(row, vectors, coefficients)[0]
        hidden = amplitude**2 * kernel.mixed_hessian(row, row)[0, 0] + amplitude * bend
        outer = kernel.overlap(row, row)[0, 0] if "amplitudes" in net.trained else 0.0
        return jnp.diag(hidden) @ trained + outer

    return jnp.sum(jax.lax.map(of_neuron, (rows, net.amplitudes)))


def _calibrated(nodes, weights, mean):
    """The weights tilted so that the mean of the nodes is `mean`; as they are when no tilt can do that."""
    if not nodes[0] < mean < nodes[-1]:
        return weights

    def tilted(t):
        logs = np.log(np.maximum(weights, 1e-300)) + t * nodes
        return np.exp(logs - logsumexp(logs))

    reach = 1.0 / np.max(np.abs(nodes))
    while (tilted(-reach) @ nodes > mean) or (tilted(reach) @ nodes < mean):
        reach *= 2
    return tilted(brentq(lambda t: tilted(t) @ nodes - mean, -reach, reach, xtol=1e-14 * reach))
