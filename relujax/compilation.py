"""Compiling programs of many nested loops."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from .numbers import is_traced

# What is left out on a CPU takes half of a compilation and changes nothing that can be measured in what is compiled. Moving
# what stays the same out of nested loops, and constants back into them, has no end in a flow that locates kinks: XLA gives up
# after 25 rounds. The emitters of fused operations take longer than the plain ones, operation by operation.
_OPTIONS = {
    "xla_disable_hlo_passes": "simplify-while-loops,while-loop-invariant-code-motion",
    "xla_cpu_use_fusion_emitters": False,
}


def compile_nested(function: Callable[..., Any]) -> Callable[..., Any]:
    """`equinox.filter_jit(function)` that compiles fast on a CPU; inside of another compilation `function` as it is."""

    # the options of `jax.jit` that it passes on are not among its annotations
    filter_jit: Any = eqx.filter_jit

    @functools.cache
    def compiled(platform):
        return filter_jit(function, compiler_options=_known_options() if platform == "cpu" else {})

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if is_traced(args):
            return function(*args)
        return compiled(jax.default_backend())(*args)

    return call


@functools.cache
def _known_options():
    """Those of the options that this version of XLA has."""
    return {name: value for name, value in _OPTIONS.items() if _is_known({name: value})}


def _is_known(options):
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return False
    return True
