"""The spectrum of a Hessian that commutes with any group of permutations of neurons and inputs, given by its generators.

Let G permute the p parameters, e be a basis vector and K its stabiliser. H maps the vectors that K fixes to themselves, and e
is one of them, so that the part of e in every eigenspace E of H can be found among them. By symmetry it has the same length
along the orbit of e, and `dim E = Σ_e |P_E e|²` over all p basis vectors is a sum over orbits: multiplicities need no table of
characters.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .._precision import require_x64
from ..loss import AbstractLoss
from ..network import RealArray, ShallowReLU, number_of_parameters, ravel, unravel
from .matrix_free import linear_operator
from .solver import one_blas_thread

_SCHREIER = 200
_COLUMNS = 2**24  # numbers in one block of Hessian-vector products

Permutation = Sequence[int] | RealArray


def subgroup_spectrum(
    loss: AbstractLoss, net: ShallowReLU, generators: Sequence[tuple[Permutation, Permutation]], *, tolerance: float = 1e-9
) -> list[tuple[float, int]]:
    """All eigenvalues with their multiplicities, ascending, at a point that permutations of neurons and inputs leave in place.

    **Arguments:**

    - `generators`: pairs (permutation of neurons, permutation of inputs), of a group under which the loss does not change.
      The network must not either, `weights[rows][:, columns] == weights`.
    - `tolerance`: eigenvalues that differ by less than this times the largest are one.

    The cost is that of as many Hessian-vector products as the stabilisers of single parameters have orbits, summed over the
    orbits of parameters.

    **Raises:** `ValueError` in single precision, for generators that move the network or change the loss, and when eigenvalues
    are too close to be told apart at this tolerance.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> net = rj.ShallowReLU(jnp.eye(4), jnp.ones(4), train=("weights",))
    >>> turn = [1, 2, 3, 0]
    >>> [(round(value, 4), count) for value, count in subgroup_spectrum(rj.PopulationLoss(net), net, [(turn, turn)])]
    [(0.0908, 6), (0.3076, 3), (0.4092, 2), (0.6259, 1), (1.1924, 3), (1.5107, 1)]

    ```
    """
    require_x64("subgroup_spectrum", net)
    net = jax.tree.map(jnp.asarray, net)
    actions = [_action(net, *(np.asarray(part, int) for part in pair)) for pair in generators]
    p = number_of_parameters(net)
    values, weights = [], []
    for orbit in _members(_orbits(actions, p)):
        labels = _orbits(_stabiliser(actions, orbit), p)
        matrix = _restricted(loss, net, labels)
        with one_blas_thread(len(matrix)):
            some, vectors = np.linalg.eigh(matrix)
        values.append(some)
        weights.append(len(orbit) * vectors[labels[orbit[0]]] ** 2)
    return _grouped(np.concatenate(values), np.concatenate(weights), p, tolerance)


def _action(net, rows, columns) -> Int[np.ndarray, " p"]:
    """Where each trained parameter is found after the permutation; refused when the network is another one then."""
    if sorted(rows) != list(range(net.width)) or sorted(columns) != list(range(net.dim)):
        raise ValueError(f"{rows.tolist()}, {columns.tolist()} is no generator: permute {net.width} rows and {net.dim} columns.")

    def permuted(network):
        biases = None if network.biases is None else network.biases[rows]
        return ShallowReLU(network.weights[rows][:, columns], network.amplitudes[rows], biases, train=network.train)

    for before, after in zip(jax.tree.leaves(net), jax.tree.leaves(permuted(net)), strict=True):
        moved = float(jnp.max(jnp.abs(after - before)))
        if not moved <= 1e-9 * float(jnp.max(jnp.abs(before))):
            raise ValueError(f"the generator {rows.tolist()}, {columns.tolist()} moves the network by {moved:.1e}: it must stay.")
    numbered = unravel(net, jnp.arange(float(number_of_parameters(net))))
    return np.asarray(ravel(permuted(numbered))).astype(int)


def _orbits(actions, p):
    """The number of the orbit of every point."""
    nodes = np.tile(np.arange(p), len(actions))
    edges = coo_array((np.ones(len(nodes)), (nodes, np.concatenate([*actions, nodes[:0]]))), shape=(p, p))
    return connected_components(edges, directed=False)[1]


def _members(labels):
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _stabiliser(actions, orbit):
    """Permutations that keep the first point of an orbit, Schreier's generators of its stabiliser or 200 of them.

    Fewer than all generate a smaller group, which fixes more vectors: the spectrum is the same, at a higher cost.
    """
    words: dict[int, list[int]] = {orbit[0]: []}
    reached = [orbit[0]]
    for point in reached:
        for number, action in enumerate(actions):
            if (image := action[point]) not in words:
                words[image] = [*words[point], number]
                reached.append(image)

    def carry(point):
        """The product of generators that takes the first point to this one."""
        product = np.arange(len(actions[0]))
        for number in words[point]:
            product = actions[number][product]
        return product

    found = []
    step = max(len(reached) * len(actions) // _SCHREIER, 1)
    for pair in range(0, len(reached) * len(actions), step):
        point, action = reached[pair // len(actions)], actions[pair % len(actions)]
        found.append(np.argsort(carry(action[point]))[action[carry(point)]])
    return found


def _restricted(loss, net, labels):
    """The Hessian between the unit vectors that are constant on each class; refused when it leads out of their span."""
    counts = np.bincount(labels)
    basis = np.zeros((len(counts), len(labels)))
    basis[labels, np.arange(len(labels))] = 1 / np.sqrt(counts)[labels]
    # blocks of one size, so that one function is compiled
    size = min(max(_COLUMNS // len(labels), 1), 32)
    padded = np.concatenate([basis, np.zeros((-len(basis) % size, len(labels)))])
    images = np.concatenate([_products(loss, net, padded[i : i + size]) for i in range(0, len(padded), size)])[: len(basis)]
    matrix = images @ basis.T
    out = np.linalg.norm(images - matrix @ basis)
    if not out <= 1e-7 * np.linalg.norm(images):
        raise ValueError(f"the Hessian leaves the fixed vectors by {out:.1e}: the loss must not change under the generators.")
    return (matrix + matrix.T) / 2


@eqx.filter_jit
def _products(loss, net, vectors):
    return jax.vmap(linear_operator(loss, net))(vectors)


def _grouped(values, weights, p, tolerance):
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    breaks = np.flatnonzero(np.diff(values) > tolerance * np.max(np.abs(values))) + 1
    groups = []
    for some, parts in zip(np.split(values, breaks), np.split(weights, breaks), strict=True):
        count = round(np.sum(parts))
        if abs(np.sum(parts) - count) > 1e-3:
            raise ValueError(
                f"the eigenvalues near {some[0]:.6g} have multiplicity {np.sum(parts):.6g}: choose another tolerance."
            )
        if count:
            groups.append((float(np.average(some, weights=parts)), count))
    assert sum(count for _, count in groups) == p, "the multiplicities do not add up to the number of parameters"
    return groups
