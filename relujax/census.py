"""Random initialisations to distinct, named critical points and their hit rates."""

import time
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

from ._extras import extra
from ._precision import require_x64
from .critical import EndPoints, PointStatus, classify, count_dead, descend, is_escaping, losses
from .critical.matching import Distinct, continuum_dimension, coordinates, distinct, has_interchangeable_teacher
from .flow import Chebyshev, FlowStatus, flow_ensemble
from .loss import AbstractLoss, EmpiricalLoss
from .network import RealArray, ShallowReLU, is_stacked, number_of_parameters, take
from .parallel import Progress
from .settle import settle
from .symmetry import identify

_CRITICAL = 1e-8
_ON_DATA: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4, "gradient_norm": 2e-3, "end_time": 100.0, "max_steps": 50_000}

_MEANINGS = {
    "name": "family of the point",
    "isotropy": "permutations of neurons and inputs together that leave the point unchanged",
    "status": "verdict on the point",
    "loss": "loss at the point",
    "gradient_norm": "Euclidean norm of the gradient over the trained parameters",
    "count": "number of starts that end at the point",
    "rate_low": "lower end of the 95 % Wilson interval of the hit rate",
    "rate_high": "upper end of the 95 % Wilson interval of the hit rate",
    "weights": "hidden weights of the point",
    "amplitudes": "output weights of the point",
    "biases": "hidden biases of the point",
    "eigenvalues": "Hessian eigenvalues over the trained parameters, ascending; NaN where the point is not critical",
    "min_eigenvalue": "smallest Hessian eigenvalue",
    "max_eigenvalue": "largest Hessian eigenvalue",
    "index": "number of negative Hessian eigenvalues; -1 where the point is not critical",
    "nullity": "number of Hessian eigenvalues that are zero to rounding; -1 where the point is not critical",
    "dead": "number of neurons that never fire",
    "continuum": "dimension of the continuum of minima of one function that the point lies on; -1 where it is no minimum",
    "point_of_start": "point that the start ends at; -1 where it reached none",
    "end_loss": "loss at the end of the start",
    "end_gradient_norm": "gradient norm at the end of the start",
    "flow_status": "why the flow stopped",
    "flow_time": "gradient flow time at which the flow stopped",
    "steps": "number of steps of the integration",
    "distance": "Euclidean distance that the polish moved the end of the flow",
    "loss_history": "loss along the flow",
    "time": "gradient flow time",
}


