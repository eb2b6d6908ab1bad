"""Running a study: its pieces onto disk, its claims, its figures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from .. import runs
from .base import AbstractStudy, Claim
from .registry import find


@dataclass(frozen=True)
class Report:
    """What a run of a study found, and the folder that holds its data and figures."""

    study: str
    claims: list[Claim]
    seconds: float
    path: Path

    @property
    def passed(self) -> bool:
        """Whether every claim holds."""
        return all(claim.passed for claim in self.claims)

    def as_json(self) -> dict[str, Any]:
        """`{"study", "claims", "seconds"}` as plain numbers and strings."""
        return {"study": self.study, "claims": [claim.as_json() for claim in self.claims], "seconds": round(self.seconds, 3)}


def run(
    study: str | AbstractStudy,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    announce: Callable[[str], None] = lambda piece: None,
) -> Report:
    """Run a study in its quick or its full form, in double precision, which this turns on.

    **Arguments:**

    - `study`: a name, the path of a Python file, or a study.
    - `out`: the folder for data and figures; without it the first free one of `NAME-001`, `NAME-002`, …. An unfinished run of
      the same study and form goes on where it stopped.
    - `force`: replace the run that `out` holds.
    - `announce`: called with the name of every piece before it is computed.

    **Returns:** a `Report`. Claims that fail are in it; nothing is raised for them.

    **Raises:** `ValueError` for an unknown study and an `out` that is in the way; `ImportError` without xarray, zarr or
    matplotlib; `KeyboardInterrupt`, with the folder, when interrupted.
    """
    jax.config.update("jax_enable_x64", True)
    study = find(study) if isinstance(study, str) else study
    settings = dict(study.quick if quick else study.full)
    arguments = {"study": study.name, "quick": quick, "settings": settings}
    folder = runs.Run("study", arguments, out=out, force=force, resume=True, prefix=study.name)
    began = time.perf_counter()
    pieces: dict[str, Any] = {}

    def keep(name, function, *given):
        pieces[name] = folder.load(name)
        if pieces[name] is None:
            announce(name)
            start = time.perf_counter()
            pieces[name] = function(*given).assign_attrs(piece_seconds=time.perf_counter() - start)
            folder.save(name, pieces[name])
        return pieces[name]

    try:
        study.measure(keep, **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(folder.path) from None
    report = Report(study.name, study.claims(pieces), _seconds(pieces, began), folder.path)
    if not report.claims:
        raise ValueError(f"the study {study.name} makes no claim: its claims() must return at least one.")
    for name, picture in study.figures(pieces).items():
        folder.save_figure(name, picture)
    folder.finish(report.as_json())
    return report


def _seconds(pieces, began):
    """The time of this run, with that of the pieces that an earlier, interrupted run left."""
    earlier = sum(float(piece.attrs["piece_seconds"]) for piece in pieces.values() if "settings" in piece.attrs)
    return earlier + time.perf_counter() - began
