"""Families of critical points by name, and the published table of spurious minima from its random starts."""

import tempfile
import time

import jax
import jax.numpy as jnp

import relujax as rj
from relujax import studies
from relujax.hessian import dense_eigenvalues

from .common import interleaved, table


def run() -> str:
    """Milliseconds for loss and coordinates of a member and for its spectrum, at few and at many neurons."""
    rows = []
    for name, k in (("A", 10), ("II", 10), ("II", 100), ("M", 100), ("II", 10_000), ("II", 1_000_000), ("II+", 100)):
        times = interleaved(
            {"member": lambda name=name, k=k: rj.symmetry.family(name, k), "spectrum": lambda name=name, k=k: _spectrum(name, k)},
            200, clock=time.process_time,
        )  # fmt: skip
        best = {what: 1e3 * min(seconds) for what, seconds in times.items()}
        rows.append([name, f"{k:,}", f"{best['member']:.2f}", f"{best['spectrum']:.2f}", _dense(name, k)])
    notes = "Processor time after compilation, best of 200; the spectrum includes the member."
    heading = ["family", "k", "member, ms", "and its whole spectrum, ms", "dense eigenvalues, ms"]
    return table("Families of critical points", heading, rows, notes)


def published_table() -> str:
    """Seconds from 1000 random starts for each of k = 6 … 20 to named, certified minima: the study of Safran and Shamir."""
    began, processor = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        report = studies.run("safran-shamir-2018", out=f"{folder}/run")
    rows = [[
        "15 000", f"{time.perf_counter() - began:.0f}", f"{time.process_time() - processor:.0f}",
        f"{sum(claim.passed for claim in report.claims)} of {len(report.claims)}",
    ]]  # fmt: skip
    heading = ["starts", "seconds", "processor seconds", "claims that hold"]
    return table("The table of Safran and Shamir 2018", heading, rows, "One process, compilation and figures included.")


def _spectrum(name, k):
    return rj.symmetry.family(name, k).spectrum


def _dense(name, k):
    if k > 30:
        return ""
    member = rj.symmetry.family(name, k)
    loss = rj.problems.orthonormal_teacher(k)
    net = rj.ShallowReLU(jnp.asarray(member.weights), jnp.ones(k), train=("weights",))
    times = interleaved({"dense": lambda: jax.block_until_ready(dense_eigenvalues(loss, net))}, 20, clock=time.process_time)
    return f"{1e3 * min(times['dense']):.2f}"
