"""What a flow refuses before it starts."""

import jax.numpy as jnp
import numpy as np

from ..network import ShallowReLU, number_of_parameters


def check_flow(net: ShallowReLU, *, stacked: bool, end_time, rtol, atol, max_steps, save_at):
    """Raise for what cannot be integrated; returns the save times as an array in the networks' precision."""
    shape = np.shape(net.weights)
    if stacked and (len(shape) != 3 or shape[0] == 0):
        raise ValueError(
            f"the weights have shape {shape}: a stack (B, m, d) with B at least 1 is needed; relujax.stack makes one."
        )
    if not stacked and len(shape) != 2:
        raise ValueError(f"the weights have shape {shape}: one network (m, d) is needed; flow_ensemble takes stacks.")
    if number_of_parameters(net) == 0:
        raise ValueError(f"train={net.train!r} leaves no parameter to move: name weights, biases or amplitudes.")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not 0 < tolerance < 1:
            raise ValueError(f"{name} is {tolerance}: give a number between 0 and 1.")
    if not np.all(np.asarray(end_time) > 0):
        raise ValueError(f"end_time is {end_time}: give positive times.")
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}: give at least 1.")
    if np.ndim(end_time) and np.shape(end_time) != shape[:1]:
        raise ValueError(f"end_time has shape {np.shape(end_time)}: give one time, or one a network, shape {shape[:1]}.")
    times = np.asarray([] if save_at is None else save_at, dtype=float)
    if times.ndim != 1 or np.any(np.diff(times) < 0) or np.any(times < 0) or not np.all(np.isfinite(times)):
        raise ValueError("save_at must be one row of finite, ascending times that are not negative.")
    return jnp.asarray(times, jnp.asarray(net.weights).dtype)


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
