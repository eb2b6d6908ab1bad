"""Spectra from irreducible components against dense ones, closed forms at real and huge sizes, and published tables."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import relujax as rj
from relujax.fixed_space import FixedSpace, find_symmetry
from relujax.hessian import symmetric_spectrum


def point_of(space, seed=0, size=1.0):
    """A random point that is 0 in the spare inputs."""
    coordinates = size * np.random.default_rng(seed).standard_normal(space.dimension)
    coordinates[space.classes.places()[0][:, len(space.blocks) :]] = 0
    return coordinates


def listed(parts):
    return np.sort(np.concatenate([np.repeat(part.eigenvalues, round(part.dimension)) for part in parts]))


@functools.partial(jax.jit, static_argnums=1)
def dense(weights, k):
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(k, weights.shape[1]), jnp.ones(k)))
    return loss.hessian(rj.ShallowReLU(weights, jnp.ones(len(weights)), train=("weights",)))


@pytest.mark.parametrize(
    ("blocks", "extra", "spare"),
    [
        ((4, 6), 0, 0),
        ((2, 3, 5), 0, 0),  # a group of 2 has no symmetric or antisymmetric component, and one of 3 no symmetric one
        ((3, 7), 1, 2),
    ],
)
def test_components_and_multiplicities_are_the_dense_spectrum(blocks, extra, spare):
    space = FixedSpace(blocks, extra, spare)
    point = point_of(space)
    exact = np.linalg.eigvalsh(dense(space.embed(point), sum(blocks)))
    parts = symmetric_spectrum(space, point)
    assert sum(part.dimension * len(part.eigenvalues) for part in parts) == exact.size
    np.testing.assert_allclose(listed(parts), exact, atol=1e-12 * np.abs(exact).max())


@pytest.mark.slow
@pytest.mark.parametrize("k", [10, 40])
def test_one_compiled_function_serves_all_sizes(k):
    """Up to 1600 parameters, to 1e-12 of the largest eigenvalue."""
    space, template = FixedSpace((1, k - 1)), FixedSpace((1, 9))
    point = np.array([-0.9, 1.0, 0.1, 2.1 / k, -0.1 / k])
    exact = np.linalg.eigvalsh(dense(space.embed(point), k))
    found = listed(symmetric_spectrum(template, point, (1, k - 1)))
    np.testing.assert_allclose(found, exact, atol=1e-12 * np.abs(exact).max())


def closed_forms(sizes, diagonal, off):
    """Eigenvalues of `alt_a`, `sym_a` and `std_0xstd_1` with 40 digits, from angles between rows; for two blocks."""
    with mp.workdps(40):
        p, d = [mp.mpf(float(x)) for x in sizes], [mp.mpf(float(x)) for x in diagonal]
        o = [[mp.mpf(float(x)) for x in row] for row in off]
        r = [mp.sqrt(d[a] ** 2 + sum((p[b] - (a == b)) * o[a][b] ** 2 for b in (0, 1))) for a in (0, 1)]
        inner = [2 * d[a] * o[a][a] + (p[a] - 2) * o[a][a] ** 2 + p[1 - a] * o[a][1 - a] ** 2 for a in (0, 1)]
        cross = d[0] * o[1][0] + (p[0] - 1) * o[0][0] * o[1][0] + o[0][1] * d[1] + (p[1] - 1) * o[0][1] * o[1][1]
        within = [mp.acos(inner[a] / r[a] ** 2) for a in (0, 1)]
        between = mp.acos(cross / (r[0] * r[1]))
        delta = [d[a] - o[a][a] for a in (0, 1)]

        def entry_sine(a, x):
            return mp.sqrt(1 - (x / r[a]) ** 2)

        def c(a):
            b = 1 - a
            teachers = entry_sine(a, d[a]) + (p[a] - 1) * entry_sine(a, o[a][a]) + p[b] * entry_sine(a, o[a][b])
            return (p[a] - 1) * mp.sin(within[a]) + p[b] * r[b] / r[a] * mp.sin(between) - teachers / r[a]

        out = {}
        for a in (0, 1):
            alt = (within[a] + c(a) - 1 / (r[a] * entry_sine(a, o[a][a]))) / (2 * mp.pi)
            out[f"alt_{a}"] = [alt]
            out[f"sym_{a}"] = [alt + delta[a] ** 2 / (mp.pi * r[a] ** 2 * mp.sin(within[a]))]
        s = r[0] * r[1] * mp.sin(between)
        tops = [within[a] + c(a) + delta[1 - a] ** 2 / s - 1 / (r[a] * entry_sine(a, o[a][1 - a])) for a in (0, 1)]
        mean, gap = (tops[0] + tops[1]) / 2, mp.sqrt((tops[0] - tops[1]) ** 2 / 4 + (delta[0] * delta[1] / s) ** 2)
        out["std_0xstd_1"] = [(mean - gap) / (2 * mp.pi), (mean + gap) / (2 * mp.pi)]
        return {name: [float(x) for x in values] for name, values in out.items()}


@pytest.mark.parametrize("sizes", [(4.0, 6.0), (5.5, 4.25), (7.0, 1e6 - 7.0)])
def test_one_dimensional_components_have_their_closed_forms_at_real_and_huge_sizes(sizes):
    k = sum(sizes)
    point = np.array([-0.8, 1.01, 0.2, 1.5 / k, 1.7 / k, -0.2 / k])
    exact = closed_forms(sizes, point[:2], point[2:].reshape(2, 2))
    parts = {part.name: part for part in symmetric_spectrum(FixedSpace((4, 6)), point, sizes)}
    for name, values in exact.items():
        np.testing.assert_allclose(parts[name].eigenvalues, values, atol=1e-12)


def test_the_global_minimum_with_a_million_neurons():
    """Safran, Yehudai and Shamir 2021: 1/4 − 1/2π is the least eigenvalue for every k; the others by hand."""
    k = 1e6
    parts = {p.name: p for p in symmetric_spectrum(FixedSpace((7,), spare=2), np.array([1.0, 0, 0, 0]), (k,))}
    np.testing.assert_allclose(parts["alt_0"].eigenvalues, [0.25 - 1 / (2 * np.pi)], atol=1e-14)
    np.testing.assert_allclose(parts["sym_0"].eigenvalues, [0.25 + 1 / (2 * np.pi)], atol=1e-14)
    b, c = k / 4 + 0.5, k / 16 + 1 / 16 + 1 / (4 * np.pi) - 1 / (4 * np.pi**2)
    large = (b + np.sqrt(b * b - 4 * c)) / 2
    np.testing.assert_allclose(parts["std_0"].eigenvalues, [0.25 - 1 / (2 * np.pi), c / large, large], rtol=1e-10)
    np.testing.assert_allclose(parts["extra:std_0"].eigenvalues, [0.25], rtol=1e-9)
    np.testing.assert_allclose(parts["extra:triv"].eigenvalues, [(k + 1) / 4], rtol=1e-14)
    assert parts["extra:std_0"].dimension == 2 * (k - 1)


def polished(space, start):
    """Newton's method in the fixed space."""
    point = np.array(start)
    for _ in range(8):
        step = np.linalg.solve(space.reduced_hessian(point), space.reduced_gradient(point))
        point = point - step / np.asarray(space.scales())
    assert np.linalg.norm(space.reduced_gradient(point)) < 1e-14
    return point


