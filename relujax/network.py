"""The network f(x) = Σ_j a_j relu(w_j·x + b_j) and what can be read off it.

Every function here takes one network or a stack of them: leading axes, written `*batch`, are carried through.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .numbers import real_array

RealArray = Array | np.ndarray

TRAINABLE = ("weights", "biases", "amplitudes")


class ShallowReLU(eqx.Module):
    """A ReLU network with one hidden layer and one output, `f(x) = Σ_j a_j relu(w_j·x + b_j)`.

    **Arguments:**

    - `weights`: hidden weights, one neuron a row, shape `(m, d)`.
    - `amplitudes`: output weights, shape `(m,)`.
    - `biases`: hidden biases, shape `(m,)`, or `None` for a network without them.
    - `train`: which of `"weights"`, `"biases"`, `"amplitudes"` move; static. A gradient, a flow and a Hessian see only those.

    A leading ensemble axis on every array makes a stack of networks; call it under `jax.vmap`. Lists of numbers are made arrays.

    **Raises:** `ValueError` for shapes that do not belong together, for what are no real numbers, and for unknown names in
    `train`.

    ```python
    >>> import jax.numpy as jnp
    >>> net = ShallowReLU(jnp.eye(2), jnp.array([1.0, -1.0]))
    >>> float(net(jnp.array([3.0, 2.0])))
    1.0

    ```
    """

    weights: Float[RealArray, "*batch m d"] = eqx.field(converter=real_array("weights"))
    amplitudes: Float[RealArray, "*batch m"] = eqx.field(converter=real_array("amplitudes"))
    biases: Float[RealArray, "*batch m"] | None = eqx.field(converter=real_array("biases"), default=None)
    train: tuple[str, ...] = eqx.field(static=True, default=TRAINABLE)

    def __check_init__(self):
        unknown = [name for name in self.train if name not in TRAINABLE]
        if unknown:
            raise ValueError(f"train names {unknown[0]!r}: choose among {', '.join(TRAINABLE)}.")
        shape = jnp.shape(self.weights)
        if len(shape) < 2:
            raise ValueError(f"weights have shape {shape}: one row a neuron is needed, shape (m, d).")
        for name in ("amplitudes", "biases"):
            array = getattr(self, name)
            if array is not None and jnp.shape(array) != shape[:-1]:
                raise ValueError(f"{name} have shape {jnp.shape(array)} and weights {shape}: {shape[:-1]} is needed.")

    def __call__(self, x: Float[RealArray, " d"]) -> Float[Array, ""]:
        """The output at one input of shape `(d,)`; `jax.vmap(net)` takes `(n, d)`."""
        return jnp.sum(self.amplitudes * relu(preactivations(self, x)))

    @property
    def width(self) -> int:
        """The number of neurons m."""
        return self.weights.shape[-2]

    @property
    def dim(self) -> int:
        """The number of inputs d."""
        return self.weights.shape[-1]

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the arrays that are there and move, in the order of `ravel`."""
        return tuple(name for name in TRAINABLE if name in self.train and getattr(self, name) is not None)


def relu(z: Float[RealArray, "*shape"]) -> Float[Array, "*shape"]:
    """`max(z, 0)` with derivative 0 at 0; NaN where z is, and so is what comes back through it."""
    return jnp.where(z <= 0, 0.0, z)


def ravel(net: ShallowReLU) -> Float[Array, "*batch p"]:
    """The trained parameters as a vector: weights row by row, then biases, then amplitudes.

    ```python
    >>> net = ShallowReLU(jnp.eye(2), jnp.ones(2), train=("weights",))
    >>> ravel(net).tolist()
    [1.0, 0.0, 0.0, 1.0]

    ```
    """
    batch = net.weights.shape[:-2]
    parts = [jnp.reshape(getattr(net, name), (*batch, -1)) for name in net.trained]
    return jnp.concatenate(parts, axis=-1) if parts else jnp.zeros((*batch, 0), net.weights.dtype)


def unravel(net: ShallowReLU, vector: Float[RealArray, "*batch p"]) -> ShallowReLU:
    """The network whose trained parameters are `vector` and whose other arrays are those of `net`; inverts `ravel`.

    Leading axes of `vector` make a stack, and the arrays that do not move are repeated along them.

    **Raises:** `ValueError` when the last axis of `vector` is not the number of trained parameters.
    """
    count = number_of_parameters(net)
    if vector.shape[-1] != count:
        raise ValueError(f"the vector has {vector.shape[-1]} entries: this network trains {count} parameters.")
    batch, changed, start = vector.shape[:-1], {}, 0
    for name in TRAINABLE:
        array = getattr(net, name)
        if array is None:
            continue
        shape = array.shape[-2:] if name == "weights" else array.shape[-1:]
        if name in net.train:
            stop = start + int(np.prod(shape))
            changed[name] = jnp.reshape(vector[..., start:stop], (*batch, *shape))
            start = stop
        else:
            changed[name] = jnp.broadcast_to(array, (*batch, *shape))
    return ShallowReLU(changed["weights"], changed["amplitudes"], changed.get("biases"), train=net.train)


