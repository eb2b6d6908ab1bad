"""Reduced losses of fixed spaces against the full loss, against 50 digits at real sizes, and where neurons align."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

mp = pytest.importorskip("mpmath")
import relujax as rj
from relujax.fixed_space import FixedSpace

SPACES = [((1, 5), 0, 0), ((2, 3), 1, 1)]


def random_point(space, seed=0):
    return np.random.default_rng(seed).standard_normal(space.dimension)


def frame(space):
    """An orthonormal basis of the fixed space, one column a coordinate."""
    labels = space.labels().ravel()
    columns = np.zeros((labels.size, space.dimension))
    columns[np.arange(labels.size), labels] = 1
    return columns / np.linalg.norm(columns, axis=0)


def full(space, coordinates):
    """The full matrix, and loss, gradient and Hessian there."""
    weights = space.embed(coordinates)
    return weights, *_full(weights, sum(space.blocks))


@functools.partial(jax.jit, static_argnums=1)
def _full(weights, k):
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(k, weights.shape[1]), jnp.ones(k)))
    net = rj.ShallowReLU(weights, jnp.ones(len(weights)), train=("weights",))
    return loss(net), loss.gradient(net).weights, loss.hessian(net)


@pytest.mark.parametrize(("blocks", "extra", "spare"), SPACES)
def test_value_gradient_and_hessian_are_those_of_the_full_loss(blocks, extra, spare):
    space = FixedSpace(blocks, extra, spare)
    point = random_point(space)
    weights, value, gradient, hessian = full(space, point)
    assert weights.shape == (sum(blocks) + extra, sum(blocks) + spare)
    np.testing.assert_allclose(space.project(weights), point, atol=1e-15)
    np.testing.assert_allclose(space.scales(), 1 / np.max(frame(space), axis=0), rtol=1e-15)
    np.testing.assert_allclose(space.reduced_loss(point), value, rtol=1e-13)
    np.testing.assert_allclose(space.reduced_gradient(point), frame(space).T @ np.ravel(gradient), atol=1e-13)
    # the gradient of the full loss lies in the fixed space
    np.testing.assert_allclose(np.linalg.norm(space.reduced_gradient(point)), np.linalg.norm(gradient), rtol=1e-13)
    np.testing.assert_allclose(space.reduced_hessian(point), frame(space).T @ hessian @ frame(space), atol=1e-12)


def textbook_loss(diagonal, off, sizes):
    """`½ Σ ± φ` over classes of pairs with 50 digits, for blocks without extra neurons; nothing is guarded or split."""
    with mp.workdps(50):
        p = [mp.mpf(float(x)) for x in sizes]
        r = len(p)
        zeros = [[mp.mpf(0)] * r for _ in range(r)]
        rows = [(1, a, mp.mpf(float(diagonal[a])), [mp.mpf(float(x)) for x in off[a]]) for a in range(r)]
        rows += [(-1, a, mp.mpf(1), zeros[a]) for a in range(r)]
        total = mp.mpf(0)
        norms = [mp.sqrt(_inner(row, row, p, same=True)) for row in rows]
        for (s, first), (t, second) in ((x, y) for x in enumerate(rows) for y in enumerate(rows)):
            if first[1] == second[1]:
                kinds = [(True, p[first[1]]), (False, p[first[1]] * (p[first[1]] - 1))]
            else:
                kinds = [(False, p[first[1]] * p[second[1]])]
            for same, count in kinds:
                size = norms[s] * norms[t]
                angle = mp.acos(max(min(_inner(first, second, p, same=same) / size, 1), -1))
                overlap = size * (mp.sin(angle) + (mp.pi - angle) * mp.cos(angle)) / (2 * mp.pi)
                total += first[0] * second[0] * count * overlap
        return total / 2


def _inner(first, second, p, *, same):
    (_, a, d, u), (_, b, e, v) = first, second
    if same:
        return d * e + sum((p[c] - (c == a)) * u[c] * v[c] for c in range(len(p)))
    return d * v[a] + u[b] * e + sum((p[c] - (c == a) - (c == b)) * u[c] * v[c] for c in range(len(p)))


def test_blocks_of_real_size_continue_the_loss():
    space = FixedSpace((1, 2.5, 4.75))
    point = random_point(space, 1)
    off = np.array([[0, *point[3:5]], point[5:8], point[8:11]])
    np.testing.assert_allclose(space.reduced_loss(point), float(textbook_loss(point[:3], off, space.blocks)), rtol=1e-14)


@pytest.mark.parametrize("k", [10.0, 1e3, 1e6])
def test_no_digits_are_lost_with_a_million_neurons(k):
    """Entries like those of type II minima, for which the terms of the textbook sum exceed the loss by k³."""
    point = np.array([-1 + 5.3 / k, 1 + 2.5 / k**2, 1.3 / k, 2 / k, -1.3 / k**2])
    exact = textbook_loss(point[:2], [[0, point[2]], point[3:]], (1, k - 1))
    computed = FixedSpace((1, 9)).reduced_loss(point, (1, k - 1))
    assert abs(mp.mpf(float(computed)) / exact - 1) < 3e-15


def test_traced_sizes_are_served_by_one_compiled_function_and_differentiate():
    space = FixedSpace((1, 5))
    point = random_point(space, 2)
    value = jax.jit(space.reduced_loss)
    slope = jax.grad(value, argnums=1)(point, jnp.array([1.0, 5.0]))[1]
    ahead, behind = (float(value(point, jnp.array([1.0, 5.0 + h]))) for h in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-8)
    assert value._cache_size() == 1


def test_the_global_minimum_has_the_eigenvalues_known_in_closed_form():
    k = 1e6
    space = FixedSpace((7,))
    point = np.array([1.0, 0.0])
    assert float(space.reduced_loss(point, (k,))) == 0
    np.testing.assert_array_equal(space.reduced_gradient(point, (k,)), 0)
    matrix = np.array([[0.5 + (k - 1) / (2 * np.pi), (k - 1) / 4], [1 / 4, k / 4 + 1 / (2 * np.pi)]])
    exact = np.sort(np.linalg.eigvals(matrix))
    np.testing.assert_allclose(np.linalg.eigvalsh(space.reduced_hessian(point, (k,))), exact, rtol=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
def test_parallel_neurons_have_the_second_derivatives_of_the_full_loss(sign):
    """All students along ±(1, …, 1); then students at their teachers, and one along a teacher that is not its own."""
    for space, point in (
        (FixedSpace((1, 5)), [sign * 0.3] * 5),
        (FixedSpace((2, 3), 1, 1), [sign * 0.7, 1, 0, 0, 0, 0, 0, 0, sign * 0.5, 0, 0]),
    ):
        coordinates = np.zeros(space.dimension)
        coordinates[: len(point)] = point
        *_, hessian = full(space, coordinates)
        np.testing.assert_allclose(space.reduced_hessian(coordinates), frame(space).T @ hessian @ frame(space), atol=1e-13)


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"blocks are \(0, 3\)"):
        FixedSpace((0, 3))
    with pytest.raises(ValueError, match="-1 extra"):
        FixedSpace((2,), extra=-1)
    with pytest.raises(ValueError, match=r"blocks are \(2.5,\)"):
        FixedSpace((2.5,)).embed(np.zeros(2))
    with pytest.raises(ValueError, match=r"coordinates have shape \(3,\)"):
        FixedSpace((4,)).reduced_loss(np.zeros(3))
