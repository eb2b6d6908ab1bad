"""What one would use instead of `flow_ensemble`; each returns the parameters at the end, (B, p)."""

import importlib.util

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

import relujax as rj


@eqx.filter_jit
def naive_diffrax(loss, nets, end_time, rtol, gradient_norm=None):
    """`jit(vmap(diffeqsolve))` with the gradient by automatic differentiation, and an event for the gradient norm."""
    event = None
    if gradient_norm is not None:
        event = diffrax.Event(diffrax.steady_state_event(rtol=0.0, atol=gradient_norm, norm=jnp.linalg.norm))

    def one(net):
        def field(t, vector, args):
            return -jax.grad(lambda v: loss(rj.unravel(net, v)))(vector)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, end_time, None, rj.ravel(net), event=event, max_steps=None,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-3 * rtol), throw=False,
        )  # fmt: skip
        return solution.ys[0], solution.stats["num_steps"]

    return jax.vmap(one)(jax.tree.map(jnp.asarray, nets))


def torch_field(loss, nets):
    """The analytic velocity of a batch in torch, for parameters in the order of `ravel`."""
    import torch

    inputs, targets = (torch.tensor(np.asarray(x)) for x in (loss.inputs, loss.targets))
    number, m, d = nets.weights.shape
    biased, n = nets.biases is not None, len(targets)

    def field(state):
        weights = state[:, : m * d].reshape(number, m, d)
        biases, amplitudes = state[:, m * d : -m], state[:, -m:]
        z = weights @ inputs.T
        if biased:
            z = z + biases[..., None]
        active = torch.relu(z)
        residual = (torch.bmm(amplitudes[:, None], active)[:, 0] - targets) / n
        pull = amplitudes[..., None] * (z > 0) * residual[:, None]
        parts = [(pull @ inputs).reshape(number, -1)]
        if biased:
            parts.append(pull.sum(-1))
        parts.append(torch.bmm(active, residual[..., None])[..., 0])
        return -torch.cat(parts, dim=1)

    return field


def torchode(loss, nets, end_time, rtol):
    """torchode's Tsit5, a step size a sample."""
    import torch
    import torchode as to

    torch.set_num_threads(1)
    field = torch_field(loss, nets)
    start = torch.tensor(np.asarray(rj.ravel(nets)))
    term = to.ODETerm(lambda t, state: field(state))
    solver = to.AutoDiffAdjoint(to.Tsit5(term), to.IntegralController(atol=1e-3 * rtol, rtol=rtol, term=term))
    times = torch.tensor([[0.0, end_time]], dtype=torch.float64).repeat(len(start), 1)
    with torch.no_grad():
        return solver.solve(to.InitialValueProblem(y0=start, t_eval=times)).ys[:, -1].numpy()


def torchdiffeq(loss, nets, end_time, rtol):
    """torchdiffeq's dopri5, one step size for all."""
    import torch
    import torchdiffeq as td

    torch.set_num_threads(1)
    field = torch_field(loss, nets)
    start = torch.tensor(np.asarray(rj.ravel(nets)))
    with torch.no_grad():
        times = torch.tensor([0.0, end_time], dtype=torch.float64)
        return td.odeint(lambda t, state: field(state), start, times, rtol=rtol, atol=1e-3 * rtol)[-1].numpy()


def scipy_one_by_one(loss, nets, end_time, rtol, method="RK45"):
    """`scipy.integrate.solve_ivp`, network by network, with a NumPy field."""
    inputs, targets = np.asarray(loss.inputs), np.asarray(loss.targets)
    m, d = nets.weights.shape[1:]
    biased, n = nets.biases is not None, len(targets)
    starts = np.asarray(rj.ravel(nets))

    def field(t, state):
        weights, amplitudes = state[: m * d].reshape(m, d), state[-m:]
        z = weights @ inputs.T
        if biased:
            z = z + state[m * d : -m, None]
        active = np.maximum(z, 0)
        residual = (amplitudes @ active - targets) / n
        pull = amplitudes[:, None] * (z > 0) * residual
        parts = [(pull @ inputs).ravel()] + ([pull.sum(axis=1)] if biased else []) + [active @ residual]
        return -np.concatenate(parts)

    ends = [
        scipy.integrate.solve_ivp(field, (0, end_time), start, method, rtol=rtol, atol=1e-3 * rtol).y[:, -1] for start in starts
    ]
    return np.stack(ends)


def is_there(package: str) -> bool:
    """Whether an optional rival is installed."""
    return importlib.util.find_spec(package) is not None
