"""Chunks of an ensemble over devices, and over the cores of a CPU."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

Progress = Callable[[int, int], None]


def map_chunks(function: Callable[..., Any], batched: Any, *, chunk: int, progress: Progress | None = None) -> Any:
    """`function(chunk of batched)` over the leading axis of `batched`, joined on the host in order.

    **Arguments:**

    - `function`: takes a pytree like `batched` whose leading axis is `chunk`, and returns arrays with that leading axis. It
      is called in worker threads, with its arrays placed on the device that is to do the work.
    - `batched`: a pytree of arrays with one leading axis; the last chunk is filled up with copies of the last member.
    - `progress`: called in this thread as `progress(finished, total)`.

    Several devices take turns. On a CPU there is at least one worker a core: compiled code leaves Python's lock. The chunks
    do not depend on the number of workers, so neither do the results. On an interrupt, chunks that have not begun are
    dropped.
    """
    number = jax.tree.leaves(batched)[0].shape[0]
    starts = range(0, number, chunk)
    devices = jax.local_devices()
    workers = max(len(devices), _cores()) if devices[0].platform == "cpu" else len(devices)

    def begin(position):
        start = starts[position]
        index = np.minimum(np.arange(start, start + chunk), number - 1)
        part = jax.tree.map(lambda leaf: leaf[index], batched)
        return function(jax.device_put(part, devices[position % len(devices)]))

    def finish(position, out):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: number - starts[position]], out)

    pool = ThreadPoolExecutor(min(workers, len(starts)))
    try:
        # the first call compiles, and workers that met an uncompiled function would each compile it again
        first = begin(0)
        futures = [pool.submit(finish, 0, first)]
        futures += [pool.submit(lambda i: finish(i, begin(i)), position) for position in range(1, len(starts))]
        parts = []
        for start, future in zip(starts, futures, strict=True):
            parts.append(future.result())
            if progress is not None:
                progress(min(start + chunk, number), number)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def chunk_size(number: int, *, block: int = 1) -> int:
    """How many of `number` networks make one call: one block, eight, or sixty-four, so that three sizes at most compile.

    On an accelerator everything goes in one call, up to 16384, in sizes that are powers of two.
    """
    if jax.default_backend() != "cpu":
        return min(2 ** math.ceil(math.log2(max(number, 1))), 16384)
    return next(size for size in (64 * block, 8 * block, block) if size == block or number >= 3 * size)


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
