"""Bu, Xu, Chen 2020: heavy ball and Nesterov as flows with inertia, and their rates on wide networks.

With weights and amplitudes of order m^(−1/4) the network is the one in neural tangent scaling, `1/√m Σ c_j relu(v_j·x)`, with √m
times its kernel: times here are those of that scaling over m^(1/2) for gradient flow and over m^(1/4) for the flows with
inertia, whose friction b is m^(1/4) times as large. All numbers below are in that scaling.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import plot, theory
from .._extras import extra
from ..flow import descent, flow_ensemble, heavy_ball, momentum_flow, nesterov, observe
from ..initialise import zero_output
from ..loss import EmpiricalLoss
from ..network import take
from .base import AbstractStudy, close

# in the lazy regime a residual is the sum of many tiny changes, and neurons cross kinks all the time with no effect
PLAIN: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8, "kinks": "step"}
END, TIMES = 40.0, np.linspace(0.0, 40.0, 161)


class MomentumFlows(AbstractStudy):
    """Residuals against the closed forms of the tangent kernel, late rates, and the discrete cousins."""

    name = "momentum-flows"
    paper = "Bu, Xu, Chen 2020 (arXiv 2010.13165)"
    about = "Heavy ball and Nesterov as differential equations: linear and sublinear rates on wide networks."
    cost = "about 5 minutes"
    quick = {"width": 20_000, "narrow": 1000, "end": 200.0}
    full = {"width": 100_000, "narrow": 4000, "end": 800.0}

    def measure(self, keep, *, width, narrow, end):
        keep("wide", _wide, width)
        keep("late", _late, narrow, end)
        keep("discrete", _discrete, narrow)

    def claims(self, results):
        wide, late, discrete = results["wide"], results["late"], results["discrete"]
        errors = np.abs(wide["residual"] - wide["exact"]).max(["time", "datum"]) / np.abs(wide["exact"][:, 0]).max()
        ratios = discrete["error"].values[:, :-1] / discrete["error"].values[:, 1:]
        window = TIMES >= 10
        heavy = wide.sel(flow="heavy ball, b = 0.3")
        slope = np.polyfit(TIMES[window], np.log((heavy["residual"].values ** 2).sum(axis=1))[window], 1)[0]
        plain = (wide.sel(flow="gradient flow")["residual"].values ** 2).sum(axis=1)
        steepness = np.polyfit(TIMES[window], np.log(plain)[window], 1)[0]
        modes = (wide.sel(flow="gradient flow")["exact"].values ** 2).sum(axis=1)
        expected = np.polyfit(TIMES[window], np.log(modes)[window], 1)[0]
        powers = [_power(late["time"].values, row) for row in late["loss"].values]
        return [
            *(close(f"{name}: largest error of a residual", float(error), 0.0, 0.02, "theorem 1, kernel at the start")
              for name, error in zip(wide["flow"].values, errors, strict=True)),
            close("heavy ball, b = 0.3: slope of ln L", slope, -0.3, 0.005, "rate b − Re √(b² − 4λ)"),
            close("gradient flow: slope of ln L", steepness, expected, 0.005, "Σ e^(−2λt)"),
            close("Nesterov: power of t in L over −r", powers / -late["r"].values, 1.0, 0.05, "L ~ t^(−r)"),
            close("heavy ball: error for η over that for η/4", ratios[0], 2.0, 0.2, "first order in √η"),
            close("Nesterov: error for η over that for η/4", ratios[1], 2.0, 0.2, "first order in √η"),
            close("gradient descent: error for η over that for η/4", ratios[2], 4.0, 0.4, "first order in η"),
        ]  # fmt: skip

    def figures(self, results):
        return {
            "flows": _flow_figure(results["wide"]),
            "envelopes": _envelope_figure(results["late"]),
            "discrete": _discrete_figure(results["discrete"]),
        }


def _problem(width):
    """20 unit inputs in 10 dimensions with random targets, and a network of output 0 in the scaling above."""
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (20, 10))
    loss = EmpiricalLoss(inputs / jnp.linalg.norm(inputs, axis=1, keepdims=True), jax.random.normal(keys[1], (20,)))
    return loss, zero_output(keys[2], number=1, width=width, dim=10, scale=width**0.25)


def _kernel(loss, nets):
    """The tangent kernel at the start, over n, in their scaling."""
    jacobian = loss.jacobian(take(nets, 0))
    return np.asarray(jacobian @ jacobian.T) / (len(loss.targets) * nets.width**0.5)


def _wide(width):
    """Residuals along all flows of a wide network, and by the closed forms of its kernel at the start."""
    xarray = extra("xarray", "io")
    loss, nets = _problem(width)
    kernel, start = _kernel(loss, nets), np.asarray(loss.outputs(take(nets, 0)) - loss.targets)
    critical = 2 * float(np.sqrt(np.linalg.eigvalsh(kernel)[0]))
    unit, watch = width**0.25, {"residual": observe.residuals(loss)}
    plain = flow_ensemble(loss, nets, end_time=END / unit**2, save_at=TIMES / unit**2, observe=watch, **PLAIN)
    residuals = [plain.observed["residual"][0]]
    exact = [theory.kernel_residuals(kernel, start, TIMES, theory.gradient_flow_mode)]
    names = ["gradient flow"]
    for friction, vanishing in ((critical, False), (0.3, False), (3.0, False), (3.0, True), (6.0, True)):
        run = _inertial(loss, nets, friction, vanishing, TIMES, watch, rtol=1e-5, atol=1e-7)
        residuals.append(run.observed["residual"][0])
        exact.append(theory.kernel_residuals(kernel, start, TIMES, _mode(friction, vanishing)))
        word = f"Nesterov, r = {friction:g}" if vanishing else f"heavy ball, b = {friction:.3g}"
        names.append(word if friction != critical else "heavy ball, critical")
    axes = ("flow", "time", "datum")
    return xarray.Dataset({"residual": (axes, residuals), "exact": (axes, exact)}, {"flow": names, "time": TIMES})


def _inertial(loss, nets, friction, vanishing, times, watch=(), *, rtol=1e-7, atol=1e-10):
    unit = nets.width**0.25
    return momentum_flow(
        loss, nets, friction=friction if vanishing else friction * unit, vanishing=vanishing, end_time=times[-1] / unit,
        save_at=times / unit, observe=watch, rtol=rtol, atol=atol,
    )  # fmt: skip


def _mode(friction, vanishing):
    if vanishing:
        return lambda rate, times: theory.nesterov_mode(rate, times, r=friction)
    return lambda rate, times: theory.heavy_ball_mode(rate, times, friction=friction)


def _late(width, end):
    """Losses under Nesterov's flow for several r up to a late time."""
    xarray = extra("xarray", "io")
    loss, nets = _problem(width)
    times, r = np.linspace(0.0, end, 40 * int(end)), np.array([2.0, 3.0, 6.0])
    losses = [_inertial(loss, nets, float(value), True, times).observed["loss"][0] for value in r]
    return xarray.Dataset({"loss": (("r", "time"), losses)}, {"r": r, "time": times})


