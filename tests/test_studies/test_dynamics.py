"""Studies of the dynamics: ideal results pass every claim, and a run that went wrong in one way fails the claim on it."""

import numpy as np
import pytest

for package in ("xarray", "matplotlib", "sklearn"):
    pytest.importorskip(package)

import xarray

from relujax import plot_dynamics, theory
from relujax.studies import (
    early_alignment,
    momentum_flows,
    one_hidden_layer_principles,
    orthogonal_data,
    single_neuron_teacher,
    topological_obstruction,
    univariate_splines,
)


def failed(study, results):
    return [claim.name for claim in study.claims(results) if not claim.passed]


def splines():
    """What the paper says of univariate networks, exactly."""
    module = univariate_splines
    spline, linear = (
        theory.kernel_interpolant(module.INPUTS, module.TARGETS),
        np.interp(module.GRID, module.INPUTS, module.TARGETS),
    )
    width, size, draws = np.array([200, 2000, 20_000]), np.geomspace(0.5, 64, 8), 2
    fixed = {
        "even": 0.0,
        "error": (("width", "draw"), np.repeat(width[:, None] ** -0.5, draws, axis=1)),
        "thirds": ("interval", spline.derivative(3)((module.INPUTS[1:] + module.INPUTS[:-1]) / 2)),
    }
    smooth = spline(module.GRID)
    widths, ratio = np.array([20, 60, 200]), np.geomspace(1e1, 1e8, 15)
    share = 1 / (1 + np.sqrt(ratio * widths[:, None] / 1e5))
    return {
        "reduced": xarray.Dataset({"difference": ("network", np.zeros(3))}),
        "fixed-units": xarray.Dataset(fixed, {"width": width}),
        "kernel": xarray.Dataset(
            {"f": (("size", "x"), smooth + size[:, None] ** -4.0), "linearised": ("x", smooth)}, {"size": size, "x": module.GRID}
        ),
        "adaptive": xarray.Dataset(
            {
                "f": (("draw", "x"), np.stack([linear, smooth])),
                "knot": (("draw", "time", "unit"), np.broadcast_to(module.INPUTS, (2, 4, 5)).copy()),
                "strength": (("draw", "time", "unit"), np.ones((2, 4, 5))),
                "loss": (("draw", "time"), np.array([[1, 0.5, 0.1, 0], [1, 0.5, 0.1, 0.1]])),
            },
            {"x": module.GRID, "time": np.array([0.0, 1, 2, 3])},
        ),
        "map": xarray.Dataset({"share": (("width", "ratio"), share)}, {"width": widths, "ratio": ratio}),
    }


def test_univariate_splines_fail_when_a_knot_strays_and_when_the_boundary_tilts():
    study, results = univariate_splines.STUDY, splines()
    assert failed(study, results) == []
    results["adaptive"]["knot"][0, -1, 2] += 1e-3
    assert failed(study, results) == ["share of its strength between the samples"]
    results = splines()
    results["map"]["share"][:] = results["map"]["share"].values[0]
    assert failed(study, results) == ["power of m in the ratio between regimes"]
    assert set(study.figures(splines())) == {"regimes", "functions", "knots"}


def obstruction():
    """An obstructed toy start that stays above its bound, a free one that reaches the teacher, frequencies without error."""
    times = np.linspace(0, 400, 21)
    path = np.zeros((2, 21, 2, 3)) + 0.5
    path[1, :, 1, 2] = np.linspace(0.5, -0.6, 21)
    exact = np.full(4, 0.3)
    free = np.array([0, 1, 0, 1, 2, 0, 1, 2, 4])
    cancer = {
        "width": np.array([1, 1, 2, 2, 2, 4, 4, 4, 4]),
        "draw": np.zeros(9, int),
        "free": free,
        "test": 0.4 - 0.05 * free,
        "train": np.full(9, 0.5),
        "obstructed": free == 0,
        "bound": np.full(9, 0.3),
    }
    axes = ("law", "width", "dim")
    heat = {name: (axes, np.linspace(0, 1, 18).reshape(2, 3, 3)) for name in ("neuron", "disconnected", "obstructed")}
    return {
        "toy": xarray.Dataset(
            {
                "path": (("start", "time", "neuron", "parameter"), path),
                "loss": (("start", "time"), np.stack([np.full(21, 0.3), np.geomspace(1, 1e-9, 21)])),
                "drift": (("start", "neuron"), np.zeros((2, 2))),
                "constant": (("start", "neuron"), np.array([[-0.8, -0.9], [-0.8, 3.0]])),
                "descent": (("start", "step"), np.ones((2, 501))),
            },
            {"time": times, "step": np.arange(501)},
            {"bound": 0.2},
        ),
        "several-outputs": xarray.Dataset({"drift": 0.0}),
        "frequencies": xarray.Dataset(dict.fromkeys(("drawn", "exact", "number"), ("case", exact))),
        "heat": xarray.Dataset(heat, {"law": ["kaiming", "xavier"], "width": [1, 2, 3], "dim": [2, 3, 4]}),
        "breast-cancer": xarray.Dataset({name: ("run", values) for name, values in cancer.items()}),
    }


