"""Networks with one input: the reduced flow, the kernel regime's spline, and networks read as splines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.optimize import linprog

import relujax as rj
from relujax import theory

X, Y = np.array([-0.8, -0.45, -0.1, 0.3, 0.75]), np.array([0.5, -0.4, 0.9, -0.2, 0.6])


def random_net(seed, m=7):
    r = np.random.default_rng(seed)
    return rj.ShallowReLU(jnp.array(r.standard_normal((m, 1))), jnp.array(r.standard_normal(m)), jnp.array(r.standard_normal(m)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_reduced_flow_is_the_flow(seed):
    """The velocity of (r, θ, δ) by the chain rule through the gradient of the loss, as a derivative along it."""
    net, loss = random_net(seed), rj.problems.univariate(X, Y)
    gradient = loss.gradient(net)
    velocity = jax.tree.map(lambda leaf: -leaf, gradient)
    (strength, angle, balance), (dr, dangle, dbalance) = jax.jvp(theory.reduce, (net,), (velocity,))
    expected_r, expected_angle = theory.reduced_velocity(strength, angle, balance, X, Y)
    np.testing.assert_allclose(dr, expected_r, atol=1e-14)
    np.testing.assert_allclose(dangle, expected_angle, atol=1e-14)
    np.testing.assert_allclose(dbalance, 0, atol=1e-14)


@pytest.mark.parametrize("shift", [0.0, 1e6, -1e6])
def test_expand_inverts_reduce_at_any_balance(shift):
    strength, angle = jnp.array([1e-3, -2.0, 5.0]), jnp.array([0.1, -3.0, 2.0])
    balance = jnp.array([0.5, -0.5, 0.0]) + shift
    back = theory.reduce(theory.expand(strength, angle, balance))
    np.testing.assert_allclose(back[0], strength, rtol=1e-12)
    np.testing.assert_allclose(back[1], angle, rtol=1e-12)
    np.testing.assert_allclose(back[2], balance, rtol=1e-12, atol=1e-12)


def test_reduce_needs_one_input_and_biases():
    with pytest.raises(ValueError, match="1 inputs and no hidden biases"):
        theory.reduce(rj.ShallowReLU(jnp.ones((2, 1)), jnp.ones(2)))


def test_kernel_interpolant_is_the_least_norm_fit_of_many_fixed_units():
    """8000 units with evenly spaced kinks in both orientations: least norm in the amplitudes."""
    spline = theory.kernel_interpolant(X, Y)
    np.testing.assert_allclose(spline(X), Y, atol=1e-12)
    thirds = spline.derivative(3)((X[1:] + X[:-1]) / 2)
    np.testing.assert_allclose(thirds, [122.245, -229.856, 171.546, -66.108], atol=1e-3)
    kinks = (np.arange(4000) + 0.5) / 2000 - 1
    grid = np.linspace(-1, 1, 401)

    def features(x):
        return np.maximum(np.concatenate([x[:, None] - kinks, kinks - x[:, None]], axis=1), 0)

    design = features(X)
    least = features(grid) @ (design.T @ np.linalg.solve(design @ design.T, Y))
    np.testing.assert_allclose(spline(grid), least, atol=5e-6)


def test_kernel_interpolant_is_the_cubic_spline_with_its_own_end_curvature_and_not_the_natural_one():
    spline = theory.kernel_interpolant(X, Y)
    inside = np.linspace(X[0], X[-1], 300)
    ends = [(2, float(spline(x, 2))) for x in (X[0], X[-1])]
    np.testing.assert_allclose(spline(inside), CubicSpline(X, Y, bc_type=tuple(ends))(inside), atol=1e-12)
    np.testing.assert_allclose(np.max(np.abs(spline(inside) - CubicSpline(X, Y, bc_type="natural")(inside))), 0.029, atol=1e-3)
    for break_point in spline.x[1:-1]:
        np.testing.assert_allclose(spline(break_point - 1e-9, 2), spline(break_point + 1e-9, 2), atol=1e-5)


def test_kernel_interpolant_refuses_data_outside_its_interval_and_equal_inputs():
    with pytest.raises(ValueError, match="must lie in"):
        theory.kernel_interpolant(np.array([0.0, 2.0]), np.ones(2))
    with pytest.raises(ValueError, match="all different"):
        theory.kernel_interpolant(np.array([0.5, 0.5]), np.ones(2))


@pytest.mark.parametrize("seed", range(3))
def test_a_network_is_the_spline_read_off_it(seed):
    net = random_net(seed)
    net = rj.ShallowReLU(net.weights.at[2].set(0.0), net.amplitudes, net.biases)
    spline = theory.read_spline(net)
    grid = np.linspace(-5, 5, 501)
    np.testing.assert_allclose(spline(grid), jax.vmap(net)(grid[:, None]), atol=1e-12)
    assert len(spline.knots) == 6
    middle = np.concatenate([[spline.knots[0] - 1], (spline.knots[1:] + spline.knots[:-1]) / 2, [spline.knots[-1] + 1]])
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda x: net(x[None])))(middle), spline.slopes, atol=1e-12)


def test_knots_that_share_a_gap_and_an_orientation_look_alike_to_the_data():
    """Only the sum of strengths and the first moment show: two units against one at their mean."""
    x = np.array([0.0, 1.0, 2.0])
    two = rj.ShallowReLU(np.ones((2, 1)), np.array([1.0, 3.0]), np.array([-0.2, -0.6]))
    one = rj.ShallowReLU(np.ones((1, 1)), np.array([4.0]), np.array([-0.5]))
    table = theory.knot_table(two, x)
    assert table.gap.tolist() == [1, 1]
    np.testing.assert_allclose(jax.vmap(two)(x[:, None]), jax.vmap(one)(x[:, None]))
    mixed = theory.knot_table(rj.ShallowReLU(np.array([[1.0], [-1.0], [0.0]]), np.ones(3), np.array([5.0, 1.5, 1.0])), x)
    assert mixed.linear.tolist() == [True, False, True]
    assert mixed.right.tolist() == [True, False, False]
    assert mixed.gap.tolist() == [-1, 2, -1]


def test_explicit_interpolant_passes_through_every_point():
    r = np.random.default_rng(0)
    x, y = r.uniform(-3, 3, 9), r.standard_normal(9)
    net = theory.explicit_interpolant(x, y)
    assert net.width == 9
    np.testing.assert_allclose(jax.vmap(net)(x[:, None]), y, atol=1e-12)
    order = np.argsort(x)
    grid = np.linspace(x.min(), x.max(), 200)
    np.testing.assert_allclose(jax.vmap(net)(grid[:, None]), np.interp(grid, x[order], y[order]), atol=1e-12)


def savarese(x, y):
    """The least of max(total variation of the slopes, |first + last slope|) over the two slopes outside the data."""
    slopes = np.diff(y) / np.diff(x)
    inner = np.sum(np.abs(np.diff(slopes)))
    # unknowns: c, first, last, u >= |first − slopes[0]|, v >= |last − slopes[-1]|
    rows = np.zeros((7, 5))
    rows[0, [0, 3, 4]] = -1, 1, 1
    rows[1, :3], rows[2, :3] = (-1, 1, 1), (-1, -1, -1)
    rows[3, [1, 3]], rows[4, [1, 3]], rows[5, [2, 4]], rows[6, [2, 4]] = (1, -1), (-1, -1), (1, -1), (-1, -1)
    bounds = [-inner, 0, 0, slopes[0], -slopes[0], slopes[-1], -slopes[-1]]
    return linprog([1, 0, 0, 0, 0], A_ub=rows, b_ub=bounds, bounds=[(None, None)] * 5).fun


@pytest.mark.parametrize(("y", "norm"), [([0.0, 1.0, 0.0], 2.0), ([0.0, 1.0, 0.0, 1.0], 4.0), ([0.0, 1.0], 1.0)])
def test_least_norm_of_known_data(y, norm):
    x = np.arange(len(y), dtype=float)
    least = theory.minimum_norm_interpolant(x, np.array(y))
    np.testing.assert_allclose([least.norm, savarese(x, np.array(y))], norm, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_least_norm_of_random_data_is_savareses_and_its_network_interpolates(seed):
    r = np.random.default_rng(seed)
    x, y = np.sort(r.uniform(-2, 2, 7)), r.standard_normal(7)
    least = theory.minimum_norm_interpolant(x, y)
    np.testing.assert_allclose(least.norm, savarese(x, y), rtol=1e-9)
    net = least.network
    np.testing.assert_allclose(jax.vmap(net)(x[:, None]) + least.output_bias, y, atol=1e-9)
    np.testing.assert_allclose(np.abs(net.amplitudes) @ np.abs(net.weights[:, 0]), least.norm, rtol=1e-9)


def test_splines_need_one_input_and_distinct_data():
    with pytest.raises(ValueError, match="only for 1 input"):
        theory.read_spline(rj.ShallowReLU(np.ones((1, 2)), np.ones(1)))
    with pytest.raises(ValueError, match="all different"):
        theory.minimum_norm_interpolant(np.zeros(2), np.ones(2))
