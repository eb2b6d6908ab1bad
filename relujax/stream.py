"""Ensembles larger than memory: drawn, followed and written batch by batch."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .flow import flow_ensemble
from .loss import AbstractLoss
from .network import ShallowReLU
from .parallel import Progress
from .runs import Run


def flow_stream(
    loss: AbstractLoss,
    draw: Callable[..., ShallowReLU],
    *,
    number: int,
    out: str | Path,
    batch: int = 4096,
    keep_networks: bool = True,
    progress: Progress | None = None,
    **flow_options: Any,
) -> Path:
    """Follow `number` gradient flows that need not fit into memory, and write their ends into a run folder.

    **Arguments:**

    - `draw`: called as `draw(first=i, number=b)` for a stack of the starts i … i+b−1; a law of `relujax.initialise` with all
      else bound by `functools.partial` does that.
    - `out`: the folder. One that holds an unfinished run of the same starts, loss and options is gone on with; networks that it
      has are not followed again.
    - `batch`: how many networks are in memory at a time.
    - `keep_networks`: whether weights, biases and amplitudes at the end are written too, or only what is said about them.
    - `progress`: called as `progress(finished, number)`.
    - `flow_options`: those of `flow_ensemble`.

    **Returns:** the folder, whose parts, of one batch each as `Ensemble.to_xarray` has it, `relujax.runs.iterate_run` reads one
    after another.

    **Raises:** `ValueError` for numbers below 1, for a folder that holds something else, and what `flow_ensemble` raises.

    ```python
    >>> import functools, tempfile, relujax as rj
    >>> loss = rj.EmpiricalLoss(jnp.eye(2), jnp.array([1.0, -1.0]))
    >>> draw = functools.partial(rj.initialise.balanced, jax.random.key(0), width=4, dim=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = flow_stream(loss, draw, number=10, out=f"{folder}/run", batch=4, end_time=1.0)
    ...     [part.sizes["start"] for _, part in rj.runs.iterate_run(run)]
    [4, 4, 2]

    ```
    """
    for name, value in (("number", number), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1.")
    arguments = {
        "number": number,
        "batch": batch,
        "keep_networks": keep_networks,
        "problem": _fingerprint(loss, draw(first=0, number=1)),
        "options": {name: _described(value) for name, value in flow_options.items()},
    }
    run = Run("stream", arguments, out=out, resume=True)
    for first in range(0, number, batch):
        count, part = min(batch, number - first), f"{first:012d}"
        if not run.has(part):
            tell = None if progress is None else lambda done, _, first=first: progress(first + done, number)
            run.save(part, _follow(loss, draw, first, count, keep_networks, tell, flow_options))
    run.finish({"number": number})
    return run.path


def _follow(loss, draw, first, count, keep_networks, progress, options):
    ends = flow_ensemble(loss, draw(first=first, number=count), progress=progress, **options).to_xarray()
    if not keep_networks:
        ends = ends.drop_vars(["weights", "amplitudes", "biases"], errors="ignore")
    return ends.assign_coords(start=np.arange(first, first + count))


def _described(value):
    """An option in words, arrays by their digest."""
    return _fingerprint(value) if isinstance(value, jax.Array | np.ndarray) else repr(value)


def _fingerprint(*trees):
    """A digest of every number in some pytrees, and of how they are built."""
    digest = hashlib.sha256(str(jax.tree.structure(trees)).encode())
    for leaf in jax.tree.leaves(trees):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