def test_the_type_two_minimum_with_ten_neurons():
    """The spurious minimum of Safran and Shamir 2018, loss 0.0187022; least eigenvalue and multiplicities."""
    space = FixedSpace((1, 9), spare=1)
    point = polished(FixedSpace((1, 9)), [-0.699, 1.004, 0.126, 0.182, -0.0158])
    np.testing.assert_allclose(FixedSpace((1, 9)).reduced_loss(point), 0.01870219458560697, atol=1e-15)
    with_spare = np.insert(point, [3, 5], 0.0)
    np.testing.assert_array_equal(space.embed(with_spare)[:, :10], FixedSpace((1, 9)).embed(point))
    parts = {part.name: part for part in symmetric_spectrum(space, with_spare)}
    expected = {
        "triv": [0.079093306089, 0.216165561703, 1.454087817364, 2.657945754427, 3.096356178558],
        "std_1": [0.031964027646, 0.085186257136, 0.239215084326, 0.363740595291, 2.699543077834],
        "sym_1": [0.380175145368],
        "alt_1": [0.062853592556],
        "extra:triv": [0.222922624030, 2.716518524066],
        "extra:std_1": [0.218638237395],
    }
    assert parts.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(parts[name].eigenvalues, values, atol=1e-11)
    assert [int(parts[name].dimension) for name in ("triv", "std_1", "sym_1", "alt_1")] == [1, 8, 27, 28]


@pytest.mark.parametrize("blocks", [(3,), (1, 2, 4), (2, 5)])
@pytest.mark.parametrize(("extra", "spare"), [(0, 0), (2, 1)])
def test_a_symmetry_is_found_in_any_order_of_neurons_and_teachers(blocks, extra, spare):
    space = FixedSpace(blocks, extra, spare)
    point = point_of(space, seed=3, size=0.1)
    point[: len(blocks)] += 1 + np.arange(len(blocks))
    matrix = np.asarray(space.embed(point))[:, : sum(blocks)]
    r = np.random.default_rng(0)
    shuffled = matrix[r.permutation(len(matrix))][:, r.permutation(matrix.shape[1])]
    found, coordinates = find_symmetry(shuffled, spare=spare)
    assert (found.blocks, found.extra, found.spare) == (blocks, extra, spare)
    order = np.argsort(coordinates)
    np.testing.assert_allclose(coordinates[order], np.sort(point), atol=1e-15)
    assert find_symmetry(shuffled + 1e-3 * r.standard_normal(shuffled.shape))[0].blocks == (1,) * sum(blocks)


def test_refusals():
    space = FixedSpace((1, 3), spare=1)
    with pytest.raises(ValueError, match="inputs without a teacher"):
        symmetric_spectrum(space, np.ones(space.dimension))
    with pytest.raises(ValueError, match="same ones must be of size 1"):
        symmetric_spectrum(FixedSpace((4,)), np.array([1.0, 0.0]), (1.0,))
    with pytest.raises(ValueError, match="coordinates have shape"):
        symmetric_spectrum(FixedSpace((4,)), np.ones(3))
