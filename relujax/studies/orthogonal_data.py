"""Boursier, Pillaud-Vivien, Flammarion 2022: gradient flow of shallow ReLU networks on orthogonal inputs.

From a vanishing balanced start neurons align with ±D±, D± the mean of y x over the data of one sign; the sign of the longer one
is fitted at `ln(1/λ)/|D±|`, and after a plateau at a saddle the other. The end tends, as λ → 0, to the interpolator of least
variation norm. Their code's loss is the mean of r², twice the one here: n iterations at rate η are time 2ηn.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import plot, plot_dynamics, theory
from .._extras import extra
from ..flow import descent, detect, flow_ensemble, observe
from ..initialise import balanced, scaled
from ..loss import EmpiricalLoss
from ..network import dead_neurons, hidden_vectors, kinks, ravel, take, unravel, variation_norm
from ..problems import random_teacher, univariate
from .base import AbstractStudy, at_least, at_most, close, equal

TWO = np.array([-0.5, 2.0]), np.array([-1.0, 1.0])
FIVE = np.array([-1.5, -1.0, 0.0, 0.25, 2.0]), np.array([0.7, -0.3, -0.3, 0.4, 0.2])
TWO_GRID, FIVE_GRID = np.linspace(-1.5, 3.0, 181), np.linspace(-2.5, 3.0, 221)
PATH_SCALE = 1e-6  # of their notebook
SIX = np.array([1.0, 0.7, -0.9, 1.3, -0.4, -1.1])
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "kinks": "locate"}


class OrthogonalData(AbstractStudy):
    """Alignment, saddle to saddle, jump times and limits on orthogonal data, and the toys of the published notebooks."""

    name = "orthogonal-data"
    paper = "Boursier, Pillaud-Vivien, Flammarion 2022 (arXiv 2206.00939)"
    about = "Neurons align, then fit one sign after the other; the limit is the interpolator of least variation norm."
    cost = "about 10 minutes"
    quick = {"width": 60, "replicas": 8, "tall": 200, "frames": 48}
    full = {"width": 60, "replicas": 64, "tall": 2000, "frames": 150}

    def measure(self, keep, *, width, replicas, tall, frames):
        keep("two-points", _two_points, width, frames)
        keep("replica", _replica, replicas)
        keep("five-points", _five_points, width, frames)
        keep("six-points", _six_points, width)
        keep("high-dimension", _high_dimension, tall)

    def claims(self, results):
        names = ("two-points", "replica", "five-points", "six-points", "high-dimension")
        two, replica, five, six, high = (results[name] for name in names)
        limit = _limit()
        excess = (two["norm"] - limit.variation_norm).sel(scale=[1e-1, 1e-2, 1e-3, 1e-4]).values
        tiny = two.sel(scale=1e-9)
        late = two.sel(scale=[1e-9, 1e-48])
        slopes = np.diff(late["jump"].values, axis=0)[0] / np.diff(-np.log(late["scale"].values))
        exact = np.maximum(0.4 * TWO_GRID + 0.2, 0) - np.maximum(-0.4 * TWO_GRID + 0.8, 0)
        levels = np.array([limit.initial_loss, limit.plateau_loss])
        rests = detect.plateaus(two["frame"].values, two["loss"].values, levels=levels)
        saddle = [p.level for p in rests if p.predicted == limit.plateau_loss][:1]
        jumps = high["jump"].values / high["predicted"].values
        apart = np.abs(replica["single"].values - replica["first"].values)
        rest = int(np.argmin(np.abs(two["loss"].values - limit.plateau_loss)))
        exponent = np.diff(np.log(six["excess"].values[-2:])) / np.diff(np.log(six["scale"].values[-2:]))
        return [
            close("two points, λ = 1e-9: variation norm", float(tiny["norm"]), limit.variation_norm, 1e-9, "1/√5 + 1/√1.25"),
            close("two points: excess of the norm from one λ to the next", excess[:-1] / excess[1:], 100.0, 2.0, "C λ²"),
            close("two points, λ = 1e-9: the function", np.abs(tiny["function"].values - exact).max(), 0.0, 1e-8, "theorem 1"),
            close("two points, λ = 1e-9: kinks", tiny["kink_error"].values, 0.0, 1e-8, "kinks on the data"),
            close("two points: jump times against ln(1/λ)", slopes, np.array([1, 2]) / 1.25**0.5, 1e-3, "1/|D₊| and 1/|D₋|"),
            close("two points: level of the saddle", saddle, [limit.plateau_loss], 1e-3, "1/2n Σ y²"),
            equal("two points: Hessian index on the saddle", int(two["index"][rest]), int(two["active"][rest, 0]),
                  "one for each neuron active on the datum that is left"),
            close("published iterations: median of MSE < 0.75", np.median(replica["first"]), 6085, 95, "their code"),
            close("published iterations: median of MSE < 0.25", np.median(replica["second"]), 12675, 115, "their code"),
            at_most("float32: iterations apart from float64", apart.max(), 10, "their code"),
            at_least("five points: least alignment when the loss has moved", float(five["alignment"]), 0.999, "extremal vectors"),
            close("six points: exponent of the excess at λ = 1e-48", exponent / six.attrs["exponent"], 1.0, 0.05, "2(1 − r)"),
            close("high dimension, λ = 1e-20: jump times over ln(1/λ)/|D±|", jumps, 1.0, 0.15, "nearly orthogonal"),
            close("high dimension: loss at the end", float(high["loss"][-1]), 0.0, 1e-4, "interpolation"),
        ]  # fmt: skip

    def figures(self, results):
        return {
            "scales": _scale_figure(results),
            "losses": _loss_figure(results),
            "two-points": _path_animation(results["two-points"], *TWO, TWO_GRID),
            "five-points": _path_animation(results["five-points"], *FIVE, FIVE_GRID),
            "high-dimension": _high_figure(results["high-dimension"]),
        }


def _extended(x):
    return np.column_stack([x, np.ones_like(x)])


def _limit():
    return theory.orthogonal_limit(_extended(TWO[0]), TWO[1])


def _passing(times, losses, level):
    """When the loss first falls below a level."""
    after = np.argmax(losses < level)
    return np.interp(-level, -losses[after - 1 : after + 1], times[after - 1 : after + 1])


def _two_points(width, frames):
    """Two points from one draw at many scales, as one ensemble, and the path of the one at 1e-6 frame by frame."""
    xarray = extra("xarray", "io")
    loss = univariate(*TWO)
    scale = np.array([1e-1, 1e-2, 1e-3, 1e-4, PATH_SCALE, 1e-9, 1e-20, 1e-48])
    nets = scaled(balanced(jax.random.key(0), number=1, width=width, dim=1, biases=True), scale)
    shown, log_spaced = np.geomspace(0.2, 260.0, 361), np.geomspace(4.0, 40.0, frames)
    times = np.sort(np.concatenate([shown, log_spaced]))
    run = flow_ensemble(
        loss, nets, end_time=times[-1], save_at=times, observe=(ravel,), loss_levels=np.array([0.375, 0.125]), **EXACT
    )
    places = np.asarray(kinks(run.networks))
    living = ~np.asarray(jax.vmap(lambda net: dead_neurons(net, loss.inputs))(run.networks))
    apart = np.min(np.abs(places[..., None] - TWO[0]), axis=-1)
    one = int(np.argmin(np.abs(scale - PATH_SCALE)))
    path = unravel(take(nets, one), run.observed["ravel"][one, np.searchsorted(times, log_spaced)])
    return xarray.Dataset(
        {
            "norm": ("scale", np.asarray(variation_norm(run.networks))),
            "function": (("scale", "x"), np.asarray(jax.vmap(observe.outputs(TWO_GRID[:, None]))(run.networks))),
            "kink_error": ("scale", np.max(np.where(living, apart, 0.0), axis=1)),
            "jump": (("scale", "sign"), run.level_times),
            "history": (("scale", "time"), run.observed["loss"][:, np.searchsorted(times, shown)]),
            **_path(loss, path),
        },
        {"scale": scale, "x": TWO_GRID, "time": shown, "frame": log_spaced},
    )


def _path(loss, nets):
    """What a stack of networks along a path says: neurons, loss, Hessian index and active neurons, by frame."""
    return {
        "hidden": (("frame", "neuron", "part"), np.asarray(hidden_vectors(nets))),
        "amplitude": (("frame", "neuron"), np.asarray(nets.amplitudes)),
        "loss": ("frame", np.asarray(jax.vmap(loss)(nets))),
        "index": ("frame", np.asarray(jax.vmap(observe.hessian_index(loss, null_tolerance=0.05))(nets))),
        "active": (("frame", "datum"), np.asarray(jax.vmap(observe.active_counts(loss.inputs))(nets))),
    }


def _replica(number):
    """Their notebook: m = 60, scale 1e-6, learning rate 1e-3 on the mean of r²; when it passes .75 and .25."""
    xarray = extra("xarray", "io")
    nets = balanced(jax.random.key(0), number=number, width=60, dim=1, scale=1e-6, biases=True)
    steps, falls = np.arange(0, 20_001, 10), {}
    for dtype in ("float64", "float32"):
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), nets)
        losses = 2 * descent(univariate(*TWO), cast, optax.sgd(2e-3), steps=20_000, save_at=steps).observed["loss"]
        falls[dtype] = [steps[np.argmax(losses < level, axis=1)] for level in (0.75, 0.25)]
    first, second = falls["float64"]
    return xarray.Dataset({"first": ("draw", first), "second": ("draw", second), "single": ("draw", falls["float32"][0])})


def _five_points(width, frames):
    """The second toy, which is not orthogonal, frame by frame, and its alignment when the loss first moves."""
    xarray = extra("xarray", "io")
    loss = univariate(*FIVE)
    extremal = theory.extremal_vectors(_extended(FIVE[0]), FIVE[1])
    scale, times = 1e-3, np.concatenate([[0.0], np.geomspace(20.0, 800.0, frames)])
    nets = balanced(jax.random.key(0), number=1, width=width, dim=1, scale=scale, biases=True)
    run = flow_ensemble(loss, nets, end_time=times[-1], save_at=times, observe=(ravel,), rtol=1e-4, atol=1e-4)
    path = unravel(take(nets, 0), run.observed["ravel"][0])
    moved = take(path, int(np.argmax(run.observed["loss"][0] < 0.98 * run.observed["loss"][0, 0])))
    cosines = observe.cosines(np.array([one.sign * one.vector for one in extremal]))(moved)
    own = np.asarray(observe.signs(moved))[:, None] == np.array([one.sign for one in extremal])
    grown = np.asarray(observe.neuron_norms(moved)) > 10 * scale
    alignment = np.min(np.max(np.where(own, cosines, -1.0), axis=1)[grown])
    return xarray.Dataset({**_path(loss, path), "alignment": alignment}, {"frame": times})


def _six_points(width):
    """Six orthonormal points in eight dimensions: neurons active on a part of a class delay the limit."""
    xarray = extra("xarray", "io")
    inputs = jax.random.orthogonal(jax.random.key(1), 8)[:6]
    scale = np.array([1e-12, 1e-24, 1e-40, 1e-48])
    nets = scaled(balanced(jax.random.key(0), number=1, width=width, dim=8), scale)
    run = flow_ensemble(EmpiricalLoss(inputs, jnp.asarray(SIX)), nets, gradient_norm=1e-9, **EXACT)
    limit = theory.orthogonal_limit(np.asarray(inputs), SIX)
    return xarray.Dataset(
        {"excess": ("scale", np.asarray(variation_norm(run.networks)) - limit.variation_norm)},
        {"scale": scale},
        {"exponent": theory.excess_exponent(np.asarray(inputs), SIX)},
    )


def _high_dimension(frames):
    """75 Gaussian points in 150 dimensions labelled by six neurons, m = 200, λ = 1e-20."""
    xarray = extra("xarray", "io")
    keys = jax.random.split(jax.random.key(4), 3)
    inputs = jax.random.normal(keys[0], (75, 150))
    loss = EmpiricalLoss(inputs, jax.vmap(random_teacher(keys[1], k=6, dim=150).teacher)(inputs))
    nets = balanced(keys[2], number=1, width=200, dim=150, scale=1e-20)
    means = [np.linalg.norm(np.where(sign * loss.targets > 0, loss.targets, 0.0) @ inputs) / 75 for sign in (1, -1)]
    predicted = -np.log(1e-20) / np.array(means)
    times = np.linspace(0.0, 1.6 * predicted.max(), frames + 1)
    watch = {"singular": observe.singular_values, "rank": observe.effective_rank}
    # so many kinks that following each of them takes longer than the accuracy of a picture is worth
    run = flow_ensemble(loss, nets, end_time=times[-1], save_at=times, observe=watch, rtol=1e-4, atol=1e-4, kinks="step")
    losses = run.observed["loss"][0]
    share = np.array([np.sum(np.where(sign * loss.targets > 0, loss.targets, 0.0) ** 2) / 150 for sign in (1, -1)])
    order = np.argsort(predicted)
    levels = [losses[0] - share[order[0]] / 2, losses[np.searchsorted(times, predicted.mean())] / 2]
    hidden = np.asarray(run.networks.weights[0])
    plane = np.linalg.svd(hidden / np.abs(hidden).max(), full_matrices=False)[2][:2]
    return xarray.Dataset(
        {
            "loss": ("time", losses),
            "rank": ("time", run.observed["rank"][0]),
            "singular": (("time", "component"), run.observed["singular"][0]),
            "jump": ("class", [_passing(times, losses, level) for level in levels]),
            "predicted": ("class", predicted[order]),
            "plane": (("neuron", "axis"), hidden @ plane.T),
            "amplitude": ("neuron", np.asarray(run.networks.amplitudes[0])),
        },
        {"time": times},
    )


def _scale_figure(results):
    two, six = results["two-points"], results["six-points"]
    fig, ax = plot.figure()
    above = two.isel(scale=slice(0, 4))
    excess = above["norm"] - _limit().variation_norm
    plot_dynamics.against_scale(above["scale"], excess, ax, label="two points", slope=2.0)
    plot_dynamics.against_scale(
        six["scale"], six["excess"], ax, label="six points", slope=six.attrs["exponent"], colour=plot.COLOURS[1]
    )
    ax.set(ylabel="excess of the variation norm", title="How slowly the limit of small λ can be reached")
    ax.legend(fontsize=8)
    return fig


def _loss_figure(results):
    two = results["two-points"]
    fig, ax = plot.figure()
    plot_dynamics.loss_and_levels([], [], ax, levels=(0.5, 0.25), jumps=_limit().jump_times(np.exp(-1.0)))
    for colour, scale, losses in zip(plot.COLOURS, two["scale"].values, two["history"].values, strict=False):
        ax.plot(two["time"] / -np.log(scale), losses, color=colour, lw=1.4, label=f"λ = $10^{{{np.log10(scale):.0f}}}$")
    ax.set(xlim=(0, 3), ylim=(0, 0.55), xlabel="gradient flow time over ln(1/λ)")
    ax.set_title("Two points: from saddle to saddle; dotted: 1/|D±|")
    ax.legend(fontsize=8)
    return fig


def _path_animation(path, inputs, targets, grid):
    """The network, the kinks of its neurons, and the loss, frame by frame in log time."""
    times, hidden, amplitude = path["frame"].values, path["hidden"].values, path["amplitude"].values
    strength = amplitude * np.linalg.norm(hidden, axis=2)
    top = 1.1 * np.abs(strength).max()
    ticks = [tick for tick in np.outer(10.0 ** np.arange(4), (1, 2, 5)).ravel() if times[1] <= tick <= times[-1]]

    def draw(fig, frame):
        fig.subplots_adjust(left=0.09, right=0.87, top=0.94, bottom=0.12, hspace=0.35)
        ax, below = fig.subplots(2, 1, height_ratios=(3, 1))
        twin = ax.twinx()
        plot_dynamics.function_and_kinks(hidden[frame], amplitude[frame], ax, twin, grid=grid, inputs=inputs, targets=targets)
        ax.set(ylim=(targets.min() - 2.6, targets.max() + 1))
        twin.set_ylim(-top, top)
        below.plot(times, path["loss"], color="black", lw=1)
        below.plot(times[frame], path["loss"][frame], "o", color=plot.COLOURS[1])
        below.set(xscale="log", xlabel="gradient flow time", ylabel="loss", xlim=times[[1, -1]])
        below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        below.minorticks_off()
        ax.set_title(f"t = {times[frame]:.3g}", fontsize=10)
        twin.legend(loc="lower left", fontsize=8)

    return plot_dynamics.Animation(range(1, len(times)), draw)


def _high_figure(high):
    fig = plot.figure(11.0, 4.2)[0]
    fig.clear()
    left, middle = fig.add_subplot(1, 3, 1), fig.add_subplot(1, 3, 2)
    plot_dynamics.loss_and_levels(high["time"], high["loss"], left, jumps=high["predicted"].values)
    left.set(yscale="log", ylim=(1e-4, 2), title="d = 150, n = 75, λ = 1e-20; dotted: ln(1/λ)/|D±|")
    left.title.set_fontsize(10)
    energy = high["singular"].values ** 2
    share = np.cumsum(energy, axis=1) / energy.sum(axis=1, keepdims=True)
    for colour, number in zip(plot.COLOURS, (1, 2, 6, 12), strict=False):
        middle.plot(high["time"], share[:, number - 1], color=colour, label=f"first {number}" if number > 1 else "first")
    middle.set(xlabel="gradient flow time", ylabel="explained variance of W", ylim=(0, 1.02))
    middle.legend(fontsize=8, title="components")
    right = fig.add_subplot(1, 3, 3, projection="polar")
    plot_dynamics.polar_neurons(high["plane"], high["amplitude"], right)
    right.set_title("neurons in the first two directions", fontsize=10)
    right.set_xticklabels([])
    right.legend(fontsize=8, loc="upper left")
    return fig


STUDY = OrthogonalData()
