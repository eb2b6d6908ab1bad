"""The workloads of the engine's benchmarks, drawn with NumPy so that every rival gets the same numbers."""

import jax.numpy as jnp
import numpy as np

import relujax as rj


def orthogonal(number: int, *, scale: float = 1e-3, first: int = 0):
    """W1: 20 orthogonal data in 20 dimensions, 50 balanced neurons of a small scale."""
    r = np.random.default_rng(0)
    rotation = np.linalg.qr(r.standard_normal((20, 20)))[0]
    inputs = rotation * r.uniform(0.8, 1.2, (20, 1))
    targets = r.choice([-1, 1], 20) * r.uniform(0.5, 1.5, 20)
    r = r if first == 0 else np.random.default_rng((1, first))
    weights = scale / np.sqrt(20) * r.standard_normal((number, 50, 20))
    amplitudes = np.sign(r.standard_normal((number, 50))) * np.linalg.norm(weights, axis=2)
    loss = rj.EmpiricalLoss(jnp.asarray(inputs), jnp.asarray(targets))
    return loss, rj.ShallowReLU(jnp.asarray(weights), jnp.asarray(amplitudes))


def univariate(number: int):
    """W3: 15 points of a smooth function of one variable, 200 neurons with biases, which slide."""
    r = np.random.default_rng(0)
    x = np.sort(r.uniform(-1, 1, 15))
    weights = r.standard_normal((number, 200, 1))
    biases = 0.5 * r.standard_normal((number, 200))
    amplitudes = r.standard_normal((number, 200)) / np.sqrt(200)
    loss = rj.EmpiricalLoss(jnp.asarray(x[:, None]), jnp.asarray(np.sin(4 * x) + 0.3 * np.cos(9 * x)))
    return loss, rj.ShallowReLU(jnp.asarray(weights), jnp.asarray(amplitudes), jnp.asarray(biases))


def regression(number: int):
    """W4: 1000 data in 50 dimensions of a teacher with 5 neurons, 500 neurons with biases."""
    r = np.random.default_rng(0)
    inputs = r.standard_normal((1000, 50)) / np.sqrt(50)
    targets = np.maximum(inputs @ r.standard_normal((5, 50)).T, 0).sum(axis=1)
    weights = r.standard_normal((number, 500, 50))
    amplitudes = r.standard_normal((number, 500)) / np.sqrt(500)
    loss = rj.EmpiricalLoss(jnp.asarray(inputs), jnp.asarray(targets))
    return loss, rj.ShallowReLU(jnp.asarray(weights), jnp.asarray(amplitudes), jnp.zeros((number, 500)))
