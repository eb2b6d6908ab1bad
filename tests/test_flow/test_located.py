"""Flow through kinks against closed forms, conserved quantities, and explicit Euler steps a thousand times shorter."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.flow import EventKind
from relujax.flow.inclusion import Inclusion
from relujax.flow.sliding import first_activation
from relujax.flow.tail import Tail

TWO_POINTS = rj.EmpiricalLoss(jnp.array([[-0.5, 1.0], [2.0, 1.0]]), jnp.array([-1.0, 1.0]))
TIGHT = {"rtol": 1e-10, "atol": 1e-10, "kinks": "locate"}


def words(flow):
    return [rj.FlowStatus(int(s)).words for s in flow.status]


def draws(n, d, m, *, seed, number=1, biases=False, train=rj.network.TRAINABLE):
    """Gaussian regression data and networks of size one."""
    r = np.random.default_rng(seed)
    loss = rj.EmpiricalLoss(jnp.array(r.standard_normal((n, d))), jnp.array(r.standard_normal(n)))
    shapes = [(number, m, d), (number, m)] + [(number, m)] * biases
    arrays = [jnp.array(r.standard_normal(shape) / np.sqrt(m)) for shape in shapes]
    return loss, rj.ShallowReLU(*arrays, train=train)


@pytest.fixture(scope="module")
def two_points():
    """The two-point problem at many scales of one balanced draw, with the times at which each sign class is fitted."""
    scales = 10.0 ** -np.array([1, 2, 3, 4, 6, 9, 12, 24])
    start = rj.take(rj.initialise.balanced(jax.random.key(2), number=1, width=12, dim=2, scale=np.sqrt(12)), 0)
    nets = rj.initialise.scaled(start, scales)
    return scales, rj.flow_ensemble(TWO_POINTS, nets, gradient_norm=1e-11, loss_levels=np.array([0.375, 0.125]), **TIGHT)


def test_the_limit_of_small_scales_has_least_variation_norm(two_points):
    """`|v₊| + |v₋|` with `|v±|² = Σ_± y²/|x|²` (Boursier, Pillaud-Vivien, Flammarion 2022, theorem 1)."""
    scales, flow = two_points
    assert set(words(flow)) == {"converged"}
    norms = np.asarray(jnp.sum(flow.networks.amplitudes**2, axis=1) + jnp.sum(flow.networks.weights**2, axis=(1, 2))) / 2
    least = 1 / np.sqrt(5) + 1 / np.sqrt(1.25)
    np.testing.assert_allclose(norms[scales <= 1e-9], least, rtol=0, atol=1e-9)
    excess = norms[:4] - least
    np.testing.assert_allclose(excess[:3] / excess[1:], 100, rtol=0.02)


def test_the_limit_function_is_two_relus_with_kinks_at_the_data(two_points):
    scales, flow = two_points
    net = rj.take(flow.networks, int(np.flatnonzero(scales == 1e-9)[0]))
    x = np.linspace(-3, 4, 71)
    found = jax.vmap(net)(jnp.stack([x, np.ones_like(x)], axis=1))
    exact = np.maximum(0.4 * x + 0.2, 0) - np.maximum(-0.4 * x + 0.8, 0)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-8)


def test_jump_times_grow_like_the_logarithm_of_the_scale(two_points):
    """`t = −ln λ/|D±|` to leading order, with D± the mean of y x over one sign class."""
    scales, flow = two_points
    small = scales <= 1e-4
    slopes = [np.polyfit(-np.log(scales[small]), times, 1)[0] for times in np.asarray(flow.level_times).T[:, small]]
    np.testing.assert_allclose(slopes, [2 / np.sqrt(5), 2 / np.sqrt(1.25)], rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def regression():
    """Random regression data, two networks, all events up to t = 10."""
    loss, nets = draws(20, 5, 50, seed=0, number=2)
    return loss, nets, rj.flow_ensemble(loss, nets, end_time=10.0, record_events=400, **TIGHT)


def test_balance_is_conserved_through_hundreds_of_kinks_and_slides(regression):
    _, nets, flow = regression
    assert np.all(flow.stats["kinks"] > 100)
    assert np.all(flow.stats["slides"] > 10)
    np.testing.assert_allclose(rj.balance(flow.networks), rj.balance(nets), rtol=0, atol=1e-10)


def test_the_event_log_is_in_order_and_its_transitions_fit_together(regression):
    loss, nets, flow = regression
    log, left = flow.events, {EventKind.EXIT_ON, EventKind.EXIT_OFF}
    for b in range(2):
        count = int(log.number[b])
        assert count >= flow.stats["kinks"][b]
        assert np.all(np.diff(log.time[b, :count]) >= 0)
        state = {True: EventKind.ON, False: EventKind.OFF}
        pattern = np.asarray(rj.activation_pattern(rj.take(nets, b), loss.inputs))
        last = {(j, i): state[bool(pattern[i, j])] for i in range(20) for j in range(50)}
        for neuron, datum, kind in zip(*(np.asarray(a[b, :count]).tolist() for a in log[1:4]), strict=True):
            before = last[neuron, datum]
            assert (before == EventKind.SLIDE) == (kind in left)
            assert before != kind
            last[neuron, datum] = {EventKind.EXIT_ON: EventKind.ON, EventKind.EXIT_OFF: EventKind.OFF}.get(kind, kind)


def test_energy_identity_through_kinks(regression):
    """`L(0) − L(T) = ∫ |θ'|²`, with θ' from the path itself: differentiated at Chebyshev points between any two events."""
    loss, nets, flow = regression
    nets, count = rj.take(nets, slice(0, 1)), int(flow.events.number[0])
    edges = np.unique(np.concatenate([[0.0, 10.0], np.asarray(flow.events.time[0, :count])]))
    edges = edges[np.concatenate([[True], np.diff(edges) > 1e-9])]
    nodes = 9
    points = -np.cos(np.pi * np.arange(nodes) / (nodes - 1))
    times = (edges[:-1, None] + np.diff(edges)[:, None] * (1 + points) / 2).ravel()
    path = rj.flow_ensemble(loss, nets, end_time=10.0, save_at=times, observe={"state": rj.ravel}, **TIGHT)
    states = np.asarray(path.observed["state"])[0].reshape(len(edges) - 1, nodes, -1)
    vandermonde = np.polynomial.chebyshev.chebvander(points, nodes - 1)
    coefficients = np.linalg.solve(vandermonde, states)
    speed = np.polynomial.chebyshev.chebder(coefficients, axis=1) / (np.diff(edges)[:, None, None] / 2)
    fine, weights = np.polynomial.legendre.leggauss(nodes)
    at_fine = np.einsum("qk,ikp->iqp", np.polynomial.chebyshev.chebvander(fine, nodes - 2), speed)
    work = np.sum(np.sum(at_fine**2, axis=2) @ weights * np.diff(edges) / 2)
    np.testing.assert_allclose(work, float(loss(rj.take(nets, 0))) - float(flow.losses[0]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", [0, 1])
def test_short_explicit_steps_converge_to_it(seed):
    """Euler steps chatter along the boundaries that neurons slide on, and stay within the length of a step of the flow."""
    loss, nets = draws(10, 2, 8, seed=seed, number=2)
    flow = rj.flow_ensemble(loss, nets, end_time=4.0, record_events=100, **TIGHT)
    kinds = set(np.concatenate([np.asarray(flow.events.kind[b, : flow.events.number[b]]) for b in range(2)]).tolist())
    assert EventKind.SLIDE in kinds

    @jax.jit
    def euler(net, steps):
        length = 4.0 / steps
        body = lambda _, v: v - length * rj.ravel(loss.gradient(rj.unravel(net, v)))  # noqa: E731
        return jax.lax.fori_loop(0, steps, body, rj.ravel(net))

    for b in range(2):
        end, start = rj.ravel(rj.take(flow.networks, b)), rj.take(nets, b)
        for steps in (40_000, 160_000, 640_000):
            assert float(jnp.max(jnp.abs(euler(start, steps) - end))) < 4.0 / steps


def test_sliding_to_a_least_squares_point():
    """The neuron meets the boundary of the datum it cannot fit, grows along it, and ends at the best fit of the other."""
    loss = rj.EmpiricalLoss(jnp.array([[1.0, 0.0], [0.5, 1.0]]), jnp.array([-1.0, 1.0]))
    w = 1e-3 * np.array([0.3, 1.0])
    nets = rj.ShallowReLU(jnp.array(w)[None, None], jnp.array([[np.linalg.norm(w)]]))
    # while it slides a² obeys the logistic equation of the second datum: a passes ½ when the loss is (1 + (1 − ¼)²)/4
    levels = (1 + (1 - np.array([0.1, 0.25, 0.5])) ** 2) / 4
    flow = rj.flow_ensemble(loss, nets, gradient_norm=1e-12, loss_levels=levels, record_events=5, **TIGHT)
    assert words(flow) == ["converged"]
    np.testing.assert_allclose(flow.networks.weights[0, 0], [0.0, 1.0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(flow.networks.amplitudes[0, 0], 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(flow.losses, 0.25, rtol=0, atol=1e-14)
    assert (int(flow.events.number[0]), int(flow.events.kind[0, 0])) == (1, EventKind.SLIDE)
    # small-start closed form of the approach: w₁ vanishes at this time, by bisection of it with 50 digits
    np.testing.assert_allclose(flow.events.time[0, 0], 0.927968485, rtol=0, atol=1e-6)
    logits = np.log(np.array([0.1, 0.25, 0.5]) / (1 - np.array([0.1, 0.25, 0.5])))
    np.testing.assert_allclose(np.diff(flow.level_times[0]), np.diff(logits), rtol=0, atol=1e-8)


# three data in three dimensions: the first two push any positive neuron off, the third pulls it
CORNER = rj.EmpiricalLoss(jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 1.0]]), jnp.array([-1.0, -1.0, 1.0]))


def corner_flow(weights, amplitudes, **options):
    nets = rj.ShallowReLU(jnp.array(weights)[None], jnp.array(amplitudes)[None])
    return rj.flow_ensemble(CORNER, nets, **({"loss_levels": np.array([0.4, 0.36]), "record_events": 20} | TIGHT | options))


def slides_of(flow):
    count = int(flow.events.number[0])
    rows = zip(*(np.asarray(a[0, :count]).tolist() for a in flow.events[1:4]), strict=True)
    return {(neuron, datum) for neuron, datum, kind in rows if kind == EventKind.SLIDE}


def logistic_time(flow):
    """How long the loss takes between its two levels while everything slides: `N' = ⅔ N (1 − N)`, `L = (2 + (1 − N)²)/6`."""
    size = 1 - np.sqrt(6 * np.array([0.4, 0.36]) - 2)
    return np.diff(np.log(size / (1 - size)))[0] * 1.5


def test_one_neuron_slides_along_two_boundaries():
    w = 1e-3 * np.array([0.2, 0.35, 1.0])
    flow = corner_flow([w, -w], [np.linalg.norm(w), -np.linalg.norm(w)], gradient_norm=1e-11)
    assert words(flow) == ["converged"]
    assert {(0, 0), (0, 1)} <= slides_of(flow)
    np.testing.assert_allclose(flow.networks.weights[0, 0], [0, 0, 1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(np.diff(flow.level_times[0])[0], logistic_time(flow), rtol=0, atol=1e-8)


def test_two_neurons_slide_along_the_same_boundaries():
    """Their squares add up to the logistic curve of one neuron, and keep their ratio."""
    w = 1e-3 * np.array([[0.2, 0.35, 1.0], [0.3, 0.1, 0.8]])
    flow = corner_flow(w, np.linalg.norm(w, axis=1), gradient_norm=1e-11)
    assert words(flow) == ["converged"]
    assert slides_of(flow) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    np.testing.assert_allclose(jnp.sum(flow.networks.amplitudes[0] ** 2), 1.0, rtol=0, atol=1e-11)
    np.testing.assert_allclose(flow.networks.weights[0, :, :2], 0, rtol=0, atol=1e-11)
    np.testing.assert_allclose(np.diff(flow.level_times[0])[0], logistic_time(flow), rtol=0, atol=1e-8)


def test_simultaneous_arrivals_from_a_symmetric_start():
    """Exchanging the first two inputs exchanges the neurons; each also meets both boundaries at once with the other one."""
    w = 1e-3 * np.array([[0.2, 0.3, 1.0], [0.3, 0.2, 1.0]])
    flow = corner_flow(w, np.linalg.norm(w, axis=1), gradient_norm=1e-11)
    assert words(flow) == ["converged"]
    assert len(slides_of(flow)) == 4
    np.testing.assert_allclose(flow.networks.weights[0, 0], flow.networks.weights[0, 1][jnp.array([1, 0, 2])], rtol=0, atol=1e-12)
    w = 1e-3 * np.array([[0.3, 0.3, 1.0], [0.1, 0.1, 1.0]])
    together = corner_flow(w, np.linalg.norm(w, axis=1), gradient_norm=1e-11)
    assert words(together) == ["converged"]
    assert len(slides_of(together)) == 4
    np.testing.assert_allclose(together.networks.weights[0, :, :2], 0, rtol=0, atol=1e-11)


def euler_end(loss, net, end_time, steps):
    body = lambda _, v: v - end_time / steps * rj.ravel(loss.gradient(rj.unravel(net, v)))  # noqa: E731
    return jax.jit(lambda v: jax.lax.fori_loop(0, steps, body, v))(rj.ravel(net))


def test_an_exit_is_located_when_the_residual_on_the_boundary_changes_sign():
    """A negative neuron fits the first datum, and beyond: the residual on which the positive one slides passes zero."""
    positive, negative = np.array([0.05, -1.0, 1.0]), np.array([1.0, 0.6, -2.0])
    flow = corner_flow([0.1 * positive, 0.5 * negative], [0.1, -0.5], end_time=9.0)
    count = int(flow.events.number[0])
    mine = [(float(t), int(k)) for t, j, i, k in zip(*(a[0, :count] for a in flow.events[:4]), strict=True) if (j, i) == (0, 0)]
    kinds = [kind for _, kind in mine]
    assert kinds[:2] in ([EventKind.SLIDE, EventKind.EXIT_ON], [EventKind.SLIDE, EventKind.EXIT_OFF])
    net = rj.ShallowReLU(jnp.array([0.1 * positive, 0.5 * negative]), jnp.array([0.1, -0.5]))
    ends = [euler_end(CORNER, net, 9.0, steps) for steps in (100_000, 200_000)]
    extrapolated = 2 * ends[1] - ends[0]
    np.testing.assert_allclose(rj.ravel(rj.take(flow.networks, 0)), extrapolated, rtol=0, atol=2e-4)
    residual = float(CORNER.outputs(rj.take(flow.networks, 0))[0] + 1.0)
    assert residual < 0.5


def test_a_neuron_exactly_on_a_boundary_is_inactive_there():
    """relu'(0) = 0: nothing pulls a neuron off a boundary to which it was set."""
    w = 1e-3 * np.array([1.0, 0.5])
    net = rj.ShallowReLU(jnp.array(w)[None, None], jnp.array([[-np.linalg.norm(w)]]))
    assert float(TWO_POINTS.inputs[0] @ w) == 0
    flow = rj.flow_ensemble(TWO_POINTS, net, end_time=0.5, **TIGHT)
    assert abs(float(flow.networks.weights[0, 0] @ TWO_POINTS.inputs[0])) < 1e-16


@pytest.mark.slow
def test_steps_that_aim_at_kinks_waste_few_and_stay_accurate():
    """On orthogonal data, where nothing slides: a controller by the order of the method alone needs twenty rejections a kink."""
    loss = rj.problems.orthogonal(jax.random.key(2), number=12, dim=12)
    nets = rj.initialise.balanced(jax.random.key(3), number=2, width=30, dim=12, scale=0.1)
    stepped = rj.flow_ensemble(loss, nets, end_time=20.0, rtol=1e-8, atol=1e-11, kinks="step")
    located = rj.flow_ensemble(loss, nets, end_time=20.0, **TIGHT)
    assert np.all(located.stats["kinks"] > 20)
    assert np.all(stepped.stats["rejected"] < 2 * located.stats["kinks"] + 10)
    np.testing.assert_allclose(rj.ravel(stepped.networks), rj.ravel(located.networks), rtol=0, atol=1e-8)


@pytest.mark.slow
def test_results_depend_neither_on_the_block_nor_on_the_devices(tmp_path):
    """A batch that goes in lockstep, and four devices with a chunk each, find what one network after another finds."""
    loss, nets = draws(6, 3, 8, seed=3, number=256)
    alone = rj.flow_ensemble(loss, nets, gradient_norm=1e-9, **TIGHT)
    few = rj.take(nets, slice(0, 4))
    together = rj.flow_ensemble(loss, few, gradient_norm=1e-9, block=4, **TIGHT)
    for name in ("kinks", "slides", "steps"):
        np.testing.assert_array_equal(together.stats[name], alone.stats[name][:4], err_msg=name)
    np.testing.assert_allclose(rj.ravel(together.networks), rj.ravel(alone.networks)[:4], rtol=0, atol=1e-12)
    np.savez(tmp_path / "given.npz", x=loss.inputs, y=loss.targets, w=nets.weights, a=nets.amplitudes)
    script = (
        "import jax, numpy as np; jax.config.update('jax_enable_x64', True)\n"
        "import relujax as rj\n"
        "assert len(jax.devices()) == 4\n"
        "g = np.load('given.npz')\n"
        "loss, nets = rj.EmpiricalLoss(g['x'], g['y']), rj.ShallowReLU(g['w'], g['a'])\n"
        "f = rj.flow_ensemble(loss, nets, gradient_norm=1e-9, rtol=1e-10, atol=1e-10, kinks='locate')\n"
        "np.savez('found.npz', ends=rj.ravel(f.networks), kinks=f.stats['kinks'])\n"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(found["kinks"], alone.stats["kinks"])
    np.testing.assert_allclose(found["ends"], rj.ravel(alone.networks), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "m"), [(10, 2, 30), (30, 3, 20)])
def test_no_flow_on_overlapping_data_gets_stuck(n, d, m):
    """More data than dimensions: neurons shrink to the origin, where they are on all boundaries, and tiny ones leave saddles."""
    for seed in range(3):
        loss, nets = draws(n, d, m, seed=seed, number=32)
        flow = rj.flow_ensemble(loss, nets, rtol=1e-8, atol=1e-8, gradient_norm=1e-9, kinks="locate")
        assert set(words(flow)) == {"converged"}
        assert np.all(flow.stats["steps"] < 10_000)


@pytest.mark.parametrize("kinks", ["locate", "step"])
def test_every_choice_refuses_what_it_cannot_do(kinks):
    loss, nets = draws(4, 2, 3, seed=0)
    with pytest.raises(ValueError, match="record_events"):
        rj.flow_ensemble(loss, nets, end_time=1.0, kinks="step", record_events=5)
    with pytest.raises(ValueError, match="steps over kinks"):
        rj.flow_ensemble(loss, nets, end_time=1.0, kinks="locate", solver=rj.flow.Chebyshev())
    with pytest.raises(ValueError, match="empirical loss"):
        rj.flow_ensemble(rj.problems.orthonormal_teacher(2), nets, end_time=1.0, kinks="locate")
    single = jax.tree.map(lambda x: x.astype(jnp.float32), nets)
    with pytest.raises(ValueError, match="float64"):
        rj.flow_ensemble(loss, single, end_time=1.0, kinks="locate")


@pytest.mark.parametrize("whole", [True, False])
def test_steps_bound_by_stability_turn_the_tail_on_whether_or_not_events_end_them(whole):
    """An event at the end of every one of them must not keep a flow out of its tail for ever; short steps leave it out."""
    loss, net = rj.EmpiricalLoss(jnp.eye(2), jnp.ones(2)), rj.ShallowReLU(jnp.eye(2), jnp.ones(2))
    inclusion = Inclusion(loss, net)
    state = inclusion.state(net)
    activation, _ = first_activation(inclusion, state)

    def turned_on(length):
        # |(w, a)|² = 2 for each of two neurons on one datum each: the fastest decay is 2/n = 1
        tail = Tail.begin(jnp.float64)
        for steps in range(1, 40):
            tail = tail.watch(inclusion, state, activation, jnp.asarray(length), jnp.asarray(whole))
            if bool(tail.is_on):
                return steps
        return None

    assert turned_on(2.9) is None
    assert turned_on(3.1) == turned_on(1e3) < 30
