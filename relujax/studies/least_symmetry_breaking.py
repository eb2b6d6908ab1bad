"""Arjevani and Field 2019: minima break the symmetry of the teacher as little as possible, beyond ReLU and Gaussian inputs.

Published setting: students learn as many teacher neurons; minima that training finds have large isotropy groups for ReLU and
standard Gaussian inputs, and experiments suggest the same for other input laws and smooth activations. Here: ReLU with a
rotated teacher, product Laplace, correlated Gaussian (equal correlations, condition number 10) and inputs uniform on a sphere;
softplus and erf with Gaussian inputs; k = 6 … 10, 200 starts N(0, 1/k). A group counts as large when one block has more than
half of the neurons. Expectations are exact (`other_laws`), for Laplace inputs given sampled vectors of variances, closed under
cyclic shifts; there, entries within 0.1 of each other count as equal.
"""

import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import plot
from .._extras import extra
from ..census import wilson_interval
from ..flow import Chebyshev, FlowStatus, flow_ensemble
from ..hessian import dense_eigenvalues
from ..network import ShallowReLU, take
from ..symmetry import isotropy
from .base import AbstractStudy, at_least, close, equal
from .other_laws import MixedGaussian, SmoothGaussian

SETTINGS = ("rotated teacher", "Laplace", "correlated Gaussian", "sphere", "softplus", "erf")
_CONDITION, _CHECKED = 10.0, 20_000


class LeastSymmetryBreaking(AbstractStudy):
    """Isotropy of the ends of gradient flow in six settings."""

    name = "least-symmetry-breaking"
    paper = "Arjevani and Field 2019 (arXiv 1912.11939)"
    about = "Ends of gradient flow keep large isotropy groups for other input laws and for smooth activations."
    cost = "about 15 minutes on two cores"
    quick = {"neurons": [8], "starts": 32, "variances": 8}
    full = {"neurons": [6, 7, 8, 9, 10], "starts": 200, "variances": 64}

    def measure(self, keep, *, neurons, starts, variances):
        for setting in SETTINGS:
            for k in neurons:
                keep(f"{setting.replace(' ', '-')}-k{k:02d}", _ends, setting, k, starts, variances)

    def claims(self, results):
        by_setting = {setting: [piece for piece in results.values() if piece.attrs["setting"] == setting] for setting in SETTINGS}
        out = []
        for setting, pieces in by_setting.items():
            kinds = [kind for piece in pieces for kind in _kinds(piece)]
            large, total = sum(kind != "small" for kind in kinds), len(kinds)
            low, high = wilson_interval(large, max(total, 1))
            name = f"{setting}: share of ends with a large isotropy group (95 %: {low:.3f} to {high:.3f})"
            out.append(at_least(name, large / max(total, 1), 0.9, "the principle of arXiv 1912.11939"))
            deviation = max(abs(float(piece.attrs["deviation"])) for piece in pieces)
            out.append(
                close(f"{setting}: loss minus a plain sum over inputs, in standard errors", deviation, 0.0, 4.5, "sampling")
            )
        index = sorted({int(index) for piece in results.values() for index in piece["index"].values})
        ended = np.mean(np.concatenate([piece["ended"].values for piece in results.values()]))
        return [
            *out,
            equal("indices of one end point of every loss", index, [0], "gradient flow ends at minima"),
            at_least("share of flows that ended", ended, 0.95, "gradient norm 1e-8"),
        ]

    def figures(self, results):
        fig, axes = plot.figure(12.0, 6.0, rows=2, columns=3)
        for ax, setting in zip(axes.ravel(), SETTINGS, strict=True):
            pieces = [piece for piece in results.values() if piece.attrs["setting"] == setting]
            ks = [str(piece.attrs["k"]) for piece in pieces]
            bottom = np.zeros(len(ks))
            kinds = ("S_k", "S_1 x S_{k−1}", "S_2 x S_{k−2}", "other large", "small")
            for kind, colour in zip(kinds, plot.COLOURS, strict=False):
                share = np.array([100 * np.mean([one == kind for one in _kinds(piece)]) for piece in pieces])
                ax.bar(ks, share, bottom=bottom, color=colour, label=kind)
                bottom += share
            ax.set(title=setting, ylim=(0, 100), xlabel="k")
        axes[0, 0].set_ylabel("percentage of ends")
        axes[1, 0].set_ylabel("percentage of ends")
        handles, kinds = axes[0, 0].get_legend_handles_labels()
        labels = [f"${kind}$".replace("−", "-").replace("x", r"\times") if kind.startswith("S_") else kind for kind in kinds]
        fig.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=len(kinds))
        return {"isotropy": fig}


