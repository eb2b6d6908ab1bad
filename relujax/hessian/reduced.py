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
from .enclosures import Enclosure, enclose, of_intervals
from .rounding import gamma
from .solver import eigenvalues, one_blas_thread


def reduced_size(loss: EmpiricalLoss, net: ShallowReLU) -> int:
    """The size of the reduced matrix: n, and 2m more where amplitudes and hidden vectors both move."""
    return loss.targets.shape[0] + (2 * net.width if _couples(net) else 0)


def suits_reduction(loss: EmpiricalLoss, net: ShallowReLU) -> bool:
    """Whether the reduced matrix is so much smaller than the Hessian that its two decompositions take less time."""
    return 2 * reduced_size(loss, net) < number_of_parameters(net)


def reduced_eigenvalues(loss: EmpiricalLoss, net: ShallowReLU) -> Float[np.ndarray, "*batch r"]:
    """The eigenvalues of the Hessian but for zeros, ascending, of a network or of every network of a stack.

    There are `reduced_size` of them, and p − reduced_size further ones are 0; when the reduced matrix is larger than p, the
    surplus are zeros. Costs `O(n² (m + d) + (n + 2m)³)`. Eigenvalues above 1e-8 of the largest are right to rounding, smaller
    ones to 1e-8 of it at worst (`reduced_enclosure` tells). Not for use inside `jax.jit`.

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
    signs, gram, _ = (np.asarray(part) for part in _signs_and_gram(loss, net))
    if not _couples(net):
        return eigenvalues(gram)
    with one_blas_thread(len(gram)):
        root = _root(gram)
        return eigenvalues(root.T @ (signs[:, None] * root))


def reduced_enclosure(loss: EmpiricalLoss, net: ShallowReLU, *, error: float = 0.0) -> Enclosure:
    """Intervals around the eigenvalues that `reduced_eigenvalues` finds; the p − reduced_size further ones are exactly 0.

    **Arguments:**

    - `error`: a bound on the spectral norm of the difference from the exact Hessian, such as `hessian_error`; it has to cover
      the correlations C_j, the activations and a distance, but no rounding of products.

    An error E of the Gram matrix moves its root, and with it B, by at most `√|E|`, and by at most `|E| / 2σ` where all
    singular values of B exceed σ; the eigenvalues move by at most `2 |B|` times that. Where only one layer moves, or where
    the couplings C_j are small, as they are next to a critical point, the Gauss–Newton part alone is decomposed: its
    eigenvalues move by at most `|E|`, and the coupling by at most `max |C_j|` more (Weyl).

    **Raises:** `ValueError` in single precision and for a network that trains nothing.
    """
    require_x64("reduced_enclosure", net)
    signs, gram, trace = (np.asarray(part) for part in _signs_and_gram(loss, jax.tree.map(jnp.asarray, net)))
    # entries are sums of m (d + 3) products of components of the columns of B, of which `trace` is the total square length
    assembly = gamma(net.width + net.dim + 32) * float(trace)
    if not _couples(net):
        return enclose(gram, error=assembly + error)
    n = loss.targets.shape[0]
    coupling = float(np.max(np.diag(gram)[n:])) * (1 + 1e-8)
    with one_blas_thread(len(gram)):
        slack, matrix = _whole_matrix(gram, signs, assembly)
    if coupling + assembly < slack:
        return _next_to_gauss_newton(enclose(gram[:n, :n], error=assembly + coupling + error), coupling + error, 2 * net.width)
    # zeros that the two Hessians have in common are left out of both, after which sorted eigenvalues may differ by 2 errors
    return enclose(matrix, error=slack + 2 * error)


def _next_to_gauss_newton(found, bound, number):
    """`found` and `number` further eigenvalues within `bound` of 0, in order.

    Leaving out the common zeros adds nothing here: one of the two matrices has no negative eigenvalue, and the other at most
    half of `number`.
    """
    lower = np.sort(np.concatenate([found.lower, np.full(number, -bound)]))
    upper = np.sort(np.concatenate([found.upper, np.full(number, bound)]))
    return of_intervals(lower, upper)


def _whole_matrix(gram, signs, assembly):
    """`G^½ S G^½`, and how far its eigenvalues can be from those of B S Bᵀ when G is off by `assembly`."""
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    size = np.linalg.norm(root)
    rounding = gamma(2 * len(gram) + 4) * size**2
    moved = (assembly + np.linalg.norm(root @ root.T - gram) + rounding) * (1 + 1e-8)
    norm = np.sqrt(float(np.max(np.sum(np.abs(gram), axis=1))) + moved)
    # root @ root.T and the exact Gram matrix are this close, hence also their smallest eigenvalues
    least = max(values[0] - 2 * moved, 0.0)
    shift = min(np.sqrt(moved), moved / np.sqrt(least) if least > 0 else np.inf)
    return float(2 * norm * shift + rounding) * (1 + 1e-8), root.T @ (signs[:, None] * root)


def _root(gram):
    """A root of a Gram matrix, `R Rᵀ = G`: Cholesky's where it exists, which takes a tenth of the time of the symmetric one."""
    try:
        return np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(gram)
        return vectors * np.sqrt(np.maximum(values, 0.0))


@eqx.filter_jit
def _signs_and_gram(loss, net):
    """S, G, and the trace of the Gram matrix of absolute values of all terms."""
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
