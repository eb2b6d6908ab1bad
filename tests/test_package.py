"""The package as a whole: docstrings that run, imports that point down, single precision, a bare install."""

import ast
import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import relujax

ROOT = Path(relujax.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "relujax.") if not m.name.endswith(("__main__", ".cli")))

# what each room may import of the others, in the order of the house; a room may use any room to its left
FLOORS = [
    ["_extras", "_precision", "_status", "numbers", "permutations"],
    ["compilation", "parallel"],
    ["network"],
    ["arccos", "orthant", "initialise"],
    ["biased_arccos", "reduced_loss", "theory"],
    ["loss", "fixed_space"],
    ["problems", "datasets"],
    ["points"],
    ["flow", "hessian"],
    ["critical"],
    ["symmetry"],
    ["settle"],
    ["census"],
    ["report", "runs", "plot"],
    ["plot_dynamics", "stream"],
    ["studies"],
    ["cli"],
    ["__main__"],
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs={"jnp": jax.numpy}, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_imports_point_down():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        room = parts[0]
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level == 0:
                continue
            base = parts[: len(parts) - node.level]
            names = [*base, *(node.module or "").split(".")] if node.module else list(base)
            targets = [names[0]] if names and names[0] else [alias.name for alias in node.names]
            for target in targets:
                if target in floor and target != room:
                    assert floor[target] < floor[room], f"{path} imports {target}"


def test_import_changes_no_global_state():
    script = "import jax; before = jax.config.values.copy(); import relujax; assert jax.config.values == before"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, env={**os.environ, "JAX_ENABLE_X64": "0"})


def test_the_core_imports_without_the_extras():
    blocked = ("xarray", "zarr", "matplotlib", "typer", "rich", "sklearn", "matfree", "beartype", "pandas")
    script = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "import relujax as rj\n"
        "loss = rj.problems.orthonormal_teacher(3)\n"
        "nets = rj.initialise.xavier(jax.random.key(0), number=2, width=3, dim=3, amplitudes=1.0, train=('weights',))\n"
        "ends = rj.polish(loss, rj.flow_ensemble(loss, nets, gradient_norm=1e-3, rtol=1e-4, atol=1e-4).networks)\n"
        "rj.classify(loss, ends.networks)\n"
        "try: rj.census(loss, nets)\n"
        "except ImportError as error: assert 'relujax[io]' in str(error)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_single_precision_explores_and_is_refused_where_it_cannot_serve():
    script = (
        "import jax, jax.numpy as jnp, relujax as rj\n"
        "loss = rj.problems.orthonormal_teacher(3)\n"
        "nets = rj.initialise.xavier(jax.random.key(0), number=2, width=3, dim=3, amplitudes=1.0, train=('weights',))\n"
        "ends = rj.flow_ensemble(loss, nets, gradient_norm=1e-2, rtol=1e-3, atol=1e-3)\n"
        "assert ends.losses.dtype == 'float32' and all(s == rj.FlowStatus.CONVERGED for s in ends.status)\n"
        "for f in (rj.polish, rj.classify, rj.census, rj.hessian.spectrum, rj.hessian.inertia):\n"
        "    try: f(loss, nets)\n"
        "    except ValueError as error: assert 'jax_enable_x64' in str(error), error\n"
        "    else: raise AssertionError(f)\n"
    )
    environment = {**os.environ, "JAX_ENABLE_X64": "0"}
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, env=environment)
