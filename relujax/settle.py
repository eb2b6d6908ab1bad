"""Ends of flows over data: polished, then grouped by what they fit, then counted."""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from .critical import EndPoints, PolishStatus, losses, polish
from .critical.descend import put
from .critical.matching import Distinct
from .loss import EmpiricalLoss
from .network import RealArray, ShallowReLU, number_of_parameters, ravel, take

_PARAMETERS, _POINTS = 500, 32  # the largest networks to be polished, and how many of them; more of smaller ones
_SHORT = 0.1  # that a polish may move a network, relative to its size
_CRITICAL = 1e-8


class Settled(NamedTuple):
    """Points, their gradient norms, which start ends at which, and the distance that its polish moved each start."""

    points: ShallowReLU
    gradient_norms: Float[np.ndarray, " s"]
    groups: Distinct
    distances: Float[np.ndarray, " B"]


def settle(loss: EmpiricalLoss, ends: EndPoints, values: Float[np.ndarray, " B"]) -> Settled:
    """The distinct points that flows end at, by their outputs on the data, within 1 % of the targets' root mean square.

    One end of every rough group is polished, where that is cheap and keeps it in place, and what then fits the same is one
    point. A start ends at a point that its own end fits; starts that fit none are polished themselves, and stand for points of
    their own where that succeeds. What is then left is unresolved, as are flows that gave up.
    """
    width = 0.01 * np.sqrt(np.mean(np.asarray(loss.targets) ** 2)) + 1e-12
    arrived = np.flatnonzero(ends.resolved & np.isfinite(values))
    plain = _outputs(loss, ends.networks)
    chosen, rough = _leaders(plain, arrived[np.argsort(values[arrived], kind="stable")], width)
    size = np.bincount(rough[arrived], minlength=len(chosen))
    budget = _budget(ends.networks)
    now = _polished(loss, ends, chosen[np.argsort(-size, kind="stable")][:budget])[0]
    found = _group(loss, now, chosen, arrived, plain, width)
    strays = np.flatnonzero(ends.resolved & np.isfinite(values) & (found.label < 0))[: budget - min(len(chosen), budget)]
    if len(strays):
        now, also = _polished(loss, now, strays)
        chosen = np.concatenate([chosen, also])
        found = _group(loss, now, chosen, arrived, plain, width)
    distances = np.linalg.norm(np.asarray(ravel(now.networks)) - np.asarray(ravel(ends.networks)), axis=1)
    which = found.representative
    return Settled(take(now.networks, which), now.gradient_norm[which], found, np.where(np.isfinite(distances), distances, 0.0))


def _budget(nets):
    parameters = number_of_parameters(nets)
    return int(_POINTS * (_PARAMETERS / max(parameters, 1)) ** 3) if parameters <= _PARAMETERS else 0


def _polished(loss, ends, which):
    """The ends with some of them moved to the critical point beside them if there is one, and which these are."""
    if len(which) == 0:
        return ends, which
    before = take(ends.networks, which)
    polished = polish(loss, before)
    short = np.asarray(polished.distances) <= _SHORT * np.linalg.norm(np.asarray(ravel(before)), axis=1)
    good = np.flatnonzero((np.asarray(polished.status) == PolishStatus.CONVERGED) & short)
    norms = ends.gradient_norm.copy()
    norms[which[good]] = np.asarray(polished.gradient_norms)[good]
    networks = put(ends.networks, which[good], take(polished.networks, good))
    return ends._replace(networks=networks, gradient_norm=norms), which[good]


def _group(loss, now, chosen, arrived, plain, width):
    """Points among the chosen ends, critical ones before others, in the order of their losses, and who ends where."""
    fits, values = _outputs(loss, now.networks), losses(loss, now.networks)
    order = chosen[np.lexsort((values[chosen], now.gradient_norm[chosen] > _CRITICAL))]
    points, _ = _leaders(fits, order, width)
    points = points[np.argsort(values[points], kind="stable")]
    label = np.full(len(fits), -1)
    for i in arrived:
        for own in (plain[i], fits[i]):
            gaps = _gaps(fits[points], own)
            if np.min(gaps) <= width:
                label[i] = int(np.argmin(gaps))
                break
    # a point that stood in for starts that end elsewhere after all is none
    kept = np.unique(label[label >= 0])
    numbers = np.full(len(points) + 1, -1)
    numbers[kept] = np.arange(len(kept))
    return Distinct(numbers[label], points[kept])


def _leaders(fits: Float[np.ndarray, "B n"], order: Int[np.ndarray, " s"], width: float):
    """Of the fits in this order those that are farther than `width` from all before, and the number of the nearest of them."""
    leaders: list[int] = []
    label = np.full(len(fits), -1)
    for i in map(int, order):
        gaps = _gaps(fits[leaders], fits[i]) if leaders else np.array([np.inf])
        label[i] = int(np.argmin(gaps)) if np.min(gaps) <= width else len(leaders)
        if label[i] == len(leaders):
            leaders.append(i)
    return np.array(leaders, int), label


def _gaps(fits, own):
    return np.sqrt(np.mean((fits - own) ** 2, axis=1))


def _outputs(loss, nets):
    return np.asarray(_outputs_of(loss, nets))


@eqx.filter_jit
def _outputs_of(loss: EmpiricalLoss, nets: ShallowReLU) -> Float[Array | RealArray, "B n"]:
    return jax.vmap(loss.outputs)(nets)
