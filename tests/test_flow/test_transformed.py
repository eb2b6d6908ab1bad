"""The flow of one network inside a caller's transformations: forward mode, reverse mode, traced times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

LOSS = rj.problems.orthonormal_teacher(2)
NET = rj.ShallowReLU(jnp.array([[0.9, 0.2], [-0.3, 0.8]]), jnp.ones(2), train=("weights",))


def end_of(vector, time):
    run = rj.gradient_flow(LOSS, rj.unravel(NET, vector), end_time=time, rtol=1e-9, atol=1e-9, max_steps=400)
    return rj.ravel(run.networks)


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_and_reverse_mode_are_the_variation_of_the_flow(compiled):
    """By the linearised flow, d(dθ)/dt = −∇²L dθ, integrated beside it, and by differences."""
    flow = jax.jit(end_of) if compiled else end_of
    start = rj.ravel(NET)
    along = jnp.array([0.3, -1.0, 0.2, 0.5])
    end, change = jax.jvp(lambda v: flow(v, 1.0), (start,), (along,))
    steps = 2000
    state, variation = start, along

    def slope(pair):
        net = rj.unravel(NET, pair[0])
        return -rj.ravel(LOSS.gradient(net)), -LOSS.hessian(net) @ pair[1]

    def step(pair, _):
        h = 1.0 / steps
        middle = jax.tree.map(lambda a, b: a + h / 2 * b, pair, slope(pair))
        return jax.tree.map(lambda a, b: a + h * b, pair, slope(middle)), None

    (state, variation), _ = jax.lax.scan(step, (state, variation), None, length=steps)
    np.testing.assert_allclose(end, state, atol=1e-6)
    np.testing.assert_allclose(change, variation, atol=1e-6)
    back = jax.grad(lambda v: flow(v, 1.0) @ along)(start)
    np.testing.assert_allclose(back @ along, change @ along, rtol=1e-10)


def test_a_traced_end_time_is_one():
    start = rj.ravel(NET)
    compiled = jax.jit(end_of)
    for time in (0.3, 2.0):
        np.testing.assert_allclose(compiled(start, time), end_of(start, time), rtol=1e-8)
    _, speed = jax.jvp(lambda t: compiled(start, t), (1.0,), (1.0,))
    np.testing.assert_allclose(speed, -rj.ravel(LOSS.gradient(rj.unravel(NET, compiled(start, 1.0)))), rtol=1e-6)


@pytest.mark.parametrize("time", [0.0, -1.0, jnp.inf, jnp.nan])
def test_a_traced_end_time_out_of_range_reaches_nothing(time):
    run = jax.jit(lambda t: rj.gradient_flow(LOSS, NET, end_time=t, save_at=jnp.array([0.1])))(time)
    assert run.times == 0
    assert run.status == rj.FlowStatus.DIVERGED
    assert np.isnan(run.losses)
    assert np.isnan(run.observed["loss"]).all()
    assert np.isnan(rj.ravel(run.networks)).all()


def test_traced_save_times_are_the_same():
    times = jnp.array([0.1, 0.4])

    def losses(times):
        return rj.gradient_flow(LOSS, NET, end_time=1.0, save_at=times).observed["loss"]

    np.testing.assert_allclose(jax.jit(losses)(times), losses(times), rtol=1e-12)
    assert np.isnan(jax.jit(losses)(times[::-1])).all()
    assert np.isnan(jax.jit(losses)(3 * times)).all()
