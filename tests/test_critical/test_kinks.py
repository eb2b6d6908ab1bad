"""Verdicts at kinks, where the almost-everywhere gradient vanishes whatever the residual on the boundary is."""

import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.critical.kinks import kink_conditions
from relujax.critical.piece import Pieces

INPUTS = jnp.array([[1.0, 0.0], [0.0, 1.0]])


def conditions_at(loss, net):
    return kink_conditions(Pieces(loss, net), 1e-8)


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
    conditions = conditions_at(loss, net)
    assert conditions.kinks == 1
    assert conditions.residual < 1e-14
    assert not conditions.descent
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


def test_points_off_every_boundary_have_no_kinks():
    loss, net = at_kink(0.5)
    conditions = conditions_at(loss, rj.ShallowReLU(net.weights + 0.1, net.amplitudes))
    assert conditions.kinks == 0
    assert not conditions.critical


def on_one_boundary(multiplier, strength, seed):
    """One neuron of amplitude 1 on the boundary of datum 0, with residuals such that the Clarke set holds 0 at `multiplier`.

    `strength` is the residual on the boundary: positive for a convex kink, negative for a concave one.
    """
    r = np.random.default_rng(seed)
    weights = np.array([[1.0, 0.0]])
    inputs = np.array([[0.0, 1.0], [1.0 + r.random(), r.standard_normal()], [1.0 + r.random(), r.standard_normal()]])
    # active data 1 and 2: r_1 x_1 + r_2 x_2 + multiplier * strength * x_0 = 0
    others = np.linalg.solve(inputs[1:].T, -multiplier * strength * inputs[0])
    residuals = np.array([strength, *others])
    targets = np.maximum(inputs @ weights[0], 0) - residuals
    return rj.EmpiricalLoss(inputs, targets), rj.ShallowReLU(weights, np.ones(1), train=("weights",))


def lowest_nearby(loss, net, radius=1e-4, number=4000):
    """The largest drop of the loss on a small circle of hidden weights, by evaluation; not by any formula."""
    angle = np.linspace(0, 2 * np.pi, number)
    moves = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outputs = np.maximum((np.asarray(net.weights[0]) + moves) @ loss.inputs.T, 0) * np.asarray(net.amplitudes)[0]
    losses = np.mean((outputs - loss.targets) ** 2, axis=1) / 2
    here = np.mean((np.maximum(loss.inputs @ net.weights[0], 0) - loss.targets) ** 2) / 2
    return np.min(losses) - here


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("multiplier", "strength", "words"),
    [
        (0.4, 0.7, "kink minimum"),
        (0.0, 0.7, "kink minimum"),  # held on one side only: the second derivative decides on the other
        (1.0, 0.7, "kink minimum"),
        (-0.5, 0.7, "not critical"),
        (1.5, 0.7, "not critical"),
        (0.4, -0.7, "descent point"),
        (0.0, -0.7, "descent point"),
    ],
)
def test_verdicts_on_one_boundary_are_what_evaluation_shows(multiplier, strength, words, seed):
    loss, net = on_one_boundary(multiplier, strength, seed)
    assert rj.classify(loss, net).words == words
    drop = lowest_nearby(loss, net)
    assert (drop < -1e-7) == (words != "kink minimum")
    assert drop > -1e-9 or words != "kink minimum"


def test_opposite_data_on_one_boundary_act_as_one_kink():
    """relu(y) and relu(−y): two convex kinks that add up, and a slope between them that the box must contain."""
    inputs = np.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])
    net = rj.ShallowReLU(np.array([[1.0, 0.0]]), np.ones(1), train=("weights",))
    loss = rj.EmpiricalLoss(inputs, np.array([-0.5, -0.3, 1.0]))
    conditions = conditions_at(loss, net)
    assert conditions.complete
    assert not conditions.descent
    assert rj.classify(loss, net).words == "kink minimum"
    assert lowest_nearby(loss, net) > 0
    # one convex and one concave kink that outweighs it: both slopes are positive, and the loss falls to one side
    loss = rj.EmpiricalLoss(inputs, np.array([-0.5, 0.8, 1.0]))
    assert rj.classify(loss, net).words == "not critical"
    assert lowest_nearby(loss, net) < -1e-6


def test_the_origin_is_a_saddle_although_its_hessian_is_zero():
    """Every neuron is 0: amplitude and hidden vector together lower the loss to second order."""
    loss = rj.EmpiricalLoss(INPUTS, jnp.array([1.0, -2.0]))
    origin = rj.ShallowReLU(jnp.zeros((3, 2)), jnp.zeros(3))
    assert rj.classify(loss, origin).words == "saddle"
    t = 1e-3
    moved = rj.ShallowReLU(origin.weights.at[0, 0].set(t), origin.amplitudes.at[0].set(t))
    assert float(loss(moved) - loss(origin)) < -0.4 * t**2
    # where there is nothing to fit, it is the minimum
    assert rj.classify(rj.EmpiricalLoss(INPUTS, jnp.zeros(2)), origin).words == "minimum"


def test_a_silent_neuron_on_a_boundary_with_a_residual_beyond_it():
    """a = 0 and C = 0 on the inactive side; on the other side of the boundary lies a residual that the neuron can lower."""
    loss = rj.EmpiricalLoss(INPUTS, jnp.array([1.0, 0.5]))
    net = rj.ShallowReLU(jnp.array([[1.0, -0.5], [-1.0, 0.0]]), jnp.array([1.0, 0.0]))
    assert float(jnp.linalg.norm(rj.ravel(loss.gradient(net)))) == 0
    assert rj.classify(loss, net).words == "saddle"
    t = 1e-2
    moved = rj.ShallowReLU(net.weights.at[1, 1].set(t), net.amplitudes.at[1].set(t))
    assert float(loss(moved)) < float(loss(net))


def test_a_residual_of_zero_on_the_boundary_takes_curvature_away_on_neither_side():
    """The Hessian of the inactive side has a null direction that the active side curves upwards: still a minimum."""
    loss, net = at_kink(0.0)
    verdict = rj.classify(loss, net)
    assert verdict.words == "minimum"
    assert conditions_at(loss, net).kinks == 0
    assert int(verdict.nullity) == 1


def test_derivatives_on_a_chosen_piece_are_those_of_the_loss_inside_it():
    r = np.random.default_rng(0)
    loss = rj.EmpiricalLoss(r.standard_normal((9, 2)), r.standard_normal(9))
    for train in (("weights",), ("weights", "amplitudes"), ("weights", "biases", "amplitudes"), ("biases", "amplitudes")):
        net = rj.ShallowReLU(r.standard_normal((3, 2)), r.standard_normal(3), r.standard_normal(3), train=train)
        pieces, active = Pieces(loss, net), np.asarray(rj.activation_pattern(net, loss.inputs))
        np.testing.assert_allclose(pieces.gradient(active), rj.ravel(loss.gradient(net)), atol=1e-14)
        np.testing.assert_allclose(pieces.hessian(active), loss.hessian(net), atol=1e-14)
