"""Tian 2017: one student neuron learns one teacher neuron under Gaussian inputs. The study to copy for a new one.

With `L = ½ E (relu(w·x) − relu(w*·x))²` the flow is `−dw/dt = ½(w − w*) + (θ w* − (|w*|/|w|) sin θ w)/2π`, θ the angle
between w and w*. The paper's theorem 3.1 has `|w − w*|` fall along the flow from every start with `|w − w*| < |w*|`. At w* the
Hessian is `I/2`, so the distance falls at last like `exp(−t/2)`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .. import plot
from .._extras import extra
from ..flow import flow_ensemble
from ..network import ShallowReLU
from ..problems import teacher
from .base import AbstractStudy, at_most, close

_TIMES = np.linspace(0.0, 30.0, 61)


class Tian2017(AbstractStudy):
    """One neuron: recovery of the teacher, and at which rate."""

    name = "tian-2017"
    paper = "Tian 2017 (arXiv 1703.00560)"
    about = "One neuron under Gaussian inputs recovers its teacher from the ball around it."
    cost = "about 10 seconds"
    quick = {"starts": 64, "dim": 5}
    full = {"starts": 2000, "dim": 50}

    def measure(self, keep, *, starts, dim):
        keep("flow", _flow, starts, dim)

    def claims(self, results):
        distance = results["flow"]["distance"].values
        slopes = np.diff(np.log(distance), axis=1)[:, 30:] / np.diff(_TIMES)[30:]
        return [
            close("largest distance to the teacher at time 30", distance[:, -1].max(), 0.0, 1e-5, "theorem 3.1"),
            at_most("largest rise of a distance between two times", np.diff(distance, axis=1).max(), 0.0, "theorem 3.1"),
            close("mean rate of the last approach", slopes.mean(), -0.5, 1e-3, "the Hessian at the teacher is I/2"),
        ]

    def figures(self, results):
        distance = results["flow"]["distance"].values
        fig, ax = plot.figure()
        ax.plot(_TIMES, distance[:100].T, color="#0072B2", lw=0.7, alpha=0.5)
        ax.plot(_TIMES, distance[:, 0].max() * np.exp(-_TIMES / 2), "--", color="black", label="slope −1/2")
        ax.set(yscale="log", xlabel="gradient flow time", ylabel="|w − w*|", title="One neuron approaches its teacher")
        ax.legend()
        return {"distance": fig}


def _flow(starts, dim):
    """Distances to the teacher along the flow, from starts uniform in the ball around it."""
    xarray = extra("xarray", "io")
    direction_key, radius_key = jax.random.split(jax.random.key(0))
    target = jnp.eye(dim)[0]
    directions = jax.random.normal(direction_key, (starts, dim))
    radii = jax.random.uniform(radius_key, (starts, 1)) ** (1 / dim)
    offsets = radii * directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    nets = ShallowReLU((target + offsets)[:, None, :], jnp.ones((starts, 1)), train=("weights",))
    loss = teacher(target[None], jnp.ones(1))

    def distance(net):
        return jnp.linalg.norm(net.weights[0] - target)

    end = flow_ensemble(loss, nets, end_time=_TIMES[-1], save_at=_TIMES, observe=(distance,), rtol=1e-8, atol=1e-8)
    return xarray.Dataset({"distance": (["start", "time"], end.observed["distance"])}, {"time": _TIMES})


STUDY = Tian2017()
