"""Huang 2024: a network with one input and one hidden layer is a linear spline, and training finds one.

Every unit is a one-sided basis function with its knot at −b/w and the strength a|w|. A left-hand unit is a right-hand one less a
linear function, so that both orientations span the same splines once the linear part is free. Here explicit interpolants,
rewritten and merged bases, least norms, and trained networks read as splines.
"""

import itertools

import jax
import numpy as np

from .. import initialise, plot, theory
from .._extras import extra
from ..flow import flow_ensemble
from ..network import ShallowReLU, take
from ..problems import univariate
from .base import AbstractStudy, at_least, close, equal

INPUTS = np.linspace(-1, 1, 9)
TARGETS = np.sin(np.pi * INPUTS) + 0.5 * INPUTS
GRID = np.linspace(-1.2, 1.2, 481)


class OneHiddenLayerPrinciples(AbstractStudy):
    """Splines written as networks, and trained networks read as splines."""

    name = "one-hidden-layer-principles"
    paper = "Huang 2024 (arXiv 2411.06728)"
    about = "Knots, strengths and orientations: univariate networks are linear splines, trained ones too."
    cost = "about 5 minutes"
    quick = {"starts": 16, "width": 40}
    full = {"starts": 400, "width": 100}

    def measure(self, keep, *, starts, width):
        keep("bases", _bases)
        keep("norms", _norms)
        keep("trained", _trained, starts, width)

    def claims(self, results):
        bases, norms, trained = results["bases"], results["norms"], results["trained"]
        net = ShallowReLU(np.array([[1.0], [-2.0], [0.5]]), np.array([1.0, 0.5, -2.0]), np.array([0.0, 1.0, -1.0]))
        spline = theory.read_spline(net)
        fitted = trained.isel(start=trained["loss"].values < 1e-20)
        excess = fitted["norm"].values / theory.minimum_norm_interpolant(INPUTS, TARGETS).norm
        return [
            equal("knots, strengths and slopes of a network of three", [list(x) for x in spline[:3]],
                  [[0.0, 0.5, 2.0], [1.0, 1.0, -1.0], [-1.0, 0.0, 1.0, 0.0]], "by hand"),
            close("explicit interpolant at its points", float(bases["explicit"]), 0.0, 1e-12, "n units, one constant"),
            close("one-sided form of two-sided networks", bases["one_sided"].values.max(), 0.0, 1e-12, "left = right − linear"),
            equal("dimension of the span of K knots", bases["rank"].values, bases["knots"].values + 2, "K + 2"),
            close("span of one orientation against another", bases["apart"].values.max(), 0.0, 1e-10, "linear part free"),
            close("least Σ|a||w| of a peak and of a zigzag", norms["known"].values, [2.0, 4.0], 1e-9, "Savarese et al. 2019"),
            close("least norms", norms["by_units"].values, norms["by_slopes"].values, 1e-8, "max(∫|f''|, |f'(−∞) + f'(∞)|)"),
            at_least("trained networks that fit every point", fitted.sizes["start"], 1, "universal approximation"),
            close("trained: spline against network", trained["reading"].values.max(), 0.0, 1e-12, "knots and strengths are all"),
            close("trained: units of one gap merged", trained["merged"].values.max(), 0.0, 1e-12, "total strength, first moment"),
            at_least("trained: least Σ|a||w| over the least of all", excess.min(initial=np.inf), 1 - 1e-9, "linear programme"),
        ]  # fmt: skip

    def figures(self, results):
        return {"splines": _spline_figure(results["trained"]), "units": _unit_figure(results["trained"])}


def _bases():
    """Explicit interpolants, one-sided forms, and spans of mixed orientations, at random knots."""
    xarray = extra("xarray", "io")
    random = np.random.default_rng(0)
    explicit, one_sided, ranks, knots, apart = 0.0, [], [], [], []
    for number in (2, 5, 9, 16):
        x, y = random.uniform(-3, 3, number), random.standard_normal(number)
        explicit = max(explicit, np.abs(jax.vmap(theory.explicit_interpolant(x, y))(x[:, None]) - y).max())
        net = ShallowReLU(random.standard_normal((number, 1)), random.standard_normal(number), random.standard_normal(number))
        one_sided.append(np.abs(theory.read_spline(net)(GRID) - jax.vmap(net)(GRID[:, None])).max())
        places = np.sort(random.uniform(-1, 1, number))
        spans = [_span(places, random.choice([-1.0, 1.0], number)) for _ in range(2)]
        ranks.append(spans[0].shape[1])
        knots.append(number)
        apart.append(np.linalg.norm(spans[0] - spans[1] @ (spans[1].T @ spans[0]), 2))
    return xarray.Dataset(
        {
            "explicit": explicit,
            "one_sided": ("case", one_sided),
            "rank": ("case", ranks),
            "apart": ("case", apart),
            "knots": ("case", knots),
        }
    )


def _span(knots, sides):
    """An orthonormal basis, on the grid, of units with these knots and orientations, the constant and the linear function."""
    features = np.column_stack([np.maximum(sides * (GRID[:, None] - knots), 0), np.ones_like(GRID), GRID])
    left, sizes, _ = np.linalg.svd(features, full_matrices=False)
    return left[:, sizes > 1e-12 * sizes[0]]


