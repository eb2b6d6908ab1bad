"""Hessians and spectra beside what one would use instead: `jax.hessian`, `jnp.linalg.eigvalsh`, torch.func and curvlinops.

Times are processor seconds of the process. For one core: `OPENBLAS_NUM_THREADS=1 taskset -c 0 python -m benchmarks hessian`.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import relujax as rj
from relujax.fixed_space import FixedSpace
from relujax.hessian.pairs import slice_length

from . import torch_hessians
from .common import interleaved, milliseconds, ratio, table

SIZES = ((10, 4, 100), (10, 4, 1000), (40, 4, 100), (40, 4, 1000), (100, 9, 100), (100, 9, 1000))


def run(repeats: int = 7) -> str:
    """All tables, in float64."""
    parts = (empirical, memory, batched, population, solvers, spectra_per_second, reductions, symmetries, matrix_free)
    return "\n".join(part(repeats) for part in parts)


def timed(rivals, repeats):
    return interleaved(rivals, repeats, clock=time.process_time, settle=True)


def problem(m, d, n, batch=()):
    r = np.random.default_rng(0)
    loss = rj.EmpiricalLoss(jnp.array(r.standard_normal((n, d))), jnp.array(r.standard_normal(n)))
    weights = r.standard_normal((*batch, m, d)) / np.sqrt(d)
    return loss, rj.ShallowReLU(jnp.array(weights), jnp.array(r.standard_normal((*batch, m)) / np.sqrt(m)))


def modes(loss, net, *names):
    compiled = {name: jax.jit(lambda n, name=name: rj.hessian.hessian(loss, n, name)) for name in names}
    return {name: (lambda f=function: f(net)) for name, function in compiled.items()}


def empirical(repeats):
    rows = []
    for m, d, n in SIZES:
        loss, net = problem(m, d, n)
        rivals = modes(loss, net, "ad", "auto") | torch_hessians.dense(loss, net)
        seconds = timed(rivals, repeats if m * n < 10**5 else 3)
        others = [compared(seconds, name, "auto") for name in ("ad", "torch.func.hessian", "curvlinops")]
        rows.append([str(m * (d + 1)), str(n), milliseconds(seconds["auto"]), *(cell for pair in others for cell in pair)])
    heading = ["p", "n", "relujax, ms"]
    heading += [
        cell for name in ("jax.hessian", "torch.func.hessian", "curvlinops @ I") for cell in (f"{name}, ms", "ratio (range)")
    ]
    return table("Empirical Hessian", heading, rows, torch_hessians.note())


def compared(seconds, name, ours):
    if name not in seconds:
        return "not run", ""
    return milliseconds(seconds[name]), ratio(seconds[name], seconds[ours])


def memory(_):
    """Temporaries that XLA plans, without a run."""
    rows = []
    for m, d, n in ((100, 9, 1000), (400, 9, 1000), (400, 9, 100)):
        loss, net = problem(m, d, n)
        p, q = m * (d + 1), d
        plans = [
            jax.jit(lambda x, mode=mode, loss=loss: rj.hessian.hessian(loss, x, mode)).lower(net).compile().memory_analysis()
            for mode in ("ad", "auto")
        ]
        pairs = m * (m + 1) // 2 + q * (q + 1) // 2
        bound = 4 * 8 * p**2 + 8 * slice_length(pairs) * pairs
        rows.append([str(p), str(n), *(f"{plan.temp_size_in_bytes / 1e6:.0f}" for plan in plans), f"{bound / 1e6:.0f}"])
    return table("Temporary memory", ["p", "n", "jax.hessian, MB", "relujax, MB", "4 matrices and a slice of pairs, MB"], rows)


def batched(repeats):
    rows = []
    for m, d, n, batch in ((10, 4, 100, 512), (10, 4, 1000, 128), (40, 4, 100, 64)):
        loss, nets = problem(m, d, n, (batch,))
        theirs = jax.jit(jax.vmap(lambda net, loss=loss: rj.hessian.hessian(loss, net, "ad")))
        ours = jax.jit(lambda nets, loss=loss: rj.hessian.hessian(loss, nets))
        both = jax.jit(lambda nets, f=theirs: jnp.linalg.eigvalsh(f(nets)))
        seconds = timed(
            {
                "vmap": lambda f=theirs, nets=nets: f(nets),
                "ours": lambda f=ours, nets=nets: f(nets),
                "vmap and eigvalsh": lambda f=both, nets=nets: f(nets),
                "spectra": lambda loss=loss, nets=nets: rj.hessian.dense_eigenvalues(loss, nets),
            },
            min(repeats, 5),
        )
        cells = [milliseconds(np.array(seconds[name]) / batch) for name in ("vmap", "ours", "vmap and eigvalsh", "spectra")]
        first, second = ratio(seconds["vmap"], seconds["ours"]), ratio(seconds["vmap and eigvalsh"], seconds["spectra"])
        rows.append([str(m * (d + 1)), str(n), str(batch), *cells[:2], first, *cells[2:], second])
    heading = ["p", "n", "networks", "vmap(jax.hessian), ms each", "relujax", "ratio (range)"]
    heading += ["with jnp.linalg.eigvalsh", "relujax spectra", "ratio (range)"]
    return table("Stacks of networks", heading, rows)


def population(repeats):
    rows = []
    for k in (6, 10, 16, 20):
        loss = rj.problems.orthonormal_teacher(k)
        weights = jnp.eye(k) + 0.1 * jax.random.normal(jax.random.key(0), (k, k))
        seconds = timed(modes(loss, rj.ShallowReLU(weights, jnp.ones(k), train=("weights",)), "ad", "auto"), repeats)
        rows.append([str(k), *(milliseconds(seconds[x]) for x in ("ad", "auto")), ratio(seconds["ad"], seconds["auto"])])
    return table("Population Hessian", ["k", "jax.hessian, ms", "relujax, ms", "ratio (range)"], rows)


def solvers(repeats):
    rows = []
    theirs = jax.jit(jnp.linalg.eigvalsh)
    for batch, p in ((200, 50), (20, 200), (1, 200), (1, 500), (1, 1000)):
        matrices = np.random.default_rng(0).standard_normal((batch, p, p))
        matrices = jnp.array(matrices + np.swapaxes(matrices, 1, 2))
        rivals = {"jax": lambda a=matrices: theirs(a), "relujax": lambda a=matrices: rj.hessian.eigenvalues(a)}
        seconds = timed(rivals, repeats)
        each = [milliseconds(np.array(seconds[x]) / batch) for x in ("jax", "relujax")]
        rows.append([str(p), str(batch), *each, ratio(seconds["jax"], seconds["relujax"])])
    return table("Eigenvalues", ["p", "matrices", "jnp.linalg.eigvalsh, ms each", "relujax", "ratio (range)"], rows)


def spectra_per_second(repeats):
    """The table for an accelerator; on a CPU the same, for one core."""
    rows = []
    for m, d, batch in ((6, 4, 4096), (8, 3, 4096), (3, 10, 4096), (2, 16, 4096), (10, 9, 1024), (20, 14, 256), (40, 24, 32)):
        loss, nets = problem(m, d, 200, (batch,))
        seconds = interleaved({"spectra": lambda loss=loss, nets=nets: rj.hessian.dense_eigenvalues(loss, nets)}, min(repeats, 3))
        rows.append([str(m * (d + 1)), str(batch), f"{batch / min(seconds['spectra']):.3g}"])
    return table("Spectra of stacks, wall time", ["p", "networks", "spectra per second"], rows)


def reductions(_):
    rows = []
    for m, d, n in ((100, 24, 200), (500, 199, 500), (500, 1999, 500)):
        loss, net = problem(m, d, n)
        p, size = m * (d + 1), n + 2 * m
        rivals = {"reduced": lambda loss=loss, net=net: rj.hessian.reduced_eigenvalues(loss, net)}
        if p <= 5000:
            rivals["dense"] = lambda loss=loss, net=net: rj.hessian.dense_eigenvalues(loss, net)
        seconds = timed(rivals, 3)
        rows.append([str(p), str(size), milliseconds(seconds["reduced"]), *compared(seconds, "dense", "reduced")])
    return table("The whole spectrum from the reduced matrix", ["p", "n + 2m", "reduced, ms", "dense, ms", "ratio (range)"], rows)


def symmetries(repeats):
    rows = []
    for blocks, k in (
        ((1, 9), 10),
        ((1, 9), 32),
        ((1, 9), 40),
        ((1, 9), 10**4),
        ((1, 9), 10**6),
        ((4, 6), 32),
        ((4, 6), 40),
        ((4, 6), 10**4),
    ):
        space, sizes = FixedSpace(blocks), (blocks[0], k - blocks[0])
        point = np.full(space.dimension, 1.5 / k)
        point[:2], point[-1] = (-0.9, 1.0), -0.2 / k
        rivals = {"symmetric": lambda s=space, x=point, sizes=sizes: rj.hessian.symmetric_spectrum(s, x, sizes)}
        off = ""
        if k <= 40:
            loss = rj.problems.orthonormal_teacher(k)
            net = rj.ShallowReLU(FixedSpace(sizes).embed(point), jnp.ones(k), train=("weights",))
            rivals["dense"] = lambda loss=loss, net=net: rj.hessian.dense_eigenvalues(loss, net)
            parts = rivals["symmetric"]()
            values = np.sort(np.concatenate([np.repeat(p.eigenvalues, round(p.dimension)) for p in parts]))
            exact = rivals["dense"]()
            off = f"{np.max(np.abs(values - exact)) / np.max(exact):.0e}"
        seconds = timed(rivals, repeats)
        name = f"S_{sizes[0]} x S_{sizes[1]}"
        rows.append([name, milliseconds(seconds["symmetric"]), *compared(seconds, "dense", "symmetric"), off])
    heading = ["isotropy", "symmetric, ms", "dense, ms", "ratio (range)", "largest difference / λ max"]
    return table("Spectra at symmetric points", heading, rows)


def matrix_free(repeats):
    rows = []
    for m, d in ((400, 24), (1000, 99)):
        loss, net = problem(m, d, 1000)
        vector = jnp.ones(m * (d + 1))
        gradient = jax.grad(lambda v, loss=loss, net=net: loss(rj.unravel(net, v)))
        linearized = jax.jit(jax.linearize(gradient, rj.ravel(net))[1])
        ours = jax.jit(rj.hessian.linear_operator(loss, net))
        rivals = {"ours": lambda f=ours, v=vector: f(v), "jax.linearize": lambda f=linearized, v=vector: f(v)}
        seconds = timed(rivals | torch_hessians.product(loss, net), repeats)
        others = [compared(seconds, name, "ours") for name in ("jax.linearize", "curvlinops")]
        rows.append([str(m * (d + 1)), milliseconds(seconds["ours"]), *(cell for pair in others for cell in pair)])
    heading = ["p", "relujax, ms", "jax.linearize of jax.grad, ms", "ratio (range)", "curvlinops, ms", "ratio (range)"]
    products = table("A product with the Hessian, n = 1000", heading, rows)
    return products + "\n" + quadrature()


def quadrature():
    loss, net = problem(500, 199, 500)
    p, exact = 100_000, rj.hessian.reduced_eigenvalues(*problem(500, 199, 500))
    rows = []
    for seed in range(3):
        found = rj.hessian.density(loss, net, key=jax.random.key(seed))
        ends = [abs(found.nodes[i] / exact[i] - 1) for i in (0, -1)]
        mass = found.mass(high=-1e-3) / (np.sum(exact < -1e-3) / p) - 1
        rows.append(
            [
                str(seed),
                *(f"{x:.0e}" for x in ends),
                f"{100 * mass:+.1f} %",
                f"{100 * (found.trace_estimate / found.trace - 1):+.0f} %",
            ]
        )
    heading = ["key", "smallest, relative error", "largest", "negative mass", "trace before calibration"]
    return table("Spectral density, p = 100 000, 8 probes of depth 60", heading, rows)
