"""Gaussian expectations with biases: against exact values, 50-digit quadrature, the bias-free closed form, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

mp = pytest.importorskip("mpmath")
pytest.importorskip("hypothesis")
import hypothesis.strategies as st
from hypothesis import given

from relujax import arccos, biased_arccos
from relujax.orthant import orthant_probability

# E over standard normal x, y of correlation u, with h1 = r1 x + b1 and h2 = r2 y + b2: adaptive quadrature with 30 digits
EXACT = {
    (0.3, 0.1, 0.4, 0.2, 0.3): {
        "value": 0.0656302650720228045, "r1": 0.149896348934721411, "b1": 0.206613603916063813, "u": 0.0572802593929273007,
        "b1b2": 0.477335494941060839, "r1r2": 0.219302335623283292, "r2b1": 0.277866262319629113,
        "b1b1": 0.308720298472647033, "r1b1": -0.102906766157549011, "r1r1": 0.0343022553858496704,
        "b1u": 0.100007558123583181, "r1u": 0.157598345268563275, "uu": 0.0173449669095695069,
    },
    (1.0, 0.5, 2.0, -0.5, -0.6): {
        "value": 0.118213304998497595, "r1": 0.0173326547829861536, "b1": 0.201761300431022883, "u": 0.375725629300752287,
        "b1b2": 0.187862814650376144, "r1r2": 0.0160582240171590675, "r2b1": 0.147846353878105478,
        "b1b1": 0.242768032363437526, "r1b1": -0.121384016181718763, "r1r1": 0.0606920080908593815,
        "b1u": 0.369610621342272654, "r1u": 0.190920318629615960, "uu": 0.350449220775506083,
    },
}  # fmt: skip


@jax.jit
def value_and_derivatives(parameters):
    return of_grid(parameters), jax.grad(of_grid)(parameters), jax.hessian(of_grid)(parameters)


hessian_of_value = jax.jit(jax.hessian(biased_arccos.value))
jitted_orthant_probability = jax.jit(orthant_probability)


def of_grid(parameters):
    """The expectation as a function of (r1, b1, r2, b2, u), through vectors in the plane."""
    r1, b1, r2, b2, u = parameters
    left = jnp.stack([r1, jnp.zeros_like(r1), b1])
    right = jnp.stack([r2 * u, r2 * jnp.sqrt(1 - u**2), b2])
    # value of the sum of two neurons less the values of each is the overlap, with its derivative rules
    both = biased_arccos.value(jnp.stack([left, right]), jnp.ones(2))
    return both - sum(biased_arccos.value(v[None], jnp.ones(1)) for v in (left, right))


@pytest.mark.parametrize("point", EXACT)
def test_value_and_two_derivatives_on_the_published_grid(point):
    names = ("r1", "b1", "r2", "b2", "u")
    value, gradient, hessian = value_and_derivatives(jnp.array(point))
    for name, exact in EXACT[point].items():
        if name == "value":
            found = value
        elif name in names:
            found = gradient[names.index(name)]
        else:
            first, second = next((a, b) for a in names for b in names if a + b == name)
            found = hessian[names.index(first), names.index(second)]
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12, err_msg=name)


def test_one_neuron_squared_on_the_published_grid():
    def square(r, b):
        return 2 * biased_arccos.value(jnp.stack([jnp.stack([r, b])]), jnp.ones(1))

    functions = jax.jit(lambda r, b: (square(r, b), jax.grad(square, (0, 1))(r, b), jax.hessian(square, (0, 1))(r, b)))
    value, gradient, hessian = functions(0.3, 0.1)
    np.testing.assert_allclose(value, 0.07437736281261343, rtol=0, atol=1e-14)
    np.testing.assert_allclose(gradient, (0.3783351958909418, 0.3525416685794432), rtol=0, atol=1e-14)
    np.testing.assert_allclose(hessian[0][0], 1.009528501174477, rtol=0, atol=1e-13)
    np.testing.assert_allclose(hessian[0][1], 0.7547664553859863, rtol=0, atol=1e-13)
    np.testing.assert_allclose(hessian[1][1], 1.261117319636473, rtol=0, atol=1e-13)


def exact_orthant(h, k, angle):
    """P(X < h, Y < k) with 40 digits, by Plackett's integral of the density at the corner over the correlation."""
    with mp.workdps(40):
        h, k, angle = (mp.mpf(x) for x in (h, k, angle))
        cuts = [
            angle,
            *(t for t in (mp.mpf("1e-3"), mp.mpf("1e-2"), mp.mpf("0.1"), mp.pi - mp.mpf("0.1"), mp.pi - mp.mpf("1e-2"))),
            mp.pi / 2,
        ]
        low, high = min(angle, mp.pi / 2), max(angle, mp.pi / 2)
        inside = sorted({t for t in cuts if low <= t <= high})
        area = (
            mp.quad(lambda t: mp.exp(-(h**2 + k**2 - 2 * h * k * mp.cos(t)) / (2 * mp.sin(t) ** 2)), inside) if low < high else 0
        )
        return mp.ncdf(h) * mp.ncdf(k) + (1 if angle < mp.pi / 2 else -1) * area / (2 * mp.pi)


