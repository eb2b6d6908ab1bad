"""`flow_ensemble` beside everything one would use instead: the same problems, to the same measured error, in one process.

Times are those of the processor, a network: other programs do not change them, and a rival that uses two cores pays for two.
"""

import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

import jax
import numpy as np

import relujax as rj

from . import rivals, workloads
from .common import interleaved, ratio, table

_FINAL = 60.0


def run() -> str:
    """All tables of the engine."""
    parts = [to_the_end(), to_a_time(), tiny_starts(), sliding(), large(), roofline(), scaling(), memory()]
    return "\n".join(parts)


def to_the_end(number: int = 64, repeats: int = 3) -> str:
    """W1 to a gradient norm of 1e-8."""
    loss, nets = workloads.orthogonal(number)
    exact = _ends(rj.flow_ensemble(loss, nets, rtol=1e-12, atol=1e-12, gradient_norm=1e-12))
    rows = []
    for rtol in (1e-6, 1e-8):
        runs = {
            "locate": partial(relujax_ends, loss, nets, rtol, gradient_norm=1e-8, kinks="locate"),
            "step": partial(relujax_ends, loss, nets, rtol, gradient_norm=1e-8, kinks="step"),
        }
        # its gradient norm does not come below 1e-7 at rtol 1e-6
        norm = 1e-8 if rtol < 1e-7 else 2e-6
        runs["jit(vmap(diffeqsolve))"] = lambda rtol=rtol, norm=norm: rivals.naive_diffrax(loss, nets, 1e4, rtol, norm)[0]
        rows += _compared(f"{rtol:g}", runs, exact, repeats)
    notes = (
        "W1: 20 orthogonal data, 50 neurons of scale 1e-3, float64, to |∇L| < 1e-8 (`jit(vmap(diffeqsolve))` at rtol 1e-6 to "
        "2e-6, below which it does not come). CPU milliseconds a network; errors in any parameter relative to the largest."
    )
    return table("W1 to the end of the flow", _HEADING, rows, notes)


def to_a_time(number: int = 8, repeats: int = 3) -> str:
    """W1 to time 60, where torch and SciPy can take part."""
    loss, nets = workloads.orthogonal(number)
    exact = _ends(rj.flow_ensemble(loss, nets, rtol=1e-12, atol=1e-12, end_time=_FINAL))
    rows = []
    for rtol in (1e-6, 1e-8):
        runs = {
            "locate": partial(relujax_ends, loss, nets, rtol, end_time=_FINAL, kinks="locate"),
            "step": partial(relujax_ends, loss, nets, rtol, end_time=_FINAL, kinks="step"),
            "jit(vmap(diffeqsolve))": lambda rtol=rtol: rivals.naive_diffrax(loss, nets, _FINAL, rtol)[0],
        }
        for name, rival in (("torchode", rivals.torchode), ("torchdiffeq", rivals.torchdiffeq)):
            if rivals.is_there(name):
                runs[name] = partial(rival, loss, nets, _FINAL, rtol)
            else:
                rows.append([f"{rtol:g}", name, "not installed", "", ""])
        for method in ("RK45", "DOP853"):
            runs[f"scipy {method}"] = partial(rivals.scipy_one_by_one, loss, nets, _FINAL, rtol, method)
        rows += _compared(f"{rtol:g}", runs, exact, repeats)
    return table("W1 to time 60", _HEADING, rows, "torch on one thread; SciPy network by network with a NumPy field.")


def tiny_starts(number: int = 64, repeats: int = 3) -> str:
    """W1 from ever smaller scales, by `locate`."""
    cases = [(1e-3, 1e-8), (1e-5, 1e-8), (1e-5, 3e-7), (1e-5, 1e-6), (1e-12, 1e-8), (1e-50, 1e-8)]
    runs, errors = {}, {}
    for case in cases:
        scale, rtol = case
        loss, nets = workloads.orthogonal(number, scale=scale)
        exact = _ends(rj.flow_ensemble(loss, nets, rtol=1e-12, atol=1e-12, gradient_norm=1e-12))
        runs[case] = partial(relujax_ends, loss, nets, rtol, gradient_norm=1e-8, kinks="locate")
        errors[case] = _error(runs[case](), exact)
    seconds = interleaved(runs, repeats, clock=time.process_time)
    rows = []
    for case, times in seconds.items():
        scale, rtol = case
        row = [f"{scale:g}", f"{rtol:g}", _per_network(times, number), ratio(seconds[cases[0]], times), f"{errors[case]:.0e}"]
        rows.append(row)
    heading = ["λ", "rtol", "CPU ms", "λ = 1e-3 over it (range)", "largest error"]
    return table("W1 from small scales", heading, rows, "`locate` to |∇L| < 1e-8, with the early phase in closed form.")


