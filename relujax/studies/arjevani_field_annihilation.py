"""Arjevani and Field 2021, 2022: where spurious minima come from and how additional neurons annihilate them.

Published setting: as in `arjevani_field_spectra`. A family of spurious minima exists for real k, and below a fractional number of
neurons it is a family of saddles. A neuron added to a spurious minimum turns it into a saddle, from which the flow finds a way
down; here tiny neurons are added at random, and the table says how many of them it takes. That a way down exists does not say
that it leads to a global minimum: with one neuron more there are other spurious minima nearby, such as II+.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .. import plot
from .._extras import extra
from ..network import ShallowReLU
from ..problems import orthonormal_teacher
from ..symmetry import annihilation, crossing, family, split_test
from .base import AbstractStudy, at_least, close, equal

FAMILIES = ("A", "I", "II", "M")
# by Newton's method with 20 digits on the closed form of λ(alt) and on the dense Hessian of the refined blocks
THRESHOLDS = {"A": (5.76381273491957, "alt_0", 0.0539354187685796), "M": (7.56119049794540, "std_1", 0.0408174265360755)}
_SADDLE = "arXiv 2006.01005, 2210.06088: one neuron more makes a saddle of it"


class ArjevaniFieldAnnihilation(AbstractStudy):
    """Thresholds, and the table of added neurons."""

    name = "arjevani-field-annihilation"
    paper = "Arjevani and Field 2021 (arXiv 2107.10370), 2022 (arXiv 2210.06088)"
    about = "Where families of spurious minima begin, and how many added neurons annihilate them."
    cost = "about 4 minutes on two cores"
    quick = {"neurons": [6, 8], "added": [1, 2], "starts": 16}
    full = {"neurons": [6, 8, 10, 12, 14], "added": [1, 2, 3], "starts": 100}

    def measure(self, keep, *, neurons, added, starts):
        keep("thresholds", _thresholds)
        keep("curves", _curves)
        for k in neurons:
            keep(f"k{k:02d}", _table, k, added, starts)

    def claims(self, results):
        thresholds, tables = results["thresholds"], [piece for name, piece in results.items() if name.startswith("k")]
        out = []
        for name, (k, component, loss) in THRESHOLDS.items():
            found = thresholds.sel(family=name)
            source = "independent computation with 20 digits"
            out += [
                close(f"neurons at which {name} becomes a minimum", float(found["k"]), k, 1e-10, source),
                equal(f"component that crosses 0 there, of {name}", str(found["component"].values), component, source),
                close(f"loss of {name} there", float(found["loss"]), loss, 1e-10, source),
            ]
        first = {name: int(np.ceil(float(thresholds["k"].sel(family=name)))) for name in FAMILIES}
        right_kind = [
            (piece["index"].sel(family=name).item() == 0) == (piece.attrs["k"] >= first[name])
            for piece in tables
            for name in FAMILIES
        ]
        split = max(float(piece["splitting"].max()) for piece in tables)
        left = min(float(piece["left"].min()) for piece in tables)
        two = min(float(piece["share"].sel(added=2).min()) for piece in tables)
        return [
            *out,
            equal("families are minima from their threshold on, saddles below", bool(np.all(right_kind)), True, "whole spectra"),
            at_least("minus the largest splitting eigenvalue of any neuron", -split, 1e-3, _SADDLE),
            at_least("least share of flows that leave a family once a neuron is added", left, 1.0, _SADDLE),
            at_least("least share of flows that two added neurons lead to a global minimum", two, 0.9, "arXiv 2210.06088"),
        ]

    def figures(self, results):
        tables = {piece.attrs["k"]: piece for name, piece in results.items() if name.startswith("k")}
        fig, (left, right) = plot.figure(11.0, 4.4, columns=2)
        curves, thresholds = results["curves"], results["thresholds"]
        for name, colour in zip(FAMILIES, plot.COLOURS, strict=False):
            left.plot(curves["k"], curves["smallest"].sel(family=name), color=colour, label=name)
            left.plot(thresholds["k"].sel(family=name), 0, "o", color=colour)
        left.axhline(0, color="black", lw=0.8)
        left.set(xlabel="k (real)", ylabel="smallest Hessian eigenvalue", title="Saddles become minima")
        left.legend(fontsize=8)
        rows = [(name, int(added)) for name in FAMILIES for added in next(iter(tables.values()))["added"].values]
        shares = np.array(
            [[100 * float(piece["share"].sel(family=name, added=n)) for piece in tables.values()] for name, n in rows]
        )
        right.imshow(shares, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            right.text(j, i, f"{share:.0f} %", ha="center", va="center", fontsize=8, color="white" if share < 60 else "black")
        right.set_xticks(range(len(tables)), [str(k) for k in tables])
        right.set_yticks(range(len(rows)), [f"{name}, {n} added" for name, n in rows], fontsize=8)
        right.set(xlabel="k", title="Flows that reach a global minimum")
        return {"annihilation": fig}


def _thresholds():
    found = [crossing(name) for name in FAMILIES]
    columns = {key: [getattr(one, key) for one in found] for key in ("k", "component", "loss", "slope")}
    return _dataset({key: (["family"], np.array(column)) for key, column in columns.items()}, {"family": list(FAMILIES)})


def _curves():
    ks = np.linspace(5.0, 16.0, 45)
    smallest = [[family(name, k).min_eigenvalue for k in ks] for name in FAMILIES]
    return _dataset({"smallest": (["family", "k"], np.array(smallest))}, {"family": list(FAMILIES), "k": ks})


def _table(k, added, starts):
    """For every family at k: index, largest splitting eigenvalue, and shares of flows that leave it and that reach loss 0."""
    loss = orthonormal_teacher(k)
    share, left = np.zeros((2, len(FAMILIES), len(added)))
    splitting, index = np.zeros(len(FAMILIES)), np.zeros(len(FAMILIES), int)
    for i, name in enumerate(FAMILIES):
        member = family(name, k)
        net = ShallowReLU(jnp.asarray(member.weights), jnp.ones(k), train=("weights",))
        splitting[i], index[i] = split_test(loss, net).eigenvalues.max(), member.index
        for j, count in enumerate(added):
            key = jax.random.fold_in(jax.random.key(i), count)
            found = annihilation(loss, net, key, added=count, starts=starts)
            share[i, j], left[i, j] = found.share, np.mean(found.losses < 0.999 * member.loss)
    data = {"splitting": (["family"], splitting), "index": (["family"], index)}
    data |= {"share": (["family", "added"], share), "left": (["family", "added"], left)}
    return _dataset(data, {"family": list(FAMILIES), "added": added}).assign_attrs(k=k)


def _dataset(variables, coordinates):
    return extra("xarray", "io").Dataset(variables, coordinates)


STUDY = ArjevaniFieldAnnihilation()
