"""Spectra of the Hessian: eigenvalues with multiplicities, index and nullity at a stated tolerance."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._extras import extra
from .._precision import require_x64
from ..loss import AbstractLoss, EmpiricalLoss
from ..network import RealArray, ShallowReLU, is_stacked, number_of_parameters, ravel, unravel
from .dense import hessian
from .reduced import reduced_eigenvalues, reduced_size
from .solver import eigenvalues

ALMOST_EVERYWHERE = (
    "The Hessian of a sampled ReLU loss is the almost-everywhere one: it does not see the curvature on the kinks, and it is "
    "not an estimate of the Hessian of the population loss."
)


class Inertia(eqx.Module):
    """How many eigenvalues are below `−threshold`, within it, and above it; one number a network."""

    negative: Int[np.ndarray, "*batch"]
    null: Int[np.ndarray, "*batch"]
    positive: Int[np.ndarray, "*batch"]
    threshold: Float[np.ndarray, "*batch"]


def multiplicities(values: Float[RealArray, " p"], tolerance: float = 1e-9) -> list[tuple[float, int]]:
    """Ascending eigenvalues grouped where neighbours differ by at most `tolerance` times the largest: `(mean, multiplicity)`.

    ```python
    >>> import numpy as np
    >>> multiplicities(np.array([0.0, 1.0, 1.0, 3.0]))
    [(0.0, 1), (1.0, 2), (3.0, 1)]

    ```
    """
    values = np.asarray(values)
    if values.size == 0:
        return []
    breaks = np.flatnonzero(np.diff(values) > tolerance * np.max(np.abs(values))) + 1
    return [(float(np.mean(group)), len(group)) for group in np.split(values, breaks)]


def inertia(loss: AbstractLoss, nets: ShallowReLU, *, tolerance: float = 1e-9) -> Inertia:
    """The numbers of negative, null and positive eigenvalues; null means within `tolerance` times the largest.

    **Raises:** `ValueError` in single precision.
    """
    require_x64("inertia", nets)
    return inertia_of(eigenvalues(_matrices(loss, nets)), tolerance)


def inertia_of(values: Float[np.ndarray, "*batch p"], tolerance: float = 1e-9) -> Inertia:
    """`inertia` of spectra that are at hand."""
    threshold = np.asarray(tolerance * np.max(np.abs(values), axis=-1, initial=0.0))
    negative = np.sum(values < -threshold[..., None], axis=-1)
    positive = np.sum(values > threshold[..., None], axis=-1)
    return Inertia(np.asarray(negative), np.asarray(values.shape[-1] - negative - positive), np.asarray(positive), threshold)


def spectrum(
    loss: AbstractLoss,
    nets: ShallowReLU,
    *,
    method: Literal["auto", "dense", "reduced"] = "auto",
    tolerance: float = 1e-9,
):
    """The whole spectrum of a network, or of every network of a stack, as an `xarray.Dataset`.

    **Arguments:**

    - `method`: `"dense"`, or for an empirical loss `"reduced"`, the same spectrum from a matrix of size n + 2m
      (`reduced_eigenvalues`). `"auto"` takes the smaller matrix and says so in the attribute `method`.
    - `tolerance`: eigenvalues that differ by less than this times the largest are grouped, and those within it are null.

    Variables: `eigenvalue` (point, parameter), ascending, for the reduced method without the zeros that the attribute
    `further_zeros` counts; `value` and `multiplicity` (point, distinct), padded with NaN and 0; `index` and `nullity`
    (point); `loss` and `gradient_norm`. The attribute `note` says, for an empirical loss, that this is the almost-everywhere
    Hessian, which is not an estimate of the Hessian of the population loss.

    **Raises:** `ValueError` in single precision and for a method that the loss does not have; `ImportError` without xarray.
    """
    require_x64("spectrum", nets)
    xarray = extra("xarray", "io")
    stacked = nets if is_stacked(nets) else jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], nets)
    chosen, reason = _choose(loss, stacked, method)
    p = number_of_parameters(stacked)
    values = eigenvalues(_matrices(loss, stacked)) if chosen == "dense" else np.asarray(_reduced(loss, stacked))
    zeros = max(p - values.shape[1], 0)
    full = [np.sort(np.concatenate([one, np.zeros(zeros)])) for one in values]
    groups = [multiplicities(one, tolerance) for one in full]
    widest = max(len(group) for group in groups)
    distinct, counts = np.full((len(groups), widest), np.nan), np.zeros((len(groups), widest), int)
    for row, group in enumerate(groups):
        distinct[row, : len(group)], counts[row, : len(group)] = zip(*group, strict=True)
    counted = inertia_of(values, tolerance)
    losses, norms = _losses_and_norms(loss, jax.tree.map(jnp.asarray, stacked))
    return xarray.Dataset(
        {
            "eigenvalue": (["point", "parameter"], values),
            "value": (["point", "distinct"], distinct),
            "multiplicity": (["point", "distinct"], counts),
            "index": (["point"], counted.negative),
            "nullity": (["point"], counted.null + zeros),
            "loss": (["point"], np.asarray(losses)),
            "gradient_norm": (["point"], np.asarray(norms)),
        },
        attrs={
            "method": f"{chosen}: {reason}",
            "further_zeros": zeros,
            "tolerance": tolerance,
            "note": ALMOST_EVERYWHERE if isinstance(loss, EmpiricalLoss) else "",
        },
    )


def _choose(loss, nets, method):
    if method not in ("auto", "dense", "reduced"):
        raise ValueError(f"method is {method!r}: choose among auto, dense and reduced.")
    if not isinstance(loss, EmpiricalLoss):
        if method == "reduced":
            raise ValueError(f"method 'reduced' is for an empirical loss and this is {type(loss).__name__}: choose 'dense'.")
        return "dense", "the loss is not empirical"
    size, p = reduced_size(loss, nets), number_of_parameters(nets)
    if method == "reduced" and size >= p:
        raise ValueError(f"the reduced matrix has {size} rows and the Hessian {p}: choose 'dense'.")
    if method == "auto":
        # the reduced matrix takes two decompositions, one of them with vectors
        return ("reduced", f"{size} < {p} / 2") if 2 * size < p else ("dense", f"{size} >= {p} / 2")
    return method, "asked for"


@eqx.filter_jit
def _matrices(loss, nets) -> Array:
    return hessian(loss, nets)


@eqx.filter_jit
def _reduced(loss, nets) -> Array:
    return jax.lax.map(lambda net: reduced_eigenvalues(loss, net), jax.tree.map(jnp.asarray, nets))


@eqx.filter_jit
def _losses_and_norms(loss, nets):
    return jax.vmap(lambda net: (loss(net), jnp.linalg.norm(ravel(loss.gradient(net)))))(nets)
