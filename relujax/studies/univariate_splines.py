"""Williams et al. 2019: the gradient dynamics of univariate networks, between cubic and linear splines.

Their network `1/α Σ c_i relu(a_i x − b_i)` with the loss `½ Σ r²` is the one here with a and w divided by √α and time by αn.
Units that start with `|w|` large against a keep their kinks (kernel regime): the limit is the cubic spline
`theory.kernel_interpolant`. Units that start small move their kinks onto the data (adaptive regime): a linear spline.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

from .. import plot, plot_dynamics, theory
from .._extras import extra
from ..flow import Chebyshev, flow_ensemble, observe
from ..initialise import mean_field
from ..network import ShallowReLU, kinks, stack
from ..problems import univariate
from .base import AbstractStudy, at_least, at_most, close

INPUTS, TARGETS = np.array([-0.8, -0.45, -0.1, 0.3, 0.75]), np.array([0.5, -0.4, 0.9, -0.2, 0.6])
GRID = np.linspace(-1, 1, 401)
INSIDE = (INPUTS[0] <= GRID) & (INPUTS[-1] >= GRID)
PRODUCT = 1e-3  # |a| |w| of every unit in the map of regimes


class UnivariateSplines(AbstractStudy):
    """Reduced flow, kernel regime, adaptive regime, and the map between the two."""

    name = "univariate-splines"
    paper = "Williams, Trager, Silva, Panozzo, Zorin, Bruna 2019 (arXiv 1906.07842)"
    about = "Univariate networks fit a cubic spline in the kernel regime and a linear one in the adaptive regime."
    cost = "about 5 minutes"
    quick = {"widths": (20, 50, 120, 300, 700), "ratios": 22, "draws": 8}
    full = {"widths": (20, 35, 60, 110, 200, 350, 600, 1100, 2000), "ratios": 43, "draws": 40}

    def measure(self, keep, *, widths, ratios, draws):
        keep("reduced", _reduced)
        keep("fixed-units", _fixed_units, draws)
        keep("kernel", _kernel_regime)
        keep("adaptive", _adaptive_regime, draws)
        keep("map", _map, widths, ratios)

    def claims(self, results):
        reduced, fixed, kernel, adaptive = (results[name] for name in ("reduced", "fixed-units", "kernel", "adaptive"))
        spline, linear = theory.kernel_interpolant(INPUTS, TARGETS), np.interp(GRID, INPUTS, TARGETS)
        thirds = spline.derivative(3)((INPUTS[1:] + INPUTS[:-1]) / 2)
        error = fixed["error"].mean("draw")
        natural = CubicSpline(INPUTS, TARGETS, bc_type="natural")(GRID)[INSIDE]
        apart = np.abs(kernel["f"] - kernel["linearised"]).max("x").values
        smooth = np.abs(kernel["f"].values[-1] - spline(GRID))
        fitted = adaptive.isel(draw=adaptive["loss"].values[:, -1] < 1e-10)
        knot, weight = fitted["knot"].values[:, -1], np.abs(fitted["strength"].values[:, -1])
        astray = (np.min(np.abs(knot[..., None] - INPUTS), axis=-1) > 1e-6) & (knot > INPUTS[0]) & (knot < INPUTS[-1])
        sharp = np.abs(fitted["f"].values - linear)[:, INSIDE].max(initial=0.0)
        boundary = _boundary(results["map"])
        slope = np.polyfit(np.log(results["map"]["width"]), np.log(boundary), 1)[0]
        return [
            close("reduced (r, θ, δ) flow against the full one", reduced["difference"].values.max(), 0.0, 1e-12, "section 2"),
            close("third derivatives of the fit of 16000 units", fixed["thirds"].values, thirds, 1e-3, "kernel of fixed kinks"),
            close("16000 fixed units against the cubic spline", float(fixed["even"]), 0.0, 5e-6, "theorem 5, uniform kinks"),
            close("power of m in the error of random units", _slope(fixed["width"], error), -0.5, 0.2, "Monte Carlo"),
            close("the natural spline is another", np.abs(natural - spline(GRID)[INSIDE]).max(), 0.029, 1e-3, "free ends"),
            close(
                "power of |w| in the distance to fixed kinks",
                _slope(kernel["size"][4:], apart[4:]),
                -4,
                0.3,
                "dθ/dt = (a/|w|) d⊥·G",
            ),
            close("largest |w| against the cubic spline", smooth.max(), 0.0, 1e-3, "section 4"),
            close("adaptive regime against the linear spline", sharp, 0.0, 1e-6, "section 4"),
            at_least("draws of it that fit every sample", fitted.sizes["draw"], 1, "section 4"),
            at_most("share of its strength between the samples", weight[astray].sum() / weight.sum(), 1e-6, "section 4"),
            close("power of m in the ratio between regimes", slope, -1, 0.15, "|w|² m against the output"),
        ]

    def figures(self, results):
        return {"regimes": _regime_figure(results["map"]), "functions": _function_figure(results), "knots": _knot_figure(results)}


def _loss():
    return univariate(INPUTS, TARGETS)


def _slope(x, y):
    return np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)[0]


def _reduced():
    """The velocity of (r, θ) by the reduced equations and by the chain rule through the full gradient, at random networks."""
    xarray = extra("xarray", "io")

    def difference(net):
        (strength, angle, balance), velocity = jax.jvp(
            theory.reduce, (net,), (jax.tree.map(lambda leaf: -leaf, _loss().gradient(net)),)
        )
        reduced = theory.reduced_velocity(strength, angle, balance, INPUTS, TARGETS)
        return jnp.max(jnp.abs(jnp.stack(velocity[:2]) - jnp.stack(reduced)) / (1 + jnp.abs(jnp.stack(reduced))))

    nets = mean_field(jax.random.key(0), number=50, width=30, dim=1, biases=True)
    return xarray.Dataset({"difference": ("network", np.asarray(jax.vmap(difference)(nets)))})


def _fixed_units(draws):
    """Least-norm fits by units with fixed kinks, the limit of the flow that moves amplitudes only, against the cubic spline."""
    xarray = extra("xarray", "io")
    spline = theory.kernel_interpolant(INPUTS, TARGETS)
    even = _least_norm(*_even_kinks(16_000))
    widths, random = np.array([200, 2000, 20_000, 200_000]), np.random.default_rng(0)
    fits = [[_least_norm(random.uniform(-1, 1, m), random.choice([-1.0, 1.0], m)) for _ in range(draws)] for m in widths]
    errors = [[np.abs(fit(GRID) - spline(GRID)).max() for fit in row] for row in fits]
    thirds = []
    for left, right in itertools.pairwise(INPUTS):
        x = np.linspace(left, right, 50)
        thirds.append(6 * np.polyfit(x, even(x), 3)[0])
    return xarray.Dataset(
        {
            "even": np.abs(even(GRID) - spline(GRID)).max(),
            "error": (("width", "draw"), errors),
            "thirds": ("interval", thirds),
        },
        {"width": widths},
    )


def _least_norm(knots, sides):
    def features(x):
        return np.maximum(sides * (x[:, None] - knots), 0)

    design = features(INPUTS)
    amplitudes = design.T @ np.linalg.solve(design @ design.T, TARGETS)
    return lambda x: features(x) @ amplitudes


def _even_kinks(width):
    half = width // 2
    return np.tile((np.arange(half) + 0.5) / half * 2 - 1, 2), np.repeat([1.0, -1.0], half)


def _even_units(size, width, amplitude=0.0):
    """Units with kinks spread evenly over [−1, 1] in both orientations, `|w| = size`."""
    knots, sides = _even_kinks(width)
    amplitudes = jnp.broadcast_to(amplitude, (width,))
    return ShallowReLU(jnp.asarray(size * sides)[:, None], amplitudes, jnp.asarray(-size * sides * knots))


def _functions(nets):
    return np.asarray(jax.vmap(observe.outputs(GRID[:, None]))(nets))


def _kernel_regime():
    """Flows from a = 0 and ever larger |w|: the least-norm fit by the same kinks, fixed, is right up to |w|⁻⁴."""
    xarray = extra("xarray", "io")
    sizes = np.array([0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    nets = stack([_even_units(size, 400) for size in sizes])
    ends = flow_ensemble(_loss(), nets, gradient_norm=1e-7, solver=Chebyshev(), rtol=1e-3, atol=1e-3)
    fixed = _least_norm(*_even_kinks(400))
    return xarray.Dataset(
        {"f": (("size", "x"), _functions(ends.networks)), "linearised": ("x", fixed(GRID))}, {"size": sizes, "x": GRID}
    )


def _adaptive_regime(draws):
    """60 units of size 1/√m in random directions, a = 0: kinks run onto the samples. Some draws leave a sample out for good."""
    xarray = extra("xarray", "io")
    width = 60
    angle = jax.random.uniform(jax.random.key(0), (draws, width), maxval=2 * np.pi)
    hidden = jnp.cos(angle) / width**0.5, jnp.sin(angle) / width**0.5
    nets = ShallowReLU(hidden[0][..., None], jnp.zeros((draws, width)), hidden[1])
    times = np.concatenate([[0.0], np.geomspace(1e-2, 1e4, 240)])
    run = flow_ensemble(
        _loss(), nets, end_time=times[-1], save_at=times, rtol=1e-9, atol=1e-9, kinks="locate",
        observe={"knot": kinks, "strength": observe.signed_strengths},
    )  # fmt: skip
    return xarray.Dataset(
        {
            "f": (("draw", "x"), _functions(run.networks)),
            "knot": (("draw", "time", "unit"), run.observed["knot"]),
            "strength": (("draw", "time", "unit"), run.observed["strength"]),
            "loss": (("draw", "time"), run.observed["loss"]),
        },
        {"x": GRID, "time": times},
    )


def _map(widths, ratios):
    """Where between the cubic (0) and the linear spline (1) the flow ends, over |w|/|a| and the width, at |a| |w| = 1e-3."""
    xarray = extra("xarray", "io")
    spline, linear = theory.kernel_interpolant(INPUTS, TARGETS)(GRID), np.interp(GRID, INPUTS, TARGETS)
    ratio = np.geomspace(1e1, 1e8, ratios)
    share = np.zeros((len(widths), ratios))
    for row, width in enumerate(widths):
        signs = np.where(np.arange(width) % 2, -1.0, 1.0)
        nets = stack([_even_units(np.sqrt(PRODUCT * r), width, jnp.asarray(np.sqrt(PRODUCT / r) * signs)) for r in ratio])
        ends = flow_ensemble(_loss(), nets, gradient_norm=1e-4, solver=Chebyshev(), rtol=1e-2, atol=1e-2, max_steps=20_000)
        f = _functions(ends.networks)[:, INSIDE]
        cubic, straight = np.abs(f - spline[INSIDE]).max(axis=1), np.abs(f - linear[INSIDE]).max(axis=1)
        share[row] = cubic / (cubic + straight)
    return xarray.Dataset({"share": (("width", "ratio"), share)}, {"width": list(widths), "ratio": ratio})


def _boundary(regimes):
    """The largest ratio |w|/|a| from which a network of each width ends half-way, interpolated in its logarithm."""
    ratio = np.log(regimes["ratio"].values)
    share = regimes["share"].values
    # small ones can leave a sample out, so that the share also falls there
    last = [min(np.flatnonzero(row > 0.5)[-1], len(ratio) - 2) for row in share]
    pairs = [(share[row, i : i + 2][::-1], ratio[i : i + 2][::-1]) for row, i in enumerate(last)]
    return np.exp([np.interp(0.5, *pair) for pair in pairs])


def _fitted(adaptive):
    """The draw that ends at the smallest loss."""
    return adaptive.isel(draw=int(np.argmin(adaptive["loss"].values[:, -1])))


def _regime_figure(regimes):
    fig, ax = plot.figure()
    mesh = ax.pcolormesh(regimes["ratio"], regimes["width"], regimes["share"], cmap="cividis", vmin=0, vmax=1, shading="nearest")
    ax.plot(_boundary(regimes), regimes["width"], "o-", color="white", label="half-way")
    middle = _boundary(regimes)[0] * regimes["width"].values[0] / regimes["width"].values
    ax.plot(middle, regimes["width"], "--", color=plot.COLOURS[1], label="slope −1")
    ax.set(xscale="log", yscale="log", xlabel="|w| / |a| at the start", ylabel="width m")
    ax.set_yticks(regimes["width"].values, [str(width) for width in regimes["width"].values], minor=False)
    ax.minorticks_off()
    ax.set_title("From the linear to the cubic spline, |a| |w| = 1e-3")
    ax.legend(loc="upper right", fontsize=8, facecolor="#333333", labelcolor="white")
    fig.colorbar(mesh, label="distance to cubic / (to cubic + to linear)")
    return fig


def _function_figure(results):
    fig, ax = plot.figure()
    ax.plot(GRID, theory.kernel_interpolant(INPUTS, TARGETS)(GRID), "--", color="#999999", label="cubic spline of the kernel")
    kernel = results["kernel"].isel(size=[0, 1, 2, 3, 7])
    for colour, size, f in zip(plot.COLOURS, kernel["size"].values, kernel["f"].values, strict=False):
        ax.plot(GRID, f, color=colour, lw=1, label=f"|w| = {size:g}, a = 0, m = 400")
    ax.plot(GRID, _fitted(results["adaptive"])["f"], color="black", lw=1.5, label="|w| = 1/√m, a = 0, m = 60")
    ax.plot(INPUTS, TARGETS, "o", color="black")
    ax.set(xlabel="x", ylabel="f(x) at the end of the flow", title="Kernel and adaptive regime", ylim=(-0.6, 2.0))
    ax.legend(fontsize=8, loc="upper center", ncols=2)
    return fig


def _knot_figure(results):
    adaptive = _fitted(results["adaptive"])
    fig, ax = plot.figure()
    plot_dynamics.knots_over_time(
        adaptive["time"].values[1:], adaptive["knot"][1:], adaptive["strength"][1:], ax, samples=INPUTS, jump=2.0
    )
    ax.set(ylim=(-1.3, 1.3), title="Kinks run onto the samples (dotted); orange a > 0, blue a < 0")
    return fig


STUDY = UnivariateSplines()
