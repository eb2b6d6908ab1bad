"""What a user gives as numbers, as arrays of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_traced(*trees: Any) -> bool:
    """Whether something in these pytrees is a number that is not known before the program runs, as in a caller's `jax.jit`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def real_array(name: str) -> Callable[[Any], Any]:
    """The converter of a field that holds real numbers: lists and integers become floating-point arrays, arrays stay.

    What is no array of numbers at all, like `None` or a `jax.ShapeDtypeStruct`, stays too.

    ```python
    >>> real_array("inputs")([[1, 2]]).dtype.kind
    'f'

    ```

    **Raises:** `ValueError`, with `name`, for rows of different lengths, words and complex numbers.
    """

    def convert(values):
        if values is None or isinstance(values, jax.ShapeDtypeStruct):
            return values
        if hasattr(values, "dtype") and hasattr(values, "shape") and jnp.issubdtype(values.dtype, jnp.floating):
            return values if isinstance(values, jax.Array | np.ndarray) else np.asarray(values)
        try:
            array = jnp.asarray(values) if is_traced(values) else np.asarray(values)
            kind = array.dtype.kind
            if kind not in "biuf":
                raise TypeError(f"they are {array.dtype}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be real numbers in rows of one length, and are {type(values).__name__}.") from error
        return array.astype(jax.dtypes.canonicalize_dtype(float))

    return convert
