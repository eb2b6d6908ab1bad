"""The spectrum of the Hessian in one call: the method is picked by size and structure, and the answer is labelled."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._extras import extra
from .._precision import require_x64
from ..fixed_space import FixedSpace, find_symmetry
from ..loss import AbstractLoss, EmpiricalLoss, PopulationLoss
from ..network import RealArray, ShallowReLU, is_stacked, number_of_parameters, ravel, take
from .certificates import enclosure
from .dense import dense_eigenvalues
from .matrix_free import extreme_eigenvalues
from .reduced import reduced_eigenvalues, reduced_size, suits_reduction
from .rounding import hessian_error
from .subgroup import Permutation, subgroup_spectrum
from .symmetric import symmetric_spectrum

ALMOST_EVERYWHERE = (
    "The Hessian of a sampled ReLU loss is the almost-everywhere one: it does not see the curvature on the kinks, and it is "
    "not an estimate of the Hessian of the population loss."
)

Method = Literal["auto", "dense", "reduced", "symmetric", "lanczos"]
Symmetry = FixedSpace | Sequence[tuple[Permutation, Permutation]]

_DENSE = 6000  # parameters, above which a Hessian takes 300 MB and its spectrum ten seconds
_WORTH_LOOKING = 400  # parameters, below which a spectrum takes no longer than the search for a symmetry
_SYMMETRIC = 1e-9
_BLOCKS = 8  # and extra neurons, above which the small matrices are no longer small


def spectrum(
    loss: AbstractLoss,
    nets: ShallowReLU,
    *,
    method: Method = "auto",
    symmetry: Symmetry | None = None,
    enclosures: bool = True,
    distance: float = 0.0,
    tolerance: float = 1e-9,
    key: Key[Array, ""] | None = None,
):
    """The spectrum at a network, or at every network of a stack, as an `xarray.Dataset`.

    **Arguments:**

    - `method`: `"dense"` is the whole matrix. `"reduced"`, for an empirical loss, is the same spectrum from a matrix of size
      n + 2m (`reduced_eigenvalues`). `"symmetric"` is the same spectrum from small blocks, at points that permutations leave in
      place (`symmetric_spectrum`, `subgroup_spectrum`). `"lanczos"` finds a few eigenvalues at both ends of a spectrum that is
      out of reach. `"auto"` takes the cheapest that applies; the attributes `method` and `reason` say which and why.
    - `symmetry`: for `"symmetric"`, the fixed space that the weights lie in, in teacher coordinates, or generators as pairs
      (permutation of neurons, permutation of inputs). Without it the blocks are looked for.
    - `enclosures`: whether to compute the intervals `lower` and `upper` as well, at the cost of a decomposition with vectors.
    - `distance`: they hold for every network within this distance, as in `inertia`.
    - `tolerance`: eigenvalues that differ by less than this times the largest are grouped, and those within it are null.
    - `key`: for Lanczos' method.

    Variables over (point, distinct), ascending and padded with NaN and 0: `eigenvalue`, `multiplicity`, `component` (the
    irreducible one where it is known) and `lower`, `upper`, between which all members of the group lie for certain, or by
    Lanczos' method some eigenvalue does; NaN where no bound is known. Over (point): `index` and `nullity`, −1 where the
    spectrum is not whole; `loss` and `gradient_norm`. The attribute `note` says, for an empirical loss, that this is the
    almost-everywhere Hessian.

    **Raises:** `ValueError` in single precision and for a method that does not apply; `ImportError` without xarray.

    ```python
    >>> import jax.numpy as jnp, relujax as rj
    >>> found = spectrum(rj.problems.orthonormal_teacher(30), rj.ShallowReLU(jnp.eye(30), jnp.ones(30), train=("weights",)))
    >>> found.attrs["method"], int(found["multiplicity"].sum()), found["component"].values[0].tolist()[-2:]
    ('symmetric', 900, ['std_0', 'triv'])

    ```
    """
    require_x64("spectrum", nets)
    xarray = extra("xarray", "io")
    stacked = nets if is_stacked(nets) else jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], nets)
    each = [take(stacked, i) for i in range(len(stacked.weights))]
    plan = _plan(loss, each, method, symmetry)
    if plan.method == "lanczos":
        if key is None:
            raise ValueError(f"{plan.reason}, and Lanczos' method starts from a random vector: give key=jax.random.key(0).")
        rows = [_lanczos(loss, net, k) for net, k in zip(each, jax.random.split(key, len(each)), strict=True)]
    elif plan.method == "symmetric":
        rows = [_symmetric(loss, net, where, tolerance) for net, where in zip(each, plan.symmetries, strict=True)]
    else:
        rows = _whole(loss, stacked, each, plan.method, enclosures, distance, tolerance)
    values, norms = _losses_and_norms(loss, jax.tree.map(jnp.asarray, stacked))
    per_point = [_counts(row, tolerance) if plan.method != "lanczos" else (-1, -1) for row in rows]
    return xarray.Dataset(
        {
            "eigenvalue": (["point", "distinct"], _padded([row.values for row in rows], np.nan)),
            "multiplicity": (["point", "distinct"], _padded([row.counts for row in rows], 0)),
            "component": (["point", "distinct"], _padded([row.components for row in rows], "")),
            "lower": (["point", "distinct"], _padded([row.lower for row in rows], np.nan)),
            "upper": (["point", "distinct"], _padded([row.upper for row in rows], np.nan)),
            "index": (["point"], np.array([index for index, _ in per_point], int)),
            "nullity": (["point"], np.array([nullity for _, nullity in per_point], int)),
            "loss": (["point"], np.asarray(values)),
            "gradient_norm": (["point"], np.asarray(norms)),
        },
        attrs={
            "method": plan.method,
            "reason": plan.reason,
            "parameters": number_of_parameters(stacked),
            "tolerance": tolerance,
            "note": ALMOST_EVERYWHERE if isinstance(loss, EmpiricalLoss) else "",
        },
    )


def multiplicities(values: Float[RealArray, " p"], tolerance: float = 1e-9) -> list[tuple[float, int]]:
    """Ascending eigenvalues grouped where neighbours differ by at most `tolerance` times the largest: `(mean, multiplicity)`.

    ```python
    >>> import numpy as np
    >>> multiplicities(np.array([0.0, 1.0, 1.0, 3.0]))
    [(0.0, 1), (1.0, 2), (3.0, 1)]

    ```
    """
    values = np.asarray(values)
    return [(float(np.mean(values[group])), len(group)) for group in _groups(values, tolerance)]


def _groups(values, tolerance):
    if values.size == 0:
        return []
    breaks = np.flatnonzero(np.diff(values) > tolerance * np.max(np.abs(values))) + 1
    return np.split(np.arange(len(values)), breaks)


class _Plan(NamedTuple):
    method: str
    reason: str
    symmetries: list


def _plan(loss, nets, method, symmetry):
    """Which method, why, and for the symmetric one the symmetry of every network."""
    net, p = nets[0], number_of_parameters(nets[0])
    empirical = isinstance(loss, EmpiricalLoss)
    if method not in ("auto", "dense", "reduced", "symmetric", "lanczos"):
        raise ValueError(f"method is {method!r}: choose among auto, dense, reduced, symmetric and lanczos.")
    if method == "symmetric" or symmetry is not None:
        found = [_symmetry(loss, net, symmetry) for net in nets]
        if None in found:
            raise ValueError("no permutation symmetry is known here: give symmetry=, or choose another method.")
        return _Plan("symmetric", "asked for", found)
    if method == "reduced":
        if not empirical:
            raise ValueError(f"method 'reduced' is for an empirical loss and this is {type(loss).__name__}: choose 'dense'.")
        if reduced_size(loss, net) >= p:
            raise ValueError(f"the reduced matrix has {reduced_size(loss, net)} rows and the Hessian {p}: choose 'dense'.")
    if method != "auto":
        return _Plan(method, "asked for", [])
    if empirical and suits_reduction(loss, net):
        return _Plan("reduced", f"n + 2m = {reduced_size(loss, net)} is less than half of p = {p}", [])
    if p >= _WORTH_LOOKING and None not in (found := _symmetries(loss, nets)):
        return _Plan("symmetric", f"the weights are fixed by {found[0][0].name}", found)
    if p <= _DENSE:
        return _Plan("dense", f"p = {p} is at most {_DENSE}", [])
    return _Plan("lanczos", f"p = {p} exceeds {_DENSE} and no smaller matrix has the same spectrum", [])


def _symmetries(loss, nets):
    """What is found at every network, up to the first that has no symmetry."""
    found = []
    for net in nets:
        found.append(_symmetry(loss, net, None))
        if found[-1] is None:
            break
    return found


def _symmetry(loss, net, symmetry):
    """A fixed space and the network's coordinates in it, the generators as they are, or None."""
    if symmetry is not None and not isinstance(symmetry, FixedSpace):
        return symmetry
    matrix = _in_teacher_coordinates(loss, net)
    if matrix is None:
        return None
    if symmetry is None:
        found = find_symmetry(matrix, spare=net.dim - loss.teacher.width, tolerance=_SYMMETRIC)
        return found if found is not None and len(found[0].blocks) + found[0].extra <= _BLOCKS else None
    return symmetry, _coordinates(symmetry, matrix)


