"""Gaussian expectations without biases, against 50-digit arithmetic and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

mp = pytest.importorskip("mpmath")
pytest.importorskip("hypothesis")
import hypothesis.strategies as st
from hypothesis import given

import relujax as rj
from relujax import arccos

ANGLES = [0.0, 1e-16, 1e-12, 1e-8, 1e-4, 1e-2, 1.0, np.pi - 1e-8, np.pi]


def pair_at(angle, dim=5):
    """Two vectors at an angle; along axes, so that an angle of 1e-16 survives rounding."""
    w, v = np.zeros(dim), np.zeros(dim)
    w[0] = 1.3
    v[0], v[1] = 0.7 * np.cos(angle), 0.7 * np.sin(angle)
    return w, v


def exact_blocks(w, v):
    """φ, its gradient in w and the two Hessian blocks by the textbook formulas, with 200 digits and so at any angle."""
    with mp.workdps(200):
        w, v = (mp.matrix([mp.mpf(float(x)) for x in u]) for u in (w, v))
        rw, rv = mp.norm(w), mp.norm(v)
        u, t = w / rw, v / rv
        cosine = (u.T * t)[0]
        across = t - cosine * u
        sine = mp.norm(across)
        angle = mp.atan2(sine, cosine)
        d = len(w)
        identity = mp.eye(d)
        phi = rw * rv * (sine + (mp.pi - angle) * cosine) / (2 * mp.pi)
        gradient = (rv * sine * u + (mp.pi - angle) * v) / (2 * mp.pi)
        if sine < mp.mpf("1e-150"):  # one vector twice
            own, mixed = mp.zeros(d), (mp.pi - angle) / (2 * mp.pi) * identity
        else:
            n = across / sine
            own = sine * rv / (2 * mp.pi * rw) * (identity - u * u.T + n * n.T)
            mixed = ((mp.pi - angle) * identity + (u * t.T + t * u.T - cosine * (u * u.T + t * t.T)) / sine) / (2 * mp.pi)
        to_array = lambda a: np.array(a.tolist(), dtype=float)  # noqa: E731
        return float(phi), to_array(gradient)[:, 0], to_array(own), to_array(mixed)


closed_hessian = jax.jit(lambda loss, net: loss.hessian(net))
automatic_hessian = jax.jit(lambda loss, net: jax.hessian(lambda vector: loss(rj.unravel(net, vector)))(rj.ravel(net)))
hessian_of_value = jax.jit(jax.hessian(arccos.value))
hessian_in_reverse = jax.jit(jax.jacrev(jax.grad(arccos.value)))


@pytest.mark.parametrize("angle", ANGLES)
def test_hessian_of_the_population_loss_at_any_angle(angle):
    """Two students at an angle and a teacher along the first of them, both layers trained; every block with 50 digits."""
    (w, v), c = pair_at(angle), np.array([1.5, -0.5])
    net = rj.ShallowReLU(jnp.array([w, v]), jnp.array(c))
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.array(0.4 * w)[None], jnp.array([0.7])))
    exact = exact_hessian(w, v, 0.4 * w, c)
    np.testing.assert_allclose(closed_hessian(loss, net), exact, rtol=0, atol=1e-14)
    np.testing.assert_allclose(automatic_hessian(loss, net), exact, rtol=0, atol=1e-14)


def exact_hessian(w, v, t, c):
    """Of students w and v with amplitudes c, and a teacher t with amplitude 0.7."""
    pairs, d = [[exact_blocks(a, b) for b in (w, v, t)] for a in (w, v)], len(w)
    weights, cross, outer = np.zeros((2, d, 2, d)), np.zeros((2, d, 2)), np.zeros((2, 2))
    others = np.array([*c, -0.7])
    for i in range(2):
        weights[i, :, i] += c[i] * sum(o * own for o, (_, _, own, _) in zip(others, pairs[i], strict=True))
        cross[i, :, i] += sum(o * gradient for o, (_, gradient, _, _) in zip(others, pairs[i], strict=True))
        for j in range(2):
            outer[i, j], gradient, _, mixed = pairs[i][j]
            weights[i, :, j] += c[i] * c[j] * mixed
            cross[i, :, j] += c[i] * gradient
    return np.block([[weights.reshape(2 * d, -1), cross.reshape(-1, 2)], [cross.reshape(-1, 2).T, outer]])


# in proportion to each other but for rounding: after division by their lengths they differ by one rounding, or by none
PARALLEL = [(1.0807260760500983, 1.2835066324204059), (3.0570805713729423, 3.630691695292123)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_compiled_hessians_where_neurons_are_all_but_parallel_or_opposite(sign):
    """Compiled alone, stacked, and by differentiating twice, at separations down to 1e-80, within their bound on rounding."""
    separations = 10.0 ** -np.arange(5.0, 81.0, 5.0)
    nets = [np.array([[*PARALLEL[0], e], sign * np.array([*PARALLEL[1], 5.657456850761187 * e])]) for e in [*separations, 0.0]]
    c, t = np.array([1.5, -0.5]), np.array([2 * PARALLEL[0][0], 2 * PARALLEL[0][1], 1e-30])
    stack = rj.ShallowReLU(jnp.array(nets), jnp.broadcast_to(c, (len(nets), 2)))
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.array(t)[None], jnp.array([0.7])))
    exact = np.array([exact_hessian(*net, t, c) for net in nets])
    bounds = np.array([rj.hessian.hessian_error(loss, rj.take(stack, i)) for i in range(len(nets))])
    assert np.all(bounds < 1e-11)
    each = [closed_hessian(loss, rj.take(stack, i)) for i in range(len(nets))]
    twice = [automatic_hessian(loss, rj.take(stack, i)) for i in range(len(nets))]
    together = jax.jit(jax.vmap(loss.hessian))(stack)
    for found in (each, together, rj.hessian.hessian(loss, stack), twice):
        assert np.all(np.linalg.norm(np.asarray(found) - exact, 2, axis=(1, 2)) <= bounds)


def test_certificates_of_a_point_with_a_decayed_input_are_those_without_it():
    """The input that the teacher does not see has decayed to 1e-40 in both students; without it there is one such point."""
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(3)[:2], jnp.ones(2)))
    rows = np.array([[*PARALLEL[0], 1e-40], [*PARALLEL[1], 5.657456850761187e-40]])
    decayed, gone = (rj.ShallowReLU(jnp.array(w), jnp.ones(2), train=("weights",)) for w in (rows, rows * [1, 1, 0]))
    counts, expected = (rj.hessian.inertia(loss, net) for net in (decayed, gone))
    assert (counts.negative, counts.undecided, counts.positive) == (expected.negative, expected.undecided, expected.positive)
    values = [rj.hessian.dense_eigenvalues(loss, net) for net in (decayed, gone)]
    np.testing.assert_allclose(*values, rtol=0, atol=1e-14)


slope_along = jax.jit(lambda point, direction: jax.jvp(arccos.value, point, direction)[1])
force_along = jax.jit(lambda point, direction: jax.jvp(lambda v, c: arccos.forces(v, v, c), point, direction)[1])


@pytest.mark.parametrize("angle", ANGLES)
def test_value_gradient_and_hessian_blocks_at_any_angle(angle):
    w, v = pair_at(angle)
    phi, gradient, own, mixed = exact_blocks(w, v)
    rows, vectors = jnp.array([w]), jnp.array([v])
    np.testing.assert_allclose(arccos.overlap(rows, vectors)[0, 0], phi, rtol=0, atol=1e-15)
    np.testing.assert_allclose(arccos.overlap_gradient(rows, vectors)[0, 0], gradient, rtol=0, atol=1e-15)
    np.testing.assert_allclose(arccos.forces(rows, vectors, jnp.ones(1))[0], gradient, rtol=0, atol=1e-15)
    np.testing.assert_allclose(arccos.own_hessian(rows, vectors, jnp.ones(1))[0], own, rtol=0, atol=1e-14)
    np.testing.assert_allclose(arccos.mixed_hessian(rows, vectors)[0, 0], mixed, rtol=0, atol=1e-14)


@pytest.mark.parametrize("angle", ANGLES)
def test_automatic_derivatives_agree_with_the_closed_form_at_any_angle(angle):
    w, v = pair_at(angle)
    vectors = jnp.array([w, v])
    coefficients = jnp.array([1.5, -0.5])
    own, mixed = arccos.own_hessian(vectors, vectors, coefficients), arccos.mixed_hessian(vectors, vectors)
    expected = np.einsum("a,b,abij->aibj", coefficients, coefficients, mixed)
    expected += np.einsum("ab,a,aij->aibj", np.eye(2), coefficients, own)
    np.testing.assert_allclose(hessian_of_value(vectors, coefficients), expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(hessian_in_reverse(vectors, coefficients), expected, rtol=0, atol=1e-15)


def random_neurons(seed, number=5, dim=4):
    r = np.random.default_rng(seed)
    return r.standard_normal((number, dim)), r.standard_normal(number)


@given(seed=st.integers(0, 10**6))
def test_gradient_in_vectors_and_coefficients_is_that_of_finite_differences(seed):
    point, direction, h = random_neurons(seed), random_neurons(seed + 1), 1e-5
    ahead, behind = (arccos.value(*(p + s * h * d for p, d in zip(point, direction, strict=True))) for s in (1, -1))
    np.testing.assert_allclose(slope_along(point, direction), (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)


@given(seed=st.integers(0, 10**6))
def test_second_derivative_is_that_of_finite_differences(seed):
    point, direction, h = random_neurons(seed), random_neurons(seed + 1), 1e-6
    moved = [[p + s * h * d for p, d in zip(point, direction, strict=True)] for s in (1, -1)]
    ahead, behind = (arccos.forces(v, v, c) for v, c in moved)
    np.testing.assert_allclose(force_along(point, direction), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100))
def test_invariances(seed, scale):
    vectors, coefficients = random_neurons(seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((4, 4)))[0]
    order = np.random.default_rng(seed).permutation(5)
    value = arccos.value(vectors, coefficients)
    np.testing.assert_allclose(arccos.value(vectors @ rotation, coefficients), value, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(arccos.value(vectors[order], coefficients[order]), value, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(arccos.value(scale * vectors, coefficients / scale), value, rtol=1e-12, atol=1e-13)
    assert value >= -1e-13


def test_energy_is_the_mean_over_gaussian_inputs():
    """Against the mean over a large Gaussian sample, within five standard errors."""
    vectors, coefficients = random_neurons(11)
    x = np.random.default_rng(0).standard_normal((400_000, 4))
    samples = (np.maximum(x @ np.asarray(vectors).T, 0) @ np.asarray(coefficients)) ** 2 / 2
    assert abs(arccos.value(vectors, coefficients) - samples.mean()) < 5 * samples.std() / np.sqrt(len(samples))


def test_a_neuron_at_zero_has_an_exact_value_and_no_force():
    vectors, coefficients = random_neurons(5)
    with_zero = np.where(np.arange(5)[:, None] == 2, 0.0, vectors)
    without = np.delete(vectors, 2, axis=0), np.delete(coefficients, 2)
    np.testing.assert_allclose(arccos.value(with_zero, coefficients), arccos.value(*without), rtol=1e-14)
    force = arccos.forces(with_zero, with_zero, coefficients)
    assert not np.any(np.isnan(force))
    np.testing.assert_array_equal(force[2], 0.0)
    assert np.all(np.isfinite(hessian_of_value(with_zero, coefficients)))


@pytest.mark.parametrize("k", [100, 1000])
def test_loss_of_many_neurons_loses_no_digits_to_cancellation(k):
    """Students at (1 + ε) times orthonormal teachers: the loss is ε² E[f*²]/2 exactly, tiny beside the k² terms of the sum."""
    eps = 1e-3
    units = np.eye(k)
    vectors = np.concatenate([(1 + eps) * units, units])
    value = arccos.value(vectors, np.concatenate([np.ones(k), -np.ones(k)]))
    exact = eps**2 * (k / 2 + k * (k - 1) / (2 * np.pi)) / 2
    np.testing.assert_allclose(value, exact, rtol=1e-8)


def test_arcsine_is_accurate_to_the_last_bits():
    cosine = np.concatenate([np.linspace(-1, 1, 20001), [1e-300, 1e-8, np.sqrt(0.5)]])
    _, sine, arcsine = jax.jit(arccos._cosine_sine_arcsine)(jnp.array(cosine)[:, None], jnp.ones((1, 1)))
    np.testing.assert_allclose(arcsine[:, 0], np.arcsin(cosine), rtol=1e-15, atol=0)
    np.testing.assert_allclose(sine[:, 0] ** 2 + cosine**2, 1.0, rtol=1e-15)
