"""Flows on data that nobody chose for the engine: ties, opposite inputs, shrinking neurons, crossings that come and go."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

# six inputs, and two targets for each of them
SIX = np.array([(-0.65, -0.17), (1.66, 0.66), (-1.64, -0.01), (-0.62, 0.15), (-1.61, 0.24), (0.24, 1.58)])
TWO = np.array([(1, 3), (-1, 0), (2, 2.5), (0, 1), (-2, 1), (0.5, 0.75)])


def problem(inputs, targets, weights, amplitudes, biases=None, criterion=None, **options):
    loss = rj.EmpiricalLoss(jnp.asarray(inputs, float), jnp.asarray(targets, float), criterion or rj.SquaredError())
    stacked = [None if part is None else jnp.asarray(part, float)[None] for part in (weights, amplitudes, biases)]
    return loss, rj.ShallowReLU(*stacked, **options)


def descend(loss, nets, end_time, steps):
    """Gradient descent with relu'(0) = 0 in short steps."""
    step = end_time / steps

    def one(_, net):
        return jax.tree.map(lambda value, slope: value - step * slope, net, loss.gradient(net))

    return jax.jit(jax.vmap(lambda net: jax.lax.fori_loop(0, steps, one, net)))(nets)


def test_an_event_at_the_start_of_a_step_leaves_the_flow_alive():
    loss, nets = problem(
        [[0.3], [0.8]], [0.3, -1.3], [[0.9496456454057397]], [-2.616724127786891], [0.6753164418178002]
    )  # fmt: skip
    ends = rj.flow_ensemble(loss, nets, end_time=20.0, rtol=1e-8, atol=1e-8, solver=diffrax.Tsit5(), kinks="locate")
    assert rj.FlowStatus(int(ends.status[0])) == rj.FlowStatus.END_TIME
    # the second datum is fitted and the first let go, of which y² / 2n is left
    assert abs(float(ends.losses[0]) - float(loss(rj.take(descend(loss, nets, 20.0, 200_000), 0)))) < 1e-5
    assert float(ends.losses[0]) == pytest.approx(0.0225, abs=1e-9)


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
def test_a_crossing_that_comes_and_goes_within_a_step_is_seen(rtol):
    inputs = [(-0.405, -0.193), (-0.107, -0.051), (-0.368, -0.175), (0.103, 0.049), (0.786, 0.374), (-0.336, -0.16)]
    loss, nets = problem(
        inputs,
        [1.63, 1.35, 1.94, -1.093, 1.613, 0.932],
        [(-0.439, -0.019), (0.112, 0.032), (-0.061, -0.069)],
        [0.45, -0.129, -0.137],
        [0.098, 0.057, -0.102],
    )
    ends = rj.flow_ensemble(loss, nets, end_time=1.8121, rtol=rtol, atol=rtol, record_events=10)
    assert float(ends.losses[0]) == pytest.approx(0.595881319, abs=20 * rtol + 1e-9)
    log = jax.tree.map(lambda leaf: np.asarray(leaf)[0], ends.events)
    first = [i for i in range(int(log.number)) if (log.neuron[i], log.datum[i]) == (0, 4)]
    assert log.time[first[0]] == pytest.approx(1.731934, abs=2e-6)


def test_a_neuron_that_arrives_at_the_origin_goes_where_descent_does():
    inputs = [(-0.98, -0.62), (-1, 0.37), (0.79, -0.48), (-0.21, -0.58), (0.53, 0.09), (1.59, -1.1)]
    loss, nets = problem(
        inputs,
        [0.36, 0.44, -0.36, 0.58, -1.44, 2.12],
        [(0.28, -0.34), (0.35, -0.12), (0.05, 0.02), (0.33, -0.1)],
        [-0.63, -0.16, 0.04, -0.09],
    )
    ends = rj.flow_ensemble(loss, nets, end_time=3.27, rtol=1e-8, atol=1e-8, kinks="locate")
    assert float(ends.losses[0]) == pytest.approx(0.45015, abs=1e-5)
    assert float(ends.losses[0]) == pytest.approx(float(loss(rj.take(descend(loss, nets, 3.27, 300_000), 0))), abs=1e-4)


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
def test_a_balanced_neuron_that_shrinks_keeps_its_sign(rtol):
    sizes = np.concatenate([np.linspace(0.1, 3, 10), 10.0 ** np.arange(-9, 1)])
    loss = rj.EmpiricalLoss(jnp.array([[1.0], [-1.0]]), jnp.array([-1.0, 1.0]))
    nets = rj.ShallowReLU(jnp.asarray(sizes)[:, None, None], jnp.asarray(sizes)[:, None])
    ends = rj.flow_ensemble(loss, nets, end_time=20.0, rtol=rtol, atol=rtol, kinks="locate")
    # f(1) = s² with (s²)' = −s² (1 + s²)
    exact = 1 / ((1 + 1 / sizes**2) * np.exp(20.0) - 1)
    np.testing.assert_allclose(np.asarray(ends.networks.amplitudes)[:, 0] ** 2, exact, rtol=2e3 * rtol)
    assert np.all(np.asarray(ends.networks.amplitudes) > 0)
    assert np.max(ends.stats["balance_drift"]) < 1e-14
    settled = rj.flow_ensemble(loss, nets, rtol=rtol, atol=rtol, kinks="locate")
    np.testing.assert_allclose(settled.losses, 0.5, rtol=1e-6)


