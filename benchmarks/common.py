"""Timing and tables: everything in one process, rivals interleaved, medians, ratios with their spread."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

RESULTS = Path(__file__).parent / "results"


def interleaved(
    rivals: dict[str, Callable[[], object]], repeats: int, *, clock: Callable[[], float] = time.perf_counter, settle: bool = False
) -> dict[str, list[float]]:
    """Seconds of every rival, called in turn `repeats` times after one call that compiles.

    `clock` tells wall time, or with `time.process_time` that of the processor, which other programs do not change. `settle` calls
    each rival once more, untimed, before it is timed: what another one left of caches and memory does not count then.
    """
    for run in rivals.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, run in rivals.items():
            if settle:
                jax.block_until_ready(run())
            began = clock()
            jax.block_until_ready(run())
            seconds[name].append(clock() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> str:
    """The median ratio of paired times, with its extremes."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}–{ratios[-1]:.1f})"


def milliseconds(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.3g}"


def machine() -> str:
    """One line that says what a table was measured on."""
    versions = []
    for package in ("jax", "diffrax", "numpy"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0].device_kind
    return f"{device}, {cores} cores of {platform.machine()}, Python {platform.python_version()}, {', '.join(versions)}"


def table(title: str, heading: list[str], rows: list[list[str]], notes: str = "") -> str:
    """A Markdown table under a heading, with the machine's description."""
    lines = [f"## {title}", "", machine() + ".", ""]
    if notes:
        lines += [notes, ""]
    lines += ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