def sliding(number: int = 8, repeats: int = 3) -> str:
    """W3 to time 10 and to its end."""
    loss, nets = workloads.univariate(number)
    exact = rj.flow_ensemble(loss, nets, rtol=1e-12, atol=1e-12, end_time=10.0)
    runs = {
        "locate to t = 10": lambda: rj.flow_ensemble(loss, nets, rtol=1e-8, atol=1e-11, end_time=10.0, kinks="locate"),
        "locate to gradient norm 1e-8": lambda: rj.flow_ensemble(
            loss, nets, rtol=1e-8, atol=1e-11, gradient_norm=1e-8, kinks="locate"
        ),
    }
    seconds = interleaved({name: _only_networks(run) for name, run in runs.items()}, repeats, clock=time.process_time)
    rows = []
    for name, run in runs.items():
        done = run()
        error = f"{_error(_ends(done), _ends(exact)):.0e}" if "t = 10" in name else ""
        words = {rj.FlowStatus(int(s)).words for s in done.status}
        evaluations, slides = (f"{int(np.median(done.stats[key]))}" for key in ("field_evaluations", "slides"))
        rows.append([name, _per_network(seconds[name], number), evaluations, slides, ", ".join(sorted(words)), error])
    few = rj.take(nets, slice(0, 2))
    for rtol in (1e-6, 1e-7):
        name = f"jit(vmap(diffeqsolve)), rtol {rtol:g}, to t = 10"
        times = interleaved({name: partial(rivals.naive_diffrax, loss, few, 10.0, rtol)}, 1, clock=time.process_time)
        ends, steps = rivals.naive_diffrax(loss, few, 10.0, rtol)
        error = f"{_error(np.asarray(ends), _ends(exact)[:2]):.0e}"
        rows.append([name, _per_network(times[name], 2), f"{6 * int(np.median(steps))}", "", "", error])
    longer = ratio(seconds["locate to gradient norm 1e-8"], seconds["locate to t = 10"])
    notes = f"W3: 15 points of one variable, 200 neurons with biases. The end costs {longer} times as much as t = 10."
    return table("W3, with sliding", ["flow", "CPU ms", "evaluations", "slides", "ended as", "largest error"], rows, notes)


def large(number: int = 2, repeats: int = 3) -> str:
    """W4 to time 1, kinks stepped over."""
    loss, nets = workloads.regression(number)
    exact = _ends(rj.flow_ensemble(loss, nets, rtol=1e-8, atol=1e-11, end_time=1.0, kinks="step"))
    runs = {
        "step": partial(relujax_ends, loss, nets, 1e-4, end_time=1.0, kinks="step"),
        "jit(vmap(diffeqsolve))": lambda: rivals.naive_diffrax(loss, nets, 1.0, 1e-4)[0],
        "scipy RK45": partial(rivals.scipy_one_by_one, loss, nets, 1.0, 1e-4),
    }
    rows = _compared("0.0001", runs, exact, repeats)
    return table("W4 to time 1", _HEADING, rows, "1000 data in 50 dimensions, 500 neurons with biases.")


def roofline() -> str:
    """How much of a core's rate of matrix products the field and a step reach."""
    peak = _gemm_rate()
    rows = []
    for name, make, number in (("W1", workloads.orthogonal, 256), ("W4", workloads.regression, 4)):
        loss, nets = make(number)
        n, m = len(loss.targets), nets.width
        flops = n * m * (4 * (nets.dim + (nets.biases is not None)) + 8)
        seconds = _field_seconds(loss, nets)
        rows.append(
            [f"{name} field", f"{1e6 * seconds:.3g}", f"{flops / seconds / 1e9:.3g}", f"{100 * flops / seconds / peak:.0f} %"]
        )
        if name == "W1":
            seconds = _step_seconds(loss, nets)
            rate = 6 * flops / seconds
            rows.append([f"{name} step of Tsit5", f"{1e6 * seconds:.3g}", f"{rate / 1e9:.3g}", f"{100 * rate / peak:.0f} %"])
    notes = f"One core, float64; two 512 × 512 matrices multiply at {peak / 1e9:.3g} GF/s. Flops of the field: n m (4 q + 8)."
    return table("Roofline", ["what", "µs", "GF/s", "of the matrix product"], rows, notes)