def test_data_given_twice_flow_as_on_their_mean():
    nets = rj.initialise.balanced(jax.random.key(0), number=64, width=2, dim=2, scale=0.3, biases=True)
    twice = rj.EmpiricalLoss(jnp.asarray(np.repeat(SIX, 2, axis=0)), jnp.asarray(TWO.ravel()))
    once = rj.EmpiricalLoss(jnp.asarray(SIX), jnp.asarray(TWO.mean(axis=1)))
    ends, expected = (rj.flow_ensemble(loss, nets, end_time=2000.0, rtol=1e-8, atol=1e-8) for loss in (twice, once))
    outputs, by_means = (np.asarray(jax.vmap(once.outputs)(flow.networks)) for flow in (ends, expected))
    np.testing.assert_allclose(outputs, by_means, atol=1e-5)
    assert float(ends.losses[12]) == pytest.approx(0.372396, abs=1e-6)


def test_kinks_are_located_at_loose_tolerances_as_well():
    nets = rj.initialise.balanced(jax.random.key(0), number=64, width=2, dim=2, scale=0.3, biases=True)
    loss = rj.EmpiricalLoss(jnp.asarray(np.repeat(SIX, 2, axis=0)), jnp.asarray(TWO.ravel()))
    options = {"end_time": 2000.0, "rtol": 1e-4, "atol": 1e-4}
    ends, stepped = rj.flow_ensemble(loss, nets, **options), rj.flow_ensemble(loss, nets, kinks="step", **options)
    exact = rj.flow_ensemble(loss, nets, end_time=2000.0, rtol=1e-9, atol=1e-9)
    assert (ends.kinks, stepped.kinks) == ("located", "stepped over")
    assert np.mean(np.abs(ends.losses - exact.losses) > 1e-3) <= 1 / 64
    assert np.all(np.sign(ends.networks.amplitudes) == np.sign(nets.amplitudes))


def test_opposite_data_share_a_boundary():
    generator = np.random.default_rng(3)
    base = generator.normal(size=(3, 2))
    inputs = np.concatenate([base, -2.0 * base, 0.5 * base[:1]])
    loss = rj.EmpiricalLoss(jnp.asarray(inputs), jnp.asarray(generator.normal(size=7)))
    nets = rj.initialise.balanced(jax.random.key(1), number=12, width=4, dim=2, scale=0.7)
    ends = rj.flow_ensemble(loss, nets, end_time=6.0, rtol=1e-8, atol=1e-8)
    errors = []
    for steps in (10_000, 40_000):
        by_descent = descend(loss, nets, 6.0, steps)
        errors.append(np.max(np.abs(np.asarray(jax.vmap(loss.outputs)(by_descent) - jax.vmap(loss.outputs)(ends.networks)))))
    assert errors[0] < 1e-2
    assert errors[1] < 0.4 * errors[0]


def test_neurons_that_have_collapsed_onto_one_direction_stay_there():
    weights = [
        [2.8585315191874306e-51, 5.899431035596658e-51],
        [-6.651008442169998e-51, -2.39048859324589e-51],
        [5.1092204381578454e-51, 1.001885734729143e-50],
    ]
    inputs = [[1.066, 1.158], [0.869, 1.013], [-1.065, -0.391], [-1.679, -0.838]]
    loss, nets = problem(inputs, [1.09, 1.376, 0.869, 0.358], weights, [0.0, -7.06755608483267e-51, 0.0])
    end_time = 529.3897673865162
    for options in ({}, {"save_at": np.linspace(0, end_time, 9)}):
        for rtol in (1e-7, 1e-8, 1e-9, 1e-10, 1e-12):
            ends = rj.flow_ensemble(loss, nets, end_time=end_time, rtol=rtol, atol=rtol, kinks="locate", **options)
            assert float(ends.losses[0]) == pytest.approx(0.01625675, abs=3e-8)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", [rj.LogisticError(), rj.ExponentialError()], ids=["logistic", "exponential"])
def test_runge_kutta_pieces_go_through_every_event(criterion):
    generator = np.random.default_rng(0)
    inputs, targets = generator.normal(size=(20, 3)), generator.choice([-1.0, 1.0], 20)
    loss = rj.EmpiricalLoss(jnp.asarray(inputs), jnp.asarray(targets), criterion)
    nets = rj.initialise.balanced(jax.random.key(0), number=64, width=10, dim=3, scale=1.0)
    ends = rj.flow_ensemble(loss, nets, end_time=20.0, rtol=1e-6, atol=1e-6, kinks="locate")
    assert np.all(ends.status == rj.FlowStatus.END_TIME)
    by_descent = jax.vmap(loss)(descend(loss, nets, 20.0, 100_000))
    difference = np.abs(np.asarray(by_descent) - ends.losses)
    assert np.median(difference) < 1e-3
    # where neurons meet boundaries at the edge of sliding, short steps may choose otherwise
    assert np.mean(difference > 0.01) <= 0.05
