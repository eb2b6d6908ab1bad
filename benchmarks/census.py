"""A census end to end against plain batched gradient descent to the same gradient norm, compilation included."""

import time

import jax
import jax.numpy as jnp
import numpy as np

import relujax as rj
from relujax.critical import descend

from .common import table

LONGEST = 420.0  # seconds of gradient descent


def run(k: int = 20, number: int = 1000, target: float = 1e-12) -> str:
    """Wall seconds from random starts to gradient norm 1e-12 at k = 20, 1000 starts, and how many end points differ."""
    loss = rj.problems.orthonormal_teacher(k)
    nets = rj.initialise.xavier(jax.random.key(0), number=number, width=k, dim=k, amplitudes=1.0, train=("weights",))
    began = time.perf_counter()
    found = rj.census(loss, nets)
    ours = time.perf_counter() - began
    rows = [["relujax.census", f"{ours:.1f}", "1", str(int(np.sum(found["end_gradient_norm"] <= target)))]]
    # the step of Safran and Shamir 2018
    for step in (0.1,):
        began = time.perf_counter()
        norms = np.asarray(gradient_descent(loss, nets, step, target))
        seconds = time.perf_counter() - began
        rows.append(
            [
                f"gradient descent, step {step:g}",
                f"{seconds:.1f}",
                f"{seconds / ours:.1f}",
                str(int(np.sum(norms <= target))),
            ]
        )
    heading = ["method", "seconds", "times relujax", f"starts with gradient norm <= {target:g}"]
    notes = (
        f"{number} starts at k = {k}, one process, compilation included. Gradient descent runs the whole batch on all cores "
        f"until every start has arrived, {LONGEST:.0f} s are over or 200 000 steps are done. The census also names, "
        "certifies and counts the end points."
    )
    return table(f"Census at k = {k}", heading, rows, notes)


def gradient_descent(loss, nets, step, target, most=200_000):
    """Batched gradient descent with the analytic gradient, to a gradient norm; the plain loop of a script."""

    @jax.jit
    def chunk(weights):
        def gradient(w):
            return jax.vmap(lambda w, a: loss.gradient(rj.ShallowReLU(w, a, train=("weights",))).weights)(w, nets.amplitudes)

        weights = jax.lax.fori_loop(0, 1000, lambda _, w: w - step * gradient(w), weights)
        return weights, jnp.linalg.norm(gradient(weights).reshape(len(weights), -1), axis=1)

    weights = jnp.asarray(nets.weights)
    began = time.perf_counter()
    for _ in range(0, most, 1000):
        weights, norms = chunk(weights)
        if bool(jnp.all(norms <= target)) or time.perf_counter() - began > LONGEST:
            break
    return norms


def hand_over(k: int = 10, number: int = 1000) -> str:
    """How many end points change when the flow is followed at 1e-9 instead of 1e-3 before the hand-over to Newton."""
    loss = rj.problems.orthonormal_teacher(k)
    nets = rj.initialise.xavier(jax.random.key(1), number=number, width=k, dim=k, amplitudes=1.0, train=("weights",))
    loose = descend(loss, nets)
    tight = rj.flow_ensemble(loss, nets, gradient_norm=1e-5, rtol=1e-9, atol=1e-9)
    ends = rj.polish(loss, tight.networks)
    losses = [np.asarray(jax.vmap(loss)(n)) for n in (loose.networks, ends.networks)]
    differing = int(np.sum(np.abs(losses[0] - losses[1]) > 1e-9))
    return table(
        "Does following the flow loosely change where it ends?", ["k", "starts", "end points that differ"],
        [[str(k), str(number), str(differing)]], "Tolerance 1e-3 and hand-over to Newton against Tsit5 at 1e-9 down to 1e-5.",
    )  # fmt: skip
