"""Observables against their definitions, at ordinary sizes and at sizes whose squares underflow."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import relujax as rj
from relujax import theory
from relujax.flow import detect, observe

SIZES = [1.0, 1e-50, 1e-200]


def random_net(size=1.0, m=5, d=3, biased=True):
    r = np.random.default_rng(0)
    biases = size * r.standard_normal(m) if biased else None
    return rj.ShallowReLU(size * r.standard_normal((m, d)), size * r.standard_normal(m), biases)


@pytest.mark.parametrize("size", SIZES)
def test_norms_directions_and_balances_at_any_size(size):
    net, plain = random_net(size), random_net()
    hidden = np.column_stack([plain.weights, plain.biases])
    norms = np.linalg.norm(hidden, axis=1)
    np.testing.assert_allclose(observe.neuron_norms(net), size * norms, rtol=1e-14)
    np.testing.assert_allclose(observe.log_norms(net), np.log(size) + np.log(norms), rtol=1e-14)
    np.testing.assert_allclose(observe.directions(net), hidden / norms[:, None], rtol=1e-13)
    a = np.asarray(plain.amplitudes)
    np.testing.assert_allclose(observe.relative_balance(net), (a**2 - norms**2) / (a**2 + norms**2), rtol=1e-12)
    np.testing.assert_allclose(observe.cosines(np.eye(4))(net), hidden / norms[:, None], rtol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_singular_values_nuclear_norm_and_effective_rank_at_any_size(size):
    values = np.linalg.svd(np.column_stack([random_net().weights, random_net().biases]), compute_uv=False)
    np.testing.assert_allclose(observe.singular_values(random_net(size)), size * values, rtol=1e-13)
    np.testing.assert_allclose(observe.nuclear_norm(random_net(size)), size * values.sum(), rtol=1e-13)
    share = values / values.sum()
    np.testing.assert_allclose(observe.effective_rank(random_net(size)), np.exp(-np.sum(share * np.log(share))), rtol=1e-13)
    assert observe.effective_rank(rj.ShallowReLU(np.ones((3, 2)), np.ones(3))) == pytest.approx(1.0)


def test_a_neuron_that_is_zero_has_no_direction_and_no_nan():
    net = rj.ShallowReLU(np.zeros((2, 2)), np.zeros(2))
    assert observe.neuron_norms(net).tolist() == [0, 0]
    assert observe.relative_balance(net).tolist() == [0, 0]
    assert observe.angles(net).tolist() == [[0, 0], [0, 0]]
    assert observe.nuclear_norm(net) == 0


@pytest.mark.parametrize("angle", [1e-12, 1e-7, 0.3, 1.5, np.pi - 1e-7])
def test_angles_are_accurate_where_the_arc_cosine_is_not(angle):
    """The exact angle between the rounded vectors, by 50 digits."""
    vectors = np.array([[1.0, 0.0], [3 * np.cos(angle), 3 * np.sin(angle)]])
    with mpmath.workdps(50):
        x, y = (mpmath.mpf(float(v)) for v in vectors[1])
        exact = float(mpmath.atan2(y, x))
    found = observe.angles(rj.ShallowReLU(vectors, np.ones(2)))[0, 1]
    np.testing.assert_allclose(found, exact, rtol=1e-9 if angle < 1 else 1e-15, atol=1e-20)


def test_angles_of_two_balanced_neurons_from_their_conserved_invariant():
    """In the linear regime a pair turns together: after growth by e^20 the angle is known to 1e-9 from the one at the start."""
    r = np.random.default_rng(1)
    slope, w0 = np.array([1.0, 0.5, 0.2]), r.uniform(0, 1, (2, 3))
    a0 = np.linalg.norm(w0, axis=1)
    invariants = observe.lorentz_invariants(rj.ShallowReLU(w0, a0))
    end = [theory.linear_regime(w, a, slope, np.array([20.0])) for w, a in zip(w0, a0, strict=True)]
    with mpmath.workdps(60):
        angle = _exact_angle(w0, slope, 20)
    found = observe.angles_of_invariants(invariants, jnp.array([a[0] for _, a in end]))[0, 1]
    np.testing.assert_allclose(found, angle, rtol=1e-12)
    direct = observe.angles(rj.ShallowReLU(np.array([w[0] for w, _ in end]), np.array([a[0] for _, a in end])))[0, 1]
    np.testing.assert_allclose(direct, angle, rtol=1e-4)


def _exact_angle(starts, slope, time):
    ends = []
    for start in starts:
        w, e = mpmath.matrix(list(start)), mpmath.matrix(list(slope))
        rate = mpmath.norm(e)
        e = e / rate
        along, a = (w.T * e)[0], mpmath.norm(w)
        gain = a * mpmath.sinh(rate * time) + along * (mpmath.cosh(rate * time) - 1)
        ends.append(w + gain * e)
    u, v = (end / mpmath.norm(end) for end in ends)
    return float(2 * mpmath.asin(mpmath.norm(u - v) / 2))


def test_what_data_and_losses_say():
    net = rj.ShallowReLU(np.array([[1.0, 0.0], [0.0, -1.0], [-1.0, -1.0]]), np.array([2.0, 1.0, -1.0]))
    loss = rj.EmpiricalLoss(jnp.eye(2), jnp.array([1.0, -1.0]))
    assert observe.active_counts(loss.inputs)(net).tolist() == [1, 0]
    assert observe.dead_count(loss.inputs)(net) == 2
    assert observe.outputs(np.array([[0.0, -3.0]]))(net).tolist() == [0.0]
    assert observe.residuals(loss)(net).tolist() == [1.0, 1.0]
    assert observe.signs(net).tolist() == [1, 1, -1]
    assert observe.signed_sum(1)(net).tolist() == [2.0, -1.0]
    np.testing.assert_allclose(observe.signed_strengths(net), [2, 1, -(2**0.5)])
    np.testing.assert_allclose(observe.gradient_norm(loss)(net), np.linalg.norm(rj.ravel(loss.gradient(net))))
    np.testing.assert_allclose(observe.largest_angle(jnp.eye(2))(net), 0.0)


def test_the_index_at_a_plateau_counts_the_neurons_that_are_still_small():
    """One neuron has fitted (2, 1); five are tiny, of which those active on (−½, 1) can still grow, each a direction down."""
    loss = rj.EmpiricalLoss(jnp.array([[-0.5, 1.0], [2.0, 1.0]]), jnp.array([-1.0, 1.0]))
    r = np.random.default_rng(0)
    tiny = 1e-9 * r.standard_normal((5, 2))
    grown = np.array([[2.0, 1.0]]) / 5**0.75
    net = rj.ShallowReLU(jnp.array(np.concatenate([grown, tiny])), jnp.array([5**-0.25, 0, 0, 0, 0, 0]))
    active = int(np.sum(tiny @ np.array([-0.5, 1.0]) > 0))
    assert observe.hessian_index(loss)(net) == active > 0


def test_margins_of_a_classifier():
    loss = rj.EmpiricalLoss(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, -1.0]), rj.ExponentialError())
    net = rj.ShallowReLU(jnp.eye(2), jnp.array([3.0, -2.0]))
    np.testing.assert_allclose(observe.margin(loss)(net), 2 / 15)
    np.testing.assert_allclose(observe.smoothed_margin(loss)(net), -np.log(np.exp(-3) + np.exp(-2)) / 15)


def test_plateaus_of_a_known_curve_are_found_with_their_levels():
    """Two logistic falls, as in saddle-to-saddle dynamics at λ = 1e-20."""
    t = np.linspace(1, 200, 4000)
    losses = 0.25 / (1 + np.exp(2.2 * (t - 46))) + 0.25 / (1 + np.exp(1.1 * (t - 92))) + 1e-12
    found = detect.plateaus(t, losses, levels=np.array([0.5, 0.25]))
    assert [p.predicted for p in found[:2]] == [0.5, 0.25]
    np.testing.assert_allclose([p.level for p in found[:2]], [0.5, 0.25], rtol=1e-3)
    assert found[1].start < 60 < 80 < found[1].end
    phases = detect.phases(t, losses, np.tanh(t / 10))
    order = [phase for i, phase in enumerate(phases) if i == 0 or phase != phases[i - 1]]
    assert order == [detect.Phase[name] for name in ("ALIGNMENT", "GROWTH", "FIT", "SADDLE", "FIT", "REST")]


def test_clusters_rank_and_sign_component():
    data = np.eye(3)
    weights = np.array([[1.0, 0, 0], [2, 1e-6, 0], [1, 0, 0], [0, 3.0, 0], [0, 1, 1e-7], [-1, -1, -1]])
    net = rj.ShallowReLU(weights, np.array([1.0, 1.0, -1.0, 2.0, 2.0, 5.0]))
    found = detect.clusters(net, data)
    assert found.labels.tolist() == [1, 1, 2, 0, 0, -1]
    assert found.sizes.tolist() == [2, 2, 1]
    assert found.signs.tolist() == [1, 1, -1]
    np.testing.assert_allclose(found.strengths, [8, 3, 1], rtol=1e-6)
    assert found.active.tolist() == [[False, True, False], [True, False, False], [True, False, False]]
    assert detect.rank(rj.ShallowReLU(weights[:5], np.ones(5)), tolerance=1e-4) == 2
    assert detect.sign_component(net).tolist() == [1, 0, -1, 0, 1, 1]


def test_observables_are_recorded_along_a_flow():
    loss = rj.EmpiricalLoss(jnp.eye(2), jnp.array([1.0, -1.0]))
    nets = rj.initialise.balanced(jax.random.key(0), number=2, width=3, dim=2, scale=1e-50)
    watch = {"log": observe.log_norms, "index": observe.hessian_index(loss), "dead": observe.dead_count(loss.inputs)}
    run = rj.flow_ensemble(loss, nets, end_time=1.0, save_at=np.array([0.0, 1.0]), observe=watch, rtol=1e-3, atol=1e-3)
    start = np.log(np.linalg.norm(np.asarray(nets.weights) * 1e50, axis=2)) - 50 * np.log(10)
    np.testing.assert_allclose(run.observed["log"][:, 0], start, rtol=1e-12)
    assert run.observed["index"].shape == run.observed["dead"].shape == (2, 2)