def _in_teacher_coordinates(loss, net):
    """The students in the coordinates of orthonormal teachers, (m, k); None where symmetric spectra do not apply."""
    if not isinstance(loss, PopulationLoss) or net.trained != ("weights",) or net.biases is not None:
        return None
    teacher, weights = np.asarray(loss.teacher.weights), np.asarray(net.weights)
    units = np.all(np.asarray(loss.teacher.amplitudes) == 1) and np.all(np.asarray(net.amplitudes) == 1)
    if not units or loss.teacher.biases is not None or net.width < len(teacher):
        return None
    if np.max(np.abs(teacher @ teacher.T - np.eye(len(teacher)))) > _SYMMETRIC:
        return None
    inside = weights @ teacher.T
    return inside if np.max(np.abs(weights - inside @ teacher)) <= _SYMMETRIC * np.max(np.abs(weights)) else None


def _coordinates(space, matrix):
    shape = space.labels().shape
    if shape != (len(matrix), matrix.shape[1] + space.spare):
        raise ValueError(f"the space {space.name} holds matrices of shape {shape} and the weights have {matrix.shape}.")
    padded = np.pad(matrix, ((0, 0), (0, space.spare)))
    coordinates = space.project(padded)
    off = np.max(np.abs(coordinates[space.labels()] - padded))
    if off > _SYMMETRIC * np.max(np.abs(matrix)):
        raise ValueError(f"the weights are {off:.1e} from the space {space.name}: they must lie in it.")
    return coordinates