@pytest.mark.parametrize("angle", [1e-4, 0.3, np.pi / 2, 2.0, np.pi - 1e-3])
@pytest.mark.parametrize(("h", "k"), [(0.3, 0.3), (-1.0, 0.5), (1e-12, -0.7), (0.0, 1.0), (-0.4, 0.0), (3.0, -2.5), (0.0, 0.0)])
def test_orthant_probability_against_quadrature(h, k, angle):
    with mp.workdps(40):
        cosine, sine = mp.cos(mp.mpf(angle)), mp.sin(mp.mpf(angle))
        beyond = [float((a - cosine * b) / sine) for a, b in ((mp.mpf(h), mp.mpf(k)), (mp.mpf(k), mp.mpf(h)))]
    found = jitted_orthant_probability(jnp.array(h), jnp.array(k), *(jnp.array(x) for x in beyond), angle)
    assert abs(float(found) - exact_orthant(h, k, angle)) < 1e-15


@pytest.mark.parametrize("angle", [0.0, 1e-16, 1e-12, 1e-8, 1e-4, 1e-2, 1.0, np.pi - 1e-8, np.pi])
def test_without_biases_it_is_the_arc_cosine_kernel(angle):
    plain = jnp.array([[1.3, 0.0, 0.0], [0.7 * np.cos(angle), 0.7 * np.sin(angle), 0.0]])
    with_zeros = jnp.concatenate([plain, jnp.zeros((2, 1))], axis=1)
    c = jnp.array([1.5, -0.5])
    np.testing.assert_allclose(biased_arccos.value(with_zeros, c), arccos.value(plain, c), rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        biased_arccos.forces(with_zeros, with_zeros, c)[:, :3], arccos.forces(plain, plain, c), rtol=0, atol=1e-15
    )
    own = biased_arccos.own_hessian(with_zeros, with_zeros, c)[:, :3, :3]
    np.testing.assert_allclose(own, arccos.own_hessian(plain, plain, c), rtol=0, atol=1e-14)
    mixed = biased_arccos.mixed_hessian(with_zeros, with_zeros)[:, :, :3, :3]
    np.testing.assert_allclose(mixed, arccos.mixed_hessian(plain, plain), rtol=0, atol=1e-14)


@pytest.mark.parametrize("angle", [0.0, 1e-16, 1e-8, 1e-3])
@pytest.mark.parametrize("shift", [0.0, 1e-9, 0.3])
def test_nearly_coincident_biased_neurons_are_continuous(angle, shift):
    """Second derivatives at, and a step of 1e-7 away from, near-coincidence differ by the order of the step."""

    def neurons(step):
        return np.array([[1.0, 0.0, 0.4], [np.cos(angle + step), np.sin(angle + step), 0.4 + shift + step]])

    c = jnp.array([1.0, -0.6])
    here, there = (hessian_of_value(neurons(step), c) for step in (0.0, 1e-7))
    assert np.all(np.isfinite(here))
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-5)


def test_a_neuron_without_weights_is_a_constant():
    """relu(b) for b > 0, smooth there; nothing for b < 0; no force at exactly 0."""
    other = jnp.array([[1.0, -0.5, 0.3]])
    mean = biased_arccos.overlap(jnp.array([[0.0, 0.0, 1.0]]), other)[0, 0]
    r, b = np.sqrt(1.25), 0.3
    exact = b * float(mp.ncdf(b / r)) + r * float(mp.npdf(b / r))
    np.testing.assert_allclose(mean, exact, rtol=1e-14)
    np.testing.assert_allclose(biased_arccos.overlap(jnp.array([[0.0, 0.0, -1.0]]), other), 0.0)
    neurons = jnp.array([[0.0, 0.0, 0.0], [1.0, -0.5, 0.3]])
    force = biased_arccos.forces(neurons, neurons, jnp.ones(2))
    np.testing.assert_array_equal(force[0], 0.0)
    assert np.all(np.isfinite(hessian_of_value(neurons, jnp.ones(2))))


@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100))
def test_invariances(seed, scale):
    r = np.random.default_rng(seed)
    vectors, c = r.standard_normal((4, 4)), jnp.array(r.standard_normal(4))
    rotation = np.eye(4)
    rotation[:3, :3] = np.linalg.qr(r.standard_normal((3, 3)))[0]
    value = biased_arccos.value(vectors, c)
    np.testing.assert_allclose(biased_arccos.value(vectors @ rotation, c), value, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(biased_arccos.value(vectors[::-1], c[::-1]), value, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(biased_arccos.value(scale * vectors, c / scale), value, rtol=1e-11, atol=1e-13)
