"""A strict session: x64 on, promotion strict in shapes, four simulated devices, shapes checked where beartype is installed."""

import importlib.util
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("MPLBACKEND", "agg")
# threads that wait for each other are slower than one by orders of magnitude where other programs use the cores as well
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "allow")

if importlib.util.find_spec("beartype") is not None:
    from jaxtyping import install_import_hook

    install_import_hook("relujax", "beartype.beartype")

import hypothesis
import pytest

hypothesis.settings.register_profile("relujax", deadline=None, derandomize=True, max_examples=25, print_blob=True)
hypothesis.settings.load_profile("relujax")


@pytest.fixture
def key():
    """One explicit key; tests split it."""
    return jax.random.key(20)