def _ends(setting, k, starts, variances):
    """Losses and isotropies of the ends, the index at one end of every loss, and the loss held against a sum over inputs."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(zlib.crc32(setting.encode())), k), 4)
    loss = _loss(setting, k, keys[0], variances)
    weights = np.asarray(jax.random.normal(keys[1], (starts, k, k))) / np.sqrt(k)
    nets = ShallowReLU(weights, np.ones((starts, k)), train=("weights",))
    flow = flow_ensemble(loss, nets, gradient_norm=1e-8, solver=Chebyshev(), rtol=1e-3, atol=1e-3, max_steps=5000)
    ended = np.asarray(flow.status) == FlowStatus.CONVERGED
    tolerance = 0.1 if setting == "Laplace" else 1e-3
    inside = np.asarray(flow.networks.weights) @ np.linalg.inv(np.asarray(loss.teacher))
    groups = [isotropy(one, tolerance=tolerance).name if there else "" for one, there in zip(inside, ended, strict=True)]
    order = np.flatnonzero(ended)[np.argsort(flow.losses[ended], kind="stable")]
    first = order[np.concatenate([[True], np.diff(flow.losses[order]) > 1e-5])] if order.size else order
    index = [int(np.sum(dense_eigenvalues(loss, take(flow.networks, int(i))) < -1e-6)) for i in first[:12]]
    sample = np.asarray(loss.sampled(weights[0], keys[2], _CHECKED))
    deviation = (np.mean(sample) - float(loss(take(nets, 0)))) / (
        np.std(sample) / np.sqrt(_CHECKED) + _own_error(loss, weights[0], k)
    )
    data = {
        "isotropy": (["start"], np.array(groups, dtype=str)),
        "loss": (["start"], np.asarray(flow.losses)),
        "ended": (["start"], ended),
        "index": (["point"], np.array(index)),
    }
    return extra("xarray", "io").Dataset(data, attrs={"setting": setting, "k": k, "deviation": deviation})


def _loss(setting, k, key, variances):
    identity = np.eye(k)
    if setting in ("softplus", "erf"):
        return SmoothGaussian(identity, jax.nn.softplus if setting == "softplus" else jax.scipy.special.erf)
    if setting == "rotated teacher":
        return MixedGaussian(
            np.asarray(jax.random.orthogonal(key, k)), identity[None], lambda key, n: jax.random.normal(key, (n, k))
        )
    if setting == "sphere":
        # ReLU networks are homogeneous: on the sphere of radius √k the expectation is the Gaussian one
        def on_sphere(key, n):
            points = jax.random.normal(key, (n, k))
            return np.sqrt(k) * points / jnp.linalg.norm(points, axis=1, keepdims=True)

        return MixedGaussian(identity, identity[None], on_sphere)
    if setting == "correlated Gaussian":
        correlation = (_CONDITION - 1) / (_CONDITION - 1 + k)
        values, vectors = np.linalg.eigh((1 - correlation) * identity + correlation)
        root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
        return MixedGaussian(identity, root[None], lambda key, n: jax.random.normal(key, (n, k)) @ root)
    # a Laplace variable of variance 1 is normal with an exponential variance
    deviations = np.sqrt(np.asarray(jax.random.exponential(key, (variances, k))))
    shifted = np.concatenate([np.roll(deviations, shift, axis=1) for shift in range(k)])
    return MixedGaussian(identity, shifted, lambda key, n: jax.random.laplace(key, (n, k)) / np.sqrt(2))


def _own_error(loss, weights, k):
    """The standard error that a sampled set of variances, k shifts of each, has itself."""
    number = len(loss.maps) // k if isinstance(loss, MixedGaussian) else 0
    net = ShallowReLU(weights, np.ones(k), train=("weights",))
    each = [float(eqx.tree_at(lambda law: law.maps, loss, loss.maps[i::number])(net)) for i in range(number)]
    return np.std(each) / np.sqrt(number) if number else 0.0


def _kind(name):
    sizes = sorted((int(part[2:]) for part in name.split(" x ")), reverse=True)
    k = sum(sizes)
    named = {(k,): "S_k", (k - 1, 1): "S_1 x S_{k−1}", (k - 2, 2): "S_2 x S_{k−2}"}
    return named.get(tuple(sizes), "other large" if sizes[0] > k / 2 else "small")


def _kinds(piece):
    """The kind of isotropy of every flow that ended."""
    return [_kind(str(name)) for name in piece["isotropy"].values[piece["ended"].values]]


STUDY = LeastSymmetryBreaking()
