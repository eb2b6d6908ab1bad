"""Modes of the momentum flows against integrated equations."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from relujax import theory

TIMES = np.linspace(0.0, 12.0, 25)


def integrate(friction, rate):
    """From rest at 1; a friction r/t starts from the series 1 − λt²/(2(r + 1)) just after 0."""
    begin = 1e-4
    value, velocity = 1.0, 0.0
    if callable(friction):
        r = friction(1.0)
        value, velocity = 1 - rate * begin**2 / (2 * (r + 1)), -rate * begin / (r + 1)
    else:
        begin = 0.0
    damping = friction if callable(friction) else lambda _: friction
    solution = solve_ivp(
        lambda t, y: [y[1], -damping(t) * y[1] - rate * y[0]],
        (begin, 12.0),
        [value, velocity],
        t_eval=np.maximum(TIMES, begin),
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    return solution.y[0]


@pytest.mark.parametrize("rate", [0.0, 0.04, 1.0, 1.0 + 1e-9, 9.0])
@pytest.mark.parametrize("friction", [0.0, 0.3, 2.0, 3.0])
def test_heavy_ball_mode(friction, rate):
    np.testing.assert_allclose(theory.heavy_ball_mode(rate, TIMES, friction=friction), integrate(friction, rate), atol=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.04, 9.0])
@pytest.mark.parametrize("r", [1.0, 2.0, 3.0, 6.0])
def test_nesterov_mode(r, rate):
    np.testing.assert_allclose(theory.nesterov_mode(rate, TIMES, r=r), integrate(lambda t: r / t, rate), atol=1e-7)


def test_heavy_ball_is_finite_at_late_times_and_decays_at_its_rate():
    late = theory.heavy_ball_mode(0.01, np.array([500.0, 600.0]), friction=3.0)
    assert np.all(late > 0)
    np.testing.assert_allclose(-2 * np.log(late[1] / late[0]) / 100, theory.heavy_ball_rate(3.0, 0.01), rtol=1e-9)
    best = [theory.heavy_ball_rate(b, 0.25) for b in (0.5, 1.0, 2.0)]
    assert best[1] == max(best) == 1.0


def test_nesterov_losses_decay_like_a_power():
    t = np.linspace(2000, 4000, 200_001)
    for r in (2.0, 3.0, 6.0):
        loss = theory.nesterov_mode(1.0, t, r=r) ** 2
        peaks = np.flatnonzero((loss[1:-1] > loss[:-2]) & (loss[1:-1] > loss[2:])) + 1
        np.testing.assert_allclose(np.polyfit(np.log(t[peaks]), np.log(loss[peaks]), 1)[0], -r, rtol=1e-3)


def test_kernel_residuals_solve_the_linear_system():
    r = np.random.default_rng(0)
    jacobian, start = r.standard_normal((4, 9)), r.standard_normal(4)
    kernel = jacobian @ jacobian.T / 4

    def field(_, state):
        return np.concatenate([state[4:], -0.7 * state[4:] - kernel @ state[:4]])

    exact = solve_ivp(field, (0, 3), np.concatenate([start, np.zeros(4)]), method="DOP853", rtol=1e-12, atol=1e-13).y[:4, -1]
    modes = theory.kernel_residuals(kernel, start, np.array([3.0]), lambda rate, t: theory.heavy_ball_mode(rate, t, friction=0.7))
    np.testing.assert_allclose(modes[0], exact, atol=1e-10)
    flow = theory.kernel_residuals(kernel, start, np.array([0.0, 1.0]), theory.gradient_flow_mode)
    np.testing.assert_allclose(flow[0], start)
