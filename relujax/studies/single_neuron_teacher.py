"""Chistikov, Englert, Lazic 2023: a wide ReLU network learns one neuron from inputs that correlate with it.

From a vanishing balanced start the positive neurons align with `γ = 1/n Σ y x`, turn together and end at rank one along the
teacher v*, `Σ|w|² = |v*| = 1`, whether or not another interpolator has a smaller norm. Pairs that share their active data
conserve `a_i a_j − w_i·w_j`, so that the angles left at the end are proportional to λ. Their loss is the mean of r², twice ours.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import plot, plot_dynamics, theory
from .._extras import extra
from ..flow import flow_ensemble, observe
from ..initialise import balanced, scaled
from ..loss import EmpiricalLoss
from ..network import dead_neurons, take, variation_norm
from ..problems import correlated_with_teacher
from .base import AbstractStudy, at_least, at_most, close, equal

POWERS = np.array([-4.0, -6.0, -8.0, -10.0])
PUBLISHED = {4: [31.06, 2.180, 0.1371, 8.570e-3], 64: [13.91, 0.8756, 0.05473, 3.421e-3]}  # degrees at 4^POWERS
NUCLEAR = [220.5, 55.34, 14.61, 4.421, 1.856, 1.214, 1.054, 1.013, 1.003, 1.001, 1.000]  # d = 1024, λ = 4^2 … 4^-8
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "kinks": "locate"}


class SingleNeuronTeacher(AbstractStudy):
    """Angles in proportion to λ, rank one, nuclear norm one, and the data on which that is not the least norm."""

    name = "single-neuron-teacher"
    paper = "Chistikov, Englert, Lazic 2023 (arXiv 2306.06479)"
    about = "One teacher neuron: the flow ends at rank one, at angles in proportion to λ, of least norm or not."
    cost = "about an hour"
    quick = {"dims": (4, 64), "trials": 12, "width": 200, "nuclear": ()}
    full = {"dims": (4, 16, 64, 256), "trials": 60, "width": 200, "nuclear": (1024,)}

    def measure(self, keep, *, dims, trials, width, nuclear):
        keep("acute", _acute)
        for dim in dims:
            keep(f"table-{dim}", _table, dim, width, trials)
        for dim in nuclear:
            keep(f"nuclear-{dim}", _nuclear, dim, width)
        keep("split", _split)

    def claims(self, results):
        acute, split = results["acute"], results["split"]
        ratios = acute["angle"].values[:-1] / acute["angle"].values[1:]
        slope = np.diff(acute["half_time"].values) / -np.diff(np.log(acute["scale"].values))
        flatness = np.polyfit(np.log(acute["scale"].values), np.log(acute["second"].values), 1)[0]
        tables = {int(name.split("-")[1]): table for name, table in results.items() if name.startswith("table")}
        claims = [
            close("acute data: largest angle for λ over that for λ/4", ratios, 4.0, 4e-3, "I_ij is conserved"),
            close("acute data: half-time against ln(1/λ)", slope * acute.attrs["slope"], 1.0, 1e-6, "1/|γ|"),
            close("acute data: power of λ in the second singular value", flatness, 1.0, 1e-2, "rank one as λ → 0"),
            close("acute data: nuclear norm at the smallest λ", float(acute["nuclear"][-1]), 1.0, 1e-5, "theorem 7"),
            close("acute data: squared size at the smallest λ", float(acute["squared"][-1]), 2.0, 1e-6, "|θ|² = 2|v*|"),
            equal("sign of M where rank one has least norm, and where not", np.sign(split["gap"].values), [-1, 1], "theorem 8"),
            close("both: variation norm at the end", split["end"].values, 1.0, 1e-3, "theorem 7"),
            at_most("M > 0: certified least norm", float(split["least"][1]), 0.991, "theorem 8"),
        ]  # fmt: skip
        for dim, table in tables.items():
            claims += _table_claims(dim, table)
        if "nuclear-1024" in results:
            ratio = results["nuclear-1024"]["nuclear"].values / NUCLEAR
            claims.append(close("d = 1024: nuclear norms over the published ones", ratio, 1.0, 0.02, "table 5"))
        return claims

    def figures(self, results):
        return {
            "scales": _scale_figure(results),
            "losses": _loss_figure(results["acute"]),
            "split": _split_figure(results["split"]),
        }


def _table_claims(dim, table):
    angle, nuclear = table["angle"].values, float(table["nuclear"].median("trial")[-1])
    small = (angle[:, -2] / angle[:, -1])[angle[:, -2] < 1]
    fall = np.median(small) if small.size else np.nan
    claims = [
        close(f"d = {dim}: median angle for λ over that for λ/16", fall, 16.0, 0.1, "I_ij is conserved"),
        close(f"d = {dim}: median nuclear norm at 4^-10", nuclear, 1.0, 2e-3, "theorem 7"),
    ]
    if dim in PUBLISHED:
        low, high = np.quantile(angle, [0.25, 0.75], axis=0)
        inside = int(np.sum((low <= PUBLISHED[dim]) & (high >= PUBLISHED[dim])))
        claims.append(at_least(f"d = {dim}: published medians between our quartiles, of 4", inside, 3, "table 1"))
    return claims


def _start(key, width, dim):
    """Hidden vectors N(0, 1/(md)), as in their code."""
    return balanced(key, number=1, width=width, dim=dim, scale=dim**-0.5)


def _living_angle(loss, start):
    """The largest angle between the positive neurons that some datum activates at the start."""
    counted = ~dead_neurons(start, loss.inputs) & (start.amplitudes > 0)
    return lambda net: jnp.max(jnp.where(counted[:, None] & counted, observe.angles(net), 0.0))


def _acute():
    """Eight points close to the teacher and 40 neurons, all acute: the patterns of all positive neurons become full."""
    xarray = extra("xarray", "io")
    loss = correlated_with_teacher(jax.random.key(0), number=8, dim=5, spread=0.3)
    scale = 4.0 ** -np.arange(4, 11)
    start = _start(jax.random.key(1), 40, 5)
    nets = scaled(start, scale)
    slope = float(np.linalg.norm(theory.teacher_slope(loss.inputs, loss.targets)))
    end = -2 * np.log(scale[-1]) / slope + 60
    times = np.linspace(0.0, end, 501)
    half = np.array([np.mean(np.asarray(loss.targets) ** 2) / 4])
    run = flow_ensemble(loss, nets, end_time=end + 3000, save_at=times, loss_levels=half, **EXACT)
    values = np.asarray(jax.vmap(observe.singular_values)(run.networks))
    squares = np.sum(run.networks.weights**2, axis=(1, 2)) + np.sum(run.networks.amplitudes**2, axis=1)
    return xarray.Dataset(
        {
            "angle": ("scale", np.asarray(jax.vmap(_living_angle(loss, take(start, 0)))(run.networks))),
            "half_time": ("scale", np.asarray(run.level_times)[:, 0]),
            "second": ("scale", values[:, 1]),
            "nuclear": ("scale", values.sum(axis=1)),
            "squared": ("scale", np.asarray(squares)),
            "loss": (("scale", "time"), run.observed["loss"]),
        },
        {"scale": scale, "time": times},
        {"slope": slope},
    )


def _table(dim, width, trials):
    """Largest and mean angle in degrees, and nuclear norm, over λ; each trial draws data and a start and only rescales it."""
    xarray = extra("xarray", "io")
    angle, nuclear = np.zeros((trials, len(POWERS))), np.zeros((trials, len(POWERS)))
    for trial in range(trials):
        data_key, start_key = jax.random.split(jax.random.fold_in(jax.random.key(dim), trial))
        loss = correlated_with_teacher(data_key, number=dim, dim=dim)
        start = _start(start_key, width, dim)
        run = flow_ensemble(loss, scaled(start, 4.0**POWERS), end_time=500.0, rtol=1e-5, atol=1e-5, kinks="step")
        angle[trial] = np.degrees(jax.vmap(_living_angle(loss, take(start, 0)))(run.networks))
        nuclear[trial] = jax.vmap(observe.nuclear_norm)(run.networks)
    axes = ("trial", "scale")
    return xarray.Dataset({"angle": (axes, angle), "nuclear": (axes, nuclear)}, {"scale": 4.0**POWERS})


def _nuclear(dim, width):
    """One trial of the published table of nuclear norms."""
    xarray = extra("xarray", "io")
    loss = correlated_with_teacher(jax.random.key(dim), number=dim, dim=dim)
    scale = 4.0 ** -np.arange(-2.0, len(NUCLEAR) - 2)
    nets = scaled(_start(jax.random.key(0), width, dim), scale)
    run = flow_ensemble(loss, nets, end_time=2000.0, rtol=1e-4, atol=1e-4, kinks="step")
    return xarray.Dataset({"nuclear": ("scale", np.asarray(jax.vmap(observe.nuclear_norm)(run.networks)))}, {"scale": scale})


def _split():
    """Three points on which rank one has least norm (b = 4), and on which it has not (b = 16)."""
    xarray = extra("xarray", "io")
    gap, least, end, cosine = [], [], [], []
    for size in (4.0, 16.0):
        inputs, teacher = theory.split_example(3, size)
        targets = inputs @ teacher
        loss = EmpiricalLoss(jnp.asarray(inputs), jnp.asarray(targets))
        nets = balanced(jax.random.key(2), number=8, width=30, dim=3, scale=1e-6)
        run = flow_ensemble(loss, nets, end_time=2000.0, rtol=1e-5, atol=1e-5)
        gap.append(theory.splitting_gap(inputs, teacher))
        least.append(theory.minimum_variation_norm(inputs, targets).norm)
        end.append(np.asarray(variation_norm(run.networks)))
        total = np.asarray(jax.vmap(observe.signed_sum(1))(run.networks))
        cosine.append(total @ teacher / np.linalg.norm(total, axis=1))
    axes = ("example", "start")
    return xarray.Dataset({"gap": ("example", gap), "least": ("example", least), "end": (axes, end), "cosine": (axes, cosine)})


def _scale_figure(results):
    fig, (left, right) = plot.figure(10.0, 4.2, columns=2)
    acute = results["acute"]
    plot_dynamics.against_scale(acute["scale"], np.degrees(acute["angle"]), left, label="acute data", slope=1.0)
    right.plot(acute["scale"], np.abs(acute["nuclear"] - 1), "o-", color=plot.COLOURS[0], ms=4, label="acute data")
    tables = {int(name.split("-")[1]): table for name, table in results.items() if name.startswith("table")}
    for colour, (dim, table) in zip(plot.COLOURS[1:], sorted(tables.items()), strict=False):
        low, middle, high = np.quantile(table["angle"], [0.25, 0.5, 0.75], axis=0)
        left.fill_between(table["scale"], low, high, color=colour, alpha=0.25, lw=0)
        left.plot(table["scale"], middle, "o-", color=colour, ms=4, label=f"d = {dim}, median and quartiles")
        if dim in PUBLISHED:
            left.plot(4.0**POWERS, PUBLISHED[dim], "x", color=colour, ms=8, label=f"d = {dim}, published median")
        rest = np.abs(table["nuclear"].median("trial") - 1)
        right.plot(table["scale"], rest, "o-", color=colour, ms=4, label=f"d = {dim}, median")
    left.set(ylabel="largest angle, degrees", title="Angles of the positive neurons")
    right.set(xscale="log", yscale="log", xlabel="scale λ of the initialisation", ylabel="|nuclear norm − 1|", title="Rank one")
    for ax in (left, right):
        ax.legend(fontsize=7)
    return fig


def _loss_figure(acute):
    fig, ax = plot.figure()
    labels = [f"λ = $4^{{{np.log(scale) / np.log(4):.0f}}}$" for scale in acute["scale"].values]
    jumps = -np.log(acute["scale"].values) / acute.attrs["slope"]
    plot_dynamics.loss_and_levels(acute["time"], np.maximum(acute["loss"], 1e-30), ax, jumps=jumps, labels=labels)
    ax.set(yscale="log", ylim=(1e-6, None), title="Loss; dotted: ln(1/λ)/|γ|")
    ax.legend(fontsize=8)
    return fig


def _split_figure(split):
    fig, ax = plot.figure()
    for index, word in enumerate(("b = 4, M < 0", "b = 16, M > 0")):
        labels = ("flow", "least of all") if index else (None, None)
        ax.plot(np.full(split.sizes["start"], index), split["end"][index], "o", color=plot.COLOURS[0], label=labels[0])
        ax.hlines(split["least"][index], index - 0.2, index + 0.2, color=plot.COLOURS[1], label=labels[1])
        ax.text(index, 1.003, f"{word} ({float(split['gap'][index]):.3f})", ha="center", fontsize=9)
    ax.set(xlim=(-0.5, 1.5), ylim=(0.985, 1.006), xticks=[], ylabel="Σ |a| |w|", title="The flow ends at rank one either way")
    ax.legend(fontsize=8)
    return fig


STUDY = SingleNeuronTeacher()
