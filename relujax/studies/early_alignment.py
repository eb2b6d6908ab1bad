"""Boursier and Flammarion 2024: early alignment, and data on which it keeps gradient flow from interpolating at any width.

While the output is still zero neurons turn towards the extremal vectors of the data or die. On three positively correlated points
there is one, in the sector where all data are active: every neuron that survives is then linear on the data, and the flow ends at
linear least squares. Their loss is the mean of r², twice the one here, so that n iterations at rate η are time 2ηn.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .. import initialise, plot, plot_dynamics, theory
from .._extras import extra
from ..flow import detect, flow_ensemble, observe
from ..network import activation_pattern
from ..problems import univariate
from .base import AbstractStudy, at_least, at_most, close, equal

THREE = np.array([-0.75, -0.5, 0.125]), np.array([1.1, 0.1, 0.8])
GRID = np.linspace(-1, 1, 201)
NODES = np.array([(-1, 0), (-0.7, 0.7), (-0.55, 0.5), (-0.4, 1), (0, 0), (0.5, 1), (0.6, 0.6), (0.7, 0.7), (1, 0)])
SCALES = np.array([1e-3, 1e-6, 1e-9, 1e-12])


class EarlyAlignment(AbstractStudy):
    """Three points at any width, and forty from a piecewise linear teacher."""

    name = "early-alignment"
    paper = "Boursier and Flammarion 2024 (arXiv 2401.10791)"
    about = "Neurons align before they grow: three points that no width interpolates from a small start."
    cost = "about 20 minutes"
    quick = {"widths": (10, 100, 1000), "starts": 8, "forty": 1000}
    full = {"widths": (10, 100, 1000, 10_000), "starts": 32, "forty": 20_000}

    def measure(self, keep, *, widths, starts, forty):
        for width in widths:
            keep(f"three-{width}", _three, width, starts)
        keep("scales", _scales)
        keep("large", _large, starts)
        keep("forty", _forty, forty)

    def claims(self, results):
        three = [piece.isel(start=piece["survives"].values) for name, piece in results.items() if name.startswith("three")]
        scales, forty = results["scales"], results["forty"]
        limit = theory.least_squares_limit(_extended(THREE[0]), THREE[1])
        (only,) = theory.extremal_vectors(_extended(THREE[0]), THREE[1])
        explicit = theory.explicit_interpolant(*THREE)
        of_three = float(univariate(*THREE)(explicit))
        line = _extended(GRID) @ limit.direction
        inside = (GRID >= -0.75) & (GRID <= 0.125)
        slopes = np.diff(scales["half_time"].values) / -np.diff(np.log(scales["scale"].values))
        levels = np.array([float(forty["loss"][0]), forty.attrs["line"]])
        rests = detect.plateaus(forty["time"].values, forty["loss"].values, levels=levels, ratio=2.0)
        saddle = [p.level / p.predicted for p in rests if p.predicted == levels[1]][:1]
        cosines = _all(three, "cosine")
        distance = np.abs(_all(three, "f") - line)[:, inside]
        return [
            close("three points: their extremal vector", only.vector, [-0.775 / 3, 2 / 3], 1e-12, "mean of y (x, 1)"),
            equal("three points: its sign and its data", [only.sign, int(only.active.sum())], [1, 3], "definition 1"),
            at_least("three points: starts with a neuron active on all", len(_all(three, "loss")), 1, "theorem 2"),
            close("three points: loss at the end, all widths and laws", _all(three, "loss"), limit.loss, 1e-8, "theorem 2"),
            close("three points: distance to the regression line", distance.max(initial=0.0), 0.0, 1e-4, "theorem 2"),
            close("three points: loss of an interpolant of three units", of_three, 0.0, 1e-28, "it exists"),
            at_least("three points: least cosine to D of living neurons", cosines.min(initial=1.0), 0.99, "early alignment"),
            close("three points: half-time against ln(1/λ)", slopes * np.linalg.norm(only.vector), 1.0, 1e-4, "1/|D|"),
            at_most("three points: median loss, size 3", float(results["large"]["loss"].median()), 1e-4, "no alignment"),
            close("forty points: loss at the saddle over least squares", saddle, [1.0], 1e-3, "one extremal vector"),
            at_least("forty points: median cosine when the loss has moved", float(forty["alignment"]), 0.99, "early alignment"),
            at_most("forty points: loss at the end over least squares", float(forty["loss"][-1]) / levels[1], 0.6, "a saddle"),
        ]  # fmt: skip

    def figures(self, results):
        return {
            "three-points": _three_figure(results),
            "polar": _polar_figure(results["forty"]),
            "forty-points": _forty_figure(results["forty"]),
        }


def _all(pieces, name):
    return np.concatenate([piece[name].values for piece in pieces])


def _extended(x):
    return np.column_stack([x, np.ones_like(x)])


def _three(width, starts):
    """Ends of balanced and, after them, dominated starts of size 1e-3, and how neurons point when the loss first moves.

    The theorem is for starts with a neuron of positive amplitude that is active on all data: these are marked.
    """
    xarray = extra("xarray", "io")
    loss = univariate(*THREE)
    (only,) = theory.extremal_vectors(_extended(THREE[0]), THREE[1])
    laws = (initialise.balanced, initialise.dominated)
    drawn = [law(jax.random.key(width), number=starts, width=width, dim=1, scale=1e-3, biases=True) for law in laws]
    nets = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
    times = np.linspace(0.0, 20.0, 401)

    def cosine(net):
        """The least cosine to D over the neurons that have grown."""
        towards = observe.cosines(only.vector[None])(net)[:, 0]
        return jnp.min(jnp.where(observe.neuron_norms(net) > 0.1 * jnp.max(observe.neuron_norms(net)), towards, 1.0))

    # kinks are crossed only while neurons are tiny: steps may go over them
    run = flow_ensemble(
        loss, nets, end_time=4000.0, save_at=times, observe={"cosine": cosine}, rtol=1e-6, atol=1e-6, kinks="step",
    )  # fmt: skip
    losses = run.observed["loss"]
    moved = np.argmax(losses < 0.99 * losses[:, :1], axis=1)
    full = jax.vmap(lambda net: jnp.any(jnp.all(activation_pattern(net, loss.inputs), axis=0) & (net.amplitudes > 0)))(nets)
    return xarray.Dataset(
        {
            "loss": ("start", run.losses),
            "f": (("start", "x"), np.asarray(jax.vmap(observe.outputs(GRID[:, None]))(run.networks))),
            "cosine": ("start", run.observed["cosine"][np.arange(len(losses)), moved]),
            "history": (("start", "time"), losses),
            "survives": ("start", np.asarray(full)),
        },
        {"x": GRID, "time": times},
    )


def _scales():
    """One draw at many scales: when the loss is half-way to its end."""
    xarray = extra("xarray", "io")
    nets = initialise.scaled(initialise.balanced(jax.random.key(1), number=1, width=50, dim=1, biases=True), SCALES)
    end = theory.least_squares_limit(_extended(THREE[0]), THREE[1]).loss
    half = np.array([(np.mean(THREE[1] ** 2) / 2 + end) / 2])
    run = flow_ensemble(univariate(*THREE), nets, end_time=60.0, loss_levels=half, rtol=1e-8, atol=1e-8)
    return xarray.Dataset({"half_time": ("scale", np.asarray(run.level_times)[:, 0])}, {"scale": SCALES})


def _large(starts):
    """Starts of size 3, which interpolate."""
    xarray = extra("xarray", "io")
    nets = initialise.balanced(jax.random.key(2), number=starts, width=100, dim=1, scale=3.0, biases=True)
    run = flow_ensemble(univariate(*THREE), nets, end_time=4000.0, rtol=1e-4, atol=1e-4)
    functions = np.asarray(jax.vmap(observe.outputs(GRID[:, None]))(run.networks))
    return xarray.Dataset({"loss": ("start", run.losses), "f": (("start", "x"), functions)}, {"x": GRID})


def _forty(width):
    """Forty uniform points from the piecewise linear teacher, at scale 1e-3, up to the time of 2,000,000 iterations."""
    xarray = extra("xarray", "io")
    x = np.sort(np.random.default_rng(0).uniform(-1, 1, 40))
    y = np.interp(x, *NODES.T)
    loss = univariate(x, y)
    extremal = np.array([one.sign * one.vector for one in theory.extremal_vectors(_extended(x), y) if one.sign > 0])
    nets = initialise.balanced(jax.random.key(0), number=1, width=width, dim=1, scale=1e-3, biases=True)
    times = np.concatenate([[0.0], np.geomspace(0.1, 4000.0, 200)])
    shown = slice(0, min(width, 2000))
    watch = {
        "hidden": lambda net: jnp.concatenate([net.weights, net.biases[:, None]], axis=1)[shown],
        "amplitude": lambda net: net.amplitudes[shown],
        "f": observe.outputs(GRID[:, None]),
        "cosine": lambda net: jnp.max(observe.cosines(extremal)(net), axis=1),
        "norm": observe.neuron_norms,
    }
    # so many kinks that following each of them takes longer than the accuracy of a picture is worth
    run = flow_ensemble(loss, nets, end_time=times[-1], save_at=times, observe=watch, rtol=1e-4, atol=1e-4, kinks="step")
    seen = {name: values[0] for name, values in run.observed.items()}
    moved = int(np.argmax(seen["loss"] < 0.98 * seen["loss"][0]))
    living = seen["norm"][moved] > 3 * seen["norm"][0]
    frames = [0, moved, len(times) // 2 + 20, len(times) - 1]
    return xarray.Dataset(
        {
            "loss": ("time", seen["loss"]),
            "alignment": np.median(seen["cosine"][moved][living]),
            "hidden": (("frame", "neuron", "part"), seen["hidden"][frames]),
            "amplitude": (("frame", "neuron"), seen["amplitude"][frames]),
            "f": (("frame", "x"), seen["f"][frames]),
            "extremal": (("vector", "part"), extremal),
            "inputs": ("datum", x),
            "targets": ("datum", y),
        },
        {"time": times, "x": GRID, "frame": times[frames]},
        {"line": theory.least_squares_limit(_extended(x), y).loss},
    )


def _three_figure(results):
    fig, (left, right) = plot.figure(10.0, 4.2, columns=2)
    limit = theory.least_squares_limit(_extended(THREE[0]), THREE[1])
    names = [name for name in results if name.startswith("three")]
    for colour, name in zip(plot.COLOURS, names, strict=False):
        left.plot(GRID, results[name]["f"].values.T, color=colour, lw=0.6)
        right.plot(results[name]["time"], results[name]["history"].values.T, color=colour, lw=0.6)
        right.plot([], [], color=colour, label=f"m = {name.removeprefix('three-')}")
    left.plot(GRID, results["large"]["f"].values[0], ":", color="black", label="start of size 3")
    left.plot(GRID, _extended(GRID) @ limit.direction, "--", color="black", label="least squares")
    left.plot(*THREE, "o", color="black")
    right.axhline(limit.loss, color="black", ls=":", lw=0.8)
    left.set(xlabel="x", ylabel="f(x)", ylim=(-0.2, 1.6), title="Three points: the flow ends at least squares")
    right.set(xlabel="gradient flow time", ylabel="loss", title="Loss; dotted: least squares")
    left.text(0.98, 0.02, "0 where no neuron is active on all data", ha="right", va="bottom", fontsize=7)
    left.legend(fontsize=7)
    right.legend(fontsize=7, loc="center left", title="balanced and dominated")
    return fig


def _polar_figure(forty):
    fig = plot.figure(11.0, 3.4)[0]
    fig.clear()
    for index in range(forty.sizes["frame"]):
        ax = fig.add_subplot(1, forty.sizes["frame"], index + 1, projection="polar")
        hidden = forty["hidden"].values[index]
        top = np.linalg.norm(hidden, axis=1).max()
        plot_dynamics.polar_neurons(
            hidden / top, forty["amplitude"].values[index], ax, marked=forty["extremal"].values, offset=0.05
        )
        ax.set_title(f"t = {float(forty['frame'][index]):.0f}", fontsize=10)
        ax.set_xticklabels([])
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.9, 1.1))
    return fig


def _forty_figure(forty):
    fig, (left, right) = plot.figure(10.0, 4.2, columns=2)
    for colour, index in zip(plot.COLOURS, range(forty.sizes["frame"]), strict=False):
        left.plot(GRID, forty["f"].values[index], color=colour, label=f"t = {float(forty['frame'][index]):.0f}")
    left.plot(forty["inputs"], forty["targets"], ".", color="black")
    left.set(xlabel="x", ylabel="f(x)", title="Forty points")
    left.legend(fontsize=8)
    plot_dynamics.loss_and_levels(forty["time"].values[1:], forty["loss"].values[1:], right, levels=(forty.attrs["line"],))
    right.set(xscale="log", yscale="log", title="Loss; dotted: least squares")
    return fig


STUDY = EarlyAlignment()
