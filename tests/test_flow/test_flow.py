"""Gradient flow against closed forms, conserved quantities, finite differences, and itself in other layouts."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

TWO_POINTS = rj.EmpiricalLoss(jnp.array([[-0.5, 1.0], [2.0, 1.0]]), jnp.array([-1.0, 1.0]))
SOLVERS = {"tsit5": diffrax.Tsit5(), "dopri8": diffrax.Dopri8(), "bosh3": diffrax.Bosh3()}


def small_ensemble(number=5, width=4, dim=3):
    loss = rj.problems.orthonormal_teacher(dim)
    nets = rj.initialise.xavier(jax.random.key(3), number=number, width=width, dim=dim, amplitudes=1.0, train=("weights",))
    return loss, nets


def logistic(t, scale):
    """One datum (1, 2) with target 1, one aligned balanced neuron of size `scale`: the square of its amplitude."""
    end = 1 / np.sqrt(5)
    return end / (1 + (end / scale**2 - 1) * np.exp(-2 * np.sqrt(5) * t))


def aligned_neuron(scale):
    x = jnp.array([1.0, 2.0])
    return rj.EmpiricalLoss(x[None], jnp.array([1.0])), rj.ShallowReLU(scale * x[None] / jnp.sqrt(5), jnp.array([scale]))


@pytest.mark.parametrize("scale", [1e-6, 1e-50])
def test_one_aligned_neuron_follows_the_logistic_curve(scale):
    loss, net = aligned_neuron(scale)
    rate = 2 * np.sqrt(5)
    half = np.log(1 / np.sqrt(5) / scale**2 - 1) / rate
    if scale == 1e-6:
        np.testing.assert_allclose(half, 5.998544, rtol=0, atol=1e-6)
    times = half + np.linspace(-3, 3, 7) / rate
    end = float(times[-1])
    path = rj.gradient_flow(loss, net, end_time=end, save_at=times, rtol=1e-11, atol=1e-11).path
    np.testing.assert_allclose(path.amplitudes[:, 0] ** 2, logistic(times, scale), rtol=1e-9)
    nets = rj.stack([net, net])
    many = rj.flow_ensemble(
        loss, nets, end_time=end, save_at=times, rtol=1e-11, atol=1e-11, observe={"a": lambda net: net.amplitudes[0]}
    )
    np.testing.assert_allclose(many.observed["a"][1] ** 2, logistic(times, scale), rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-1, 1e-4, 1e-8])
def test_one_neuron_on_orthonormal_data_follows_its_closed_form(scale):
    """All data active, balanced: cos = tanh(artanh c0 + s), and |w|² and the loss in hyperbolic functions of s = |β|t/n."""
    n = 5
    targets = np.array([1.0, 0.7, 0.4, 1.2, 0.9])
    beta = np.linalg.norm(targets)
    direction = np.array([0.9, 0.5, 0.6, 1.0, 0.8])
    direction /= np.linalg.norm(direction)
    c0, size = direction @ targets / beta, scale**2
    net = rj.ShallowReLU(jnp.array(scale * direction)[None], jnp.array([scale]))
    loss = rj.EmpiricalLoss(jnp.eye(n), jnp.array(targets))
    for t in (1.0, 5.0, 20.0):
        s = beta * t / n
        cosine = np.tanh(np.arctanh(c0) + s)
        curve = np.sinh(2 * s) / 4 + s / 2 + c0 * (np.cosh(2 * s) - 1) / 2 + c0**2 * (np.sinh(2 * s) / 4 - s / 2)
        norm = size * (np.cosh(s) + c0 * np.sinh(s)) ** 2 / (1 + 2 * size / beta * curve)
        end = rj.gradient_flow(loss, net, end_time=t, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(jnp.sum(end.networks.weights**2), norm, rtol=1e-9)
        exact = (beta**2 + norm**2 - 2 * norm * beta * cosine) / (2 * n)
        np.testing.assert_allclose(end.losses, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1e-20])
def test_small_neurons_grow_linearly_at_first(scale):
    """While the output vanishes a neuron follows cosh and sinh of |D|t, with D the mean of y x over its active data."""
    d, t = np.array([2.0, 1.0]) / 2, 2.0
    size, e = np.linalg.norm(d), d / np.linalg.norm(d)
    # inactive on the first datum and active on the second, all the time
    w0 = np.array([1.0, -0.3])
    a0 = np.linalg.norm(w0)
    net = rj.ShallowReLU(scale * jnp.array(w0)[None], scale * jnp.array([a0]))
    end = rj.gradient_flow(TWO_POINTS, net, end_time=t, rtol=1e-12, atol=1e-12).networks
    cosh, sinh = np.cosh(t * size), np.sinh(t * size)
    np.testing.assert_allclose(end.amplitudes[0] / scale, a0 * cosh + w0 @ e * sinh, rtol=1e-10)
    np.testing.assert_allclose(end.weights[0] / scale, w0 + (a0 * sinh + w0 @ e * (cosh - 1)) * e, rtol=1e-10)
    cosine = float(end.weights[0] @ e / jnp.linalg.norm(end.weights[0]))
    np.testing.assert_allclose(cosine, np.tanh(np.arctanh(w0 @ e / a0) + t * size), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e-40])
def test_the_time_of_escape_is_right_at_any_scale(scale):
    """Tolerances are relative to each neuron: the time at which a tiny neuron has grown is that of its closed form."""
    loss, net = aligned_neuron(scale)
    times = np.log(1 / np.sqrt(5) / scale**2) / (2 * np.sqrt(5)) + np.linspace(-0.5, 0.5, 201)
    path = rj.gradient_flow(loss, net, end_time=float(times[-1]), save_at=times, rtol=1e-6, atol=1e-6).path
    found = np.interp(0.5 / np.sqrt(5), np.asarray(path.amplitudes[:, 0]) ** 2, times)
    exact = np.log(1 / np.sqrt(5) / scale**2 - 1) / (2 * np.sqrt(5))
    assert abs(found - exact) < 2e-4


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence_with_the_tolerance(name):
    """The error falls with the tolerance at least like tolerance^0.7, on a smooth population loss."""
    loss, nets = small_ensemble(number=2)
    reference = rj.ravel(rj.flow_ensemble(loss, nets, end_time=3.0, rtol=1e-12, atol=1e-12).networks)
    tolerances, errors = (1e-4, 1e-6, 1e-8), []
    for tolerance in tolerances:
        end = rj.flow_ensemble(loss, nets, end_time=3.0, rtol=tolerance, atol=tolerance, solver=SOLVERS[name])
        errors.append(float(jnp.max(jnp.abs(rj.ravel(end.networks) - reference))))
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert 0.7 < slope < 1.4
    assert errors[0] < 1e-2


@pytest.mark.parametrize(("stepper", "order"), [(rj.flow.RungeKutta(diffrax.Bosh3()), 3), (rj.flow.Chebyshev(), 2)])
def test_order_of_a_stepper_with_fixed_steps(stepper, order):
    rates = jnp.array([0.5, 2.0, 7.0])
    field = lambda y: -rates * y + jnp.sin(y[::-1])  # noqa: E731

    @jax.jit
    def run(number):
        def body(_, carry):
            state, velocity, memory = carry
            step, memory = stepper.step(field, state, velocity, 1.0 / number, memory)
            return step.state, step.velocity, memory

        start = jnp.array([1.0, 0.5, 0.3])
        return jax.lax.fori_loop(0, number, body, (start, field(start), stepper.begin(field, start, field(start))))[0]

    ends = [run(number) for number in (40, 80, 160, 1280)]
    errors = [float(jnp.max(jnp.abs(end - ends[-1]))) for end in ends[:-1]]
    np.testing.assert_allclose(np.diff(np.log2(errors)), -order, rtol=0, atol=0.35)


def test_chebyshev_is_stable_where_runge_kutta_is_not_and_its_table_is_consistent():
    """A linear problem with rate 1e4 in steps of 0.1: the slow mode is right and the fast one is damped."""
    rates = jnp.array([1.0, 1e4])
    field = lambda y: -rates * y  # noqa: E731
    stepper = rj.flow.Chebyshev()
    state = jnp.array([1.0, 1.0])
    memory = stepper.begin(field, state, field(state))
    np.testing.assert_allclose(memory[1], 1e4, rtol=1e-3)
    for _ in range(10):
        step, memory = stepper.step(field, state, field(state), 0.1, memory)
        state = step.state
    np.testing.assert_allclose(state[0], np.exp(-1.0), rtol=2e-3)
    assert abs(state[1]) < 1.0


def test_balance_is_conserved_on_a_problem_without_kinks():
    net = rj.ShallowReLU(jnp.array([[0.5, 0.4], [0.3, 0.9]]), jnp.array([0.7, -0.2]))
    loss = rj.EmpiricalLoss(jnp.array([[1.0, 0.3], [0.2, 1.0], [1.0, 1.0]]), jnp.array([1.0, 0.5, 1.2]))
    end = rj.gradient_flow(loss, net, end_time=10.0, rtol=1e-12, atol=1e-12).networks
    assert bool(jnp.all(rj.activation_pattern(end, loss.inputs) == rj.activation_pattern(net, loss.inputs)))
    np.testing.assert_allclose(rj.balance(end), rj.balance(net), rtol=0, atol=1e-10)


def test_loss_falls_by_the_integral_of_the_squared_gradient():
    loss, nets = small_ensemble(number=1)
    net = rj.take(nets, 0)
    times = np.linspace(0, 2.0, 401)
    flow = rj.gradient_flow(loss, net, end_time=2.0, save_at=times, rtol=1e-12, atol=1e-12)
    squares = np.asarray(jax.vmap(lambda n: jnp.sum(rj.ravel(loss.gradient(n)) ** 2))(flow.path))
    h = times[1] - times[0]
    simpson = h / 3 * (squares[0] + squares[-1] + 4 * squares[1:-1:2].sum() + 2 * squares[2:-1:2].sum())
    np.testing.assert_allclose(loss(net) - flow.losses, simpson, rtol=0, atol=1e-10)


@pytest.mark.parametrize("adjoint", [None, diffrax.DirectAdjoint()])
def test_gradients_go_through_the_flow(adjoint):
    loss, nets = small_ensemble(number=1)
    net = rj.take(nets, 0)

    def final_loss(vector):
        return rj.gradient_flow(
            loss, rj.unravel(net, vector), end_time=1.0, rtol=1e-9, atol=1e-9, adjoint=adjoint, max_steps=200
        ).losses

    vector, direction = rj.ravel(net), jnp.sin(jnp.arange(rj.ravel(net).size) + 1.0)
    h = 1e-5
    difference = (final_loss(vector + h * direction) - final_loss(vector - h * direction)) / (2 * h)
    np.testing.assert_allclose(jax.grad(final_loss)(vector) @ direction, difference, rtol=1e-5)


def test_gradients_reach_the_teacher_through_the_flow():
    _, nets = small_ensemble(number=1)
    net = rj.take(nets, 0)

    def final(shift):
        loss = rj.problems.teacher(jnp.eye(3) + shift, jnp.ones(3))
        return jnp.sum(rj.gradient_flow(loss, net, end_time=1.0, rtol=1e-9, atol=1e-9, max_steps=200).networks.weights)

    h = 1e-5
    np.testing.assert_allclose(jax.grad(final)(0.0), (final(h) - final(-h)) / (2 * h), rtol=1e-5)


def test_an_implicit_solver_follows_the_same_flow():
    loss, nets = small_ensemble(number=1)
    net = rj.take(nets, 0)
    explicit, implicit = (
        rj.gradient_flow(loss, net, end_time=2.0, rtol=1e-8, atol=1e-8, solver=solver).networks.weights
        for solver in (diffrax.Dopri8(), diffrax.Kvaerno5())
    )
    np.testing.assert_allclose(explicit, implicit, rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 5])
def test_results_do_not_depend_on_the_block(block):
    loss, nets = small_ensemble(number=7)
    reference = rj.flow_ensemble(loss, nets, end_time=2.0, block=16)
    found = rj.flow_ensemble(loss, nets, end_time=2.0, block=block)
    np.testing.assert_array_equal(found.status, reference.status)
    np.testing.assert_allclose(found.networks.weights, reference.networks.weights, rtol=0, atol=1e-12)


def test_every_member_is_the_single_trajectory():
    loss, nets = small_ensemble(number=3)
    times = np.array([0.0, 0.5, 1.0])
    many = rj.flow_ensemble(loss, nets, end_time=1.0, rtol=1e-10, atol=1e-10, save_at=times)
    for i in range(3):
        one = rj.gradient_flow(loss, rj.take(nets, i), end_time=1.0, rtol=1e-10, atol=1e-10, save_at=times)
        np.testing.assert_allclose(many.networks.weights[i], one.networks.weights, rtol=0, atol=1e-8)
        np.testing.assert_allclose(many.observed["loss"][i], one.observed["loss"], rtol=0, atol=1e-8)


def test_each_network_stops_for_its_own_reason():
    loss, nets = small_ensemble(number=4)
    by_norm = rj.flow_ensemble(loss, nets, gradient_norm=1e-4)
    assert np.all(by_norm.status == rj.FlowStatus.CONVERGED)
    assert np.all(by_norm.gradient_norms <= 1e-4)
    ends = np.array([0.5, 1.0, 1.5, 2.0])
    by_time = rj.flow_ensemble(loss, nets, end_time=ends)
    assert np.all(by_time.status == rj.FlowStatus.END_TIME)
    np.testing.assert_array_equal(by_time.times, ends)
    by_steps = rj.flow_ensemble(loss, nets, end_time=2.0, max_steps=3)
    assert np.all(by_steps.status == rj.FlowStatus.STEP_LIMIT)
    assert np.all(by_steps.stats["steps"] == 3)


def test_the_stop_does_not_fire_at_the_saddle_of_a_tiny_start():
    """At λ = 1e-12 every gradient is below 1e-8 from the start on, and the origin is a saddle all the same."""
    nets = rj.initialise.balanced(jax.random.key(0), number=4, width=20, dim=2, scale=1e-12)
    end = rj.flow_ensemble(TWO_POINTS, nets, gradient_norm=1e-6, rtol=1e-8, atol=1e-8)
    start = jax.vmap(lambda net: jnp.linalg.norm(rj.ravel(TWO_POINTS.gradient(net))))(nets)
    assert np.all(start < 1e-8)
    assert np.all(end.status == rj.FlowStatus.CONVERGED)
    assert np.all(end.losses < 0.2)


def test_dead_networks_converge_at_once():
    net = rj.ShallowReLU(-jnp.ones((1, 3, 2)), jnp.ones((1, 3)))
    end = rj.flow_ensemble(rj.EmpiricalLoss(jnp.eye(2), jnp.ones(2)), net, gradient_norm=1e-6)
    assert rj.FlowStatus(end.status[0]) == rj.FlowStatus.CONVERGED
    assert end.stats["steps"][0] == 0


def test_a_start_that_is_not_finite_says_so():
    loss, nets = small_ensemble(number=2)
    broken = rj.ShallowReLU(nets.weights.at[1, 0, 0].set(jnp.nan), nets.amplitudes, train=("weights",))
    end = rj.flow_ensemble(loss, broken, end_time=1.0)
    assert [rj.FlowStatus(s).words for s in end.status] == ["end time", "diverged"]


def test_the_limit_function_on_two_orthogonal_points():
    """Boursier, Pillaud-Vivien, Flammarion 2022: at small scale the limit is relu(.4x+.2) − relu(−.4x+.8), kinks −.5 and 2."""
    nets = rj.initialise.balanced(jax.random.key(1), number=3, width=30, dim=2, scale=1e-9)
    end = rj.polish(TWO_POINTS, rj.flow_ensemble(TWO_POINTS, nets, gradient_norm=1e-5, rtol=1e-10, atol=1e-10).networks).networks
    x = np.linspace(-1.5, 3, 50)
    exact = np.maximum(0.4 * x + 0.2, 0) - np.maximum(-0.4 * x + 0.8, 0)
    inputs = jnp.stack([x, np.ones_like(x)], axis=1)
    found = jax.vmap(lambda net: jax.vmap(net)(inputs))(end)
    np.testing.assert_allclose(found, np.broadcast_to(exact, found.shape), rtol=0, atol=1e-8)
    # the least variation norm of all interpolations, 1/√5 + 1/√1.25
    np.testing.assert_allclose(rj.variation_norm(end), 1 / np.sqrt(5) + 1 / np.sqrt(1.25), rtol=0, atol=1e-9)


def test_to_xarray_labels_everything():
    pytest.importorskip("xarray")
    loss, nets = small_ensemble(number=2)
    data = rj.flow_ensemble(loss, nets, end_time=1.0, save_at=np.array([0.5, 1.0])).to_xarray()
    assert data["loss"].dims == ("start", "time")
    assert data["flow_status"].values.tolist() == ["end time"] * 2
    assert data["weights"].dims == ("start", "neuron", "input")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": -1.0}, "rtol is -1.0"),
        ({"end_time": 0.0}, "end_time is 0.0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"save_at": np.array([1.0, 0.5])}, "ascending"),
        ({"solver": diffrax.Kvaerno5()}, "Kvaerno5"),
        ({"kinks": "jump"}, "kinks is 'jump'"),
        ({"end_time": np.ones(3)}, "shape (3,)"),
        ({"gradient_norm": -1e-3}, "gradient_norm is -0.001"),
        ({"gradient_norm": np.nan}, "gradient_norm is nan"),
        ({"gradient_norm": 0.0, "end_time": np.inf}, "gradient_norm is 0"),
        ({"loss_levels": np.array([0.1, np.nan])}, "loss_levels"),
        ({"record_events": -1}, "record_events is -1"),
        ({"block": 0}, "block is 0"),
        ({"save_at": np.array([0.5]), "observe": [lambda net: net.weights, lambda net: net.biases]}, "named '<lambda>'"),
        ({"save_at": np.array([0.5]), "observe": {"loss": lambda net: net.weights}}, "named 'loss'"),
    ],
)
def test_refusals_name_the_value(change, message):
    loss, nets = small_ensemble(number=2)
    with pytest.raises((ValueError, TypeError)) as error:
        rj.flow_ensemble(loss, nets, **({"end_time": 1.0} | change))
    assert message in str(error.value) or error.type.__name__ == "TypeCheckError"


@pytest.mark.parametrize("kinks", ["auto", "step", "locate"])
@pytest.mark.parametrize("solver", [diffrax.Kvaerno5(), diffrax.Euler()])
def test_a_solver_that_cannot_serve_is_refused_and_not_replaced(kinks, solver):
    _, nets = small_ensemble(number=2, dim=2)
    with pytest.raises(ValueError, match=f"cannot step with a {type(solver).__name__}"):
        rj.flow_ensemble(TWO_POINTS, nets, end_time=1.0, rtol=1e-8, atol=1e-8, solver=solver, kinks=kinks)


def test_losses_and_flows_refuse_networks_of_other_shapes():
    population, nets = small_ensemble(number=2)
    for loss, other in ((population, "the teacher 3"), (TWO_POINTS, "the data 2")):
        _, wide = small_ensemble(number=2, dim=4)
        for call in (loss, loss.gradient, loss.hessian):
            with pytest.raises(ValueError, match=f"4 inputs and {other}"):
                call(rj.take(wide, 0))
            with pytest.raises(ValueError, match="one network"):
                call(nets)
        with pytest.raises(ValueError, match=f"4 inputs and {other}"):
            rj.flow_ensemble(loss, wide, end_time=1.0)


@pytest.mark.parametrize("kinks", ["step", "locate"])
def test_every_flow_counts_the_same_things(kinks):
    counters = {"steps", "rejected", "field_evaluations", "kinks", "slides"}
    population, nets = small_ensemble(number=2)
    _, on_data = small_ensemble(number=2, dim=2)
    assert counters <= set(rj.flow_ensemble(TWO_POINTS, on_data, end_time=1.0, kinks=kinks).stats)
    ends = rj.flow_ensemble(population, nets, end_time=1.0)
    assert counters <= set(ends.stats)
    np.testing.assert_array_equal(ends.stats["kinks"], 0)
    assert counters <= set(rj.gradient_flow(population, rj.take(nets, 0), end_time=1.0).stats)


@pytest.mark.parametrize("solver", [diffrax.Tsit5(), diffrax.Heun()])
def test_field_evaluations_of_a_trajectory_are_those_made(solver):
    calls = []

    class Counting(rj.PopulationLoss):
        def gradient(self, net):
            jax.debug.callback(lambda: calls.append(1))
            return super().gradient(net)

    loss, nets = small_ensemble(number=1)
    run = rj.gradient_flow(Counting(loss.teacher), rj.take(nets, 0), end_time=1.0, rtol=1e-4, atol=1e-4, solver=solver)
    jax.effects_barrier()
    # the gradient norm at the end is one more
    assert len(calls) == int(run.stats["field_evaluations"]) + 1


def test_shapes_and_the_backsolve_adjoint_are_refused_in_one_sentence():
    loss, nets = small_ensemble(number=2)
    with pytest.raises(ValueError, match="unstable"):
        rj.gradient_flow(loss, rj.take(nets, 0), end_time=1.0, adjoint=diffrax.BacksolveAdjoint())
    with pytest.raises(ValueError, match="a stack"):
        rj.flow_ensemble(loss, rj.take(nets, 0), end_time=1.0)
    with pytest.raises(ValueError, match="one network"):
        rj.gradient_flow(loss, nets, end_time=1.0)
    one = rj.take(nets, 0)
    with pytest.raises(ValueError, match="end_time is inf"):
        rj.gradient_flow(loss, one, end_time=np.inf)
    with pytest.raises(ValueError, match="save within the flow"):
        rj.gradient_flow(loss, one, end_time=1.0, save_at=np.array([0.5, 2.0]))
    with pytest.raises(ValueError, match="Euler has no error estimate"):
        rj.gradient_flow(loss, one, end_time=1.0, solver=diffrax.Euler())
