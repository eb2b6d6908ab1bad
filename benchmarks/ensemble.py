"""Gradient flows per second of `flow_ensemble` against `jit(vmap(diffeqsolve))`, by the number of networks."""

import diffrax
import jax
import jax.numpy as jnp

import relujax as rj

from .common import interleaved, milliseconds, ratio, table


def run(sizes=(64, 512), repeats: int = 3) -> str:
    """The census loss at k = 10 and W1 (20 orthogonal data, 50 neurons), to a fixed time, in float64."""
    rows = []
    for name, loss, make, end_time in problems():
        for number in sizes:
            nets = make(number)
            rivals = {
                "relujax": lambda loss=loss, nets=nets, t=end_time: (
                    rj.flow_ensemble(loss, nets, end_time=t, rtol=1e-4, atol=1e-7).losses
                ),
                "diffrax": lambda loss=loss, nets=nets, t=end_time: naive(loss, nets, t),
            }
            seconds = interleaved(rivals, repeats)
            rate = number / sorted(seconds["relujax"])[len(seconds["relujax"]) // 2]
            rows.append(
                [
                    name,
                    str(number),
                    *(milliseconds(seconds[r]) for r in rivals),
                    ratio(seconds["diffrax"], seconds["relujax"]),
                    f"{rate:.0f}",
                ]
            )
    heading = [
        "problem",
        "networks",
        "flow_ensemble, ms",
        "jit(vmap(diffeqsolve)), ms",
        "ratio (range)",
        "flows per second",
    ]
    return table("Ensembles of gradient flows", heading, rows, "Tsit5 at rtol 1e-4, kinks stepped over.")


def problems():
    k = 10

    def starts(number):
        return rj.initialise.xavier(jax.random.key(0), number=number, width=k, dim=k, amplitudes=1.0, train=("weights",))

    yield "population, k = 10, t = 50", rj.problems.orthonormal_teacher(k), starts, 50.0

    def small(number):
        return rj.initialise.balanced(jax.random.key(1), number=number, width=50, dim=20, scale=0.05)

    yield "W1, n = d = 20, m = 50, t = 60", rj.problems.orthogonal(jax.random.key(2), number=20, dim=20), small, 60.0


@jax.jit
def naive(loss, nets, end_time):
    """What a script does: diffrax under vmap, with the gradient by automatic differentiation."""

    def one(net):
        def field(t, vector, args):
            return -jax.grad(lambda v: loss(rj.unravel(net, v)))(vector)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, end_time, None, rj.ravel(net),
            stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-7), max_steps=100_000, throw=False,
        )  # fmt: skip
        return loss(rj.unravel(net, solution.ys[0]))

    return jax.vmap(one)(jax.tree.map(jnp.asarray, nets))