def test_topological_obstruction_fails_when_a_pathological_neuron_changes_sign():
    study, results = topological_obstruction.STUDY, obstruction()
    assert failed(study, results) == []
    results["toy"]["path"][0, -1, 1, 2] = -0.1
    assert failed(study, results) == ["obstructed: least amplitude of neuron 2"]
    results = obstruction()
    results["breast-cancer"]["train"][0] = 0.2
    results["toy"]["drift"][1, 0] = 1e-3
    assert failed(study, results) == ["drift of c along the flows", "breast cancer: loss below the bound of an obstructed start"]
    assert set(study.figures(obstruction())) == {"heat-map", "quadrics", "toy-loss", "breast-cancer"}


def principles():
    """Bases and norms as computed, and two trained networks of one unit a gap that fit."""
    module = one_hidden_layer_principles
    least = theory.minimum_norm_interpolant(module.INPUTS, module.TARGETS).norm
    line = np.interp(module.GRID, module.INPUTS, module.TARGETS)
    trained = {
        "f": (("start", "x"), np.stack([line, line])),
        **{name: ("start", np.zeros(2)) for name in ("reading", "merged", "loss")},
        "norm": ("start", least * np.array([1.0, 1.3])),
        "knot": (("start", "unit"), np.zeros((2, 3))),
        "strength": (("start", "unit"), np.ones((2, 3))),
        "kind": (("start", "unit"), np.zeros((2, 3), int)),
        "right": (("start", "unit"), np.ones((2, 3), bool)),
    }
    return {
        "bases": module._bases(),
        "norms": module._norms(),
        "trained": xarray.Dataset(trained, {"x": module.GRID}),
    }


def test_one_hidden_layer_principles_fail_when_a_trained_network_beats_the_least_norm():
    study, results = one_hidden_layer_principles.STUDY, principles()
    assert failed(study, results) == []
    results["trained"]["norm"][0] *= 0.9
    assert failed(study, results) == ["trained: least Σ|a||w| over the least of all"]
    results = principles()
    results["bases"]["rank"][1] += 1
    results["trained"]["merged"][1] = 1e-6
    assert failed(study, results) == ["dimension of the span of K knots", "trained: units of one gap merged"]
    assert set(study.figures(principles())) == {"splines", "units"}


def momentum():
    """Residuals that are their closed forms, losses that fall like t^(−r), errors of the right order."""
    module = momentum_flows
    rates, start = np.geomspace(0.09, 0.7, 20), np.ones(20)
    flows = {
        "gradient flow": theory.gradient_flow_mode,
        "heavy ball, b = 0.3": module._mode(0.3, False),
        "Nesterov, r = 3": module._mode(3.0, True),
    }
    exact = np.stack([np.stack([mode(rate, module.TIMES) for rate in rates], axis=1) * start for mode in flows.values()])
    times, r = np.linspace(0, 200, 4000), np.array([2.0, 3.0, 6.0])
    losses = np.stack([sum(theory.nesterov_mode(rate, times, r=value) ** 2 for rate in rates) for value in r])
    small = np.array([0.16, 0.04, 0.01])
    return {
        "wide": xarray.Dataset(
            {name: (("flow", "time", "datum"), exact.copy()) for name in ("residual", "exact")},
            {"flow": list(flows), "time": module.TIMES},
        ),
        "late": xarray.Dataset({"loss": (("r", "time"), losses)}, {"r": r, "time": times}),
        "discrete": xarray.Dataset(
            {
                "error": (("method", "rate"), np.stack([small**0.5, small**0.5, small])),
                "loss": (("optimiser", "step"), np.ones((1, 3))),
            },
            {"rate": small, "step": [0, 1, 2], "optimiser": ["Adam"]},
        ),
    }