def _running_mean(times, losses):
    """Mean losses over pieces of time, equal in ln t, of the later part of a flow, and the middle times."""
    edges = np.geomspace(times[-1] ** 0.6, times[-1], 13)
    pieces = [(times >= low) & (times <= high) for low, high in itertools.pairwise(edges)]
    return np.sqrt(edges[1:] * edges[:-1]), np.array([losses[piece].mean() for piece in pieces])


def _power(times, losses):
    """The power of t with which the mean loss falls: modes swing at their own frequencies, and all fade like t^(−r)."""
    middle, means = _running_mean(times, losses)
    return np.polyfit(np.log(middle), np.log(means), 1)[0]


def _discrete(width):
    """Heavy ball, Nesterov and gradient descent at three step sizes against their flows; Adam beside them."""
    xarray = extra("xarray", "io")
    loss, nets = _problem(width)
    unit, end, watch = width**0.25, 8.0, {"residual": observe.residuals(loss)}
    rates = np.array([0.04, 0.01, 0.0025])
    limits = [_inertial(loss, nets, *how, np.array([0.0, end]), watch) for how in ((1.0, False), (3.0, True))]
    last = end / unit**2
    limits.append(flow_ensemble(loss, nets, end_time=last, save_at=np.array([last]), observe=watch, **PLAIN))
    ends = [limit.observed["residual"][0, -1] for limit in limits]
    errors = np.zeros((3, len(rates)))
    for column, rate in enumerate(rates):
        small = float(rate) / unit**2
        inertial = round(end / rate**0.5)
        methods = (heavy_ball(small, friction=unit), nesterov(small, r=3.0), optax.sgd(small))
        for row, (method, steps) in enumerate(zip(methods, (inertial, inertial, round(end / rate)), strict=True)):
            run = descent(loss, nets, method, steps=steps, save_at=np.array([steps]), observe=watch, block=1)
            errors[row, column] = np.abs(run.observed["residual"][0, -1] - ends[row]).max()
    saves, small = np.arange(0, 401, 4), 0.04 / unit**2
    cousins = {
        "gradient descent": optax.sgd(small), "heavy ball": heavy_ball(small, friction=unit * 0.6),
        "Nesterov": nesterov(small, r=3.0), "Adam": optax.adam(0.04 / width**0.75),
    }  # fmt: skip
    histories = [descent(loss, nets, m, steps=400, save_at=saves, block=1).observed["loss"][0] for m in cousins.values()]
    return xarray.Dataset(
        {"error": (("method", "rate"), errors), "loss": (("optimiser", "step"), histories)},
        {"rate": rates, "step": saves, "optimiser": list(cousins)},
    )


