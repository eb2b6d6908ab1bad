"""The finish: where the last stretch ends, when, what it passes on the way, and when it has to be followed instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import relujax as rj
from relujax.flow.finish import finish, way_to_the_end
from relujax.flow.inclusion import Inclusion
from relujax.flow.sliding import decide, first_activation

SCALES = (8e-3, 4e-3, 2e-3)


def finished(loss, net, gradient_norm=1e-13, tolerance=1.0):
    """A finish from a network, with the activation state that it has there."""
    inclusion = Inclusion(loss, net)
    state = inclusion.state(net)
    activation, undecided = first_activation(inclusion, state)
    for neuron in np.flatnonzero(undecided):
        state, activation = decide(inclusion, state, activation, jnp.asarray(neuron), jnp.abs(state.z[neuron]) < 1e-13)
    kernel, approach = way_to_the_end(inclusion, state, activation)
    done = finish(inclusion, state, activation, kernel, approach, jnp.asarray(gradient_norm), jnp.asarray(tolerance))
    return done, inclusion.network(done.state, net)


def interpolating(seed):
    """A loss that a random network fits, and the network."""
    r = np.random.default_rng(seed)
    x, w, a = r.standard_normal((4, 3)), r.standard_normal((6, 3)), r.standard_normal(6)
    return rj.EmpiricalLoss(jnp.asarray(x), jnp.asarray(np.maximum(x @ w.T, 0) @ a)), w, a


def followed(loss, w, a):
    """The end of the flow in the activation state of its start, by SciPy with a field of its own."""
    x, y, (m, d) = np.asarray(loss.inputs), np.asarray(loss.targets), w.shape
    s = (x @ w.T > 0).astype(float)

    def field(_, theta):
        w, a = theta[: m * d].reshape(m, d), theta[m * d :]
        z = s * (x @ w.T)
        rho = (y - z @ a) / len(y)
        return np.concatenate([(a[:, None] * ((s * rho[:, None]).T @ x)).ravel(), z.T @ rho])

    far = solve_ivp(field, (0, 3e4), np.concatenate([w.ravel(), a]), method="LSODA", rtol=1e-13, atol=1e-15)
    assert np.linalg.norm(field(0, far.y[:, -1])) < 1e-12
    return far.y[:, -1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_ends_where_the_flow_does_up_to_third_order(seed):
    """Minimum-norm steps alone end on the critical points, but at a distance of second order."""
    loss, w, a = interpolating(seed)
    r, errors = np.random.default_rng(100 + seed), []
    dw, da = r.standard_normal(w.shape), r.standard_normal(a.shape)
    for scale in SCALES:
        start = rj.ShallowReLU(jnp.asarray(w + scale * dw), jnp.asarray(a + scale * da))
        assert np.all((np.asarray(loss.inputs) @ (w + scale * dw).T > 0) == (np.asarray(loss.inputs) @ w.T > 0))
        done, end = finished(loss, start)
        assert bool(done.succeeded)
        errors.append(float(np.max(np.abs(np.asarray(rj.ravel(end)) - followed(loss, w + scale * dw, a + scale * da)))))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(orders > 2.7), errors


def test_it_ends_at_the_best_fit_where_residuals_are_left():
    """All neurons active on all of six data in two dimensions: the network is linear and cannot fit them."""
    r, errors = np.random.default_rng(7), []
    x = np.stack([1 + r.uniform(size=6), 0.5 * r.standard_normal(6)], axis=1)
    w, a = np.stack([1 + r.uniform(size=4), 0.2 * r.standard_normal(4)], axis=1), 0.5 + r.uniform(size=4)
    residual = r.standard_normal(6)
    residual -= x @ np.linalg.lstsq(x, residual)[0]
    loss = rj.EmpiricalLoss(jnp.asarray(x), jnp.asarray(x @ (a @ w) + residual))
    dw, da = r.standard_normal(w.shape), r.standard_normal(a.shape)
    for scale in SCALES:
        done, end = finished(loss, rj.ShallowReLU(jnp.asarray(w + scale * dw), jnp.asarray(a + scale * da)))
        assert bool(done.succeeded)
        errors.append(float(np.max(np.abs(np.asarray(rj.ravel(end)) - followed(loss, w + scale * dw, a + scale * da)))))
    assert float(loss(end)) > 0.1
    assert np.all(np.log2(np.array(errors[:-1]) / errors[1:]) > 2.7), errors


ONE_HELD = np.array([[1.0, 0.0], [0.5, 1.0]]), np.array([-1.0, 1.0])
TWO_HELD = np.array([[1.0, 0.0, 0.0], [0.6, 1.0, 0.0], [0.5, 0.3, 1.0]]), np.array([-1.0, -1.0, 1.0])


@pytest.mark.parametrize("data", [ONE_HELD, TWO_HELD], ids=["one", "two"])
def test_sliding_neurons_drift_along_their_boundaries(data):
    """Two neurons slide on the data they cannot fit: a_j and the last of w_j turn together by one hyperbolic angle τ."""
    loss, held = rj.EmpiricalLoss(*map(jnp.asarray, data)), len(data[1]) - 1
    w, a, errors = np.array([0.9, 0.3]), np.array([0.8, 1.0]), []

    def turned(tau):
        return w * np.cosh(tau) + a * np.sinh(tau), a * np.cosh(tau) + w * np.sinh(tau)

    at_the_end = brentq(lambda tau: turned(tau)[0] @ turned(tau)[1] - 1, -2, 2, xtol=1e-15)
    for scale in SCALES:
        there = turned(at_the_end - scale)
        start = rj.ShallowReLU(jnp.zeros((2, held + 1)).at[:, held].set(there[0]), jnp.asarray(there[1]))
        done, end = finished(loss, start)
        assert bool(done.succeeded)
        exact = turned(at_the_end)
        errors.append(np.max(np.abs([end.weights[:, held] - exact[0], end.amplitudes - exact[1]])))
        np.testing.assert_allclose(end.weights[:, :held], 0.0, rtol=0, atol=1e-15)
    assert np.all(np.log2(np.array(errors[:-1]) / errors[1:]) > 2.7), errors


def test_with_fixed_amplitudes_it_is_exact():
    """The flow is linear in one activation state, and nothing drifts."""
    loss, w, a = interpolating(3)
    start = rj.ShallowReLU(jnp.asarray(w + 4e-3), jnp.asarray(a), train=("weights",))
    done, end = finished(loss, start)
    x, y, s = np.asarray(loss.inputs), np.asarray(loss.targets), np.asarray(rj.activation_pattern(start, loss.inputs))
    jacobian = (s[:, :, None] * a[:, None] * x[:, None, :]).reshape(len(x), -1)
    exact = (w + 4e-3).ravel() + np.linalg.pinv(jacobian) @ (y - jacobian @ (w + 4e-3).ravel())
    assert bool(done.succeeded)
    np.testing.assert_allclose(np.ravel(end.weights), exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("margin", "succeeds"), [(1e-2, True), (1e-5, False)])
def test_a_way_that_leaves_the_activation_state_and_comes_back_is_followed(margin, succeeds):
    """One neuron of fixed amplitude: z_0 = y_0 at both ends, and between them the error of the second datum pulls it down."""
    gram = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    x = np.linalg.cholesky(gram)
    targets = np.array([margin, 1.0, 2.0])
    w = np.linalg.solve(x, targets + np.array([0.0, 2e-3, 0.0]))
    loss = rj.EmpiricalLoss(jnp.asarray(x), jnp.asarray(targets))
    done, end = finished(loss, rj.ShallowReLU(jnp.asarray(w)[None], jnp.ones(1), train=("weights",)))
    assert bool(done.succeeded) == succeeds
    if succeeds:
        np.testing.assert_allclose(loss.outputs(end), targets, rtol=0, atol=1e-14)


@pytest.fixture(scope="module")
def relaxing():
    """Orthogonal data: a flow whose last stretch is finished, and the same followed closely to the end."""
    loss = rj.problems.orthogonal(jax.random.key(4), number=6, dim=6)
    nets = rj.initialise.balanced(jax.random.key(5), number=4, width=12, dim=6, scale=0.3)
    options = {"gradient_norm": 1e-8, "kinks": "locate"}
    closely = rj.flow_ensemble(loss, nets, rtol=5e-13, atol=5e-13, **options)
    assert np.all(closely.stats["finish_distance"] == 0)
    return loss, nets, options, closely


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-6, 1e-8])
def test_a_finished_flow_ends_where_and_when_a_followed_one_does(relaxing, rtol):
    loss, nets, options, closely = relaxing
    flow = rj.flow_ensemble(loss, nets, rtol=rtol, atol=1e-3 * rtol, **options)
    assert np.all(flow.status == rj.FlowStatus.CONVERGED)
    assert np.all(flow.stats["finish_distance"] > 0)
    assert np.all(flow.stats["steps"] < 0.7 * closely.stats["steps"])
    then = rj.flow_ensemble(loss, nets, rtol=5e-13, atol=5e-13, end_time=np.asarray(flow.times), kinks="locate")
    np.testing.assert_allclose(then.gradient_norms, 1e-8, rtol=5 * np.cbrt(rtol))
    # the one followed stops at a gradient norm of 1e-8, which is as far from the end as its slowest mode is slow
    left = 1e-8 / np.min(flow.stats["finish_conditioning"])
    np.testing.assert_allclose(rj.ravel(flow.networks), rj.ravel(closely.networks), rtol=0, atol=rtol + 10 * left)


@pytest.mark.slow
def test_what_is_recorded_on_the_last_stretch_is_the_flow(relaxing):
    loss, nets, options, closely = relaxing
    last = float(np.max(closely.times))
    options = options | {"save_at": np.linspace(0.3, 1.2, 40) * last, "loss_levels": 10.0 ** np.arange(-2, -16, -1)}
    options |= {"observe": {"state": rj.ravel}}
    flow = rj.flow_ensemble(loss, nets, rtol=1e-6, atol=1e-9, **options)
    exact = rj.flow_ensemble(loss, nets, rtol=5e-13, atol=5e-13, **options)
    assert np.all(flow.stats["finish_distance"] > 0)
    np.testing.assert_allclose(flow.observed["state"], exact.observed["state"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.isfinite(flow.level_times), np.isfinite(exact.level_times))
    assert np.sum(np.isfinite(exact.level_times)) > 40
    reached = np.isfinite(exact.level_times)
    np.testing.assert_allclose(flow.level_times[reached], exact.level_times[reached], rtol=1e-4)


@pytest.mark.slow
def test_a_flow_whose_time_is_over_before_its_end_is_not_finished(relaxing):
    loss, nets, options, closely = relaxing
    times = 0.6 * np.asarray(closely.times)
    flow = rj.flow_ensemble(loss, nets, rtol=1e-6, atol=1e-9, end_time=times, **options)
    exact = rj.flow_ensemble(loss, nets, rtol=1e-11, atol=1e-11, end_time=times, **options)
    assert np.all(np.isfinite(flow.stats["finish_conditioning"]))  # one was tried
    assert np.all(flow.status == rj.FlowStatus.END_TIME)
    np.testing.assert_array_equal(flow.times, times)
    np.testing.assert_allclose(rj.ravel(flow.networks), rj.ravel(exact.networks), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_tiny_neuron_that_grows_slowly_keeps_it_from_ending_at_the_saddle():
    """Without the negative neuron, of size 1e-9, the best fit leaves 0.01 of one datum, where that grows with a rate of 0.005."""
    loss = rj.EmpiricalLoss(jnp.eye(2), jnp.array([-0.01, 1.0]))
    nets = rj.ShallowReLU(jnp.array([[[0.0, 0.9], [1e-9, 0.0]]]), jnp.array([[0.9, -1e-9]]))
    flow = rj.flow_ensemble(loss, nets, gradient_norm=1e-8, rtol=1e-6, atol=1e-9, kinks="locate")
    assert np.all(flow.status == rj.FlowStatus.CONVERGED)
    np.testing.assert_allclose(flow.losses, 0.0, rtol=0, atol=1e-14)
    assert flow.times[0] > 1000
