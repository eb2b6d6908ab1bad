"""Records, times of levels and the end of one flow tell one story, also where kinks are stepped over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

TIMES = np.linspace(0, 10, 201)


def problem(number=32):
    keys = jax.random.split(jax.random.key(1), 3)
    loss = rj.EmpiricalLoss(jax.random.normal(keys[0], (6, 2)), jax.random.normal(keys[1], (6,)))
    return loss, rj.initialise.balanced(keys[2], number=number, width=4, dim=2, scale=1.0)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-2])
def test_levels_are_passed_when_the_records_say_so(tolerance):
    loss, nets = problem()
    options = {"end_time": 10.0, "kinks": "step", "rtol": tolerance, "atol": tolerance, "save_at": TIMES}
    levels = np.linspace(0.02, 0.8, 60)
    run = rj.flow_ensemble(loss, nets, loss_levels=levels, **options)
    records = run.observed["loss"]
    for path, end, passages in zip(records, run.losses, run.level_times, strict=True):
        for level, passage in zip(levels, passages, strict=True):
            assert np.all(path[passage > TIMES] > level)
            reached = TIMES[passage <= TIMES]
            # in the step in which it passes a level the loss stays below; a later step may rise
            assert reached.size == 0 or path[np.argmax(passage <= TIMES)] <= level
            assert not (end <= level and np.isinf(passage))
    assert np.all(run.level_times[:, 1:] <= run.level_times[:, :-1])
    np.testing.assert_allclose(records[:, -1], run.losses, rtol=1e-12)
    # what is recorded does not change the flow
    np.testing.assert_array_equal(rj.flow_ensemble(loss, nets, **options).losses, run.losses)


def test_what_was_not_reached_is_not_recorded():
    loss, nets = problem()
    watch = {"norm": lambda net: jnp.linalg.norm(net.weights), "active": lambda net: jnp.sum(net.weights > 0)}
    run = rj.flow_ensemble(
        loss, nets, end_time=10.0, kinks="step", rtol=1e-4, atol=1e-4, max_steps=12, save_at=TIMES, observe=watch
    )
    stopped = run.status == rj.FlowStatus.STEP_LIMIT
    assert stopped.any()
    beyond = run.times[:, None] < TIMES
    np.testing.assert_array_equal(np.isnan(run.observed["loss"]), beyond & stopped[:, None])
    np.testing.assert_array_equal(np.isnan(run.observed["norm"]), beyond & stopped[:, None])
    np.testing.assert_array_equal(run.observed["active"] == -1, beyond & stopped[:, None])
