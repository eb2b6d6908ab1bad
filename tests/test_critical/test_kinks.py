"""Verdicts at kinks, where the almost-everywhere gradient vanishes whatever the residual on the boundary is."""

import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.critical.kinks import kink_conditions

INPUTS = jnp.array([[1.0, 0.0], [0.0, 1.0]])


def at_kink(target, amplitude=1.0, train=("weights",)):
    """One neuron that fits the first datum and whose boundary passes through the second, of residual −target."""
    net = rj.ShallowReLU(jnp.array([[1.0 / abs(amplitude), 0.0]]), jnp.array([amplitude]), train=train)
    return rj.EmpiricalLoss(INPUTS, jnp.array([np.sign(amplitude), target])), net


@pytest.mark.parametrize(("target", "words"), [(0.0, "minimum"), (-0.5, "kink minimum"), (0.5, "descent point")])
@pytest.mark.parametrize("train", [("weights",), ("weights", "amplitudes")])
def test_three_residuals_on_the_kink_get_three_verdicts(target, words, train):
    """The one-sided derivative towards the datum is −target/2: nothing, uphill, downhill. The a.e. gradient is 0 in all."""
    loss, net = at_kink(target, train=train)
    assert float(jnp.linalg.norm(rj.ravel(loss.gradient(net)))) == 0.0
    verdict = rj.classify(loss, net)
    assert rj.PointStatus(int(verdict.status)).words == words
    step = 1e-6
    moved = rj.ShallowReLU(net.weights.at[0, 1].set(step), net.amplitudes, train=train)
    np.testing.assert_allclose((loss(moved) - loss(net)) / step, -target / 2, atol=1e-6)


def test_a_multiplier_balances_the_smooth_part():
    """A sliding end: the smooth gradient points into the boundary and Clarke's set contains zero."""
    # data 2 pushes the neuron up along (0, 1), datum 3 on the boundary pushes it back
    inputs = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    net = rj.ShallowReLU(jnp.array([[1.0, 0.0]]), jnp.array([1.0]), train=("weights",))
    loss = rj.EmpiricalLoss(inputs, jnp.array([0.8, 1.2, -0.5]))
    # gradient without the datum on the boundary: ((0.2 − 0.2)/3, −0.2/3); with it (0, (−0.2 + 0.5)/3)
    conditions = kink_conditions(loss, net)
    assert conditions.pairs == 1
    assert conditions.clarke_residual < 1e-14
    assert conditions.descent < 1e-14
    verdict = rj.classify(loss, net)
    assert rj.PointStatus(int(verdict.status)).words == "kink minimum"
    # no small move lowers the loss
    moves = 1e-3 * np.random.default_rng(0).standard_normal((500, 1, 2))
    losses = [float(loss(rj.ShallowReLU(net.weights + m, net.amplitudes))) for m in moves]
    assert min(losses) > float(loss(net))


def test_a_point_on_a_kink_that_is_not_critical():
    loss, net = at_kink(-0.5)
    moved = rj.ShallowReLU(1.1 * net.weights, net.amplitudes, train=("weights",))
    assert rj.PointStatus(int(rj.classify(loss, moved).status)).words == "not critical"


def test_points_off_every_boundary_have_no_conditions():
    loss, net = at_kink(0.5)
    assert kink_conditions(loss, rj.ShallowReLU(net.weights + 0.1, net.amplitudes)) is None