def _flow_figure(wide):
    fig, ax = plot.figure()
    for colour, name in zip(plot.COLOURS, wide["flow"].values, strict=False):
        these = wide.sel(flow=name)
        ax.plot(TIMES, (these["residual"].values ** 2).sum(axis=1) / 40, color=colour, lw=1.4, label=name)
        ax.plot(TIMES, (these["exact"].values ** 2).sum(axis=1) / 40, ":", color="black", lw=0.9)
    ax.set(yscale="log", ylim=(1e-12, None), xlabel="time (neural tangent scaling)", ylabel="loss")
    ax.set_title("Flows of a wide network; dotted: closed form of its kernel")
    ax.legend(fontsize=8)
    return fig


def _envelope_figure(late):
    fig, ax = plot.figure()
    for colour, r, losses in zip(plot.COLOURS, late["r"].values, late["loss"].values, strict=False):
        times, losses = late["time"].values[40:], losses[40:]
        ax.plot(times, losses, color=colour, lw=0.6, alpha=0.6)
        ax.plot(*_running_mean(times, losses), "o-", color=colour, ms=4, label=f"r = {r:g}, power {_power(times, losses):.3f}")
    ax.set(xscale="log", yscale="log", xlabel="time (neural tangent scaling)", ylabel="loss")
    ax.set_title("Nesterov's flow: the mean loss falls like a power of t")
    ax.legend(fontsize=8)
    return fig


def _discrete_figure(discrete):
    fig, (left, right) = plot.figure(10.0, 4.2, columns=2)
    for colour, name, losses in zip(plot.COLOURS, discrete["optimiser"].values, discrete["loss"].values, strict=False):
        left.plot(discrete["step"], losses, color=colour, label=name)
    left.set(yscale="log", xlabel="step", ylabel="loss", title="Discrete cousins")
    left.legend(fontsize=8)
    for colour, word, errors in zip(plot.COLOURS[1:], ("heavy ball", "Nesterov"), discrete["error"].values, strict=False):
        right.plot(discrete["rate"], errors / np.sqrt(discrete["rate"].values), "o-", color=colour, label=word)
    right.set(xscale="log", ylim=(0, None), xlabel="step size η", ylabel="error / √η", title="Discrete against continuous")
    right.set_xticks(discrete["rate"].values, [f"{rate:g}" for rate in discrete["rate"].values])
    right.minorticks_off()
    right.legend(fontsize=8)
    return fig


STUDY = MomentumFlows()
