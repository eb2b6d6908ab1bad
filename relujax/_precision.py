"""Refusal of single precision where an answer needs double."""

import jax
import jax.numpy as jnp

ENABLE_X64 = 'jax.config.update("jax_enable_x64", True)'


def require_x64(what: str, *arrays) -> None:
    """Raise unless x64 is on and no array in `arrays` is of lower precision than float64.

    **Raises:** `ValueError`, one sentence that names `what` and gives the line that turns x64 on.
    """
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(f"{what} needs double precision and x64 is off: put {ENABLE_X64} before the first computation.")
    for array in jax.tree.leaves(arrays):
        dtype = jnp.asarray(array).dtype
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 64:
            raise ValueError(f"{what} needs float64 and was given {dtype}: make every array of network and loss float64 first.")
