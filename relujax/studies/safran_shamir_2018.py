"""Safran and Shamir 2018: spurious minima are common when k neurons learn k orthonormal ones under Gaussian inputs.

Published setting: weights N(0, 1/k), k = 6, 8, …, 20, 1000 starts each, gradient descent with step 0.1 on
`½ E (Σ relu(w·x) − Σ relu(v·x))²` to machine precision, a run counting as spurious at a loss of 1e-3 or more. Here the gradient
flow is followed instead, odd k are run as well, and every end point is polished, named and certified. The counts by family
come from the losses of the published runs, matched against the families' losses.
"""

import re

import jax
import numpy as np

from .. import plot
from .._extras import extra
from ..census import census
from ..network import ShallowReLU
from ..problems import orthonormal_teacher
from ..symmetry import family
from .base import AbstractStudy, at_least, at_most, close, equal

# of 1000 runs: spurious ones, then II, II_2, …, II_7, those of kind I, those with three blocks
PUBLISHED = {
    6: (3, (3, 0, 0, 0, 0, 0, 0, 0, 0)),
    8: (126, (126, 0, 0, 0, 0, 0, 0, 0, 0)),
    10: (346, (312, 34, 0, 0, 0, 0, 0, 0, 0)),
    12: (585, (427, 135, 17, 0, 0, 0, 0, 6, 0)),
    14: (736, (398, 246, 72, 9, 0, 0, 0, 11, 0)),
    16: (851, (297, 292, 180, 52, 4, 0, 0, 26, 0)),
    18: (900, (237, 271, 204, 124, 29, 2, 0, 33, 0)),
    20: (949, (158, 204, 241, 181, 87, 27, 6, 36, 9)),
}
CLASSES = ("II", *(f"II_{q}" for q in range(2, 8)), "kind I", "three blocks")
# mean loss of the spurious runs where all of them are of one family
PUBLISHED_LOSS = {6: 0.02508058, 8: 0.02150804}
_RUNS, _SPURIOUS = 1000, 1e-3
_SOURCE = "data published with arXiv 1712.08968"


class SafranShamir2018(AbstractStudy):
    """Where gradient flow ends, how often, at every k."""

    name = "safran-shamir-2018"
    paper = "Safran and Shamir 2018 (arXiv 1712.08968)"
    about = "How often gradient flow from random starts ends at spurious minima, and at which ones, for k = 6 … 20."
    cost = "about 2 minutes on two cores"
    quick = {"neurons": [6, 7, 8, 9, 10], "starts": 1000}
    full = {"neurons": list(range(6, 21)), "starts": 1000}

    def measure(self, keep, *, neurons, starts):
        for k in neurons:
            keep(f"k{k:02d}", _census, k, starts)

    def claims(self, results):
        points = [claim for piece in results.values() for claim in _counts_of(piece)]
        everything = list(results.values())
        norms = max(float(np.nanmax(piece["end_gradient_norm"])) for piece in everything)
        unresolved = sum(int(np.sum(piece["point_of_start"] < 0)) for piece in everything)
        indices = sorted({int(index) for piece in everything for index in piece["index"].values})
        smallest = min(float(piece["min_eigenvalue"].min()) for piece in everything)
        unnamed = sum(int(np.sum(piece["count"].values[piece["name"].values == "unnamed"])) for piece in everything)
        starts = sum(piece.sizes["start"] for piece in everything)
        return [
            *points,
            close("largest gradient norm of an end point", norms, 0.0, 1e-12, "polished to machine precision"),
            equal("runs that reached no critical point", unresolved, 0, "every run ends"),
            equal("indices of the end points", indices, [0], "gradient flow from random starts ends at minima"),
            at_least("smallest eigenvalue of an end point", smallest, 1e-9, "strict minima"),
            at_most("share of runs that end at a point without a name", unnamed / starts, 0.01, "the known families suffice"),
        ]

    def figures(self, results):
        return {"families": _draw(results)}


