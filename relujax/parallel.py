"""Chunks of an ensemble over devices, and over the cores of a CPU."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .numbers import is_traced

Progress = Callable[[int, int], None]

OUTSIDE = "an ensemble compiles its own program: call it outside of jax.jit, jax.grad and jax.vmap."

# fewer members than this are not given to a device of their own
_SHARE = 64
# the axis of the members of a block, and whether what is traced leaves it (`one_by_one`)
_BLOCK, _LEFT = "block", ContextVar("left", default=False)


def map_chunks(function: Callable[..., Any], batched: Any, *, chunk: int, progress: Progress | None = None) -> Any:
    """`function(chunk of batched, count)` over the leading axis of `batched`, joined on the host in order.

    **Arguments:**

    - `function`: takes a pytree like `batched` whose leading axis is `chunk`, of which the first `count` members are meant, and
      returns arrays with that leading axis. It is called in worker threads, with its arrays placed on the device that is to do
      the work, and before with a count of 0, when it should do nothing (`map_first`).
    - `batched`: a pytree of arrays with one leading axis; the last chunk is filled up with copies of the last member.
    - `progress`: called in this thread as `progress(finished, total)`.

    Several devices take turns, as many as there are 64 members for. On a CPU there is at least one worker a core: compiled
    code leaves Python's lock. The chunks do not depend on the number of workers, so neither do the results. On an interrupt,
    chunks that have not begun are dropped. Of no members at all nothing is computed.

    **Raises:** `ValueError` inside a caller's `jax.jit`, which cannot wait for threads.
    """
    number = jax.tree.leaves(batched)[0].shape[0]
    if number == 0:
        return _of_nothing(function, batched, chunk)
    starts = range(0, number, chunk)
    # every device compiles for itself: a small ensemble is not worth that
    devices = jax.local_devices()[: max(number // _SHARE, 1)]
    workers = max(len(devices), _cores()) if devices[0].platform == "cpu" else len(devices)

    def call(position, *, empty=False):
        start = starts[position]
        index = np.minimum(np.arange(start, start + chunk), number - 1)
        part = jax.tree.map(lambda leaf: leaf[index], batched)
        count = np.asarray(0 if empty else min(chunk, number - start))
        return function(*jax.device_put((part, count), devices[position % len(devices)]))

    def place(joined, position, out):
        start, stop = starts[position], min(starts[position] + chunk, number)
        jax.tree.map(lambda into, leaf: into.__setitem__(slice(start, stop), np.asarray(leaf)[: stop - start]), joined, out)

    # workers that met an uncompiled function would each compile it; the call that does must not do the work alone
    first = call(0, empty=len(starts) > 1)
    if is_traced(first):
        raise ValueError(OUTSIDE)
    joined = jax.tree.map(lambda leaf: np.empty((number, *leaf.shape[1:]), leaf.dtype), first)
    pool = ThreadPoolExecutor(min(workers, len(starts)))
    try:
        if len(starts) == 1:
            futures = [pool.submit(place, joined, 0, first)]
        else:
            futures = [pool.submit(lambda i: place(joined, i, call(i)), position) for position in range(len(starts))]
        for start, future in zip(starts, futures, strict=True):
            future.result()
            if progress is not None:
                progress(min(start + chunk, number), number)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return joined


def _of_nothing(function, batched, chunk):
    """The empty arrays that `function` would fill."""
    part = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((chunk, *leaf.shape[1:]), jnp.asarray(leaf).dtype), batched)
    shapes = jax.eval_shape(function, part, jax.ShapeDtypeStruct((), int))
    return jax.tree.map(lambda leaf: np.empty((0, *leaf.shape[1:]), leaf.dtype), shapes)


def map_first(function: Callable[..., Any], batched: Any, count: Array, *, block: int = 1) -> Any:
    """`function` of the first `count` members of `batched` one after another; for the others zeros, or anything in blocks.

    Mapped, not batched: branches of a conditional are then taken, not both computed, and no member waits for another. With
    `block`, so many members are batched.
    """
    batched = jax.tree.map(jnp.asarray, batched)
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], batched))
    size = jax.tree.leaves(batched)[0].shape[0]
    empty = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), shapes)
    if block > 1:
        return jax.lax.cond(count > 0, lambda: _in_blocks(function, batched, block), lambda: empty)
    # what a loop does to the one member there is does not depend on the loop, and the compiler would take it out
    if size == 1:
        return jax.lax.cond(count > 0, lambda: jax.lax.map(function, batched), lambda: empty)

    def member(index, outputs):
        result = function(jax.tree.map(lambda leaf: leaf[index], batched))
        return jax.tree.map(lambda all_, one: all_.at[index].set(one), outputs, result)

    return jax.lax.fori_loop(0, count, member, empty)


def _in_blocks(function, batched, block):
    """`function` of all members, so many at a time, the last time those that are left."""
    size = jax.tree.leaves(batched)[0].shape[0]
    together, whole = jax.vmap(function, axis_name=_BLOCK), size - size % block
    parts = []
    if whole:
        blocks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, block, *leaf.shape[1:]), batched)
        out = jax.lax.map(together, blocks)
        parts.append(jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), out))
    if whole < size:
        parts.append(together(jax.tree.map(lambda leaf: leaf[whole:], batched)))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def branch(condition: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`jax.lax.cond`, of which a block computes `yes` only where it holds for some member.

    A batched conditional is otherwise a selection, for which both branches are always computed. `no` should be the one that
    costs little.
    """
    if _LEFT.get():
        return jax.lax.cond(condition, yes, no)
    try:
        some = jax.lax.pmax(jnp.asarray(condition, jnp.int32), _BLOCK) > 0
    except NameError:
        # there is no block
        return jax.lax.cond(condition, yes, no)
    return jax.lax.cond(some, lambda: jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes(), no()), no)


def one_by_one(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` of one pytree, which a batch on a CPU calls for one member after another; it may not close over traced arrays.

    For what contains decompositions: on a CPU, those of a batch wait in a thread of a pool for other threads of that pool, and
    several of them may wait for each other for ever (jax 0.10).
    """

    def alone(argument):
        token = _LEFT.set(True)
        try:
            return function(argument)
        finally:
            _LEFT.reset(token)

    sequential = jax.custom_batching.custom_vmap(alone)

    @sequential.def_vmap
    def batched(size, is_batched, argument):
        leaves, structure = jax.tree.flatten(argument)
        flags = jax.tree.leaves(is_batched[0])

        def member(own):
            own = iter(own)
            whole = [next(own) if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
            return sequential(jax.tree.unflatten(structure, whole))

        own = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]
        if jax.default_backend() == "cpu":
            results = jax.lax.map(member, own)
        else:
            axes = jax.tree.unflatten(structure, [0 if flag else None for flag in flags])
            results = jax.vmap(alone, in_axes=(axes,), axis_size=size)(argument)
        return results, jax.tree.map(lambda _: True, results)

    return sequential


def chunk_size(number: int, *, block: int = 1) -> int:
    """How many of `number` networks make one call: one block, eight, or sixty-four, so that three sizes at most compile.

    On an accelerator everything goes in one call, up to 16384, in sizes that are powers of two.
    """
    if jax.default_backend() != "cpu":
        return min(2 ** math.ceil(math.log2(max(number, 1))), 16384)
    return next(size for size in (64 * block, 8 * block, block) if size == block or number >= 3 * size)


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