def test_momentum_flows_fail_when_residuals_leave_their_modes():
    study, results = momentum_flows.STUDY, momentum()
    assert failed(study, results) == []
    results["wide"]["residual"][2, 40] += 0.1
    results["discrete"]["error"][1, 2] *= 2
    assert failed(study, results) == [
        "Nesterov, r = 3: largest error of a residual", "Nesterov: error for η over that for η/4",
    ]  # fmt: skip
    assert set(study.figures(momentum())) == {"flows", "envelopes", "discrete"}


def orthogonal():
    """Two points that reach their limit as λ², six that do with their exponent, and paths of one neuron a datum."""
    module = orthogonal_data
    limit = module._limit()
    scale = np.array([1e-1, 1e-2, 1e-3, 1e-4, 1e-9, 1e-20, 1e-48])
    exact = np.maximum(0.4 * module.TWO_GRID + 0.2, 0) - np.maximum(-0.4 * module.TWO_GRID + 0.8, 0)
    frame = np.geomspace(1, 40, 30)
    path = {
        "hidden": (("frame", "neuron", "part"), np.ones((30, 2, 2))),
        "amplitude": (("frame", "neuron"), np.ones((30, 2))),
        "loss": ("frame", 0.25 / (1 + np.exp(3 * (frame - 5))) + 0.25 / (1 + np.exp(3 * (frame - 20)))),
        "index": ("frame", np.full(30, 7)),
        "active": (("frame", "datum"), np.full((30, 2), 7)),
    }
    two = {
        "norm": ("scale", limit.variation_norm + np.where(scale > 1e-8, scale**2, 0.0)),
        "function": (("scale", "x"), np.tile(exact, (7, 1))),
        "kink_error": ("scale", np.zeros(7)),
        "jump": (("scale", "sign"), np.array([limit.jump_times(value) for value in scale])),
        "history": (("scale", "time"), np.ones((7, 27))),
    }
    times = np.linspace(0, 260, 27)
    six = np.array([1e-12, 1e-24, 1e-40, 1e-48])
    return {
        "two-points": xarray.Dataset({**two, **path}, {"scale": scale, "x": module.TWO_GRID, "time": times, "frame": frame}),
        "replica": xarray.Dataset({"first": ("draw", [6090]), "second": ("draw", [12700]), "single": ("draw", [6090])}),
        "five-points": xarray.Dataset({**path, "alignment": 1.0}, {"frame": frame}),
        "six-points": xarray.Dataset({"excess": ("scale", six**0.0748)}, {"scale": six}, {"exponent": 0.0748}),
        "high-dimension": xarray.Dataset(
            {
                "loss": ("time", np.linspace(1, 0, 5)),
                "singular": (("time", "component"), np.ones((5, 12))),
                "jump": ("class", np.array([19.0, 140.0])),
                "predicted": ("class", np.array([19.1, 143.0])),
                "plane": (("neuron", "axis"), np.ones((3, 2))),
                "amplitude": ("neuron", np.ones(3)),
            },
            {"time": np.arange(5.0)},
        ),
    }


def test_orthogonal_data_fail_when_the_limit_is_missed_and_when_a_jump_is_late():
    study, results = orthogonal_data.STUDY, orthogonal()
    assert failed(study, results) == []
    results["two-points"]["norm"][4] += 1e-8
    results["two-points"]["jump"][6, 1] *= 1.01
    assert failed(study, results) == ["two points, λ = 1e-9: variation norm", "two points: jump times against ln(1/λ)"]
    results = orthogonal()
    results["two-points"]["index"][:] = 6
    results["six-points"]["excess"][3] *= 0.5
    assert failed(study, results) == [
        "two points: Hessian index on the saddle",
        "six points: exponent of the excess at λ = 1e-48",
    ]
    assert set(study.figures(orthogonal())) == {"scales", "losses", "two-points", "five-points", "high-dimension"}


def teacher():
    """Angles in proportion to λ, half-times on their line, norms 1, and published medians in the middle."""
    module = single_neuron_teacher
    scale = 4.0 ** -np.arange(4, 11)
    acute = {
        "angle": ("scale", 0.01 * scale),
        "half_time": ("scale", 3.0 - np.log(scale) / 0.7),
        "second": ("scale", scale),
        "nuclear": ("scale", 1 + scale),
        "squared": ("scale", np.full(7, 2.0)),
        "loss": (("scale", "time"), np.ones((7, 3))),
    }
    spread = np.geomspace(0.1, 10, 5)[:, None]
    tables = {
        f"table-{dim}": xarray.Dataset(
            {
                "angle": (("trial", "scale"), spread * 4.0 ** (module.POWERS - module.POWERS[0]) * module.PUBLISHED[dim][0]),
                "nuclear": (("trial", "scale"), np.full((5, 4), 1.001)),
            },
            {"scale": 4.0**module.POWERS},
        )
        for dim in (4, 64)
    }
    split = {
        "gap": ("example", [-0.2, 0.1]),
        "least": ("example", [1.0, 0.98]),
        "end": (("example", "start"), np.ones((2, 3))),
        "cosine": (("example", "start"), np.ones((2, 3))),
    }
    return {
        "acute": xarray.Dataset(acute, {"scale": scale, "time": np.arange(3.0)}, {"slope": 0.7}),
        **tables,
        "split": xarray.Dataset(split),
    }


