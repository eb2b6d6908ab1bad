"""Flows from small starts against what theory says of them, and starts and data of every awkward kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def words(flow):
    return [rj.FlowStatus(int(s)).words for s in flow.status]


def test_the_closed_form_agrees_with_following_every_kink():
    """Recording events follows the kinks one by one; otherwise the alignment of small neurons is jumped over."""
    r = np.random.default_rng(0)
    loss = rj.EmpiricalLoss(jnp.array(r.standard_normal((8, 4))), jnp.array(r.standard_normal(8)))
    start = rj.take(rj.initialise.unbalanced(jax.random.key(0), number=1, width=12, dim=4), 0)
    nets = rj.initialise.scaled(start, [1e-6, 1e-20, 1e-50])
    followed = rj.flow_ensemble(loss, nets, gradient_norm=1e-9, record_events=300, **TIGHT)
    jumped = rj.flow_ensemble(loss, nets, gradient_norm=1e-9, **TIGHT)
    assert words(followed) == words(jumped) == ["converged"] * 3
    np.testing.assert_array_equal(jumped.stats["kinks"], followed.stats["kinks"])
    np.testing.assert_array_equal(jumped.stats["slides"], followed.stats["slides"])
    assert np.all(jumped.stats["steps"] < followed.stats["steps"])
    np.testing.assert_allclose(rj.ravel(jumped.networks), rj.ravel(followed.networks), rtol=0, atol=1e-8)


def small_outputs():
    """Data and a network of each kind whose kinks come while the outputs are small but not negligible."""
    r = np.random.default_rng(0)
    rotation = np.linalg.qr(r.standard_normal((12, 12)))[0]
    x = np.sort(r.uniform(-1, 1, 10))[:, None]
    data = {
        "orthogonal data": (rotation, r.choice([-1, 1], 12) * r.uniform(0.5, 1.5, 12)),
        "slides": (r.standard_normal((14, 3)), r.standard_normal(14)),
        "biases": (x, np.sin(4 * x[:, 0])),
        "weights alone": (rotation, r.standard_normal(12)),
    }
    for name, (inputs, targets) in data.items():
        weights = r.standard_normal((20, inputs.shape[1])) / np.sqrt(inputs.shape[1])
        net = rj.ShallowReLU(
            jnp.array(weights),
            jnp.array(r.choice([-1, 1], 20) * np.linalg.norm(weights, axis=1)),
            jnp.array(0.3 * r.standard_normal(20)) if name == "biases" else None,
            train=("weights",) if name == "weights alone" else ("weights", "biases", "amplitudes"),
        )
        slides = name in ("slides", "biases")
        loss = rj.EmpiricalLoss(jnp.array(inputs), jnp.array(targets))
        yield pytest.param(loss, net, slides, id=name, marks=() if name == "slides" else pytest.mark.slow)


@pytest.mark.parametrize(("loss", "net", "slides"), list(small_outputs()))
def test_relaxation_agrees_with_following_every_kink(loss, net, slides, monkeypatch):
    """To the tolerance, at every save time, with the same kinks and slides, and without a step for each."""
    monkeypatch.setattr("relujax.flow.ensemble._RELAXES_FROM", 0)
    nets = rj.initialise.scaled(net, [1e-3, 2e-4])
    times, options = np.array([1.5, 4.0]), {"end_time": 6.0, "kinks": "locate", "observe": {"state": rj.ravel}}
    exact = rj.flow_ensemble(loss, nets, save_at=times, rtol=1e-13, atol=1e-13, record_events=1000, **options)
    assert np.all((exact.stats["slides"] > 0) == slides)
    for tolerance in (1e-6, 1e-8):
        relaxed = rj.flow_ensemble(loss, nets, save_at=times, rtol=tolerance, atol=tolerance, **options)
        np.testing.assert_array_equal(relaxed.stats["kinks"], exact.stats["kinks"])
        np.testing.assert_array_equal(relaxed.stats["slides"], exact.stats["slides"])
        assert np.all(relaxed.stats["kinks"] > 20)
        assert np.all(relaxed.stats["steps"] < exact.stats["steps"] / 3)
        size = np.max(np.abs(exact.observed["state"]), axis=(1, 2), keepdims=True)
        errors = np.max(np.abs(relaxed.observed["state"] - exact.observed["state"]) / size)
        assert errors < tolerance


def test_the_excess_of_partially_aligned_neurons_falls_with_the_exponent_of_theory():
    """Orthonormal data: `Σ(a² + |w|²)/2 − (|v₊| + |v₋|) ~ λ^{2(1 − r)}`, r the largest |D_I|/|D_sign| over proper subsets I."""
    targets = np.array([1, 0.7, -0.9, 1.3, -0.4, -1.1])
    loss = rj.EmpiricalLoss(jnp.eye(6, 8), jnp.array(targets))
    nets = rj.initialise.balanced(jax.random.key(3), number=1, width=16, dim=8, scale=4.0)
    # one neuron of each sign fires on all data of its sign
    active = jnp.zeros((2, 8)).at[:, :6].set(jnp.where(jnp.array([[1.0], [-1.0]]) * targets > 0, 1.0, -1.0))
    net = rj.ShallowReLU(nets.weights[0].at[:2].set(active), nets.amplitudes[0].at[:2].set(jnp.array([1.0, -1.0]) * np.sqrt(6)))
    scales = 10.0 ** -np.array([44.0, 48.0])
    flow = rj.flow_ensemble(loss, rj.initialise.scaled(net, scales), gradient_norm=1e-12, **TIGHT)
    assert words(flow) == ["converged"] * 2
    half = np.asarray(jnp.sum(flow.networks.amplitudes**2, axis=1) + jnp.sum(flow.networks.weights**2, axis=(1, 2))) / 2
    groups = [np.abs(targets[targets * sign > 0]) for sign in (1, -1)]
    excess = half - sum(np.linalg.norm(group) for group in groups)
    slope = np.diff(np.log(excess))[0] / np.diff(np.log(scales))[0]
    shares = [1 - np.min(group) ** 2 / np.sum(group**2) for group in groups]
    np.testing.assert_allclose(slope, 2 * (1 - np.sqrt(max(shares))), rtol=0.05)


@pytest.fixture(scope="module")
def teacher_neuron():
    """All data at acute angles to one teacher neuron: the flow from λ, λ/4, …, with the times at which half is learnt."""
    r = np.random.default_rng(5)
    teacher = r.standard_normal(5)
    teacher /= np.linalg.norm(teacher)
    inputs = teacher + 0.35 * r.standard_normal((5, 5))
    assert np.all(inputs @ teacher > 0)
    loss = rj.EmpiricalLoss(jnp.array(inputs), jnp.array(inputs @ teacher))
    start = rj.take(rj.initialise.balanced(jax.random.key(1), number=1, width=10, dim=5, scale=np.sqrt(10)), 0)
    scales = 0.25 ** np.arange(6.0, 14.0)
    level = float(jnp.mean(loss.targets**2)) / 8
    nets = rj.initialise.scaled(start, scales)
    return loss, scales, rj.flow_ensemble(loss, nets, gradient_norm=1e-13, loss_levels=np.array([level]), **TIGHT)


def test_the_largest_final_angle_is_proportional_to_the_scale(teacher_neuron):
    """Chistikov, Englert, Lazic 2023, table 1: the ratio under λ → λ/4 tends to 4."""
    _, scales, flow = teacher_neuron
    assert words(flow) == ["converged"] * len(scales)
    angles = []
    for b in range(len(scales)):
        net = rj.take(flow.networks, b)
        w = np.asarray(net.weights)[np.asarray(net.amplitudes) > 1e-3 * float(jnp.max(net.amplitudes))]
        units = w / np.linalg.norm(w, axis=1, keepdims=True)
        angles.append(np.max(2 * np.arcsin(np.linalg.norm(units[:, None] - units, axis=-1) / 2)))
    ratios = np.array(angles[:-1]) / angles[1:]
    np.testing.assert_allclose(ratios[:4], 4, rtol=1e-3)


def test_the_half_time_has_the_slope_of_the_first_moment(teacher_neuron):
    """`d t_half/d ln(1/λ) = 1/|γ|` with `γ = 1/n Σ y x`."""
    loss, scales, flow = teacher_neuron
    gamma = np.linalg.norm(np.mean(np.asarray(loss.targets)[:, None] * np.asarray(loss.inputs), axis=0))
    slope = np.polyfit(-np.log(scales[-3:]), flow.level_times[-3:, 0], 1)[0]
    np.testing.assert_allclose(slope, 1 / gamma, rtol=1e-6)


def test_without_amplitudes_the_flow_ends_at_the_linear_spline():
    """Adaptive regime, a = 0 and |w| = 1/√m: all strength gathers at knots on the samples (Williams et al. 2019).

    Where the directions leave a sample without neurons the flow ends at a least-squares fit of the others; of these draws,
    some do and some do not.
    """
    x = np.array([-0.8, -0.45, -0.1, 0.3, 0.75])
    y = np.array([0.5, -0.4, 0.9, -0.2, 0.6])
    angles = jax.random.uniform(jax.random.key(0), (8, 60), maxval=2 * np.pi)
    nets = rj.ShallowReLU(jnp.cos(angles)[..., None] / 60**0.5, jnp.zeros((8, 60)), jnp.sin(angles) / 60**0.5)
    loss = rj.problems.univariate(jnp.array(x), jnp.array(y))
    flow = rj.flow_ensemble(loss, nets, end_time=1e4, gradient_norm=1e-10, **TIGHT)
    assert set(words(flow)) == {"converged"}
    fits = np.flatnonzero(flow.losses < 1e-18)
    assert len(fits) > 0
    for draw in fits:
        assert flow.stats["slides"][draw] > 20
        end = rj.take(flow.networks, draw)
        grid = np.linspace(x[0], x[-1], 400)
        np.testing.assert_allclose(jax.vmap(end)(grid[:, None]), np.interp(grid, x, y), rtol=0, atol=1e-6)
        strength = np.asarray(jnp.abs(end.amplitudes) * jnp.hypot(end.weights[:, 0], end.biases))
        knots = np.asarray(rj.kinks(end))
        inside = (knots > x[0]) & (knots < x[-1])
        far = np.min(np.abs(knots[:, None] - x), axis=1) > 1e-6
        assert np.sum(strength[inside & far]) < 1e-6 * np.sum(strength)


def awkward():
    """Data and networks of one shape, each with something degenerate about it."""
    r = np.random.default_rng(0)
    inputs, targets = r.standard_normal((6, 3)), r.standard_normal(6)
    weights, amplitudes = r.standard_normal((3, 8, 3)), r.standard_normal((3, 8))
    on_kinks = weights - (weights @ inputs[0])[..., None] / (inputs[0] @ inputs[0]) * inputs[0]
    twice = np.concatenate([weights[:, :4], weights[:, :4]], axis=1)
    return {
        "equal data": (np.ones((6, 1)) * inputs[:1], targets, weights, amplitudes),
        "one datum": (np.concatenate([inputs[:1], np.zeros((5, 3))]), np.append(1.0, np.zeros(5)), weights, amplitudes),
        "collinear data": (np.outer([1, 2, -1, -3, 0.5, 1], inputs[0]), targets, weights, amplitudes),
        "duplicate neurons": (inputs, targets, twice, np.concatenate([amplitudes[:, :4]] * 2, axis=1)),
        "opposite pairs": (inputs, targets, twice, np.concatenate([amplitudes[:, :4], -amplitudes[:, :4]], axis=1)),
        "dead neurons": (np.abs(inputs), targets, -np.abs(weights), amplitudes),
        "zero labels": (inputs, 0 * targets, weights, amplitudes),
        "huge labels": (inputs, 1e8 * targets, weights, amplitudes),
        "tiny labels": (inputs, 1e-300 * targets, weights, amplitudes),
        "tiny start": (inputs, targets, 1e-300 * weights, 1e-300 * amplitudes),
        "zero weights": (inputs, targets, 0 * weights, amplitudes),
        "zero amplitudes": (inputs, targets, weights, 0 * amplitudes),
        "on a boundary": (inputs, targets, on_kinks, amplitudes),
    }


@pytest.mark.parametrize("name", awkward())
def test_nothing_hangs(name):
    inputs, targets, weights, amplitudes = (jnp.array(a) for a in awkward()[name])
    loss = rj.EmpiricalLoss(inputs, targets)
    flow = rj.flow_ensemble(loss, rj.ShallowReLU(weights, amplitudes), gradient_norm=1e-8, rtol=1e-8, atol=1e-8, max_steps=20_000)
    expected = {"huge labels": "rounding"}.get(name, "converged")
    assert words(flow) == [expected] * 3
    assert np.all(np.isfinite(flow.losses))
    assert np.all(flow.losses <= np.asarray(jax.vmap(loss)(rj.ShallowReLU(weights, amplitudes))) * (1 + 1e-12))
