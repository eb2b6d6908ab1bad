"""The same Hessians in PyTorch, through torch.func and curvlinops; rivals that are not installed are left out."""

import importlib.util
from importlib.metadata import version

import numpy as np


def note() -> str:
    """What was compared with, in a sentence."""
    packages = {"torch": "torch", "curvlinops": "curvlinops-for-pytorch"}
    there = [f"{name} {version(package)}" for name, package in packages.items() if importlib.util.find_spec(name)]
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    return f"PyTorch on one thread: {', '.join(there) or 'none'}." + (f" Not installed: {', '.join(missing)}." if missing else "")


def dense(loss, net):
    """Calls that make the whole Hessian over (weights, amplitudes), by name."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    torch.set_num_threads(1)
    inputs, targets, weights, amplitudes = _tensors(loss, net)
    size = weights.numel()

    def value(vector):
        hidden = torch.relu(inputs @ vector[:size].reshape(weights.shape).T)
        return ((hidden @ vector[size:] - targets) ** 2).mean() / 2

    point = torch.cat([weights.reshape(-1), amplitudes])
    hessian = torch.func.hessian(value)
    rivals = {"torch.func.hessian": lambda: hessian(point)}
    if importlib.util.find_spec("curvlinops") is not None:
        operator = _operator(loss, net)
        identity = torch.eye(len(point), dtype=torch.float64)
        rivals["curvlinops"] = lambda: operator @ identity
    return rivals


def product(loss, net):
    """A call that multiplies a vector with curvlinops' operator, where it is installed."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("curvlinops") is None:
        return {}
    import torch

    torch.set_num_threads(1)
    operator = _operator(loss, net)
    vector = torch.ones(operator.shape[1], dtype=torch.float64)
    return {"curvlinops": lambda: operator @ vector}


def _operator(loss, net):
    import torch
    from curvlinops import HessianLinearOperator

    inputs, targets, weights, amplitudes = _tensors(loss, net)
    first = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False, dtype=torch.float64)
    last = torch.nn.Linear(weights.shape[0], 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        first.weight.copy_(weights)
        last.weight.copy_(amplitudes[None])
    model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    return HessianLinearOperator(
        model, torch.nn.MSELoss(), list(model.parameters()), [(inputs, targets[:, None])], check_deterministic=False
    )


def _tensors(loss, net):
    import torch

    return tuple(torch.tensor(np.array(x)) for x in (loss.inputs, loss.targets, net.weights, net.amplitudes))
