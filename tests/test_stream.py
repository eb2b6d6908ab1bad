"""Ensembles written batch by batch: the same ends as all at once, and a run that was interrupted goes on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("xarray")
pytest.importorskip("zarr")

import relujax as rj

LOSS = rj.EmpiricalLoss(jnp.eye(2), jnp.array([1.0, -1.0]))
DRAW = functools.partial(rj.initialise.balanced, jax.random.key(0), width=4, dim=2)
OPTIONS = {"end_time": 1.0, "rtol": 1e-4, "atol": 1e-4}


def test_a_stream_has_the_ends_of_the_ensemble(tmp_path):
    run = rj.flow_stream(LOSS, DRAW, number=10, out=tmp_path / "run", batch=4, **OPTIONS)
    parts = [part for _, part in rj.runs.iterate_run(run)]
    whole = rj.flow_ensemble(LOSS, DRAW(number=10), **OPTIONS)
    assert [part.sizes["start"] for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part["start"] for part in parts]), np.arange(10))
    np.testing.assert_array_equal(np.concatenate([part["end_loss"] for part in parts]), whole.losses)
    np.testing.assert_array_equal(np.concatenate([part["weights"] for part in parts]), whole.networks.weights)


def test_an_interrupted_stream_goes_on_where_it_stopped(tmp_path):
    drawn = []

    def stops(first, number):
        drawn.append(first)
        if first == 8:
            raise KeyboardInterrupt
        return DRAW(first=first, number=number)

    def counts(first, number):
        drawn.append(first)
        return DRAW(first=first, number=number)

    settings = {"number": 10, "out": tmp_path / "run", "batch": 4, "keep_networks": False, **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        rj.flow_stream(LOSS, stops, **settings)
    assert len(list(rj.runs.iterate_run(tmp_path / "run"))) == 2
    drawn.clear()
    rj.flow_stream(LOSS, counts, **settings)
    # the first network tells whether it is the same run
    assert drawn == [0, 8]
    parts = [part for _, part in rj.runs.iterate_run(tmp_path / "run")]
    assert sum(part.sizes["start"] for part in parts) == 10
    assert all("weights" not in part for part in parts)


def test_another_run_is_left_alone(tmp_path):
    rj.flow_stream(LOSS, DRAW, number=2, out=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match="already holds a run"):
        rj.flow_stream(LOSS, DRAW, number=3, out=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match="batch is 0"):
        rj.flow_stream(LOSS, DRAW, number=3, out=tmp_path / "other", batch=0, **OPTIONS)
    assert not (tmp_path / "other").exists()


def test_a_part_of_a_law_is_that_part_of_the_whole():
    whole, part = DRAW(number=7), DRAW(first=3, number=4)
    np.testing.assert_array_equal(part.weights, whole.weights[3:])
    np.testing.assert_array_equal(part.amplitudes, whole.amplitudes[3:])
    with pytest.raises(ValueError, match="first is -1"):
        DRAW(first=-1, number=1)