def _norms():
    """Least norms of known and of random data, by the programme over units and by a search over the two outer slopes."""
    xarray = extra("xarray", "io")
    random = np.random.default_rng(1)
    cases = [(np.sort(random.uniform(-2, 2, n)), random.standard_normal(n)) for n in (3, 5, 8, 8)]
    known = [
        theory.minimum_norm_interpolant(np.arange(len(y), dtype=float), np.array(y)).norm for y in ([0.0, 1, 0], [0.0, 1, 0, 1])
    ]
    return xarray.Dataset(
        {
            "known": ("example", known),
            "by_units": ("case", [theory.minimum_norm_interpolant(x, y).norm for x, y in cases]),
            "by_slopes": ("case", [_least_by_slopes(np.diff(y) / np.diff(x)) for x, y in cases]),
        }
    )


def _least_by_slopes(slopes):
    """The least of max(total variation, |first + last|) over the outer slopes, one of which can stay at its inner value."""
    inner = np.sum(np.abs(np.diff(slopes)))
    best = np.inf
    for first_fixed, total in itertools.product((True, False), (1, -1)):
        # along either outer slope at its inner value, the other runs over all corners of both terms
        fixed = slopes[0] if first_fixed else slopes[-1]
        other = slopes[-1] if first_fixed else slopes[0]
        corners = [other, -fixed, *(((s * other + inner) - total * fixed) / (s + total) for s in (1, -1) if s + total)]
        for corner in corners:
            best = min(best, max(inner + abs(corner - other), abs(fixed + corner)))
    return best


def _trained(starts, width):
    """Balanced starts, trained to the end, and what their units do."""
    xarray = extra("xarray", "io")
    loss = univariate(INPUTS, TARGETS)
    nets = initialise.balanced(jax.random.key(0), number=starts, width=width, dim=1, scale=1.0, biases=True)
    run = flow_ensemble(loss, nets, gradient_norm=1e-10, rtol=1e-6, atol=1e-6)
    columns: dict[str, list] = {name: [] for name in ("f", "reading", "merged", "norm", "knot", "strength", "kind", "right")}
    for index in range(starts):
        net = jax.tree.map(np.asarray, take(run.networks, index))
        table = theory.knot_table(net, INPUTS)
        f = np.asarray(jax.vmap(net)(GRID[:, None]))
        columns["f"].append(f)
        columns["reading"].append(np.abs(theory.read_spline(net)(GRID) - f).max())
        merged = _merged(net, table)
        columns["merged"].append(np.abs(jax.vmap(merged)(INPUTS[:, None]) - jax.vmap(net)(INPUTS[:, None])).max())
        columns["norm"].append(np.sum(np.abs(table.strength)))
        columns["knot"].append(table.knot)
        columns["strength"].append(table.strength)
        columns["right"].append(table.right)
        columns["kind"].append(np.where(table.dead, 2, np.where(table.linear, 1, 0)))
    axes = {"f": ("start", "x"), **dict.fromkeys(("knot", "strength", "kind", "right"), ("start", "unit"))}
    variables = {name: (axes.get(name, ("start",)), np.asarray(values)) for name, values in columns.items()}
    return xarray.Dataset({**variables, "loss": ("start", run.losses)}, {"x": GRID})


def _merged(net, table):
    """The network with one unit for those of one gap, orientation and sign: their total strength at their mean knot."""
    kept = table.gap < 0
    weights, amplitudes, biases = [list(x[kept]) for x in (net.weights[:, 0], net.amplitudes, net.biases)]
    for gap, right, sign in itertools.product(np.unique(table.gap[~kept]), (True, False), (1, -1)):
        own = (table.gap == gap) & (table.right == right) & (np.sign(table.strength) == sign)
        slope, height = np.sum((net.amplitudes * net.weights[:, 0])[own]), np.sum((net.amplitudes * net.biases)[own])
        side = 1.0 if right else -1.0
        if slope != 0:
            weights.append(side)
            amplitudes.append(side * slope)
            biases.append(side * height / slope)
    return ShallowReLU(np.array(weights)[:, None], np.array(amplitudes), np.array(biases))


def _spline_figure(trained):
    fig, ax = plot.figure()
    ax.plot(GRID, trained["f"].values[:30].T, color=plot.COLOURS[0], lw=0.6, alpha=0.4)
    least = theory.minimum_norm_interpolant(INPUTS, TARGETS)
    shortest = np.asarray(jax.vmap(least.network)(GRID[:, None])) + least.output_bias
    ax.plot(GRID, shortest, color=plot.COLOURS[1], label="least norm")
    best = int(np.argmin(trained["loss"].values))
    ax.plot(GRID, trained["f"].values[best], color="black", lw=1.5, label="trained, smallest loss")
    ax.plot(INPUTS, TARGETS, "o", color="black", label="data")
    ax.set(xlabel="x", ylabel="f(x)", ylim=(-2.2, 2.2), title="Trained networks as linear splines")
    ax.legend(fontsize=8)
    return fig


def _unit_figure(trained):
    """Every unit of the best network as its knot and strength, by orientation, on the samples."""
    fig, ax = plot.figure()
    best = trained.isel(start=int(np.argmin(trained["loss"].values)))
    for x in INPUTS:
        ax.axvline(x, color="#999999", lw=0.7, ls=":")
    for right, marker, word in ((True, ">", "right-hand"), (False, "<", "left-hand")):
        own = (best["right"].values == right) & (best["kind"].values == 0)
        place = best["knot"].values[own], best["strength"].values[own]
        ax.scatter(*place, marker=marker, s=40, color=plot.COLOURS[0 if right else 1], alpha=0.7, label=word)
    dead, linear = (int(np.sum(best["kind"].values == kind)) for kind in (2, 1))
    ax.set(xlabel="knot −b/w", ylabel="strength a|w|", xlim=(-1.3, 1.3))
    ax.set_title(f"Units of a trained network; {dead} dead, {linear} linear on the data")
    ax.legend(fontsize=8)
    return fig


STUDY = OneHiddenLayerPrinciples()
