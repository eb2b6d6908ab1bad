"""Losses with closed-form gradient and Hessian: over data, and over Gaussian inputs.

Every loss is a value that maps one network to a number. `loss.gradient` and `loss.hessian` are closed forms; `jax.grad` and
`jax.hessian` of the loss agree with them. A stack of networks goes through `jax.vmap`.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import arccos, biased_arccos
from .network import RealArray, ShallowReLU, hidden_vectors, preactivations, relu
from .numbers import is_traced, real_array


class AbstractLoss(eqx.Module):
    """What a flow, a polish and a spectrum need of a loss: a value, a gradient and a Hessian."""

    @abc.abstractmethod
    def __call__(self, net: ShallowReLU) -> Float[Array, ""]:
        """The loss of one network."""

    @abc.abstractmethod
    def gradient(self, net: ShallowReLU) -> ShallowReLU:
        """The gradient, laid out like the network; 0 for parameters that do not move."""

    @abc.abstractmethod
    def hessian(self, net: ShallowReLU) -> Float[Array, "p p"]:
        """The Hessian over the trained parameters, in the order of `ravel`."""


class AbstractCriterion(eqx.Module):
    """The loss of one prediction against its target, with two derivatives in the prediction."""

    @abc.abstractmethod
    def value(self, outputs: Float[Array, " n"], targets: Float[RealArray, " n"]) -> Float[Array, " n"]:
        """One number a datum."""

    @abc.abstractmethod
    def slope(self, outputs: Float[Array, " n"], targets: Float[RealArray, " n"]) -> Float[Array, " n"]:
        """The derivative of `value` in the output."""

    @abc.abstractmethod
    def curvature(self, outputs: Float[Array, " n"], targets: Float[RealArray, " n"]) -> Float[Array, " n"]:
        """The second derivative of `value` in the output."""


class SquaredError(AbstractCriterion):
    """Half the squared residual, `(f − y)²/2`."""

    def value(self, outputs, targets):
        return (outputs - targets) ** 2 / 2

    def slope(self, outputs, targets):
        return outputs - targets

    def curvature(self, outputs, targets):
        return jnp.where(jnp.isnan(outputs), outputs, jnp.ones_like(outputs))


class LogisticError(AbstractCriterion):
    """The logistic loss `ln(1 + e^{−y f})` of a target y = ±1; a network that classifies all data grows for ever under it.

    ```python
    >>> float(LogisticError().slope(jnp.zeros(1), jnp.ones(1))[0])
    -0.5

    ```
    """

    def value(self, outputs, targets):
        return jax.nn.softplus(-targets * outputs)

    def slope(self, outputs, targets):
        return -targets * jax.nn.sigmoid(-targets * outputs)

    def curvature(self, outputs, targets):
        return targets**2 * jax.nn.sigmoid(outputs * targets) * jax.nn.sigmoid(-outputs * targets)


class ExponentialError(AbstractCriterion):
    """The exponential loss `e^{−y f}` of a target y = ±1."""

    def value(self, outputs, targets):
        return jnp.exp(-targets * outputs)

    def slope(self, outputs, targets):
        return -targets * jnp.exp(-targets * outputs)

    def curvature(self, outputs, targets):
        return targets**2 * jnp.exp(-targets * outputs)


class EmpiricalLoss(AbstractLoss):
    """The mean over data, `L = 1/n Σ_i c(f(x_i), y_i)`; with squared error `1/2n Σ_i (f(x_i) − y_i)²`.

    **Arguments:**

    - `inputs`: data, shape `(n, d)`.
    - `targets`: shape `(n,)`.
    - `criterion`: the loss of one prediction, `SquaredError()` unless said otherwise; `LogisticError()` and `ExponentialError()`
      are for targets ±1.

    Gradient and Hessian are those of the linear piece a network lies in, with `relu'(0) = 0`. The Hessian is therefore
    the almost-everywhere one: it does not see the curvature that sits on the kinks, and it is not an approximation of the
    Hessian of a population loss however many data there are. With fixed amplitudes it is `JᵀJ/n`, which never has a
    negative eigenvalue.

    Lists of numbers and arrays of integers are made arrays of floating-point numbers.

    **Raises:** `ValueError` for shapes that do not belong together, for empty data, and for data that are not finite numbers;
    inside `jax.jit` numbers are not known, and NaN makes everything NaN.

    ```python
    >>> loss = EmpiricalLoss(jnp.array([[1.0], [2.0]]), jnp.array([1.0, 0.0]))
    >>> float(loss(ShallowReLU(jnp.ones((1, 1)), jnp.ones(1))))
    1.0

    ```
    """

    inputs: Float[RealArray, "n d"] = eqx.field(converter=real_array("inputs"))
    targets: Float[RealArray, " n"] = eqx.field(converter=real_array("targets"))
    criterion: AbstractCriterion = SquaredError()

    def __check_init__(self):
        shape, targets = jnp.shape(self.inputs), jnp.shape(self.targets)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"inputs have shape {shape}: one row a datum is needed, shape (n, d) with n and d at least 1.")
        if targets != shape[:1]:
            raise ValueError(f"targets have shape {targets} and inputs {shape}: one target a datum is needed, shape {shape[:1]}.")
        for name in ("inputs", "targets"):
            array = getattr(self, name)
            wrong = 0 if is_traced(array) else np.sum(~np.isfinite(np.asarray(array)))
            if wrong:
                raise ValueError(f"{name} hold {wrong} numbers that are NaN or infinite: leave those data out.")

    def __call__(self, net):
        return jnp.mean(self.criterion.value(self.outputs(net), self.targets))

    def gradient(self, net):
        _check_one(net, self.inputs.shape[1], "the data")
        # the longer of data and neurons, but for a factor, runs along the rows: up to twice as fast on a CPU
        if 4 * len(self.targets) < net.width:
            return self._gradient_by_data(net)
        z = net.weights @ self.inputs.T
        z = z if net.biases is None else z + net.biases[:, None]
        active, features = z > 0, relu(z)
        slope = self.criterion.slope(net.amplitudes @ features, self.targets) / len(self.targets)
        # features are 0 where a neuron is inactive, and NaN where that cannot be said
        back = jnp.where(active, net.amplitudes[:, None] * slope, features)
        return _only_trained(net, weights=back @ self.inputs, biases=back @ jnp.ones_like(slope), amplitudes=features @ slope)

    def _gradient_by_data(self, net):
        active, features = self._layer(net)
        slope = self.criterion.slope(features @ net.amplitudes, self.targets) / len(self.targets)
        back = jnp.where(active, slope[:, None], features)
        return _only_trained(
            net,
            weights=net.amplitudes[:, None] * (back.T @ self.inputs),
            biases=net.amplitudes * jnp.sum(back, axis=0),
            amplitudes=features.T @ slope,
        )

    def hessian(self, net):
        jacobian = self.jacobian(net)
        curvature = self.criterion.curvature(self.outputs(net), self.targets) / len(self.targets)
        gauss_newton = jacobian.T @ (curvature[:, None] * jacobian)
        if "amplitudes" not in net.trained or len(net.trained) == 1:
            return gauss_newton
        # a_j relu(w_j·x) is bilinear: the only second derivative of the output is between a_j and (w_j, b_j)
        return gauss_newton + _couple(net, self.neuron_correlations(net))

    def outputs(self, net: ShallowReLU) -> Float[Array, " n"]:
        """The network at the data, shape `(n,)`."""
        return self._layer(net)[1] @ net.amplitudes

    def jacobian(self, net: ShallowReLU) -> Float[Array, "n p"]:
        """The derivative of the outputs in the trained parameters, shape `(n, p)`."""
        active, features = self._layer(net)
        gain = jnp.where(active, net.amplitudes, features)
        parts = {
            "weights": (gain[:, :, None] * self.inputs[:, None, :]).reshape(len(self.targets), -1),
            "biases": gain,
            "amplitudes": features,
        }
        return jnp.concatenate([features[:, :0], *(parts[name] for name in net.trained)], axis=1)

    def neuron_correlations(self, net: ShallowReLU) -> Float[Array, "m q"]:
        """`C_j = 1/n Σ_{i active} c'(f(x_i)) (x_i, 1)`: what couples a_j and (w_j, b_j) in the Hessian; `∇_{w_j} L = a_j C_j`."""
        active, features = self._layer(net)
        slope = self.criterion.slope(features @ net.amplitudes, self.targets) / len(self.targets)
        back = jnp.where(active, slope[:, None], features)
        correlations = back.T @ self.inputs
        if net.biases is None:
            return correlations
        return jnp.concatenate([correlations, jnp.sum(back, axis=0)[:, None]], axis=1)

    def _layer(self, net):
        _check_one(net, self.inputs.shape[1], "the data")
        z = preactivations(net, self.inputs)
        return z > 0, relu(z)


class PopulationLoss(AbstractLoss):
    """The mean over standard Gaussian inputs, `L = ½ E_{x ~ N(0, I)} (f(x) − f*(x))²`, in closed form.

    **Arguments:**

    - `teacher`: the network f* to be learnt, of any width, with or without biases.

    Student and teacher may have any widths and hidden biases. Value, gradient and Hessian are exact and finite when neurons
    align, coincide or oppose. At a neuron that is exactly 0 the loss is not differentiable: the value is exact, the gradient
    there is 0 by convention, and the blocks of that neuron in the Hessian are 0 (`has_zero_neuron` tells).

    **Raises:** `ValueError` when the teacher is a stack, or when student and teacher differ in their number of inputs.

    ```python
    >>> teacher = ShallowReLU(jnp.eye(2), jnp.ones(2))
    >>> float(PopulationLoss(teacher)(teacher))
    0.0

    ```

    Sources: Cho and Saul 2009 (the kernel), Tian 2017 (the gradient), Safran and Shamir 2018 (the Hessian), without biases;
    moments of truncated normal vectors with them.
    """

    teacher: ShallowReLU

    def __check_init__(self):
        if self.teacher.weights.ndim != 2:
            raise ValueError(
                f"the teacher's weights have shape {self.teacher.weights.shape}: one network is needed, shape (k, d)."
            )

    def __call__(self, net):
        kernel, _, vectors, coefficients = self.sum_of_neurons(net)
        return kernel.value(vectors, coefficients)

    def gradient(self, net):
        kernel, rows, vectors, coefficients = self.sum_of_neurons(net)
        force = kernel.forces(rows, vectors, coefficients)
        return _only_trained(
            net,
            weights=net.amplitudes[:, None] * force[:, : net.dim],
            biases=net.amplitudes * force[:, -1],
            amplitudes=jnp.sum(force * rows, axis=1),
        )

    def hessian(self, net):
        kernel, rows, vectors, coefficients = self.sum_of_neurons(net)
        m = net.width
        bend = kernel.own_hessian(rows, vectors, coefficients)
        pairs = net.amplitudes[:, None] * net.amplitudes
        hidden = jnp.swapaxes(pairs[:, :, None, None] * kernel.mixed_hessian(rows, rows), 1, 2)
        hidden = hidden.at[jnp.arange(m), :, jnp.arange(m), :].add(net.amplitudes[:, None, None] * bend)
        if "amplitudes" not in net.trained:
            return assemble(net, hidden, None, None)
        cross = net.amplitudes[:, None, None] * kernel.overlap_gradient(rows, rows)
        cross = cross.at[jnp.arange(m), jnp.arange(m)].add(kernel.forces(rows, vectors, coefficients))
        return assemble(net, hidden, jnp.swapaxes(cross, 1, 2), kernel.overlap(rows, rows))

    def has_zero_neuron(self, net: ShallowReLU) -> Array:
        """Whether some neuron is 0, to rounding beside the largest one, so that the loss has no second derivative there."""
        sizes, teachers = (jnp.linalg.norm(hidden_vectors(n), axis=-1) for n in (net, self.teacher))
        return jnp.any(sizes <= 1e-14 * jnp.maximum(jnp.max(sizes), jnp.max(teachers)))

    def sum_of_neurons(self, net):
        """The kernel, the student's hidden vectors, and f − f* as one sum of neurons: its vectors and coefficients."""
        teacher = self.teacher
        _check_one(net, teacher.dim, "the teacher")
        coefficients = jnp.concatenate([net.amplitudes, -jnp.asarray(teacher.amplitudes)])
        if net.biases is None and teacher.biases is None:
            rows = jnp.asarray(net.weights)
            return arccos, rows, jnp.concatenate([rows, teacher.weights]), coefficients
        rows = _with_bias_column(net)
        return biased_arccos, rows, jnp.concatenate([rows, _with_bias_column(teacher)]), coefficients


