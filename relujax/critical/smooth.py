"""What holds at a network of a loss with a Hessian, and at neurons that are 0, where a population loss has none."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from ..hessian import eigenvalues
from ..loss import AbstractLoss, PopulationLoss
from ..network import ShallowReLU, hidden_vectors, number_of_parameters
from .piece import ZERO, lengths

_STARTS, _STEPS = 32, 60


class Neurons(NamedTuple):
    """The sizes of a population loss's neurons: what is 0, (m,), the largest neuron, and the largest parameter of a neuron."""

    vanished: Bool[np.ndarray, " m"]
    silent: Bool[np.ndarray, " m"]
    largest: float
    gain: float


def neurons_of(loss: AbstractLoss, net: ShallowReLU) -> Neurons:
    """Which neurons are 0 beside the largest of student and teacher, by the rule of `piece`; of other losses none is."""
    nothing = np.zeros(net.width, bool)
    if not isinstance(loss, PopulationLoss):
        return Neurons(nothing, nothing, 1.0, 1.0)
    _, rows, vectors, coefficients = (np.asarray(x) if i else x for i, x in enumerate(loss.sum_of_neurons(net)))
    sizes, amplitudes = lengths(rows), np.abs(np.asarray(net.amplitudes))
    largest = float(np.max(np.abs(coefficients) * lengths(vectors)))
    unit = np.sqrt(largest)
    small = amplitudes * sizes <= ZERO * largest
    outer = "amplitudes" in net.trained
    silent = (amplitudes == 0) | (small & outer & (amplitudes <= np.sqrt(ZERO) * unit))
    vanished = (sizes == 0) | (small & (amplitudes > 0) & ((sizes <= np.sqrt(ZERO) * unit) if outer else True))
    moves = bool({"weights", "biases"} & set(net.trained))
    return Neurons(vanished & moves, silent, largest, float(unit if outer else np.max(amplitudes)))


def is_zero(loss: AbstractLoss, net: ShallowReLU, value: float) -> bool:
    """Whether a loss that is never negative is 0 to the rounding of the terms it is summed from."""
    if isinstance(loss, PopulationLoss):
        _, _, vectors, coefficients = loss.sum_of_neurons(net)
        total = float(np.abs(np.asarray(coefficients)) @ lengths(np.asarray(vectors)))
        return bool(value <= 16 * np.finfo(float).eps * total**2 / 2)
    return bool(value <= 1e-14 * float(loss(jax.tree.map(jnp.zeros_like, net))))


def places_of(net: ShallowReLU, neurons: Bool[np.ndarray, " m"]) -> Bool[np.ndarray, " p"]:
    """Which parameters are hidden parameters of some neurons."""
    parts = {"weights": np.repeat(neurons, net.dim), "biases": neurons, "amplitudes": np.zeros(net.width, bool)}
    return np.concatenate([np.zeros(0, bool), *(parts[name] for name in net.trained)])


def inertia_of(matrix: Float[np.ndarray, "t t"], tolerance: float, rounding: float = 0.0) -> tuple[int, int]:
    """How many eigenvalues of a symmetric matrix are negative, and how many are 0, beside the largest or to rounding."""
    values = np.asarray(eigenvalues(matrix)) if len(matrix) else np.zeros(0)
    nothing = max(tolerance * np.max(np.abs(values), initial=0.0), rounding)
    return int(np.sum(values < -nothing)), int(np.sum(np.abs(values) <= nothing))


def units_of(net: ShallowReLU) -> Float[np.ndarray, " p"]:
    """The units in which every neuron that moves as a whole has an amplitude as large as its hidden vector."""
    if "amplitudes" not in net.trained or len(net.trained) == 1:
        return np.ones(number_of_parameters(net))
    hidden, amplitudes = lengths(np.asarray(hidden_vectors(net))), np.asarray(net.amplitudes)
    both = (hidden > 0) & (amplitudes != 0)
    ratio = np.where(both, np.sqrt(hidden) / np.sqrt(np.where(both, np.abs(amplitudes), 1.0)), 1.0)
    parts = {"weights": np.repeat(ratio, net.dim), "biases": ratio, "amplitudes": 1 / ratio}
    return np.concatenate([parts[name] for name in net.trained])


def explained_nullity(net: ShallowReLU, present: Bool[np.ndarray, " m"]) -> int:
    """Null directions of a smooth loss that rescaling and parallel neurons account for."""
    rescaling = int(np.sum(present)) if "amplitudes" in net.trained and len(net.trained) > 1 else 0
    vectors = np.asarray(hidden_vectors(net))[present]
    sizes = lengths(vectors)
    units = (vectors / np.where(sizes > 0, sizes, 1.0)[:, None])[sizes > 0]
    apart = np.linalg.norm(units[:, None] - units, axis=-1)
    return rescaling + int(np.sum(np.any(np.tril(apart < 1e-12, -1), axis=1)))


class Departure(NamedTuple):
    """The least slope found when a neuron of size 0 grows in some direction, and whether slopes below 0 are excluded."""

    least: float
    none_below: bool


def departure(loss: PopulationLoss, net: ShallowReLU, neurons: Neurons) -> Departure:
    """The slope `a_j E[(f − f*) relu(v·x)]` of the loss along unit vectors v of the neurons that are 0.

    Excluded below 0 it is where all other neurons and the teacher pull the same way; else a descent from many directions
    finds one or does not.
    """
    least, none_below = 0.0, True
    _, _, vectors, coefficients = (np.asarray(x) if i else x for i, x in enumerate(loss.sum_of_neurons(net)))
    there = np.concatenate([~neurons.vanished, np.ones(len(vectors) - net.width, bool)])
    amplitudes = np.where(neurons.silent, 0.0, np.asarray(net.amplitudes))[neurons.vanished]
    for sign in np.unique(np.sign(amplitudes[amplitudes != 0])):
        if np.all(sign * coefficients[there] >= 0):
            continue
        none_below = False
        least = min(least, _least_on_sphere(loss, net, vectors[there], sign * coefficients[there]))
    return Departure(least, none_below)


def _least_on_sphere(loss, net, vectors, coefficients):
    d = net.dim
    moves = np.zeros(vectors.shape[1])
    moves[:d], moves[d:] = "weights" in net.trained, "biases" in net.trained
    starts = np.concatenate([vectors, -vectors, np.random.default_rng(0).standard_normal((_STARTS, len(moves)))]) * moves
    directions = starts[lengths(starts) > 0] / lengths(starts[lengths(starts) > 0])[:, None]
    step = 1 / (np.abs(coefficients) @ lengths(vectors))
    least = 0.0
    for _ in range(_STEPS):
        drives = np.asarray(_drives(loss, net, directions, vectors, coefficients)) * moves
        least = min(least, float(np.min(np.sum(drives * directions, axis=1))))
        directions = directions - step * drives
        directions /= np.maximum(lengths(directions), 1e-300)[:, None]
    return least


@eqx.filter_jit
def _drives(loss, net, directions, vectors, coefficients):
    return loss.sum_of_neurons(net)[0].forces(directions, vectors, coefficients)