class _Rows(NamedTuple):
    """The groups of eigenvalues at one point."""

    values: np.ndarray
    counts: np.ndarray
    components: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def _symmetric(loss, net, symmetry, tolerance):
    if isinstance(symmetry, tuple) and isinstance(symmetry[0], FixedSpace):
        parts = symmetric_spectrum(*symmetry)
        values = np.concatenate([part.eigenvalues for part in parts])
        counts = np.concatenate([np.full(len(part.eigenvalues), round(part.dimension)) for part in parts])
        names = np.concatenate([np.full(len(part.eigenvalues), part.name, object) for part in parts])
    else:
        values, counts = (np.array(x) for x in zip(*subgroup_spectrum(loss, net, symmetry, tolerance=tolerance), strict=True))
        names = np.full(len(values), "", object)
    order = np.argsort(values, kind="stable")
    nothing = np.full(len(values), np.nan)
    return _Rows(values[order], counts[order], names[order], nothing, nothing)


def _whole(loss, stacked, nets, method, enclosures, distance, tolerance):
    p = number_of_parameters(stacked)
    found = dense_eigenvalues(loss, stacked) if method == "dense" else reduced_eigenvalues(loss, stacked)
    rows = []
    for net, values in zip(nets, found, strict=True):
        some = np.sort(np.append(values, np.zeros(p - len(values))))
        lower, upper = _bounds(loss, net, distance) if enclosures else (np.full(p, np.nan),) * 2
        groups = _groups(some, tolerance)
        means, lows, highs = (
            np.array([merge(array[group]) for group in groups])
            for merge, array in ((np.mean, some), (np.min, lower), (np.max, upper))
        )
        names = np.full(len(groups), "", object)
        rows.append(_Rows(means, np.array([len(group) for group in groups], int), names, lows, highs))
    return rows


def _bounds(loss, net, distance):
    """Intervals for all p eigenvalues in ascending order, NaN where no bound on the error of the Hessian is known."""
    p = number_of_parameters(net)
    try:
        error = hessian_error(loss, net, distance=distance)
    except ValueError:
        return np.full(p, np.nan), np.full(p, np.nan)
    found = enclosure(loss, net, error)
    zeros = np.zeros(p - len(found.lower))
    return np.sort(np.append(found.lower, zeros)), np.sort(np.append(found.upper, zeros))


def _lanczos(loss, net, key):
    found = extreme_eigenvalues(loss, net, key=key)
    number = len(found.values)
    names = np.full(number, "", object)
    return _Rows(found.values, np.ones(number, int), names, found.values - found.residuals, found.values + found.residuals)


def _counts(rows, tolerance):
    """Index and nullity."""
    threshold = tolerance * np.max(np.abs(rows.values), initial=0.0)
    return int(np.sum(rows.counts[rows.values < -threshold])), int(np.sum(rows.counts[np.abs(rows.values) <= threshold]))


def _padded(arrays, filler):
    width = max(len(array) for array in arrays)
    out = np.full((len(arrays), width), filler, dtype=object if isinstance(filler, str) else np.result_type(filler))
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out.astype(str) if isinstance(filler, str) else out


@eqx.filter_jit
def _losses_and_norms(loss, nets) -> tuple[Array, Array]:
    return jax.vmap(lambda net: (loss(net), jnp.linalg.norm(ravel(loss.gradient(net)))))(nets)
