"""Laws of random initialisation: stacks of independent networks from one key.

Network i of a law depends on the key and on i alone, so that asking for more networks, or for `number` of them from the
`first` on, changes none.
`scale` multiplies every initial parameter; it is applied last, to draws of order one, so that 1e-50 and 1e-300 are as good
as 1. Biases are there when asked for, and are then drawn like one more column of the weights unless said otherwise.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .network import TRAINABLE, RealArray, ShallowReLU


def xavier(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    amplitudes: float | None = None,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Weights N(0, 1/d) and amplitudes N(0, 1/m), or all amplitudes equal to `amplitudes`, which `scale` leaves alone.

    ```python
    >>> import jax
    >>> xavier(jax.random.key(0), number=5, width=3, dim=2, amplitudes=1.0, train=("weights",)).weights.shape
    (5, 3, 2)

    ```
    """

    def law(hidden, outer):
        return hidden / math.sqrt(dim), outer / math.sqrt(width)

    nets = _draw(key, law, number, width, dim, first, scale, biases, train)
    if amplitudes is None:
        return nets
    return ShallowReLU(nets.weights, jnp.full_like(nets.amplitudes, amplitudes), nets.biases, train=nets.train)


def kaiming(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Weights N(0, 2/d) and amplitudes N(0, 2/m) (He, Zhang, Ren, Sun 2015)."""
    return _draw(
        key,
        lambda hidden, outer: (hidden * math.sqrt(2 / dim), outer * math.sqrt(2 / width)),
        number, width, dim, first, scale, biases, train,
    )  # fmt: skip


def balanced(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Hidden vectors N(0, 1/m) and amplitudes `±|(w, b)|` with random signs, so that every neuron's balance is 0.

    Boursier, Pillaud-Vivien, Flammarion 2022, equation 3.
    """

    def law(hidden, outer):
        hidden = hidden / math.sqrt(width)
        return hidden, jnp.sign(outer) * jnp.linalg.norm(hidden, axis=-1)

    return _draw(key, law, number, width, dim, first, scale, biases, train)


def unbalanced(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Hidden vectors and amplitudes independent N(0, 1/m)."""
    return _draw(
        key,
        lambda hidden, outer: (hidden / math.sqrt(width), outer / math.sqrt(width)),
        number, width, dim, first, scale, biases, train,
    )  # fmt: skip


def dominated(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Hidden vectors N(0, 1/m) and `|a| = |(w, b)| (1 + |N(0, 1)|)` with random signs, so that `|a| >= |(w, b)|`.

    Boursier and Flammarion 2024: no amplitude of a dominated network ever changes its sign.
    """

    def law(hidden, outer):
        hidden = hidden / math.sqrt(width)
        return hidden, jnp.sign(outer) * (1 + jnp.abs(outer)) * jnp.linalg.norm(hidden, axis=-1)

    return _draw(key, law, number, width, dim, first, scale, biases, train)


def zero_output(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Balanced pairs of neurons with equal hidden vectors and opposite amplitudes: the output is exactly 0 everywhere.

    **Raises:** `ValueError` when `width` is odd.
    """
    if width % 2:
        raise ValueError(f"the width is {width}: neurons come in pairs here, so give an even width.")

    def law(hidden, outer):
        half = hidden[:, : width // 2] / math.sqrt(width)
        a = jnp.sign(outer[:, : width // 2]) * jnp.linalg.norm(half, axis=-1)
        return jnp.concatenate([half, half], axis=1), jnp.concatenate([a, -a], axis=1)

    return _draw(key, law, number, width, dim, first, scale, biases, train)


def mean_field(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Hidden vectors N(0, 1) and amplitudes N(0, 1)/m: the output is a mean over neurons of order one."""
    return _draw(
        key, lambda hidden, outer: (hidden, outer / width), number, width, dim, first, scale, biases, train
    )  # fmt: skip


def neural_tangent(
    key: Key[Array, ""],
    *,
    number: int,
    width: int,
    dim: int,
    first: int = 0,
    scale: float = 1.0,
    biases: bool = False,
    train: Sequence[str] = TRAINABLE,
) -> ShallowReLU:
    """Hidden vectors N(0, 1) and amplitudes N(0, 1/m): the neural tangent scaling (Jacot, Gabriel, Hongler 2018)."""
    return _draw(
        key, lambda hidden, outer: (hidden, outer / math.sqrt(width)), number, width, dim, first, scale, biases, train
    )  # fmt: skip


def scaled(nets: ShallowReLU, scales: Float[RealArray, " s"] | Sequence[float]) -> ShallowReLU:
    """The same networks at several scales: every parameter times λ, for every λ of `scales`.

    One network gives a stack along `scales`; a stack of B gives `len(scales)·B` networks, all those of one scale together.

    **Raises:** `ValueError` for a scale that is negative or not finite.
    """
    for value in scales:
        _check_scale(float(value))
    factors = jnp.asarray(scales)

    def grow(leaf):
        leaf = jnp.asarray(leaf)
        grown = factors.reshape(-1, *[1] * leaf.ndim).astype(leaf.dtype) * leaf
        return grown if nets.weights.ndim == 2 else grown.reshape(-1, *leaf.shape[1:])

    return jax.tree.map(grow, nets)


LAWS: dict[str, Callable[..., ShallowReLU]] = {
    "xavier": xavier,
    "kaiming": kaiming,
    "balanced": balanced,
    "unbalanced": unbalanced,
    "dominated": dominated,
    "zero-output": zero_output,
    "mean-field": mean_field,
    "neural-tangent": neural_tangent,
}


def _draw(key, law, number, width, dim, first, scale, biases, train):
    for name, count in (("number", number), ("width", width), ("dim", dim)):
        if count < 1:
            raise ValueError(f"{name} is {count}: give at least 1.")
    if first < 0:
        raise ValueError(f"first is {first}: networks are counted from 0.")
    _check_scale(scale)
    hidden, outer = law(*_gaussians(key, jnp.asarray(first), number, width, dim + biases))
    hidden, outer = scale * hidden, scale * outer
    return ShallowReLU(hidden[..., :dim], outer, hidden[..., dim] if biases else None, train=tuple(train))


@partial(jax.jit, static_argnums=(2, 3, 4))
def _gaussians(key, first, number, width, columns):
    """Standard normal hidden vectors `(number, width, columns)` and amplitudes `(number, width)`, one key a network."""

    def one(index):
        hidden_key, outer_key = jax.random.split(jax.random.fold_in(key, index))
        return jax.random.normal(hidden_key, (width, columns)), jax.random.normal(outer_key, (width,))

    return jax.vmap(one)(first + jnp.arange(number))


def _check_scale(scale):
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"the scale is {scale}: give a finite number that is not negative.")
