"""Derivatives of an empirical loss on a linear piece of the network, and what counts as zero at a network.

One tolerance, 1e-9, says what is zero: a pre-activation beside |(w, b)| |(x, 1)|, and a neuron's amplitude or hidden vector
where its share of the outputs is that small beside the outputs. Flow and polish land this close to such a point or clearly
away from it.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ..loss import EmpiricalLoss
from ..network import ShallowReLU, number_of_parameters

ZERO = 1e-9
# of a sum of terms of size 1
ROUNDING = 64 * np.finfo(float).eps


class Pieces:
    """The linear pieces that meet at a network: what is common to them, and derivatives for any choice of activations.

    - `z`: pre-activations (n, m); `on_boundary`: where they are 0 and can move, as all do for a hidden vector that is 0;
      `active`: where they are positive.
    - `silent`, `vanished`: neurons whose amplitude, whose hidden vector is 0, (m,).
    - `value`, `slopes`, `curvatures`: of the criterion, with the 1/n of the mean: a number, (n,), (n,).
    - `normals`: the derivative of pre-activations in the hidden parameters of a neuron that move, (n, q), inputs and weights in
      units of the largest input; `units`: that unit for weights, 1 for a bias, (q,).
    - `gains`, `reaches`: the sizes of amplitude and hidden vector that derivatives of a neuron are judged with, (m,). Both are
      √(|a||(w, b)|) where both move, so that nothing depends on how a neuron is scaled.
    - `stretch`: what rescales hidden vectors to that, and its inverse amplitudes, (m,).
    - `steepness`: the gradient of `Σ_i c_i relu(v·x_i)` in v, were all residuals as large as the largest one here or at output 0.
    - `rounding`: what of that the rounding of the outputs makes.
    """

    def __init__(self, loss: EmpiricalLoss, net: ShallowReLU):
        self.net = net
        inputs, weights, self.amplitudes = (np.asarray(x, float) for x in (loss.inputs, net.weights, net.amplitudes))
        longest = float(np.max(np.abs(inputs)))
        # a power of 2 changes no digit
        unit = 2.0 ** np.round(np.log2(longest)) if longest > 0 and np.isfinite(longest) else 1.0
        inputs, weights, n = inputs / unit, weights * unit, len(inputs)
        biases = np.zeros(net.width) if net.biases is None else np.asarray(net.biases, float)
        ones = np.ones((n, 1))
        self.normals = np.concatenate(
            [inputs[:, : net.dim * ("weights" in net.trained)], ones[:, : "biases" in net.trained]], axis=1
        )
        self.units = np.where(np.arange(self.normals.shape[1]) < net.dim * ("weights" in net.trained), unit, 1.0)
        self.lengths = lengths(inputs if net.biases is None else np.concatenate([inputs, ones], axis=1))
        self.sizes = lengths(np.concatenate([weights, biases[:, None]], axis=1))
        self.z = inputs @ weights.T + biases
        self.outputs = np.maximum(self.z, 0.0) @ self.amplitudes
        self.value, self.slopes, self.curvatures = _criterion(loss, self.outputs)
        _, start, bend = _criterion(loss, np.zeros(n))
        targets = np.abs(start) / np.where(bend > 0, bend, np.inf)
        self.scale = float(max(np.max(np.abs(targets)), np.max(np.maximum(self.z, 0.0) @ np.abs(self.amplitudes))))
        self.steepness = float(max(np.max(np.abs(self.slopes)), np.max(np.abs(start))) * np.sum(self.lengths))
        self._size_up()
        terms = lengths(inputs)[:, None] * lengths(weights) + np.abs(biases)
        near = (np.abs(self.z) <= ZERO * terms) | self.vanished
        noise = self.curvatures * (terms @ np.abs(self.amplitudes))
        self.rounding = float(ROUNDING * np.abs(noise) @ self.lengths)
        self.active = (self.z > 0) & ~near
        self.on_boundary = near & np.any(self.normals != 0, axis=1)[:, None]

    def _size_up(self):
        hidden, outer = bool({"weights", "biases"} & set(self.net.trained)), "amplitudes" in self.net.trained
        amplitudes, longest = np.abs(self.amplitudes), float(np.max(self.lengths))
        self.silent, self.vanished = amplitudes == 0, self.sizes == 0
        self.gains, self.reaches = amplitudes * hidden, self.sizes * outer
        self.stretch, unit = np.ones(len(amplitudes)), 0.0
        if hidden and longest > 0:
            small = amplitudes * self.sizes * longest <= ZERO * self.scale
            # of a small neuron that moves as a whole, one factor at least is below the root
            unit = np.sqrt(self.scale / longest) if outer else np.inf
            self.vanished = self.vanished | (small & ~self.silent & (self.sizes <= np.sqrt(ZERO) * unit))
            if outer:
                bound = np.where(self.sizes > 0, np.sqrt(ZERO), ZERO) * unit
                self.silent = self.silent | (small & (amplitudes <= bound))
                plain = np.sqrt(amplitudes) * np.sqrt(self.sizes)
                self.gains = np.where(self.silent | self.vanished, unit, plain)
                self.reaches = np.where(self.vanished, 0.0, np.where(self.silent, np.minimum(self.sizes, unit), plain))
                rest = np.where(self.silent, unit, np.where(self.vanished, amplitudes, np.sqrt(amplitudes)))
                full = np.where(self.silent, self.sizes, np.where(self.vanished, unit, np.sqrt(self.sizes)))
                known = (rest > 0) & (full > 0)
                self.stretch = np.where(known, full, 1.0) / np.where(known, rest, 1.0)
        self.largest = float(max(np.max(self.gains), np.max(self.reaches), unit if outer else 0.0))

    def places(self, neuron: int) -> Int[np.ndarray, " q"]:
        """Where the hidden parameters of a neuron are among all, in the order of `normals`."""
        d, m = self.net.dim, self.net.width
        weights = np.arange(neuron * d, (neuron + 1) * d) if "weights" in self.net.trained else np.zeros(0, int)
        biases = [len(weights) * m + neuron] if "biases" in self.net.trained else []
        return np.concatenate([weights, np.array(biases, int)])

    def scales(self) -> Float[np.ndarray, " p"]:
        """The units of the parameters in which neurons have that size."""
        scales = np.ones(number_of_parameters(self.net))
        for j in range(self.net.width):
            scales[self.places(j)] = self.stretch[j] / self.units
        if "amplitudes" in self.net.trained:
            scales[-self.net.width :] = 1 / self.stretch
        return scales

    def jacobian(self, active: Bool[np.ndarray, "n m"]) -> Float[np.ndarray, "n p"]:
        """The derivative of the outputs."""
        columns = np.zeros((len(self.z), number_of_parameters(self.net)))
        for j in range(self.net.width):
            columns[:, self.places(j)] = np.where(active[:, j], self.amplitudes[j], 0.0)[:, None] * (self.normals * self.units)
        if "amplitudes" in self.net.trained:
            columns[:, -self.net.width :] = np.where(active, self.z, 0.0)
        return columns

    def gradient(self, active: Bool[np.ndarray, "n m"]) -> Float[np.ndarray, " p"]:
        """The gradient of the loss."""
        return self.slopes @ self.jacobian(active)

    def hessian(
        self, active: Bool[np.ndarray, "n m"], couplings: Float[np.ndarray, "m q"] | None = None
    ) -> Float[np.ndarray, "p p"]:
        """The Hessian of the loss; `couplings` between hidden vectors and amplitudes, if they are not those of the piece."""
        jacobian = self.jacobian(active)
        matrix = jacobian.T @ (self.curvatures[:, None] * jacobian)
        if "amplitudes" in self.net.trained:
            outer = len(matrix) - self.net.width
            couplings = (active.T * self.slopes) @ self.normals if couplings is None else couplings
            for j in range(self.net.width):
                coupling = couplings[j] * self.units
                matrix[self.places(j), outer + j] += coupling
                matrix[outer + j, self.places(j)] += coupling
        return matrix


def lengths(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Euclidean norms of rows whose squares may overflow or vanish."""
    largest = np.max(np.abs(rows), axis=1, initial=0.0)
    safe = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    return safe * np.linalg.norm(rows / safe[:, None], axis=1)


def _criterion(loss, outputs):
    targets, at = jnp.asarray(loss.targets), jnp.asarray(outputs)
    criterion, n = loss.criterion, len(outputs)
    value = np.mean(np.asarray(criterion.value(at, targets)))
    return value, np.asarray(criterion.slope(at, targets)) / n, np.asarray(criterion.curvature(at, targets)) / n
