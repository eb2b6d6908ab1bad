"""The whole spectrum of an empirical Hessian from a matrix of size n + 2m, however many parameters there are.

With J the Jacobian of the outputs, `H = Jᵀ diag(c''/n) J` plus, where amplitudes and hidden vectors both move, for every
neuron the coupling of a_j to its hidden vector by C_j, which is `|C_j| (u⁺u⁺ᵀ − u⁻u⁻ᵀ)` for `u± = (±Ĉ_j, e_a)/√2`. So
`H = B S Bᵀ` with n + 2m columns in B and signs in S, and its eigenvalues other than 0 are those of `G^½ S G^½` with the Gram
matrix `G = BᵀB`, whose entries need no vector of the length of the parameters.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from .._precision import require_x64
from ..loss import EmpiricalLoss
from ..network import ShallowReLU, is_stacked, number_of_parameters, preactivations, take
from .enclosures import Enclosure, enclose
from .rounding import gamma
from .solver import eigenvalues


def reduced_size(loss: EmpiricalLoss, net: ShallowReLU) -> int:
    """The size of the reduced matrix: n, and 2m more where amplitudes and hidden vectors both move."""
    return loss.targets.shape[0] + (2 * net.width if _couples(net) else 0)


def reduced_eigenvalues(loss: EmpiricalLoss, net: ShallowReLU) -> Float[np.ndarray, "*batch r"]:
    """The eigenvalues of the Hessian but for zeros, ascending, of a network or of every network of a stack.

    There are `reduced_size` of them, and p − reduced_size further ones are 0; when the reduced matrix is larger than p, the
    surplus are zeros. Costs `O(n² (m + d) + (n + 2m)³)`. Eigenvalues above 1e-8 of the largest are right to rounding, smaller
    ones to 1e-8 of it at worst (`reduced_enclosure`). Not for use inside `jax.jit`.

    **Raises:** `ValueError` for a network that trains nothing.

    ```python
    >>> loss = EmpiricalLoss(jnp.array([[3.0, 4.0]]), jnp.array([0.0]))
    >>> net = ShallowReLU(jnp.ones((1, 2)), jnp.array([2.0]), train=("weights",))
    >>> reduced_eigenvalues(loss, net).tolist()
    [100.0]

    ```
    """
    net = jax.tree.map(jnp.asarray, net)
    if is_stacked(net):
        return np.stack([reduced_eigenvalues(loss, take(net, i)) for i in range(len(net.weights))])
    return eigenvalues(_reduced_matrix(loss, net))


def reduced_enclosure(loss: EmpiricalLoss, net: ShallowReLU, *, error: float = 0.0) -> Enclosure:
    """Intervals around the eigenvalues that `reduced_eigenvalues` finds; the p − reduced_size further ones are exactly 0.

    **Arguments:**

    - `error`: a bound on the error of the correlations C_j, such as `hessian_error`.

    An error E of the Gram matrix moves its root, and with it B, by at most `√|E|`, and by at most `|E| / 2σ` where all
    singular values of B exceed σ; the eigenvalues move by at most `2 |B|` times that. Where only one layer moves, the Gram
    matrix itself is decomposed and its eigenvalues move by at most `|E|`.

    **Raises:** `ValueError` in single precision and for a network that trains nothing.
    """
    require_x64("reduced_enclosure", net)
    signs, gram, trace = (np.asarray(part) for part in _signs_and_gram(loss, jax.tree.map(jnp.asarray, net)))
    # entries are sums of m (d + 3) products of components of the columns of B, of which `trace` is the total square length
    assembly = gamma(net.width + net.dim + 32) * float(trace)
    if not _couples(net):
        return enclose(gram, error=assembly)
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    size = np.linalg.norm(root)
    rounding = gamma(2 * len(gram) + 4) * size**2
    moved = (assembly + np.linalg.norm(root @ root.T - gram) + rounding) * (1 + 1e-10)
    norm = np.sqrt(float(np.max(np.sum(np.abs(gram), axis=1))) + moved)
    # root @ root.T and the exact Gram matrix are this close, hence also their smallest eigenvalues
    least = max(values[0] - 2 * moved, 0.0)
    shift = min(np.sqrt(moved), moved / np.sqrt(least) if least > 0 else np.inf)
    return enclose(root.T @ (signs[:, None] * root), error=float(2 * norm * shift + rounding) + error)


@eqx.filter_jit
def _reduced_matrix(loss, net):
    signs, gram, _ = _signs_and_gram(loss, net)
    if not _couples(net):
        return gram
    values, vectors = jnp.linalg.eigh(gram)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
    return root.T @ (signs[:, None] * root)


@eqx.filter_jit
def _signs_and_gram(loss, net):
    """S, G, and a bound on the trace of G that holds before rounding."""
    if number_of_parameters(net) == 0:
        raise ValueError(f"train={net.train!r} leaves no parameter: name weights, biases or amplitudes.")
    z = preactivations(net, loss.inputs)
    active = z > 0
    gain = jnp.where(active, net.amplitudes, 0.0)
    outputs = jnp.where(active, z, 0.0) @ net.amplitudes
    weight = jnp.sqrt(loss.criterion.curvature(outputs, loss.targets) / loss.targets.shape[0])
    features = jnp.where(active, z, 0.0) if "amplitudes" in net.trained else jnp.zeros_like(z)
    inputs = _trained_inputs(loss, net)
    kernel = weight[:, None] * ((gain @ gain.T) * (inputs @ inputs.T) + features @ features.T) * weight
    # pre-activations are themselves sums: their absolute terms bound their rounding
    terms = jnp.where(active, jnp.abs(loss.inputs) @ jnp.abs(net.weights).T, 0.0)
    terms = terms if net.biases is None else jnp.where(active, terms + jnp.abs(net.biases), 0.0)
    terms = terms if "amplitudes" in net.trained else jnp.zeros_like(terms)
    lengths = jnp.sum(gain**2, axis=1) * jnp.sum(inputs**2, axis=1) + jnp.sum(terms**2, axis=1)
    trace = jnp.sum(weight**2 * lengths)
    if not _couples(net):
        return jnp.ones(len(weight), kernel.dtype), kernel, trace
    correlations = _trained_correlations(loss, net)
    sizes = jnp.linalg.norm(correlations, axis=1)
    directions = correlations / jnp.where(sizes > 0, sizes, 1.0)[:, None]
    along = gain * (inputs @ directions.T)
    plus, minus = (weight[:, None] * (sign * along + features) * jnp.sqrt(sizes / 2) for sign in (1, -1))
    nothing = jnp.zeros((net.width, net.width), kernel.dtype)
    gram = jnp.block([[kernel, plus, minus], [plus.T, jnp.diag(sizes), nothing], [minus.T, nothing, jnp.diag(sizes)]])
    signs = jnp.concatenate([jnp.ones(len(weight) + net.width, kernel.dtype), -jnp.ones(net.width, kernel.dtype)])
    return signs, gram, trace + 2 * jnp.sum(sizes)


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