def test_single_neuron_teacher_fails_when_angles_stop_falling_and_when_the_norm_is_the_least():
    study, results = single_neuron_teacher.STUDY, teacher()
    assert failed(study, results) == []
    results["acute"]["angle"][-1] *= 1.1
    results["split"]["end"][1] = 0.98
    assert failed(study, results) == [
        "acute data: largest angle for λ over that for λ/4", "both: variation norm at the end",
    ]  # fmt: skip
    results = teacher()
    results["table-64"]["angle"][:] *= 1e3
    assert "d = 64: published medians between our quartiles, of 4" in failed(study, results)
    assert set(study.figures(teacher())) == {"scales", "losses", "split"}


def alignment():
    """Ends at least squares, a half-time on its line, forty points that rest at least squares."""
    module = early_alignment
    limit = theory.least_squares_limit(module._extended(module.THREE[0]), module.THREE[1])
    line = module._extended(module.GRID) @ limit.direction
    three = {
        "loss": ("start", np.full(2, limit.loss)),
        "f": (("start", "x"), np.tile(line, (2, 1))),
        "cosine": ("start", np.ones(2)),
        "history": (("start", "time"), np.ones((2, 3))),
        "survives": ("start", np.array([True, False])),
    }
    (only,) = theory.extremal_vectors(module._extended(module.THREE[0]), module.THREE[1])
    times = np.concatenate([[0.0], np.geomspace(0.1, 4000, 60)])
    loss = 0.04 + 0.12 / (1 + times**4 / 1e4) - 0.02 / (1 + (1000 / np.maximum(times, 1e-9)) ** 4)
    forty = {
        "loss": ("time", loss),
        "alignment": 1.0,
        "hidden": (("frame", "neuron", "part"), np.ones((2, 3, 2))),
        "amplitude": (("frame", "neuron"), np.ones((2, 3))),
        "f": (("frame", "x"), np.zeros((2, len(module.GRID)))),
        "extremal": (("vector", "part"), np.ones((1, 2))),
        "inputs": ("datum", np.zeros(3)),
        "targets": ("datum", np.zeros(3)),
    }
    return {
        "three-10": xarray.Dataset(three, {"x": module.GRID, "time": np.arange(3.0)}),
        "scales": xarray.Dataset(
            {"half_time": ("scale", -np.log(module.SCALES) / np.linalg.norm(only.vector))}, {"scale": module.SCALES}
        ),
        "large": xarray.Dataset(
            {"loss": ("start", np.zeros(2)), "f": (("start", "x"), np.tile(line, (2, 1)))}, {"x": module.GRID}
        ),
        "forty": xarray.Dataset(forty, {"time": times, "x": module.GRID, "frame": np.array([0.0, 1.0])}, {"line": 0.04}),
    }


def test_early_alignment_fails_when_a_survivor_interpolates():
    study, results = early_alignment.STUDY, alignment()
    assert failed(study, results) == []
    results["three-10"]["loss"][1] = 0.3  # a start without a neuron that is active on all data
    assert failed(study, results) == []
    results["three-10"]["loss"][0] = 0.0
    results["three-10"]["cosine"][0] = 0.5
    assert failed(study, results) == [
        "three points: loss at the end, all widths and laws", "three points: least cosine to D of living neurons",
    ]  # fmt: skip
    assert set(study.figures(alignment())) == {"three-points", "polar", "forty-points"}


def test_an_animation_draws_every_frame_anew(tmp_path):
    drawn = []

    def draw(fig, frame):
        drawn.append(frame)
        fig.subplots().plot([0, frame], [0, 1])

    plot_dynamics.Animation([1, 2, 3], draw).save(tmp_path / "moving.gif", writer="pillow", dpi=20)
    assert (tmp_path / "moving.gif").stat().st_size > 0
    assert drawn[-3:] == [1, 2, 3]
