"""Arjevani and Field 2020: Hessian spectra at global and spurious minima agree but for terms of order k^(−1/2).

Published setting: k students and k orthonormal teachers, Gaussian inputs, `½ E (Σ relu(w·x) − Σ relu(v·x))²`. As k grows, all but
Θ(k) of the k² eigenvalues tend to ¼ − 1/2π, ¼ and ¼ + 1/2π at minima of every family, and Θ(k) of them grow like k/4. Losses of
family II decay like 0.3/k; those of A do not. Here the series in h = k^(−1/2) are read off the spectra and held against their
derivation, and whole spectra against the eigenvalues of the k² x k² matrix.
"""

import math

import jax.numpy as jnp
import numpy as np

from .. import plot
from .._extras import extra
from ..hessian import dense_eigenvalues
from ..network import ShallowReLU
from ..problems import orthonormal_teacher
from ..symmetry import family
from ..theory import closed_eigenvalues
from .base import AbstractStudy, at_most, close

FAMILIES = ("global", "A", "II", "M")
_LOW, _MIDDLE, _HIGH, _PI = 0.25 - 1 / (2 * math.pi), 0.25, 0.25 + 1 / (2 * math.pi), math.pi
# family, component, which of its eigenvalues, and the terms 1, h, h² of its series; NaN where it is not claimed
SERIES = [
    ("A", "alt_0", 0, (_LOW, -1 / _PI, 1 / _PI)),
    ("A", "sym_0", 0, (_HIGH, -1 / _PI, 1 / _PI)),
    ("A", "std_0", 0, (_LOW, 0, 0)),
    ("A", "std_0", 1, (_MIDDLE, -2 / _PI, 2 / _PI + 3 / _PI**2)),
    ("II", "alt_1", 0, (_LOW, 0, -1 / _PI)),
    ("II", "sym_1", 0, (_HIGH, 0, -1 / _PI)),
    ("II", "std_1", 0, (_LOW, -1 / _PI**2, math.nan)),
    ("II", "std_1", 1, (_LOW, 0, 0)),
    ("II", "std_1", 2, (_MIDDLE, 0, -2 / _PI + 7 / _PI**2 - 8 / _PI**3)),
    ("II", "std_1", 3, (_HIGH, -1 / _PI**2, math.nan)),
    ("II", "triv", 0, (_LOW, 0, 2 / _PI - 4 / _PI**2)),
    ("II", "triv", 1, (_MIDDLE, -4 / _PI**2, math.nan)),
    ("M", "std_0", 0, (_LOW, -2 / _PI**2, math.nan)),
    ("M", "std_1", 0, (_LOW, -1 / _PI**2, math.nan)),
    ("M", "std_0xstd_1", 0, (_LOW, -1 / _PI**2, math.nan)),
]
_NODES = np.linspace(1 / 200, 1 / 30, 40)  # the k^(−1/2) that series are read from
_DEGREE = 9
_DERIVED = "derivation in k^(−1/2), cf. arXiv 2008.01805 and 2107.10370"


class ArjevaniFieldSpectra(AbstractStudy):
    """Spectra against k, their limits, and the dense matrix."""

    name = "arjevani-field-spectra"
    paper = "Arjevani and Field 2020 (arXiv 2008.01805), 2021 (arXiv 2107.10370)"
    about = "Hessian spectra at global and spurious minima differ from order k^(−1/2) on only."
    cost = "about 2 minutes on two cores"
    quick = {"dense": [6, 10, 14], "shown": 30}
    full = {"dense": [6, 10, 14, 20, 26, 30], "shown": 120}

    def measure(self, keep, *, dense, shown):
        for name in FAMILIES:
            keep(f"{name}-against-k", _spectra, name, np.unique(np.geomspace(9, 1e6, shown).round()))
            keep(f"{name}-series", _spectra, name, _NODES**-2)
        keep("dense", _against_dense, dense)

    def claims(self, results):
        out = [_of_series(results[f"{name}-series"], *rest) for name, *rest in SERIES]
        for name in ("global", "A", "II", "M"):
            out.append(_bulk(results[f"{name}-against-k"]))
        far = {name: results[f"{name}-against-k"].isel(k=-1) for name in FAMILIES}
        losses = {name: float(piece["loss"]) for name, piece in far.items()}
        least = results["global-against-k"]["eigenvalue"].min(["component", "copy"]).values
        dense = results["dense"]
        return [
            *out,
            close("k times the loss of II at k = 10⁶", 1e6 * losses["II"], 0.3, 0.05, "0.3/k, abstract of arXiv 2003.10576"),
            close("the same against its limit", 1e6 * losses["II"], 0.5 - 2 / _PI**2, 2e-4, _DERIVED),
            close("loss of A at k = 10⁶", losses["A"], 0.5 - 1 / _PI - 4 / (3 * _PI) * 1e-3, 1e-6, _DERIVED),
            close("smallest eigenvalue at global minima, farthest from 0.09084505690810", np.max(np.abs(least - 0.0908450569081)),
                  0.0, 1e-11, "data published with arXiv 2006.01005"),
            close("spectra by components minus dense ones, relative", float(dense["difference"].max()), 0.0, 1e-12,
                  "LAPACK on the k² x k² matrix"),
            close("closed forms minus spectra", float(dense["closed"].max()), 0.0, 1e-12, "theory.closed_eigenvalues"),
        ]  # fmt: skip

    def figures(self, results):
        fig, axes = plot.figure(12.0, 4.2, columns=len(FAMILIES))
        for ax, name in zip(axes, FAMILIES, strict=True):
            piece = results[f"{name}-against-k"]
            for i, component in enumerate(piece["component"].values):
                colour = plot.COLOURS[("tri", "std", "sym", "alt").index(str(component)[:3]) + 2 * ("x" in str(component))]
                lines = ax.plot(piece["k"], piece["eigenvalue"].values[:, i], color=colour, lw=1.2)
                lines[0].set_label(str(component))
            for limit in (_LOW, _MIDDLE, _HIGH):
                ax.axhline(limit, color="#999999", lw=0.8, ls=":")
            ax.set(xscale="log", ylim=(0, 0.6), xlabel="k", title=name)
            ax.legend(fontsize=7, loc="upper right")
        axes[0].set_ylabel("Hessian eigenvalue; dotted: ¼ − 1/2π, ¼, ¼ + 1/2π")
        return {"spectra": fig}


