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
from ..network import ShallowReLU, is_stacked, number_of_parameters, take
from .matrix_free import krylov, leading_block
from .solver import one_blas_thread


class Density(eqx.Module):
    """A spectral density as a weighted sum of points: `nodes`, ascending, and `weights`, which add up to 1.

    `trace` is the exact one of the Hessian, which the weights reproduce; `trace_estimate` is what they gave before they did,
    and tells by its distance how good the probes were. `parameters` is p. Of a stack of networks everything but p has a
    leading axis.
    """

    nodes: Float[np.ndarray, "*batch s"]
    weights: Float[np.ndarray, "*batch s"]
    trace: Float[np.ndarray, "*batch"]
    trace_estimate: Float[np.ndarray, "*batch"]
    parameters: int

    def mass(self, low: float = -np.inf, high: float = np.inf) -> Float[np.ndarray, "*batch"]:
        """The share of eigenvalues between `low` and `high`."""
        inside = (self.nodes >= low) & (self.nodes <= high)
        return np.asarray(np.sum(np.where(inside, self.weights, 0.0), axis=-1))

    def __call__(self, grid: Float[np.ndarray, " g"], width: float) -> Float[np.ndarray, "*batch g"]:
        """The density on a grid, every node spread out as a Gaussian of standard deviation `width`."""
        apart = (grid[:, None] - self.nodes[..., None, :]) / width
        bells = np.exp(-(apart**2) / 2) / (width * np.sqrt(2 * np.pi))
        return np.sum(bells * self.weights[..., None, :], axis=-1)


def density(loss: AbstractLoss, nets: ShallowReLU, *, key: Key[Array, ""], probes: int = 8, depth: int = 60) -> Density:
    """The spectral density from `probes` random vectors and `probes * depth` products with the Hessian, of one network or many.

    Each probe gives a Gauss quadrature of the density (Golub and Meurant 2010; Ghorbani, Krishnan and Xiao 2019). Their mean
    is calibrated to the exact trace, known in closed form for the losses of this package: weights are multiplied by
    `exp(t node)` with the one t that makes it so. That moves mass among the few large eigenvalues, which random probes
    miscount most, and hardly any near zero.

    **Returns:** a `Density`. The networks of a stack are probed with vectors of their own.

    **Raises:** `ValueError` in single precision; `ImportError` without matfree.

    ```python
    >>> import jax, jax.numpy as jnp, relujax as rj
    >>> net = rj.ShallowReLU(jnp.eye(8), jnp.ones(8), train=("weights",))
    >>> found = density(rj.PopulationLoss(net), net, key=jax.random.key(0))
    >>> round(float(found.trace), 12), round(float(64 * found.nodes @ found.weights), 9)
    (32.0, 32.0)

    ```
    """
    require_x64("density", nets)
    if is_stacked(nets):
        keys = jax.random.split(key, len(nets.weights))
        return _stacked([density(loss, take(nets, i), key=one, probes=probes, depth=depth) for i, one in enumerate(keys)])
    net, p = nets, number_of_parameters(nets)
    depth = min(depth, p)
    sampler: Any = extra("matfree.stochtrace", "spectra").sampler_normal(jnp.zeros(p), num=probes)
    matrices = np.asarray(krylov(loss, net, sampler(key), depth)[1])
    nodes, squares = [], []
    with one_blas_thread(depth):
        for matrix in matrices:
            values, vectors = np.linalg.eigh(leading_block(matrix))
            nodes.append(values)
            squares.append(vectors[0] ** 2 / probes)
    points, shares = np.concatenate(nodes), np.concatenate(squares)
    order = np.argsort(points)
    points, shares = points[order], shares[order]
    exact = hessian_trace(loss, net)
    weights = _calibrated(points, shares, exact / p)
    return Density(points, weights, np.asarray(exact), np.asarray(p * points @ shares), p)


def _stacked(found):
    """Densities with a leading axis, the shorter ones filled up with nodes of weight 0."""
    size = max(len(one.nodes) for one in found)
    nodes = [np.pad(one.nodes, (0, size - len(one.nodes)), mode="edge") for one in found]
    weights = [np.pad(one.weights, (0, size - len(one.weights))) for one in found]
    traces, estimates = (np.stack([getattr(one, name) for one in found]) for name in ("trace", "trace_estimate"))
    return Density(np.stack(nodes), np.stack(weights), traces, estimates, found[0].parameters)


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
