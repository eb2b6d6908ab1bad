"""Initial laws: moments, balance, zero output, and independence of how many are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.initialise import LAWS

SIZE = {"width": 40, "dim": 5}


@pytest.mark.parametrize("name", LAWS)
def test_network_i_depends_on_the_key_and_i_alone(name):
    few, many = (LAWS[name](jax.random.key(1), number=n, biases=True, **SIZE) for n in (3, 8))
    # the draws are equal; norms may be summed in another order
    np.testing.assert_allclose(rj.ravel(few), rj.ravel(many)[:3], rtol=1e-14)
    other = LAWS[name](jax.random.key(2), number=3, biases=True, **SIZE)
    assert not np.any(few.weights == other.weights)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("scale", [1e-50, 1e-300])
def test_scale_multiplies_every_parameter_without_underflow(name, scale):
    unit, tiny = (LAWS[name](jax.random.key(1), number=2, biases=True, scale=s, **SIZE) for s in (1.0, scale))
    np.testing.assert_allclose(rj.ravel(tiny) / scale, rj.ravel(unit), rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "weights", "amplitudes"),
    [
        ("xavier", 1 / 5, 1 / 40),
        ("kaiming", 2 / 5, 2 / 40),
        ("balanced", 1 / 40, 6 / 40),
        ("unbalanced", 1 / 40, 1 / 40),
        ("mean-field", 1.0, 1 / 1600),
        ("neural-tangent", 1.0, 1 / 40),
    ],
)
def test_variances(name, weights, amplitudes):
    """Second moments over 40 000 neurons, within five standard errors of a fourth moment of at most 3."""
    nets = LAWS[name](jax.random.key(0), number=1000, biases=True, **SIZE)
    for array, variance in ((nets.weights, weights), (nets.amplitudes, amplitudes), (nets.biases, weights)):
        error = variance * np.sqrt(3 / array.size)
        assert abs(np.mean(np.asarray(array) ** 2) - variance) < 5 * error


@pytest.mark.parametrize("biases", [False, True])
def test_balance_is_zero_or_positive_as_the_law_says(biases):
    balanced = LAWS["balanced"](jax.random.key(0), number=3, biases=biases, **SIZE)
    np.testing.assert_allclose(rj.balance(balanced), 0.0, rtol=0, atol=1e-15)
    dominated = LAWS["dominated"](jax.random.key(0), number=3, biases=biases, **SIZE)
    assert np.all(rj.balance(dominated) >= 0)
    assert set(np.sign(balanced.amplitudes).ravel()) == {-1.0, 1.0}


def test_zero_output_is_exactly_zero():
    nets = LAWS["zero-output"](jax.random.key(0), number=4, biases=True, **SIZE)
    outputs = jax.vmap(lambda net: jax.vmap(net)(jax.random.normal(jax.random.key(1), (6, 5))))(nets)
    np.testing.assert_array_equal(outputs, 0.0)


def test_census_starts_have_amplitude_one_and_variance_one_over_d():
    nets = rj.initialise.xavier(jax.random.key(0), number=500, width=6, dim=6, amplitudes=1.0, scale=0.5, train=("weights",))
    np.testing.assert_array_equal(nets.amplitudes, 1.0)
    np.testing.assert_allclose(np.mean(np.asarray(nets.weights) ** 2), 0.25 / 6, rtol=0.05)


def test_a_sweep_over_scales_reuses_one_draw():
    net = rj.take(LAWS["balanced"](jax.random.key(0), number=1, **SIZE), 0)
    sweep = rj.initialise.scaled(net, [1e-2, 1e-40])
    np.testing.assert_allclose(sweep.weights[1] * 1e38, sweep.weights[0], rtol=1e-14)
    stacked = rj.initialise.scaled(LAWS["balanced"](jax.random.key(0), number=3, **SIZE), [1.0, 0.1])
    assert stacked.weights.shape == (6, 40, 5)
    np.testing.assert_allclose(stacked.amplitudes[3:], 0.1 * stacked.amplitudes[:3], rtol=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"number": 0}, "number is 0"), ({"width": -1}, "width is -1"), ({"dim": 0}, "dim is 0"),
     ({"scale": -1.0}, "scale is -1.0"), ({"scale": float("nan")}, "scale is nan")],
)  # fmt: skip
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        rj.initialise.balanced(jax.random.key(0), **({"number": 2, "width": 4, "dim": 3} | change))
    with pytest.raises(ValueError, match="width is 3"):
        rj.initialise.zero_output(jax.random.key(0), number=1, width=3, dim=2)
    with pytest.raises(ValueError, match="-2.0"):
        rj.initialise.scaled(rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1)), [-2.0])