def _census(k, starts):
    # one shape of draws for every k, so that it compiles once
    draws = jax.random.normal(jax.random.fold_in(jax.random.key(0), k), (starts, 400))
    weights = np.asarray(draws)[:, : k * k].reshape(starts, k, k) / np.sqrt(k)
    nets = ShallowReLU(weights, np.ones((starts, k)), train=("weights",))
    return census(orthonormal_teacher(k), nets).assign_attrs(k=k)


def class_of(name):
    """The row of the published table that a name belongs to, or None for the global minimum and points without a name."""
    if name.startswith("I_("):
        return "three blocks"
    return "kind I" if re.fullmatch(r"I|I_\d+|A", name) else name if name in CLASSES else None


def counts(piece):
    """How many starts of one k ended in every class of the published table."""
    out = dict.fromkeys(CLASSES, 0)
    for name, count in zip(piece["name"].values, piece["count"].values, strict=True):
        if class_of(str(name)) is not None:
            out[class_of(str(name))] += int(count)
    return out


def _counts_of(piece):
    k, starts = int(piece.attrs["k"]), piece.sizes["start"]
    member = family("II", k).loss
    losses = piece["loss"].values[piece["name"].values == "II"]
    out = [close(f"loss of II among the end points at k = {k}", losses, np.full(len(losses), member), 1e-12, "family II")]
    if k not in PUBLISHED:
        return out
    spurious, classes = PUBLISHED[k]
    share = spurious / _RUNS
    found = int(np.sum(piece["count"].values[piece["loss"].values >= _SPURIOUS]))
    error = np.sqrt(starts * share * (1 - share))
    out.append(close(f"spurious runs of {starts} at k = {k}", found, starts * share, 4 * error, f"{_SOURCE}, 4 standard errors"))
    mine, theirs = np.array(list(counts(piece).values())), np.array(classes)
    pooled = (mine + theirs) / (starts + _RUNS)
    spread = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / starts + 1 / _RUNS), 1e-300))
    deviation = np.max(np.abs(mine / starts - theirs / _RUNS) / spread)
    name = f"largest deviation of a class of minima at k = {k}, in standard errors"
    out.append(close(name, deviation, 0.0, 4.0, f"{_SOURCE}; both counts are random"))
    if k in PUBLISHED_LOSS and len(losses):
        out.append(close(f"mean loss of spurious runs at k = {k}", losses[0], PUBLISHED_LOSS[k], 5e-9, _SOURCE))
    return out


def _draw(results):
    fig, (left, right) = plot.figure(11.0, 4.6, columns=2)
    ks = [int(piece.attrs["k"]) for piece in results.values()]
    bottom = np.zeros(len(ks))
    colours = [*extra("matplotlib", "plot").colormaps["viridis"](np.linspace(0.1, 1.0, 7)), "#D55E00", "#000000"]
    for name, colour in zip(CLASSES, colours, strict=True):
        share = np.array([100 * counts(piece)[name] / piece.sizes["start"] for piece in results.values()])
        left.bar(ks, share, bottom=bottom, color=colour, width=0.8, label=name if share.any() else None)
        bottom += share
    shown = [k for k in ks if k in PUBLISHED]
    left.plot(shown, [PUBLISHED[k][0] / 10 for k in shown], "kD", ms=4, label="published, all spurious")
    left.set(xlabel="k", ylabel="percentage of runs", title="Spurious ends of gradient flow", ylim=(0, 100), xticks=ks)
    left.legend(fontsize=7, loc="upper left")
    for k, piece in zip(ks, results.values(), strict=True):
        for name, loss, count in zip(piece["name"].values, piece["loss"].values, piece["count"].values, strict=True):
            kind = class_of(str(name))
            if kind is not None:
                size = 8 + 120 * count / piece.sizes["start"]
                right.scatter(k, loss, s=size, color=[colours[CLASSES.index(kind)]], edgecolors="none")
    right.set(xlabel="k", ylabel="loss", title="Losses of the minima (area: how often)", xticks=ks, ylim=(0, None))
    return fig


STUDY = SafranShamir2018()
