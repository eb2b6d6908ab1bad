"""Problems as losses: teachers under Gaussian inputs, and synthetic regression data. `datasets` loads data of one's own."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .loss import EmpiricalLoss, PopulationLoss
from .network import RealArray, ShallowReLU


def orthonormal_teacher(k: int, dim: int | None = None) -> PopulationLoss:
    """k orthonormal teacher neurons of amplitude 1 under Gaussian inputs, the setting of Safran and Shamir 2018.

    `dim` is the number of inputs, k unless said otherwise.

    **Raises:** `ValueError` for k below 1 and for fewer inputs than neurons.

    ```python
    >>> float(orthonormal_teacher(3)(ShallowReLU(jnp.eye(3), jnp.ones(3))))
    0.0

    ```
    """
    dim = k if dim is None else dim
    if k < 1:
        raise ValueError(f"the teacher has {k} neurons: give at least 1.")
    if dim < k:
        raise ValueError(f"{k} orthonormal neurons do not fit into {dim} inputs: give at least {k} inputs.")
    return teacher(jnp.eye(k, dim), jnp.ones(k))


def teacher(
    weights: Float[RealArray, "k d"],
    amplitudes: Float[RealArray, " k"],
    biases: Float[RealArray, " k"] | None = None,
) -> PopulationLoss:
    """The network of these arrays as the teacher under Gaussian inputs."""
    return PopulationLoss(ShallowReLU(weights, amplitudes, biases))


def random_teacher(key: Key[Array, ""], *, k: int, dim: int, biases: bool = False) -> PopulationLoss:
    """k teacher neurons with directions uniform on the sphere, amplitudes ±1 and, when asked for, biases N(0, 1/4)."""
    directions, signs, offsets = jax.random.split(key, 3)
    weights = _unit(jax.random.normal(directions, (k, dim)))
    return teacher(weights, jax.random.rademacher(signs, (k,), float), 0.5 * jax.random.normal(offsets, (k,)) if biases else None)


def orthogonal(key: Key[Array, ""], *, number: int, dim: int, targets: Float[RealArray, " n"] | None = None) -> EmpiricalLoss:
    """n pairwise orthogonal inputs with norms uniform in [0.8, 1.2]; targets ± uniform in [0.5, 1.5] when not given.

    The setting of Boursier, Pillaud-Vivien, Flammarion 2022.

    **Raises:** `ValueError` for more inputs than dimensions.
    """
    if number > dim:
        raise ValueError(f"{number} orthogonal inputs do not fit into {dim} dimensions: give number <= dim.")
    frame, norms, signs, sizes = jax.random.split(key, 4)
    inputs = jax.random.orthogonal(frame, dim)[:number] * jax.random.uniform(norms, (number, 1), minval=0.8, maxval=1.2)
    if targets is None:
        magnitude = jax.random.uniform(sizes, (number,), minval=0.5, maxval=1.5)
        targets = jax.random.rademacher(signs, (number,), float) * magnitude
    return EmpiricalLoss(inputs, targets)


def correlated_with_teacher(
    key: Key[Array, ""], *, number: int, dim: int, centred: bool = True, spread: float | None = None
) -> EmpiricalLoss:
    """Inputs around a random unit vector μ, `x ~ N(μ, ρ/d I)`, labelled by one unit teacher neuron with which all correlate.

    Chistikov, Englert, Lazic 2023: centred, the teacher is μ and ρ = 1; otherwise it is one more such draw, normalised,
    and ρ = √2 − 1. Draws with a label that is 0 are made again.

    **Raises:** `ValueError` for a spread that is not positive, and when 1000 draws in a row have a zero label.
    """
    rho = (1.0 if centred else math.sqrt(2) - 1) if spread is None else spread
    if not rho > 0:
        raise ValueError(f"the spread is {rho}: give a positive number.")
    for attempt in jax.random.split(key, 1000):
        centre_key, noise_key = jax.random.split(attempt)
        centre = _unit(jax.random.normal(centre_key, (dim,)))
        points = centre + math.sqrt(rho / dim) * jax.random.normal(noise_key, (number + 1, dim))
        direction = centre if centred else _unit(points[-1])
        targets = jnp.maximum(points[:number] @ direction, 0.0)
        if bool(jnp.all(targets > 0)):
            return EmpiricalLoss(points[:number], targets)
    raise ValueError(f"1000 draws of {number} inputs in {dim} dimensions all had a zero label: lower the spread {rho}.")


def univariate(inputs: Float[RealArray, " n"], targets: Float[RealArray, " n"]) -> EmpiricalLoss:
    """Data with one input; networks for it need biases.

    ```python
    >>> univariate(jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])).inputs.shape
    (2, 1)

    ```
    """
    return EmpiricalLoss(jnp.asarray(inputs)[:, None], jnp.asarray(targets))


def gaussian_regression(
    key: Key[Array, ""], *, number: int, dim: int, noise: float = 0.0, teacher_width: int | None = None
) -> EmpiricalLoss:
    """Inputs N(0, I); targets N(0, 1), or those of a random teacher of the given width plus noise of that standard deviation."""
    inputs_key, teacher_key, noise_key = jax.random.split(key, 3)
    inputs = jax.random.normal(inputs_key, (number, dim))
    if teacher_width is None:
        return EmpiricalLoss(inputs, jax.random.normal(noise_key, (number,)))
    net = random_teacher(teacher_key, k=teacher_width, dim=dim).teacher
    return EmpiricalLoss(inputs, jax.vmap(net)(inputs) + noise * jax.random.normal(noise_key, (number,)))


def _unit(vectors):
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
