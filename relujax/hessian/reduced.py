"""The whole spectrum of an empirical Hessian from a matrix of size n + 2m, however many parameters there are.

With J the Jacobian of the outputs, `H = Jᵀ diag(c''/n) J` plus, where amplitudes and hidden vectors both move, for every
neuron the coupling of a_j to its hidden vector by C_j, which is `|C_j| (u⁺u⁺ᵀ − u⁻u⁻ᵀ)` for `u± = (±Ĉ_j, e_a)/√2`. So
`H = A D Aᵀ` with n + 2m columns in A, and its eigenvalues other than 0 are those of `M^½ D M^½` with the Gram matrix
`M = AᵀA`, whose entries need no vector of the length of the parameters.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..loss import EmpiricalLoss
from ..network import ShallowReLU, number_of_parameters, preactivations


def reduced_size(loss: EmpiricalLoss, net: ShallowReLU) -> int:
    """The size of the reduced matrix: n, and 2m more where amplitudes and hidden vectors both move."""
    return loss.targets.shape[0] + (2 * net.width if _couples(net) else 0)


def reduced_eigenvalues(loss: EmpiricalLoss, net: ShallowReLU) -> Float[Array, " r"]:
    """The eigenvalues of the Hessian but for zeros, ascending, shape `(reduced_size,)`; p − reduced_size further ones are 0.

    When the reduced matrix is larger than p, the surplus eigenvalues are zeros. Costs `O(n² (m + d) + (n + 2m)³)`.

    **Raises:** `ValueError` for a network that trains nothing.

    ```python
    >>> loss = EmpiricalLoss(jnp.array([[3.0, 4.0]]), jnp.array([0.0]))
    >>> net = ShallowReLU(jnp.ones((1, 2)), jnp.array([2.0]), train=("weights",))
    >>> reduced_eigenvalues(loss, net).tolist()
    [100.0]

    ```
    """
    if number_of_parameters(net) == 0:
        raise ValueError(f"train={net.train!r} leaves no parameter: name weights, biases or amplitudes.")
    signs, gram = _factors(loss, net)
    values, vectors = jnp.linalg.eigh(gram)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
    return jnp.linalg.eigvalsh(root.T @ (signs[:, None] * root))


def _factors(loss, net):
    """The diagonal of D and the Gram matrix of A."""
    z = preactivations(net, loss.inputs)
    active = z > 0
    gain = jnp.where(active, net.amplitudes, 0.0)
    outputs = jnp.where(active, z, 0.0) @ net.amplitudes
    weight = jnp.sqrt(loss.criterion.curvature(outputs, loss.targets) / loss.targets.shape[0])
    features = jnp.where(active, z, 0.0) if "amplitudes" in net.trained else jnp.zeros_like(z)
    inputs = _trained_inputs(loss, net)
    kernel = weight[:, None] * ((gain @ gain.T) * (inputs @ inputs.T) + features @ features.T) * weight
    if not _couples(net):
        return jnp.ones(len(weight), kernel.dtype), kernel
    correlations = _trained_correlations(loss, net)
    sizes = jnp.linalg.norm(correlations, axis=1)
    directions = correlations / jnp.where(sizes > 0, sizes, 1.0)[:, None]
    along = gain * (inputs @ directions.T)
    plus, minus = (weight[:, None] * (sign * along + features) / jnp.sqrt(2) for sign in (1, -1))
    # a neuron without a correlation has no direction: its columns get no weight in D, and M only needs to be their Gram matrix
    own = jnp.where(sizes > 0, 1.0, 0.5)
    other = jnp.where(sizes > 0, 0.0, 0.5)
    gram = jnp.block([[kernel, plus, minus], [plus.T, jnp.diag(own), jnp.diag(other)], [minus.T, jnp.diag(other), jnp.diag(own)]])
    return jnp.concatenate([jnp.ones(len(weight), kernel.dtype), sizes, -sizes]), gram


def _couples(net):
    return "amplitudes" in net.trained and len(net.trained) > 1


def _trained_inputs(loss, net):
    """The inputs and the 1 of the bias, each there only if what it multiplies moves; one column of zeros if neither does."""
    inputs = jnp.asarray(loss.inputs)
    parts = [inputs] if "weights" in net.trained else []
    if "biases" in net.trained:
        parts.append(jnp.ones((len(inputs), 1), inputs.dtype))
    return jnp.concatenate(parts, axis=1) if parts else jnp.zeros((len(inputs), 1), inputs.dtype)


def _trained_correlations(loss, net):
    correlations = loss.neuron_correlations(net)
    kept = [slice(0, net.dim)] if "weights" in net.trained else []
    if "biases" in net.trained:
        kept.append(slice(net.dim, net.dim + 1))
    return jnp.concatenate([correlations[:, columns] for columns in kept], axis=1)
