"""Nurisso, Leroy, Vaccarino 2024: gradient flow stays on a product of quadrics, whose components can cut it off from the optimum.

Every neuron conserves `c = |w|² − |out|²` (the negative of the balance here). With one output a neuron with c < 0 is
pathological: its amplitude keeps its sign for ever. Rescaling a neuron, which leaves the function as it is, moves it from one
kind to the other. Their binary cross entropy is `LogisticError` on targets ±1.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.integrate import solve_ivp

from .. import datasets, initialise, plot, plot_dynamics, theory
from .._extras import extra
from ..flow import descent, detect, flow_ensemble, observe
from ..loss import EmpiricalLoss, LogisticError
from ..network import ShallowReLU, balance, take
from .base import AbstractStudy, at_least, at_most, close, equal

TABLE = {(3, 1, 2, 3): [8, 0, 16, 0, 8], (2, 1, 0, 2): [4], (2, 2, 2, 1): [1, 3, 3, 1], (1, 1, 2, 2): [16]}
DRAWS = ((2, 2), (5, 10))
RATE, STEPS = 0.05, 500
OPTIMISER = optax.sgd(0.5)  # of the breast-cancer data


class TopologicalObstruction(AbstractStudy):
    """Invariants, components, obstruction by initialisation on toy data and on breast cancer."""

    name = "topological-obstruction"
    paper = "Nurisso, Leroy, Vaccarino 2024 (arXiv 2410.14837)"
    about = "Conserved quadrics: how many pieces they have, and what an unlucky start can never reach."
    cost = "about 3 minutes"
    quick = {"widths": (1, 2, 4, 8), "seeds": 12, "steps": 1000, "side": 20}
    full = {"widths": (1, 2, 4, 8, 16, 32), "seeds": 50, "steps": 4000, "side": 50}

    def measure(self, keep, *, widths, seeds, steps, side):
        keep("toy", _toy)
        keep("several-outputs", _several_outputs)
        keep("frequencies", _frequencies)
        keep("heat", _heat, side)
        keep("breast-cancer", _breast_cancer, widths, seeds, steps)

    def claims(self, results):
        toy, drawn, cancer = results["toy"], results["frequencies"], results["breast-cancer"]
        amplitude, last = toy["path"].values[:, :, 1, 2], toy["loss"].values[:, -1]
        exact = drawn["exact"].values
        misses = (drawn["drawn"].values - exact) / np.sqrt(exact * (1 - exact) / drawn["number"].values)
        stuck = cancer["obstructed"].values
        below = cancer["bound"].values[stuck] - cancer["train"].values[stuck]
        gain = _gain(cancer)
        return [
            equal("Betti numbers", [theory.betti_numbers(*case) for case in TABLE], list(TABLE.values()), "theorem on H(c)"),
            equal("components of two pathological neurons", theory.effective_components(2, 1, 0, 2), 3, "of 4, up to exchange"),
            close("drift of c along the flows", toy["drift"].values.max(), 0.0, 1e-8, "proposition 1"),
            close("drift of c with two outputs", float(results["several-outputs"]["drift"]), 0.0, 1e-6, "proposition 1"),
            at_least("obstructed: least amplitude of neuron 2", amplitude[0].min(), 0.0, "c < 0 keeps its sign"),
            at_most("free: last amplitude of neuron 2", amplitude[1, -1], -0.1, "c > 0 lets it change sign"),
            at_least("obstructed: last loss over its bound", last[0] / toy.attrs["bound"], 1.0, "Σ y² over y < 0"),
            close("free: last loss", last[1], 0.0, 1e-6, "the teacher is reached"),
            at_most("frequencies: largest miss in standard errors", np.abs(misses).max(), 3.0, "F distribution"),
            at_most("breast cancer: loss below the bound of an obstructed start", below.max(initial=-1.0), 0.0, "ln 2 a datum"),
            at_most("breast cancer: change of test loss, in standard errors, when obstructed starts are freed",
                    gain.mean() / (gain.std() / len(gain) ** 0.5), -2.0, "figure on l₊"),
        ]  # fmt: skip

    def figures(self, results):
        return {
            "heat-map": _heat_figure(results["heat"]),
            "quadrics": _quadric_figure(results["toy"]),
            "toy-loss": _toy_loss_figure(results["toy"]),
            "breast-cancer": _cancer_figure(results["breast-cancer"]),
        }


def _toy_problem():
    """30 points in the plane labelled by `relu(x₁) − relu(x₂)`."""
    inputs = jax.random.normal(jax.random.key(1), (30, 2))
    teacher = ShallowReLU(jnp.eye(2), jnp.array([1.0, -1.0]))
    return EmpiricalLoss(inputs, jax.vmap(teacher)(inputs))


def _toy_starts():
    """One function twice: neuron 2 with the wrong sign, pathological, and rescaled so that it is not."""
    weights = jnp.array([[0.9, -0.3], [0.4, 0.6]])
    amplitudes = jnp.array([1.3, 1.2])
    factor = jnp.array([[1.0, 1.0], [1.0, 2.5]])
    return ShallowReLU(weights * factor[..., None], amplitudes / factor)


def _toy():
    """Both starts along the flow, and under the gradient descent of the paper, on the two quadrics."""
    xarray = extra("xarray", "io")
    loss, nets = _toy_problem(), _toy_starts()
    times = np.linspace(0.0, 400.0, 801)
    watch = {"path": lambda net: jnp.concatenate([net.weights, net.amplitudes[:, None]], axis=1)}
    run = flow_ensemble(loss, nets, end_time=times[-1], save_at=times, rtol=1e-10, atol=1e-10, observe=watch)
    steps = np.arange(STEPS + 1)
    iterated = descent(loss, nets, optax.sgd(RATE), steps=STEPS, save_at=steps)
    targets = np.asarray(loss.targets)
    return xarray.Dataset(
        {
            "path": (("start", "time", "neuron", "parameter"), run.observed["path"]),
            "loss": (("start", "time"), run.observed["loss"]),
            "drift": (("start", "neuron"), np.abs(balance(run.networks) - balance(nets))),
            "constant": (("start", "neuron"), -np.asarray(balance(nets))),
            "descent": (("start", "step"), iterated.observed["loss"]),
        },
        {"time": times, "step": steps},
        {"bound": float(np.sum(targets[targets < 0] ** 2) / (2 * len(targets)))},
    )


def _several_outputs():
    """Three neurons with two outputs, `f = A relu(W x)`: the drift of `|w_k|² − |A_k|²` along the flow."""
    xarray = extra("xarray", "io")
    keys = jax.random.split(jax.random.key(2), 4)
    inputs, targets = jax.random.normal(keys[0], (20, 3)), jax.random.normal(keys[1], (20, 2))
    start = jnp.concatenate([jax.random.normal(keys[2], (3, 3)), jax.random.normal(keys[3], (3, 2))], axis=1)

    def loss(flat):
        hidden, outer = jnp.split(flat.reshape(3, 5), [3], axis=1)
        return jnp.sum((jax.nn.relu(inputs @ hidden.T) @ outer - targets) ** 2) / 40

    slope = jax.jit(jax.grad(loss))
    end = solve_ivp(lambda t, y: -np.asarray(slope(y)), (0, 5), np.asarray(start).ravel(), method="DOP853", rtol=1e-7, atol=1e-9)

    def constants(flat):
        parameters = flat.reshape(3, 5)
        return np.sum(parameters[:, :3] ** 2, axis=1) - np.sum(parameters[:, 3:] ** 2, axis=1)

    return xarray.Dataset({"drift": np.abs(constants(end.y[:, -1]) - constants(np.asarray(start).ravel())).max()})


def _variances(law, dim, width):
    return (2 / dim, 2 / width) if law == "kaiming" else (2 / (dim + width), 2 / (width + 1))


def _frequencies(number=400_000):
    """How often a neuron is pathological, and a network obstructed, among so many drawn neurons, and in closed form."""
    xarray = extra("xarray", "io")
    rows = []
    for index, (law, (dim, width)) in enumerate(itertools.product(("kaiming", "xavier"), DRAWS)):
        hidden, outer = _variances(law, dim, width)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(3), index))
        w = hidden**0.5 * jax.random.normal(keys[0], (number // width, width, dim))
        a = outer**0.5 * jax.random.normal(keys[1], (number // width, width))
        pathological = a**2 > jnp.sum(w**2, axis=2)
        exact = theory.pathological_probability(dim, hidden_variance=hidden, output_variance=outer)
        rows.append((float(jnp.mean(pathological)), exact, number))
        obstructed = jnp.all(pathological & (a < 0), axis=1)
        rows.append((float(jnp.mean(obstructed)), float(theory.obstruction_probability(exact, width)), number // width))
    drawn, probability, size = np.array(rows).T
    return xarray.Dataset({"drawn": ("case", drawn), "exact": ("case", probability), "number": ("case", size)})


def _heat(side):
    """Over d and l: the probability that a neuron is pathological, that the invariant set is disconnected, since some neuron is,
    and that a start is obstructed for a target that needs a neuron of positive amplitude, since all are and none is positive.
    """
    xarray = extra("xarray", "io")
    dims, widths = np.arange(2, side + 1), np.arange(1, side + 1)
    neuron = np.zeros((2, len(widths), len(dims)))
    for row, law in enumerate(("kaiming", "xavier")):
        for i, width in enumerate(widths):
            for j, dim in enumerate(dims):
                hidden, outer = _variances(law, dim, width)
                neuron[row, i, j] = theory.pathological_probability(int(dim), hidden_variance=hidden, output_variance=outer)
    axes = ("law", "width", "dim")
    variables = {
        "neuron": (axes, neuron),
        "disconnected": (axes, 1 - (1 - neuron) ** widths[:, None]),
        "obstructed": (axes, theory.obstruction_probability(neuron, widths[:, None])),
    }
    return xarray.Dataset(variables, {"law": ["kaiming", "xavier"], "width": widths, "dim": dims})


def _breast_cancer(widths, seeds, steps):
    """Test loss after gradient descent from Kaiming starts whose neurons are rescaled so that a given number is free.

    The paper finds the test loss to depend on that number. Here it does where starts are obstructed; from 8 neurons on none is,
    and free ones are no better.
    """
    xarray = extra("xarray", "io")
    data = datasets.load("breast-cancer")
    order = np.random.default_rng(0).permutation(len(data.targets))
    train, test = (EmpiricalLoss(data.inputs[part], data.targets[part], LogisticError()) for part in (order[:400], order[400:]))
    rows: dict[str, list] = {name: [] for name in ("width", "draw", "free", "train", "test", "obstructed", "bound")}
    for width in widths:
        drawn = initialise.kaiming(jax.random.key(width), number=seeds, width=width, dim=data.inputs.shape[1])
        for free in sorted({0, 1, width // 2, width}):
            nets = jax.vmap(lambda net, free=free: _with_free(net, free))(drawn)
            end = descent(train, nets, OPTIMISER, steps=steps)
            components = np.array([detect.sign_component(take(nets, i)) for i in range(seeds)])
            positive, negative = np.all(components > 0, axis=1), np.all(components < 0, axis=1)
            share = np.where(positive, np.mean(train.targets < 0), np.mean(train.targets > 0))
            rows["width"] += [width] * seeds
            rows["draw"] += list(range(seeds))
            rows["free"] += [free] * seeds
            rows["train"] += list(end.losses)
            rows["test"] += list(np.asarray(jax.vmap(test)(end.networks)))
            rows["obstructed"] += list(positive | negative)
            rows["bound"] += list(share * np.log(2))
    return xarray.Dataset({name: ("run", np.asarray(values)) for name, values in rows.items()})


def _gain(cancer):
    """Test loss with all neurons free minus that with none, from the same obstructed function, at more than one neuron."""
    runs = list(zip(*(cancer[name].values for name in ("width", "draw", "free")), strict=True))
    stuck = [i for i, (width, _, free) in enumerate(runs) if width > 1 and free == 0 and cancer["obstructed"].values[i]]
    freed = [runs.index((runs[i][0], runs[i][1], runs[i][0])) for i in stuck]
    return cancer["test"].values[freed] - cancer["test"].values[stuck]


def _with_free(net, free):
    """The same function, with c > 0 for the first `free` neurons and c < 0 for the others: |w| and |a| change places."""
    norms, size = observe.neuron_norms(net), jnp.abs(net.amplitudes)
    swap = (norms > size) != (jnp.arange(net.width) < free)
    factor = jnp.where(swap, size / norms, 1.0)
    return ShallowReLU(net.weights * factor[:, None], net.amplitudes / factor, train=net.train)


def _heat_figure(heat):
    colours = extra("matplotlib.colors", "plot")
    fig, axes = plot.figure(11.0, 8.0, rows=2, columns=2)
    fig.suptitle("Probability at initialisation; white: that one neuron is pathological")
    norms = {"disconnected": colours.Normalize(0, 1), "obstructed": colours.LogNorm(1e-12, 1)}
    words = {"disconnected": "invariant set in pieces", "obstructed": "no positive amplitude reachable"}
    for row, name in zip(axes, words, strict=True):
        for ax, law in zip(row, heat["law"].values, strict=True):
            these = heat.sel(law=law)
            place = these["dim"], these["width"]
            shown = np.maximum(these[name], 1e-12)
            mesh = ax.pcolormesh(*place, shown, cmap="cividis", norm=norms[name], shading="nearest")
            lines = ax.contour(*place, these["neuron"], levels=[1e-3, 1e-2, 0.1, 0.2, 0.3], colors="white", linewidths=1)
            ax.clabel(lines, fontsize=7, fmt="%g")
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.yaxis.get_major_locator().set_params(integer=True)
            ax.set(xlabel="inputs d", ylabel="neurons l", title=f"{law.capitalize()}: {words[name]}")
        fig.colorbar(mesh, ax=row, label="probability")
    return fig


def _quadric_figure(toy):
    figures = extra("matplotlib.figure", "plot")
    fig = figures.Figure(figsize=(9, 8), layout="constrained")
    for start, word in enumerate(("obstructed", "free")):
        for neuron in range(2):
            ax = fig.add_subplot(2, 2, 2 * start + neuron + 1, projection="3d")
            constant = float(toy["constant"][start, neuron])
            plot_dynamics.quadric(constant, [toy["path"].values[start, :, neuron]], ax)
            ax.set_title(f"{word}: neuron {neuron + 1}, c = {constant:.2f}")
    fig.suptitle("Along the flow, from the square to the circle")
    return fig


def _toy_loss_figure(toy):
    fig, ax = plot.figure()
    for start, word in enumerate(("obstructed", "free")):
        ax.plot(toy["step"], toy["descent"][start], color=plot.COLOURS[start + 1], label=f"{word}: gradient descent")
        ax.plot(toy["time"] / RATE, toy["loss"][start], ":", color="black", label="flow" if start else None)
    ax.axhline(toy.attrs["bound"], color="#999999", ls="--", label="least loss of a function that is never negative")
    ax.set(xlim=(0, STEPS), yscale="log", ylim=(1e-3, 3), xlabel="step", ylabel="loss")
    ax.set_title("The same function at two rescalings")
    ax.legend(fontsize=8)
    return fig


def _cancer_figure(cancer):
    fig, ax = plot.figure()
    widths = np.unique(cancer["width"])
    for colour, width in zip(plot.COLOURS, widths, strict=False):
        these = cancer.isel(run=cancer["width"].values == width)
        free = np.unique(these["free"])
        groups = [these["test"].values[these["free"].values == number] for number in free]
        middle = [np.mean(group) for group in groups]
        spread = [np.std(group) / np.sqrt(len(group)) for group in groups]
        ax.errorbar(free, middle, yerr=spread, fmt="o-", color=colour, capsize=2, label=f"l = {width}")
    ax.set(xlabel="free neurons l₊ (c > 0)", ylabel="test loss", title="Breast cancer: free neurons help narrow networks")
    ax.legend(fontsize=8)
    return fig


STUDY = TopologicalObstruction()
