"""Flows with friction through kinks against an explicit method with small steps, in bulk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

END = rj.FlowStatus.END_TIME


def problem(number=64):
    keys = jax.random.split(jax.random.key(0), 3)
    loss = rj.EmpiricalLoss(jax.random.normal(keys[0], (6, 2)), jax.random.normal(keys[1], (6,)))
    return loss, rj.initialise.balanced(keys[2], number=number, width=4, dim=2, scale=1.0)


def small_steps(loss, nets, friction, vanishing, end, step):
    """Networks after semi-implicit Euler steps with relu'(0) = 0."""
    inputs, targets = np.asarray(loss.inputs), np.asarray(loss.targets)
    weights, amplitudes = np.array(nets.weights), np.array(nets.amplitudes)
    weight_speed, amplitude_speed = np.zeros_like(weights), np.zeros_like(amplitudes)
    for k in range(round(end / step)):
        z = weights @ inputs.T
        # a start on a boundary is not to be told its side by rounding
        active = z > 1e-13
        residual = (targets - np.einsum("bm,bmn->bn", amplitudes, active * z)) / len(targets)
        brake = 1 + step * (friction / (step * (k + 1)) if vanishing else friction)
        pull = active * residual[:, None]
        weight_speed = (weight_speed + step * amplitudes[..., None] * (pull @ inputs)) / brake
        amplitude_speed = (amplitude_speed + step * np.sum(pull * z, axis=-1)) / brake
        weights, amplitudes = weights + step * weight_speed, amplitudes + step * amplitude_speed
    return np.concatenate([weights.reshape(len(weights), -1), amplitudes], axis=1)


@pytest.mark.parametrize(("friction", "vanishing"), [(2.0, False), (5.0, False), (10.0, False), (3.0, True)])
def test_flows_with_friction_reach_their_end(friction, vanishing):
    loss, nets = problem()
    options = {"friction": friction, "vanishing": vanishing}
    run = rj.flow.momentum_flow(loss, nets, end_time=20.0, **options)
    assert np.all(run.status == END)
    np.testing.assert_array_equal(run.times, 20.0)
    assert run.stats["kinks"].sum() > 500
    assert vanishing or run.stats["slides"].sum() > 20
    end = 8.0
    found = np.asarray(rj.ravel(rj.flow.momentum_flow(loss, nets, end_time=end, **options).networks))
    close = rj.flow.momentum_flow(loss, nets, end_time=end, rtol=1e-9, atol=1e-11, **options).networks
    np.testing.assert_allclose(found, rj.ravel(close), atol=2e-6)
    steps = (1e-3, 5e-4)
    coarse, fine = (np.max(np.abs(small_steps(loss, nets, friction, vanishing, end, step) - found), axis=1) for step in steps)
    # a method of first order, of which half the step has half the error
    assert np.median(fine) <= 0.6 * np.median(coarse)
    assert np.all(fine <= 1e-3)


def test_a_neuron_that_is_pushed_back_from_both_sides_comes_to_slide():
    """Data (1, 0), (1, 1), (−1, 1), targets −2, 3/2, 1/2: on the boundary of the first, with multiplier ½, the others are best
    fitted by a w = (0, 1), at loss (4 + ¼ + ¼)/6."""
    loss = rj.EmpiricalLoss([[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]], [-2.0, 1.5, 0.5])
    nets = rj.stack([rj.ShallowReLU([[0.1, 0.8]], [1.0])])
    run = rj.flow.momentum_flow(loss, nets, friction=2.0, end_time=60.0, save_at=[5.0, 60.0])
    assert run.status[0] == END
    assert run.stats["slides"][0] >= 1
    assert run.networks.weights[0, 0, 0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(run.losses, 0.75, rtol=1e-12)
    np.testing.assert_allclose(run.observed["loss"][0, -1], 0.75, rtol=1e-12)


@pytest.mark.parametrize("kinks", ["locate", "step"])
def test_what_was_not_reached_is_said(kinks):
    loss, nets = problem(8)
    times = np.linspace(0, 20, 21)
    run = rj.flow.momentum_flow(loss, nets, friction=2.0, end_time=20.0, save_at=times, kinks=kinks, max_steps=20)
    assert np.all(run.status == rj.FlowStatus.STEP_LIMIT)
    assert np.all((run.times > 0) & (run.times < 20))
    np.testing.assert_array_equal(np.isnan(run.observed["loss"]), times > run.times[:, None])


def test_kinks_are_located_where_they_can_be():
    _, nets = problem(2)
    with pytest.raises(ValueError, match="kinks are located for an empirical loss and this is PopulationLoss"):
        rj.flow.momentum_flow(rj.problems.orthonormal_teacher(2), nets, friction=1.0, end_time=1.0, kinks="locate")


def degenerate(rng):
    """Data of 6 rows in 2 dimensions and 4 neurons, with ties: repeated, proportional, opposite, zero rows, equal, dead, tiny and
    zero neurons, starts on boundaries, other units."""
    inputs, targets = rng.normal(size=(6, 2)), rng.normal(size=6)
    weights, amplitudes = rng.normal(size=(4, 2)), rng.normal(size=4)
    for _ in range(rng.integers(1, 4)):
        i, j, a, b = *rng.permutation(6)[:2], *rng.permutation(4)[:2]
        match rng.integers(8):
            case 0:
                inputs[i] = inputs[j]
            case 1:
                inputs[i] = rng.choice([2.0, -1.0, -0.5]) * inputs[j]
            case 2:
                inputs[i] = 0
            case 3:
                weights[a], amplitudes[a] = weights[b], amplitudes[b]
            case 4:
                weights[a] = [-inputs[i, 1], inputs[i, 0]]
            case 5:
                weights[a], amplitudes[a] = 1e-6 * weights[a], 1e-6 * amplitudes[a]
            case 6:
                weights[a] = 0
            case 7:
                weights, inputs = np.round(2 * weights) / 2, np.round(2 * inputs) / 2
    return inputs, targets, weights, amplitudes


@pytest.mark.slow
def test_friction_on_degenerate_problems():
    rng = np.random.default_rng(0)
    unfinished, wrong, number = 0, 0, 400
    for _ in range(number):
        inputs, targets, weights, amplitudes = degenerate(rng)
        loss = rj.EmpiricalLoss(jnp.asarray(inputs), jnp.asarray(targets))
        nets = rj.ShallowReLU(jnp.asarray(weights)[None], jnp.asarray(amplitudes)[None])
        run = rj.flow.momentum_flow(loss, nets, friction=2.0, end_time=4.0)
        if run.status[0] != END:
            unfinished += 1
            assert run.times[0] < 4
            continue
        coarse, fine = (small_steps(loss, nets, 2.0, False, 4.0, step) for step in (1e-3, 5e-4))
        left, off = np.max(np.abs(fine - coarse)), np.max(np.abs(fine - rj.ravel(run.networks)))
        wrong += off > 5 * left + 1e-4
    assert unfinished == 0
    assert wrong <= number // 100
