"""Closed-form Hessians against `jax.hessian`, and eigenvalues against `jnp.linalg.eigvalsh`."""

import jax
import jax.numpy as jnp
import numpy as np

import relujax as rj

from .common import interleaved, milliseconds, ratio, table

SIZES = ((10, 4, 100), (10, 4, 1000), (40, 4, 100), (40, 4, 1000), (100, 9, 100))


def run(repeats: int = 7) -> str:
    """Dense empirical and population Hessians, and eigenvalue solvers, one network at a time, in float64."""
    return "\n".join((empirical(repeats), population(repeats), solvers(repeats), reductions()))


def empirical(repeats):
    rows = []
    for m, d, n in SIZES:
        r = np.random.default_rng(0)
        loss = rj.EmpiricalLoss(jnp.array(r.standard_normal((n, d))), jnp.array(r.standard_normal(n)))
        net = rj.ShallowReLU(jnp.array(r.standard_normal((m, d))), jnp.array(r.standard_normal(m)))
        seconds = interleaved(both_modes(loss, net), repeats)
        rows.append(
            [
                str(m * (d + 1)),
                str(n),
                *(milliseconds(seconds[x]) for x in ("ad", "auto")),
                ratio(seconds["ad"], seconds["auto"]),
            ]
        )
    return table("Empirical Hessian", ["p", "n", "jax.hessian, ms", "relujax, ms", "ratio (range)"], rows)


def population(repeats):
    rows = []
    for k in (6, 10, 16, 20):
        loss = rj.problems.orthonormal_teacher(k)
        weights = jnp.eye(k) + 0.1 * jax.random.normal(jax.random.key(0), (k, k))
        seconds = interleaved(both_modes(loss, rj.ShallowReLU(weights, jnp.ones(k), train=("weights",))), repeats)
        rows.append([str(k), *(milliseconds(seconds[x]) for x in ("ad", "auto")), ratio(seconds["ad"], seconds["auto"])])
    return table("Population Hessian", ["k", "jax.hessian, ms", "relujax, ms", "ratio (range)"], rows)


def reductions(repeats=3):
    rows = []
    for m, d, n in ((100, 24, 200), (500, 199, 500), (500, 1999, 500)):
        r = np.random.default_rng(0)
        loss = rj.EmpiricalLoss(jnp.array(r.standard_normal((n, d))), jnp.array(r.standard_normal(n)))
        net = rj.ShallowReLU(jnp.array(r.standard_normal((m, d))), jnp.array(r.standard_normal(m)))
        p, size = m * (d + 1), n + 2 * m
        small = jax.jit(lambda net, loss=loss: rj.hessian.reduced_eigenvalues(loss, net))
        rivals = {"reduced": lambda f=small, net=net: f(net)}
        if p <= 5000:
            dense = jax.jit(lambda net, loss=loss: rj.hessian.hessian(loss, net))
            rivals["dense"] = lambda f=dense, net=net: rj.hessian.eigenvalues(f(net))
        seconds = interleaved(rivals, repeats)
        if "dense" in seconds:
            compared = [milliseconds(seconds["dense"]), ratio(seconds["dense"], seconds["reduced"])]
        else:
            compared = ["not run", ""]
        rows.append([str(p), str(size), milliseconds(seconds["reduced"]), *compared])
    return table("The whole spectrum from the reduced matrix", ["p", "n + 2m", "reduced, ms", "dense, ms", "ratio (range)"], rows)


def solvers(repeats):
    rows = []
    theirs = jax.jit(jnp.linalg.eigvalsh)
    for p in (50, 200, 500):
        r = np.random.default_rng(0)
        matrix = r.standard_normal((p, p))
        matrix = jnp.array(matrix + matrix.T)
        seconds = interleaved({"jax": lambda a=matrix: theirs(a), "relujax": lambda a=matrix: rj.hessian.eigenvalues(a)}, repeats)
        rows.append([str(p), *(milliseconds(seconds[x]) for x in ("jax", "relujax")), ratio(seconds["jax"], seconds["relujax"])])
    return table("Eigenvalues", ["p", "jnp.linalg.eigvalsh, ms", "relujax, ms", "ratio (range)"], rows)


def both_modes(loss, net):
    modes = {mode: jax.jit(lambda n, mode=mode: rj.hessian.hessian(loss, n, mode)) for mode in ("ad", "auto")}
    return {mode: (lambda f=function: f(net)) for mode, function in modes.items()}
