"""Compiling programs of many nested loops."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

# Moving what does not change out of nested loops, and constants back into them, has no end in programs such as a flow that
# locates kinks: XLA gives up after 25 rounds, which take half of a compilation. What they run in stays the same.
_WITHOUT = {"xla_disable_hlo_passes": "simplify-while-loops,while-loop-invariant-code-motion"}


def compile_nested(function: Callable[..., Any]) -> Callable[..., Any]:
    """`equinox.filter_jit(function)`, on a CPU without the passes over loops; not for use inside of another `jax.jit`."""
    whole, quick = eqx.filter_jit(function), eqx.filter_jit(function, compiler_options=_WITHOUT)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return (quick if jax.default_backend() == "cpu" else whole)(*args)

    return call
