"""A census as JSON and as a table."""

import math
from typing import Any

import numpy as np

from .census import wilson_interval


def census_summary(dataset, **settings: Any) -> dict[str, Any]:
    """What a census found, ready for JSON: `settings`, then `global`, `unresolved`, `minima`, `others`, `seconds`.

    `minima` holds the points whose verdict is minimum, `others` the rest, both sorted by loss. Numbers that are not finite
    are null.
    """
    points = [_point(dataset, i) for i in range(dataset.sizes["point"])]
    minima = [{k: v for k, v in point.items() if k != "status"} for point in points if point["status"] == "minimum"]
    return {
        **settings,
        "global": sum(point["count"] for point in points if point["name"] == "global"),
        "unresolved": int(np.sum(dataset["point_of_start"].values < 0)),
        "minima": minima,
        "others": [point for point in points if point["status"] != "minimum"],
        "seconds": round(float(dataset.attrs["seconds"]), 3),
    }


def network_summary(dataset) -> dict[str, list]:
    """Status, end loss, gradient norm and time of every start, ready for JSON."""
    return {
        "status": [str(word) for word in dataset["flow_status"].values],
        "loss": [_number(x) for x in dataset["end_loss"].values],
        "gradient_norm": [_number(x) for x in dataset["end_gradient_norm"].values],
        "time": [_number(x) for x in dataset["flow_time"].values],
    }


def print_studies(rows, console) -> None:
    """Print studies, each with the summary of its last run or None, as a table on a rich console."""
    for study, summary in rows:
        console.print(study.name, style="bold")
        for line in (study.paper, study.about, _state(summary)):
            console.print(f"  {line}", highlight=False, markup=False)


def print_claims(claims, console) -> None:
    """Print claims as a table on a rich console."""
    from rich.table import Table

    table = Table(**_plain_table())
    for heading in ("", "claim", "measured", "expected", "within", "source"):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        within = f"{claim.tolerance:.3g}" if claim.tolerance else ""
        mark = "passed" if claim.passed else "FAILED"
        table.add_row(mark, claim.name, *_sides(claim), within, claim.source)
    console.print(table)


def _state(summary):
    if summary is None:
        return "no finished run here"
    failed = [claim["name"] for claim in summary["claims"] if not claim["passed"]]
    count = len(summary["claims"])
    state = f"{count} claims passed" if not failed else f"{len(failed)} of {count} claims failed: {'; '.join(failed)}"
    return f"last run, {'quick' if summary['quick'] else 'full'}: {state}, {summary['seconds']:.0f} s"


def _sides(claim):
    """What was measured and what was expected: for many values the worst of them."""
    measured = _entries(claim.measured)
    expected = _entries(claim.expected)
    if len(measured) <= 4:
        found = ", ".join(_short(entry, claim.tolerance, zeros="#") for entry in measured)
        return found, ", ".join(_short(entry, claim.tolerance) for entry in expected)
    if len(expected) == 1:
        expected = expected * len(measured)
    if len(measured) != len(expected):
        return f"{len(measured)} values", f"{len(expected)} values"
    misses = [_miss(*pair) for pair in zip(measured, expected, strict=True)]
    if not any(misses):
        return f"all {len(measured)} as expected", ", ".join(_short(entry, 0.0) for entry in expected[:4]) + ", …"
    worst = max(range(len(misses)), key=misses.__getitem__)
    found = _short(measured[worst], claim.tolerance, zeros="#")
    return f"{found} (worst of {len(measured)})", _short(expected[worst], claim.tolerance)


def _entries(value):
    """The numbers or words in a value, nested or not."""
    if isinstance(value, list | tuple) or np.ndim(value):
        return [leaf for entry in value for leaf in _entries(entry)]
    return [value.item() if hasattr(value, "item") else value]


def _miss(measured, expected):
    """How far a value lies off; one that is not a number is farthest."""
    if isinstance(measured, str) or isinstance(expected, str):
        return float(measured != expected)
    miss = abs(measured - expected)
    return miss if miss == miss else math.inf


def _short(value, tolerance, *, zeros=""):
    """A value to two digits beyond its tolerance, with the zeros at its end if `zeros` is "#"."""
    if not isinstance(value, float):
        return str(value)
    finite = math.isfinite(value) and value != 0
    digits = math.ceil(math.log10(abs(value) / tolerance)) + 2 if tolerance and finite else 6
    return f"{value:{zeros}.{min(max(digits, 3), 16)}g}".rstrip(".") if finite else f"{value:g}"


def print_points(dataset, console, *, title: str, rows: int = 20) -> None:
    """Print the distinct end points of a census as a table on a rich console, the most frequent ones if there are many."""
    from rich.table import Table

    counts = dataset["count"].values
    shown = np.sort(np.argsort(-counts, kind="stable")[:rows])
    points = [_point(dataset, i) for i in shown]
    columns = {
        "name": [
            point["name"] if point["isotropy"] or point["name"] != "unnamed" else f"# {i + 1}"
            for i, point in zip(shown, points, strict=True)
        ],
        "isotropy": [point["isotropy"] for point in points],
        "verdict": [point["status"] for point in points],
        "loss": ["0" if abs(point["loss"]) < 1e-15 else f"{point['loss']:.9g}" for point in points],
        "hits": [str(point["count"]) for point in points],
        "rate, 95 %": ["{:.1f}–{:.1f} %".format(*(100 * x for x in point["rate"])) for point in points],
        "|∇L|": [f"{point['gradient_norm']:.0e}" for point in points],
        "index": ["" if point["index"] is None else str(point["index"]) for point in points],
        "λ min": ["" if point["min_eigenvalue"] is None else f"{point['min_eigenvalue']:z.5f}" for point in points],
    }
    table = Table(title=title, title_justify="left", caption_justify="left", **_plain_table())
    # what no point has is left out
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    for heading in columns:
        table.add_column(heading, justify="left" if heading in ("name", "isotropy", "verdict") else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    if len(counts) > len(shown):
        table.caption = f"the {len(shown)} most frequent of {len(counts)} distinct end points"
    if _width(table, console) > console.width:
        table.padding = (0, 0, 0, 0)
    console.print(table)


def _plain_table():
    from rich import box

    return {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False, "pad_edge": False}


def _width(table, console):
    """The width that a table would take if there were room."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(width=1000), table).maximum


def _point(dataset, i):
    total = dataset.sizes["start"]
    row = {name: dataset[name].values[i] for name in ("loss", "gradient_norm", "min_eigenvalue", "max_eigenvalue")}
    count, index = int(dataset["count"].values[i]), int(dataset["index"].values[i])
    return {
        "name": str(dataset["name"].values[i]),
        "isotropy": str(dataset["isotropy"].values[i]),
        "status": str(dataset["status"].values[i]),
        "loss": _number(row["loss"]),
        "count": count,
        "rate": list(wilson_interval(count, total)),
        "gradient_norm": _number(row["gradient_norm"]),
        "index": index if index >= 0 else None,
        "min_eigenvalue": _number(row["min_eigenvalue"]),
        "max_eigenvalue": _number(row["max_eigenvalue"]),
    }


def _number(value):
    return float(value) if math.isfinite(value) else None