def census(
    loss: AbstractLoss,
    nets: ShallowReLU,
    *,
    progress: Progress | None = None,
    history: Float[RealArray, " s"] | None = None,
    **flow_options: Any,
):
    """Follow every network of a stack to where its gradient flow ends, and count the distinct end points.

    **Arguments:**

    - `nets`: a stack of B starts.
    - `progress`: called as `progress(finished, total)`.
    - `history`: ascending flow times at which the losses are recorded as well; on a population loss those of the first 64
      starts, which are followed a second time for it, more closely.
    - `flow_options`: passed to `flow_ensemble` on an empirical loss (there by default `rtol = atol = 1e-4`,
      `gradient_norm = 2e-3`, `end_time = 100`, `max_steps = 50000`).

    **Returns:** an `xarray.Dataset`, with dimensions `start` and `point`. Points are sorted by loss and carry `name`,
    `isotropy`, `status`, `loss`, `gradient_norm`, `index`, `nullity`, `min_eigenvalue`, `max_eigenvalue`, `count`,
    `rate_low` and `rate_high` (the 95 % Wilson interval of the hit rate), `dead`, `continuum`, the network itself and its
    `eigenvalues`. Where no start is resolved there are no points. Starts carry `point_of_start` (-1 where unresolved),
    `flow_status`, `flow_time`, `steps`, `distance`, `end_loss` and `end_gradient_norm`.

    On a population loss the flow is followed as loosely as leaves its end unchanged and is handed to Newton's method
    (`critical.descend`); points are distinct up to permutations of neurons and, for an orthonormal teacher, of teacher
    neurons, and up to how parallel neurons of one sign share their length: a continuum of minima is one point for every
    function. That is exact for up to 12 neurons and inputs; beyond, the number of points is an upper bound, and the attribute
    `points` says so. A start counts as resolved when it ends at a critical point, to a gradient norm of 1e-13.

    On an empirical loss the flow steps over kinks and stops as `flow_options` say. Parameters of its minima form continua, so
    end points are distinct by what they fit: outputs on the data that differ by more than 1 % of the targets' root mean
    square. Ends are polished where that is cheap and keeps them in place, then grouped, then counted: a start counts for a
    point when its own end, as the flow left it or after its own polish, fits the same, and is unresolved otherwise.

    **Raises:** `ValueError` in single precision or for an unstacked network; `ImportError` without xarray.

    ```python
    >>> import jax, relujax as rj
    >>> loss = rj.problems.orthonormal_teacher(3)
    >>> nets = rj.initialise.xavier(jax.random.key(0), number=8, width=3, dim=3, amplitudes=1.0, train=("weights",))
    >>> found = rj.census(loss, nets)
    >>> found["name"].values.tolist(), found["count"].values.tolist()
    (['global'], [8])

    ```
    """
    require_x64("census", nets)
    xarray = extra("xarray", "io")
    if not is_stacked(nets):
        raise ValueError(f"the weights have shape {nets.weights.shape}: a stack of starts (B, m, d) is needed.")
    began = time.perf_counter()
    if isinstance(loss, EmpiricalLoss):
        ends, past = _follow(loss, nets, progress, history, flow_options)
        values = losses(loss, ends.networks)
        settled = settle(loss, ends, values)
        points, norms, groups = settled.points, settled.gradient_norms, settled.groups
        ends = ends._replace(distance=settled.distances)
    else:
        if flow_options:
            raise ValueError(f"{next(iter(flow_options))} is an option of the flow on an empirical loss: leave it out here.")
        ends = descend(loss, nets, progress=progress)
        values = losses(loss, ends.networks)
        groups = _distinct_resolved(loss, ends, values)
        points, norms = take(ends.networks, groups.representative), ends.gradient_norm[groups.representative]
        past = None if history is None else _loss_history(loss, nets, history)
    variables = _points(loss, points, norms, groups) | _starts(ends, groups, values)
    if past is not None:
        variables["loss_history"] = (["start", "time"], past)
    attributes = {
        "seconds": time.perf_counter() - began,
        "train": ",".join(nets.train),
        "points": "exact" if groups.is_exact else "upper bound",
    }
    dataset = xarray.Dataset(variables, attrs=attributes)
    numbers = {name: np.arange(size) for name, size in dataset.sizes.items()}
    dataset = dataset.assign_coords(numbers if past is None else numbers | {"time": np.asarray(history)})
    for name, meaning in _MEANINGS.items():
        if name in dataset:
            dataset[name].attrs["description"] = meaning
    return dataset


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate."""
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _distinct_resolved(loss, ends, losses):
    resolved = np.flatnonzero(ends.resolved)
    found = distinct(loss, take(ends.networks, resolved), losses[resolved])
    label = np.full(len(losses), -1)
    label[resolved] = found.label
    return Distinct(label, resolved[found.representative], found.is_exact)


def _follow(loss, nets, progress, history, options):
    """The flow over data, each network to its own stop, and the losses on the way."""
    flow = flow_ensemble(loss, nets, progress=progress, save_at=history, **(_ON_DATA | options))
    status = np.asarray(flow.status)
    ends = EndPoints(
        networks=flow.networks,
        resolved=(status == FlowStatus.CONVERGED) | (status == FlowStatus.END_TIME),
        flow_status=status,
        time=np.asarray(flow.times),
        steps=np.asarray(flow.stats["steps"]),
        distance=np.zeros(len(status)),
        gradient_norm=np.asarray(flow.gradient_norms),
    )
    return ends, None if history is None else np.asarray(flow.observed["loss"])


def _points(loss, points, norms, groups):
    number = len(groups.representative)
    names, isotropies = _names(loss, points, number)
    counts = np.bincount(groups.label[groups.label >= 0], minlength=number)
    rates = np.array([wilson_interval(int(count), len(groups.label)) for count in counts]).reshape(-1, 2)
    verdict = _verdicts(loss, points, norms)
    words = [PointStatus(status).words for status in verdict["status"]]
    variables = {
        "name": (["point"], np.array(names, dtype=str)),
        "isotropy": (["point"], np.array(isotropies, dtype=str)),
        "status": (["point"], np.array(words, dtype=str)),
        "gradient_norm": (["point"], norms),
        "count": (["point"], counts),
        "rate_low": (["point"], rates[:, 0]),
        "rate_high": (["point"], rates[:, 1]),
        "weights": (["point", "neuron", "input"], np.asarray(points.weights)),
        "amplitudes": (["point", "neuron"], np.asarray(points.amplitudes)),
        "eigenvalues": (["point", "rank"], verdict.pop("eigenvalues")),
    }
    if points.biases is not None:
        variables["biases"] = (["point", "neuron"], np.asarray(points.biases))
    for name in ("loss", "index", "nullity", "min_eigenvalue", "max_eigenvalue", "dead", "continuum"):
        variables[name] = (["point"], verdict[name])
    return variables


def _names(loss, points, number):
    """Family names and isotropies; both only for at least as many students as interchangeable teachers, one an input."""
    if isinstance(loss, EmpiricalLoss) or number == 0:
        return ["unnamed"] * number, [""] * number
    inside = coordinates(loss, points)
    k = loss.teacher.width
    comparable = has_interchangeable_teacher(loss) and points.width >= k and np.all(np.abs(inside[:, :, k:]) < 1e-9)
    names, isotropies = [], []
    for value, matrix in zip(losses(loss, points), inside, strict=True):
        if comparable:
            name, found = identify(matrix[:, :k], float(value))
            names.append(name)
            # more students than teachers have continua of global minima, of all isotropies
            said = found.residual < 1e-5 and (name != "global" or points.width == k)
            isotropies.append(found.name if said else "")
        else:
            names.append("global" if value <= 1e-14 * k else "unnamed")
            isotropies.append("")
    return names, isotropies


def _verdicts(loss, points, norms):
    """The verdict of every point; eigenvalues only at critical points, NaN and -1 elsewhere."""
    number, p = len(norms), number_of_parameters(points)
    out: dict[str, np.ndarray] = {
        "loss": losses(loss, points),
        "status": np.full(number, int(PointStatus.NOT_CRITICAL)),
        "index": np.full(number, -1),
        "nullity": np.full(number, -1),
        "dead": np.zeros(number, int),
        "continuum": np.full(number, -1),
        "min_eigenvalue": np.full(number, np.nan),
        "max_eigenvalue": np.full(number, np.nan),
        "eigenvalues": np.full((number, p), np.nan),
    }
    for i in range(number):
        net = take(points, i)
        out["dead"][i] = count_dead(loss, net)
        if norms[i] <= _CRITICAL:
            verdict = classify(loss, net, gradient_tolerance=_CRITICAL)
            for name in out.keys() - {"continuum"}:
                out[name][i] = getattr(verdict, name)
            if verdict.status in (PointStatus.MINIMUM, PointStatus.KINK_MINIMUM):
                # on data the null directions of a minimum keep what it fits
                flat = isinstance(loss, EmpiricalLoss)
                out["continuum"][i] = verdict.nullity if flat else continuum_dimension(net)
        elif is_escaping(loss, net):
            out["status"][i] = int(PointStatus.ESCAPING)
    return out


def _starts(ends, groups, losses):
    words = [FlowStatus(status).words for status in ends.flow_status]
    return {
        "point_of_start": (["start"], groups.label),
        "end_loss": (["start"], losses),
        "end_gradient_norm": (["start"], np.asarray(ends.gradient_norm)),
        "flow_status": (["start"], np.array(words, dtype=str)),
        "flow_time": (["start"], np.asarray(ends.time)),
        "steps": (["start"], np.asarray(ends.steps)),
        "distance": (["start"], np.asarray(ends.distance)),
    }


def _loss_history(loss, nets, times):
    """Losses of the first 64 starts at the given times on a smooth loss; NaN for the others."""
    some = min(len(nets.weights), 64)
    # a Chebyshev method takes the slow approach in long steps
    flow = flow_ensemble(
        loss, take(nets, slice(0, some)), save_at=times, end_time=float(times[-1]), gradient_norm=0.0,
        solver=Chebyshev(), rtol=1e-3, atol=1e-3, max_steps=20_000,
    )  # fmt: skip
    out = np.full((len(nets.weights), len(times)), np.nan)
    out[:some] = flow.observed["loss"]
    return out