def number_of_parameters(net: ShallowReLU) -> int:
    """The number p of trained parameters of one network."""
    per_neuron = {"weights": net.dim, "biases": 1, "amplitudes": 1}
    return net.width * sum(per_neuron[name] for name in net.trained)


def stack(nets: Sequence[ShallowReLU]) -> ShallowReLU:
    """Networks of one shape as a stack with a leading ensemble axis.

    **Raises:** `ValueError` for an empty sequence.
    """
    if not nets:
        raise ValueError("there are 0 networks to stack: give at least one.")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)


def take(nets: ShallowReLU, index) -> ShallowReLU:
    """Member `index` of a stack, or the smaller stack that an index array or a slice picks."""
    return jax.tree.map(lambda leaf: leaf[index], nets)


def is_stacked(net: ShallowReLU) -> bool:
    """Whether the network carries one leading ensemble axis."""
    return net.weights.ndim == 3


def preactivations(net: ShallowReLU, x: Float[RealArray, "*points d"]) -> Float[Array, "*points m"]:
    """`w_j·x + b_j` of one network at inputs `(..., d)`, shape `(..., m)`."""
    z = jnp.asarray(x) @ net.weights.T
    return z if net.biases is None else z + net.biases


def activation_pattern(net: ShallowReLU, inputs: Float[RealArray, "n d"]) -> Bool[Array, "n m"]:
    """Which neurons are active, `w_j·x_i + b_j > 0`, on which data; on a boundary and where that is NaN a neuron is not."""
    return preactivations(net, inputs) > 0


def dead_neurons(net: ShallowReLU, inputs: Float[RealArray, "n d"]) -> Bool[Array, " m"]:
    """The neurons of one network that no datum activates; on these data they never move again.

    A pre-activation within 1e-13 of a boundary, relative to |(w, b)| |(x, 1)|, counts as on it: a neuron that dies rests
    there at the level of rounding. A neuron that is NaN somewhere is not dead.
    """
    z = preactivations(net, inputs)
    scale = jnp.linalg.norm(hidden_vectors(net), axis=-1) * jnp.sqrt(1 + jnp.sum(inputs**2, axis=-1))[:, None]
    return jnp.all(z <= 1e-13 * scale, axis=0)


def hidden_vectors(net: ShallowReLU) -> Float[Array, "*batch m q"]:
    """Weights with the bias appended as a last column, if there is one: the vectors on which neurons are homogeneous."""
    if net.biases is None:
        return jnp.asarray(net.weights)
    return jnp.concatenate([net.weights, net.biases[..., None]], axis=-1)


def balance(net: ShallowReLU) -> Float[Array, "*batch m"]:
    """`a² − |w|² − b²` of every neuron: conserved by the gradient flow that trains all layers (Du, Hu, Lee 2018, theorem 2.1)."""
    return jnp.asarray(net.amplitudes) ** 2 - jnp.sum(hidden_vectors(net) ** 2, axis=-1)


def variation_norm(net: ShallowReLU) -> Float[Array, "*batch"]:
    """`Σ_j |a_j| |(w_j, b_j)|`, which positive rescaling of the neurons leaves unchanged."""
    return jnp.sum(jnp.abs(net.amplitudes) * jnp.linalg.norm(hidden_vectors(net), axis=-1), axis=-1)


def kinks(net: ShallowReLU) -> Float[Array, "*batch m"]:
    """Where each neuron of a network with one input switches, `−b/w`; infinite for a neuron with w = 0.

    **Raises:** `ValueError` when the network has more than one input.
    """
    if net.dim != 1:
        raise ValueError(f"the network has {net.dim} inputs: a kink is a point only for 1 input.")
    biases = jnp.zeros_like(net.amplitudes) if net.biases is None else net.biases
    w = net.weights[..., 0]
    return jnp.where(w != 0, -biases / jnp.where(w != 0, w, 1.0), jnp.inf)


def canonical(net: ShallowReLU) -> ShallowReLU:
    """The representative of a network under positive rescaling and permutation of its neurons.

    Every neuron is rescaled so that `|a| = 1` (a neuron with a = 0 becomes zero), and neurons are sorted by amplitude,
    then lexicographically by weights and bias. Two networks with the same representative are the same function.
    """
    size = jnp.abs(net.amplitudes)
    hidden = hidden_vectors(net) * size[..., None]
    rows = jnp.concatenate([jnp.sign(net.amplitudes)[..., None], hidden], axis=-1)
    order = jnp.lexsort(jnp.moveaxis(rows, -1, 0)[::-1], axis=-1)
    rows = jnp.take_along_axis(rows, order[..., None], axis=-2)
    biases = None if net.biases is None else rows[..., -1]
    return ShallowReLU(rows[..., 1 : 1 + net.dim], rows[..., 0], biases, train=net.train)
