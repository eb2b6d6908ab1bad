"""A strict session: x64 on, shapes checked where beartype is installed, compiled functions shared by all worker processes."""

import importlib.util
import os
import shutil
import tempfile

os.environ.setdefault("MPLBACKEND", "agg")
# threads that wait for each other are slower than one by orders of magnitude where other programs use the cores as well
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Most of the time goes into compilation: what one worker, or a program that a test starts, has compiled serves the others.
# The environment tells the others, the configuration this process, in which a plugin may have imported jax already.
_OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _OWN_CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="relujax-tests-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

if importlib.util.find_spec("beartype") is not None:
    from jaxtyping import install_import_hook

    install_import_hook("relujax", "beartype.beartype")

import pytest

if importlib.util.find_spec("hypothesis") is not None:
    import hypothesis

    hypothesis.settings.register_profile("relujax", deadline=None, derandomize=True, max_examples=25, print_blob=True)
    hypothesis.settings.load_profile("relujax")


@pytest.fixture(autouse=True, scope="module")
def _compiled_functions_are_dropped():
    """Linux lets a process hold 65530 memory maps, and every compiled function takes several: past that, it crashes."""
    yield
    jax.clear_caches()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """What `-n auto` means: a worker a core, and no more than eight, each of which holds about a gigabyte."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def pytest_unconfigure(config):
    """The process that made the cache of compiled functions removes it."""
    if _OWN_CACHE is not None:
        shutil.rmtree(_OWN_CACHE, ignore_errors=True)