def scaling(number: int = 512, repeats: int = 3) -> str:
    """Two cores against one, each in a process that has no others."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return table("Cores", ["cores"], [["one core only"]])
    seconds = {"1": [], "2": []}
    for _ in range(repeats):
        for name, taken in seconds.items():
            taken.append(_seconds_on(cores[: int(name)], number))
    clock = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [[name, f"{taken:.3g}", f"{number / taken:.3g}"] for name, taken in clock.items()]
    gain = ratio(seconds["1"], seconds["2"])
    notes = f"{number} networks of W1 by `locate` at rtol 1e-8, by the clock: two cores are {gain} times one."
    return table("Cores", ["cores", "seconds", "networks a second"], rows, notes)


_ON_CORES = """
import os
os.sched_setaffinity(0, {cores})
import jax, time
jax.config.update("jax_enable_x64", True)
from benchmarks import engine, workloads
loss, nets = workloads.orthogonal({number})
run = lambda: engine.relujax_ends(loss, nets, 1e-8, gradient_norm=1e-8, kinks="locate")
run()
began = time.perf_counter()
run()
print(time.perf_counter() - began)
"""


def _seconds_on(cores, number):
    """Wall seconds of a second call in a process that was given these cores before it began."""
    script = _ON_CORES.format(cores=set(cores), number=number)
    return float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


def memory() -> str:
    """The largest memory of this process after 4096 flows of W1 to the end, and after 10⁵ to a short time, to disk."""
    rows = [["before", f"{_memory():.2f}", ""]]
    loss, nets = workloads.orthogonal(4096)
    began = time.perf_counter()
    done = rj.flow_ensemble(loss, nets, rtol=1e-8, atol=1e-11, gradient_norm=1e-8, kinks="locate")
    seconds = time.perf_counter() - began
    settled = int(np.sum(done.status == rj.FlowStatus.CONVERGED))
    rows.append([f"4096 flows to gradient norm 1e-8 ({settled} converged)", f"{_memory():.2f}", f"{seconds:.0f}"])
    del done
    draw = partial(rj.initialise.balanced, jax.random.key(0), width=50, dim=20, scale=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        rj.flow_stream(
            loss, draw, number=100_000, out=f"{folder}/run", batch=4096, keep_networks=False,
            rtol=1e-4, atol=1e-4, end_time=1.0, kinks="step",
        )  # fmt: skip
        seconds = time.perf_counter() - began
    rows.append(["100 000 flows to t = 1, streamed to disk", f"{_memory():.2f}", f"{seconds:.0f}"])
    notes = "A network at a time on a core: no lane waits for another, and no step is wasted."
    return table("Memory", ["after", "largest memory of the process so far, GB", "seconds"], rows, notes)


_HEADING = ["rtol", "method", "CPU ms a network", "over the first (range)", "largest error"]


def _compared(label, runs, exact, repeats):
    seconds = interleaved(runs, repeats, clock=time.process_time)
    first = next(iter(runs))
    number = len(exact)
    return [
        [label, name, _per_network(times, number), ratio(times, seconds[first]), f"{_error(np.asarray(runs[name]()), exact):.0e}"]
        for name, times in seconds.items()
    ]


def relujax_ends(loss, nets, rtol, **options):
    """The parameters at the end of every flow."""
    return _ends(rj.flow_ensemble(loss, nets, rtol=rtol, atol=1e-3 * rtol, **options))


def _only_networks(run):
    return lambda: _ends(run())


def _ends(flow):
    return np.asarray(rj.ravel(flow.networks))


def _error(found, exact):
    return float(np.max(np.max(np.abs(found - exact), axis=1) / np.max(np.abs(exact), axis=1)))


def _per_network(times, number):
    return f"{1e3 * statistics.median(times) / number:.3g}"


def _best(call, repeats=5):
    call()
    best = math.inf
    for _ in range(repeats):
        began = time.process_time()
        jax.block_until_ready(call())
        best = min(best, time.process_time() - began)
    return best


def _gemm_rate(size: int = 512):
    matrix = np.random.default_rng(0).standard_normal((size, size))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:1])
    try:
        return max(2 * size**3 / _best(lambda: matrix @ matrix, 20) for _ in range(3))
    finally:
        os.sched_setaffinity(0, cores)


def _field_seconds(loss, nets, evaluations: int = 200):
    """One evaluation of ∇L: many in a row for each network, as a flow makes them."""

    @jax.jit
    def many(nets):
        def one(net):
            def move(_, vector):
                return vector - 1e-9 * rj.ravel(loss.gradient(rj.unravel(net, vector)))

            return jax.lax.fori_loop(0, evaluations, move, rj.ravel(net))

        return jax.lax.map(one, nets)

    return _best(lambda: many(nets)) / (evaluations * nets.weights.shape[0])


def _step_seconds(loss, nets):
    """One step of the ensemble that steps over kinks, everything included."""
    nets = rj.take(nets, slice(0, 64))

    def flow():
        return rj.flow_ensemble(loss, nets, rtol=1e-8, atol=1e-11, end_time=20.0, kinks="step", block=1)

    steps = int(np.sum(flow().stats["steps"]))
    return _best(lambda: flow().losses, 3) / steps


def _memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