def _spectra(name, ks):
    """The eigenvalues by component at every k, in columns that are filled up with NaN."""
    xarray = extra("xarray", "io")
    members = [family(name, float(k)) for k in ks]
    components = [part.name for part in members[-1].spectrum]
    copies = max(len(part.eigenvalues) for part in members[-1].spectrum)
    values = np.full((len(ks), len(components), copies), np.nan)
    dimensions = np.zeros((len(ks), len(components)))
    for i, member in enumerate(members):
        for part in member.spectrum:
            j = components.index(part.name)
            values[i, j, : len(part.eigenvalues)], dimensions[i, j] = part.eigenvalues, part.dimension
    data = {
        "eigenvalue": (["k", "component", "copy"], values),
        "dimension": (["k", "component"], dimensions),
        "loss": (["k"], [member.loss for member in members]),
    }
    return xarray.Dataset(data, {"k": ks, "component": components}, attrs={"family": name})


def _against_dense(ks):
    xarray = extra("xarray", "io")
    differences, closed = np.zeros((len(ks), len(FAMILIES))), np.zeros((len(ks), len(FAMILIES)))
    for i, k in enumerate(ks):
        for j, name in enumerate(FAMILIES):
            member = family(name, k)
            net = ShallowReLU(jnp.asarray(member.weights), jnp.ones(k), train=("weights",))
            exact = dense_eigenvalues(orthonormal_teacher(k), net)
            mine = np.sort(np.concatenate([np.repeat(part.eigenvalues, round(part.dimension)) for part in member.spectrum]))
            differences[i, j] = np.max(np.abs(mine - exact)) / exact[-1]
            closed[i, j] = _closed_difference(member)
    data = {"difference": (["k", "family"], differences), "closed": (["k", "family"], closed)}
    return xarray.Dataset(data, {"k": ks, "family": list(FAMILIES)})


def _closed_difference(member):
    blocks = range(len(member.blocks))
    places = member.space.classes.places()[0]
    off = [[member.coordinates[places[a, b]] if places[a, b] >= 0 else 0.0 for b in blocks] for a in blocks]
    exact = closed_eigenvalues(member.blocks, member.coordinates[: len(off)].tolist(), off)
    return max(float(np.max(np.abs(part.eigenvalues - exact[part.name]))) for part in member.spectrum if part.name in exact)


def _of_series(piece, component, copy, terms):
    values = piece["eigenvalue"].sel(component=component).values[:, copy]
    h = piece["k"].values ** -0.5
    fitted = np.polynomial.polynomial.polyfit(h / h.max(), values, _DEGREE)[:3] / h.max() ** np.arange(3)
    known = [i for i, term in enumerate(terms) if not math.isnan(term)]
    name = f"{piece.attrs['family']}, eigenvalue {copy + 1} of {component}: terms of its series in k^(−1/2)"
    return close(name, fitted[known], np.array(terms)[known], 1e-4, _DERIVED)


def _bulk(piece):
    """How many eigenvalues are not near one of the three limits, a neuron."""
    last = piece.isel(k=-1)
    apart = np.min(np.abs(last["eigenvalue"].values[:, :, None] - np.array([_LOW, _MIDDLE, _HIGH])), axis=-1)
    others = np.sum((apart > 0.01) * last["dimension"].values[:, None])
    name = f"eigenvalues of {piece.attrs['family']} away from the three limits, divided by k, at k = 10⁶"
    return at_most(name, others / float(last["k"]), 3.0, "all but Θ(k), abstract of arXiv 2008.01805")


STUDY = ArjevaniFieldSpectra()
