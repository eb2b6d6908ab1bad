"""Derivatives of an empirical loss on a linear piece of the network that is named by its activations."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ..loss import EmpiricalLoss
from ..network import ShallowReLU, hidden_vectors, number_of_parameters, preactivations

# relative to |(w, b)| |(x, 1)|; the flow and the polish land this close to a boundary or clearly away from it
_ON_BOUNDARY = 1e-9
# relative to the largest slope: less is the rounding of a residual that is 0
_NOTHING = 1e-13


class Pieces:
    """The linear pieces that meet at a network: what is common to them, and derivatives for any choice of activations.

    - `z`: pre-activations (n, m); `on_boundary`: where they are 0 to rounding, as they all are for a hidden vector that is 0.
    - `slopes`, `curvatures`: of the criterion, with the 1/n of the mean, (n,); `scale`: the largest slope here or at output 0.
    - `normals`: the derivative of pre-activations in the hidden parameters of a neuron that move, (n, q).
    """

    def __init__(self, loss: EmpiricalLoss, net: ShallowReLU):
        self.net, self.inputs = net, np.asarray(loss.inputs)
        n, ones = len(self.inputs), np.ones((len(self.inputs), 1))
        extended = self.inputs if net.biases is None else np.concatenate([self.inputs, ones], axis=1)
        self.normals = np.concatenate(
            [self.inputs[:, : net.dim * ("weights" in net.trained)], ones[:, : "biases" in net.trained]], axis=1
        )
        self.z, outputs = (np.asarray(x) for x in _layer(loss, net))
        scale = np.linalg.norm(extended, axis=1)[:, None] * np.linalg.norm(np.asarray(hidden_vectors(net)), axis=1)
        self.on_boundary = (np.abs(self.z) <= _ON_BOUNDARY * scale) & np.any(self.normals != 0, axis=1)[:, None]
        self.slopes = np.asarray(loss.criterion.slope(jnp.asarray(outputs), loss.targets)) / n
        self.curvatures = np.asarray(loss.criterion.curvature(jnp.asarray(outputs), loss.targets)) / n
        start = np.asarray(loss.criterion.slope(jnp.zeros(n), loss.targets)) / n
        self.scale = float(max(np.max(np.abs(self.slopes)), np.max(np.abs(start))))
        self.amplitudes = np.asarray(net.amplitudes)

    @property
    def jumps(self) -> Bool[np.ndarray, "n m"]:
        """Pairs on a boundary where the derivative jumps: residual and amplitude are not 0."""
        strengths = np.abs(self.slopes[:, None] * self.amplitudes)
        return self.on_boundary & (strengths > _NOTHING * self.scale)

    def places(self, neuron: int) -> Int[np.ndarray, " q"]:
        """Where the hidden parameters of a neuron are among all, in the order of `normals`."""
        d, m = self.net.dim, self.net.width
        weights = np.arange(neuron * d, (neuron + 1) * d) if "weights" in self.net.trained else np.zeros(0, int)
        biases = [len(weights) * m + neuron] if "biases" in self.net.trained else []
        return np.concatenate([weights, np.array(biases, int)])

    def jacobian(self, active: Bool[np.ndarray, "n m"]) -> Float[np.ndarray, "n p"]:
        """The derivative of the outputs."""
        columns = np.zeros((len(self.z), number_of_parameters(self.net)))
        for j in range(self.net.width):
            columns[:, self.places(j)] = np.where(active[:, j], self.amplitudes[j], 0.0)[:, None] * self.normals
        if "amplitudes" in self.net.trained:
            columns[:, -self.net.width :] = np.where(active, self.z, 0.0)
        return columns

    def gradient(self, active: Bool[np.ndarray, "n m"]) -> Float[np.ndarray, " p"]:
        """The gradient of the loss."""
        return self.slopes @ self.jacobian(active)

    def hessian(self, active: Bool[np.ndarray, "n m"]) -> Float[np.ndarray, "p p"]:
        """The Hessian of the loss."""
        jacobian = self.jacobian(active)
        matrix = jacobian.T @ (self.curvatures[:, None] * jacobian)
        if "amplitudes" in self.net.trained:
            outer = len(matrix) - self.net.width
            for j in range(self.net.width):
                coupling = (self.slopes * active[:, j]) @ self.normals
                matrix[self.places(j), outer + j] += coupling
                matrix[outer + j, self.places(j)] += coupling
        return matrix


@eqx.filter_jit
def _layer(loss, net):
    return preactivations(net, loss.inputs), loss.outputs(net)
