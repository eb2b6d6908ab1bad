"""What a flow refuses before it starts."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..network import RealArray, ShallowReLU, number_of_parameters
from ..numbers import is_traced
from ..parallel import OUTSIDE

Number = float | Float[RealArray, ""]
Times = Float[RealArray, " s"] | Sequence[float]


def check_flow(net: ShallowReLU, *, stacked: bool, end_time, rtol, atol, max_steps, save_at, loss=None):
    """Raise for what cannot be integrated; returns the save times as an array in the networks' precision.

    Numbers that are traced in a caller's `jax.jit` are not looked at (`traced_times` does, when the program runs). An
    ensemble is driven from the host and refuses them, in its `loss` as well.
    """
    if isinstance(net, list | tuple):
        raise ValueError(f"the networks come in a {type(net).__name__}: relujax.stack makes a stack of them.")
    shape = np.shape(net.weights)
    if stacked and len(shape) != 3:
        raise ValueError(f"the weights have shape {shape}: a stack (B, m, d) is needed; relujax.stack makes one.")
    if not stacked and len(shape) != 2:
        raise ValueError(f"the weights have shape {shape}: one network (m, d) is needed; flow_ensemble takes stacks.")
    if number_of_parameters(net) == 0:
        raise ValueError(f"train={net.train!r} leaves no parameter to move: name weights, biases or amplitudes.")
    # inside of jax.jit everything new is traced, whether or not what was given is
    if stacked and is_traced(jnp.zeros(()), loss, net, end_time, rtol, atol, max_steps, save_at):
        raise ValueError(OUTSIDE)
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not is_traced(tolerance) and not 0 < tolerance < 1:
            raise ValueError(f"{name} is {tolerance}: give a number between 0 and 1.")
    if not is_traced(end_time) and not np.all(np.asarray(end_time) > 0):
        raise ValueError(f"end_time is {end_time}: give positive times.")
    if is_traced(max_steps) or max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}: give at least 1, and a number that is known outside of jax.jit.")
    if np.ndim(end_time) and np.shape(end_time) != shape[:1]:
        raise ValueError(f"end_time has shape {np.shape(end_time)}: give one time, or one a network, shape {shape[:1]}.")
    dtype = jnp.asarray(net.weights).dtype
    if is_traced(save_at) and jnp.ndim(save_at) == 1:
        return jnp.asarray(save_at, dtype)
    times = np.asarray([] if save_at is None else save_at, dtype=float)
    if times.ndim != 1 or np.any(np.diff(times) < 0) or np.any(times < 0) or not np.all(np.isfinite(times)):
        raise ValueError("save_at must be one row of finite, ascending times that are not negative.")
    return jnp.asarray(times, dtype)


def traced_times(end_time, times):
    """End and save times, and whether they are in range; where they are traced and are not, the end is the start."""
    if not is_traced(end_time, times):
        return end_time, times, True
    end_time = jnp.asarray(end_time, times.dtype)
    right = (end_time > 0) & jnp.isfinite(end_time)
    if times.size:
        right = right & jnp.all(jnp.diff(times) >= 0) & (times[0] >= 0) & (times[-1] <= end_time)
    return jnp.where(right, end_time, 0.0), jnp.where(right, times, 0.0), right


def check_stops(*, end_time, gradient_norm, loss_levels, block):
    """Raise for stops and levels of an ensemble that mean nothing."""
    if gradient_norm is not None and not 0 <= gradient_norm < np.inf:
        raise ValueError(f"gradient_norm is {gradient_norm}: give a finite number that is not negative.")
    if gradient_norm == 0 and not np.all(np.isfinite(end_time)):
        raise ValueError(f"gradient_norm is 0 and end_time {end_time}: without an end a flow needs one that it can reach.")
    if loss_levels is not None and (np.ndim(loss_levels) != 1 or not np.all(np.isfinite(loss_levels))):
        raise ValueError("loss_levels must be one row of finite numbers.")
    if block is not None and block < 1:
        raise ValueError(f"block is {block}: give at least 1.")