def _check_one(net, dim, other):
    if net.weights.ndim != 2:
        raise ValueError(f"the weights have shape {net.weights.shape}: one network (m, d) is needed; jax.vmap takes a stack.")
    if net.dim != dim:
        raise ValueError(f"the network has {net.dim} inputs and {other} {dim}: they must be equal.")


def _with_bias_column(net):
    biases = jnp.zeros_like(net.amplitudes) if net.biases is None else net.biases
    return jnp.concatenate([net.weights, biases[:, None]], axis=1)


def _only_trained(net, **parts):
    """`parts` as a network, with zeros for what is not trained."""
    kept = {name: parts[name] if name in net.train else jnp.zeros_like(parts[name]) for name in parts}
    return ShallowReLU(kept["weights"], kept["amplitudes"], None if net.biases is None else kept["biases"], train=net.train)


def _couple(net, correlations):
    """The matrix over the trained parameters with `C_j` between a_j and (w_j, b_j), and 0 elsewhere."""
    m, q = correlations.shape
    cross = jnp.zeros((m, q, m), correlations.dtype).at[jnp.arange(m), :, jnp.arange(m)].set(correlations)
    return assemble(net, jnp.zeros((m, q, m, q), cross.dtype), cross, jnp.zeros((m, m), cross.dtype))


def assemble(net: ShallowReLU, hidden, cross, outer) -> Float[Array, "p p"]:
    """The symmetric matrix over the trained parameters, in the order of `ravel`.

    `hidden` (m, q, m, q) between hidden vectors, `cross` (m, q, m) between hidden vectors and amplitudes, `outer` (m, m)
    between amplitudes.
    """
    m, d = net.width, net.dim
    if not net.trained:
        return jnp.zeros((0, 0), hidden.dtype)
    slots = {"weights": slice(0, d), "biases": slice(d, d + 1)}

    def block(left, right):
        if left == right == "amplitudes":
            return outer
        if right == "amplitudes":
            return cross[:, slots[left]].reshape(-1, m)
        if left == "amplitudes":
            return block(right, left).T
        rows = hidden[:, slots[left], :, slots[right]]
        return rows.reshape(rows.shape[0] * rows.shape[1], -1)

    return jnp.block([[block(left, right) for right in net.trained] for left in net.trained])
