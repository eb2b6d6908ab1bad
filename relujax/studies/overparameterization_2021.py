"""Safran, Yehudai and Shamir 2021: which minima there are with as many students as teachers, and what one neuron more does.

Published setting: n = k from 6 to 100, 500 starts N(0, 1/k) each, gradient descent with step 5/k to a gradient norm of 1e-12,
Gaussian inputs, `½ E (Σ relu(w·x) − Σ relu(v·x))²`. Every point found is a minimum with a positive definite Hessian, few are
global for large k, and splitting a neuron of a spurious one makes it a saddle. Here the gradient flow is followed instead: up
to k = 30 by the census, beyond it to a gradient norm of 1e-7 and from there by Newton's method in the fixed space of each end.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from .. import plot
from .._extras import extra
from ..census import census
from ..flow import Chebyshev, flow_ensemble
from ..hessian import symmetric_spectrum
from ..network import ShallowReLU
from ..problems import orthonormal_teacher
from ..symmetry import identify, refine, split_test
from .base import AbstractStudy, at_least, close, equal

# of 500 runs those that reached the global minimum
PUBLISHED = {6: 500, 8: 443, 10: 340, 12: 231, 20: 29, 30: 2}
_RUNS, _SOURCE = 500, "data published with arXiv 2006.01005"
_LARGEST_CENSUS = 30


class Overparameterization2021(AbstractStudy):
    """Global minima hit, indices, and the splitting test at every spurious minimum."""

    name = "overparameterization-2021"
    paper = "Safran, Yehudai, Shamir 2021 (arXiv 2006.01005)"
    about = "How often n = k students reach the global minimum, and that splitting a neuron opens a way down elsewhere."
    cost = "about 3 minutes on two cores to k = 30, and an hour to k = 100"
    quick = {"neurons": [6, 8, 10, 12], "starts": 500}
    full = {"neurons": [6, 8, 10, 12, 20, 30, 40, 50, 70, 100], "starts": 500}

    def measure(self, keep, *, neurons, starts):
        for k in neurons:
            keep(f"k{k:03d}", _minima, k, starts)

    def claims(self, results):
        pieces = list(results.values())
        spurious = np.concatenate([piece["splitting"].values[piece["loss"].values > 1e-3] for piece in pieces])
        indices = sorted({int(index) for piece in pieces for index in piece["index"].values})
        smallest = min(float(piece["min_eigenvalue"].min()) for piece in pieces)
        unresolved = sum(int(piece.attrs["unresolved"]) for piece in pieces)
        return [
            *(_hits(piece) for piece in pieces if piece.attrs["k"] in PUBLISHED),
            equal("indices of the minima", indices, [0], f"{_SOURCE}: λ_min > 0 at every point"),
            at_least("smallest eigenvalue at a minimum", smallest, 1e-9, f"{_SOURCE}: λ_min > 0 at every point"),
            at_least("minus the splitting eigenvalue nearest to 0 at a spurious minimum", -np.max(spurious, initial=-1.0), 1e-3,
                     "arXiv 2006.01005: with one neuron more it is a saddle"),
            equal("runs that reached no critical point", unresolved, 0, "every run ends"),
        ]  # fmt: skip

    def figures(self, results):
        fig, (left, right) = plot.figure(11.0, 4.2, columns=2)
        ks = [int(piece.attrs["k"]) for piece in results.values()]
        share = np.array([_global(piece) / piece.attrs["starts"] for piece in results.values()])
        error = np.sqrt(share * (1 - share) / np.array([piece.attrs["starts"] for piece in results.values()]))
        left.errorbar(ks, 100 * share, 196 * error, fmt="o", color=plot.COLOURS[0], capsize=3, label="flow, 95 %")
        published = [hits / _RUNS * 100 for hits in PUBLISHED.values()]
        left.plot(list(PUBLISHED), published, "D", color="black", mfc="none", ms=7, zorder=3, label="published")
        left.set(xlabel="k", ylabel="percentage of runs", title="Runs that reach the global minimum", ylim=(-3, 103))
        left.legend(fontsize=8)
        colours = itertools.cycle(plot.COLOURS)
        for k, piece, colour in zip(ks, results.values(), colours, strict=False):
            loss, splitting = piece["loss"].values, piece["splitting"].values
            right.plot(loss[loss > 1e-3], splitting[loss > 1e-3], "o", color=colour, ms=4, alpha=0.7, label=f"k = {k}")
        right.axhline(0, color="black", lw=0.8)
        right.set(xlabel="loss of a spurious minimum", ylabel="smallest splitting eigenvalue", title="Splitting makes a saddle")
        right.legend(fontsize=8, loc="center right", ncols=2)
        return {"global-minimum": fig}


def _minima(k, starts):
    """The distinct minima that the flows from random starts end at, with counts, spectra and splitting eigenvalues."""
    draws = jax.random.normal(jax.random.fold_in(jax.random.key(1), k), (starts, k, k)) / np.sqrt(k)
    nets = ShallowReLU(np.asarray(draws), np.ones((starts, k)), train=("weights",))
    loss = orthonormal_teacher(k)
    weights, columns = (_by_census if k <= _LARGEST_CENSUS else _by_symmetry)(loss, nets)
    tests = [split_test(loss, ShallowReLU(jnp.asarray(one), jnp.ones(k), train=("weights",))) for one in weights]
    columns["splitting"] = np.array([test.eigenvalues.min() for test in tests])
    data = {name: (["point"], column) for name, column in columns.items()}
    unresolved = starts - int(columns["count"].sum())
    return extra("xarray", "io").Dataset(data, attrs={"k": k, "starts": starts, "unresolved": unresolved})


def _by_census(loss, nets):
    found = census(loss, nets)
    return found["weights"].values, {name: found[name].values for name in ("name", "loss", "count", "index", "min_eigenvalue")}


def _by_symmetry(loss, nets):
    """For matrices that are too large for a dense Hessian: one representative of every loss, refined in its fixed space."""
    flow = flow_ensemble(loss, nets, gradient_norm=1e-7, solver=Chebyshev(), rtol=3e-4, atol=3e-4)
    order = np.argsort(flow.losses, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(flow.losses[order]) > 1e-8) + 1)
    columns: dict[str, list] = {"name": [], "loss": [], "count": [], "index": [], "min_eigenvalue": []}
    weights = []
    for group in groups:
        best = group[np.argmin(flow.gradient_norms[group])]
        name, symmetry = identify(flow.networks.weights[best], float(flow.losses[best]), tolerance=1e-4)
        if len(symmetry.blocks) > 4:
            continue  # not symmetric enough for its fixed space to be small
        point = refine(symmetry)
        # the same minimum, not another one that Newton's method strayed to
        if not point.converged or np.linalg.norm(point.weights - flow.networks.weights[best]) > 1e-3:
            continue
        spectrum = symmetric_spectrum(symmetry.space, point.coordinates)
        weights.append(point.weights)
        row = (name, point.loss, len(group), sum(part.dimension * np.sum(part.eigenvalues < 0) for part in spectrum),
               min(part.eigenvalues[0] for part in spectrum))  # fmt: skip
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return weights, {name: np.array(column) for name, column in columns.items()}


def _global(piece):
    return int(piece["count"].values[piece["loss"].values <= 1e-3].sum())


def _hits(piece):
    k, starts = int(piece.attrs["k"]), int(piece.attrs["starts"])
    share = PUBLISHED[k] / _RUNS
    # both numbers are random; a published share of 1 is known to within its own sample only
    pooled = (PUBLISHED[k] + _global(piece)) / (_RUNS + starts)
    error = starts * np.sqrt(max(pooled * (1 - pooled), 1 / _RUNS**2) * (1 / _RUNS + 1 / starts))
    name = f"runs of {starts} that reach the global minimum at k = {k}"
    return close(name, _global(piece), starts * share, 4 * error, f"{_SOURCE}, 4 standard errors of the difference")


STUDY = Overparameterization2021()
