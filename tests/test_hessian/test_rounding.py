"""Bounds on the error of a computed Hessian, against rational arithmetic on data and 60 digits on Gaussian inputs."""

from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import relujax as rj
from relujax.hessian import hessian_error

hessian = eqx.filter_jit(rj.hessian.hessian)
TRAIN = [("weights",), ("amplitudes",), ("weights", "amplitudes"), ("weights", "biases", "amplitudes")]


def norm_of(matrix):
    """The spectral norm of a matrix of exact numbers, which may be far below the rounding of what they came from."""
    return np.linalg.norm(np.array([[float(x) for x in row] for row in matrix]), 2)


def exact_empirical(loss, net, pattern=None):
    """The Hessian in rational arithmetic: no rounding at all. `pattern` overrules activations."""
    x = [[Fraction(float(v)) for v in row] + [Fraction(1)] * (net.biases is not None) for row in np.asarray(loss.inputs)]
    w = [[Fraction(float(v)) for v in row] for row in np.asarray(rj.hidden_vectors(net))]
    a = [Fraction(float(v)) for v in np.asarray(net.amplitudes)]
    n, m, q, d = len(x), len(w), len(w[0]), net.dim
    places = {("weights", j, c): j * d + c for j in range(m) for c in range(d)} if "weights" in net.trained else {}
    for name in ("biases", "amplitudes"):
        if name in net.trained:
            places |= {(name, j, 0): len(places) + j for j in range(m)}
    columns = [("weights", c) if c < d else ("biases", 0) for c in range(q)]
    total = [[Fraction(0)] * len(places) for _ in places]
    for i in range(n):
        z = [sum(u * v for u, v in zip(w[j], x[i], strict=True)) for j in range(m)]
        s = [z[j] > 0 if pattern is None else bool(pattern[i, j]) for j in range(m)]
        r = sum(a[j] * z[j] for j in range(m) if s[j]) - Fraction(float(loss.targets[i]))
        row = [Fraction(0)] * len(places)
        for j in (j for j in range(m) if s[j]):
            for c, (name, e) in enumerate(columns):
                if (name, j, e) in places:
                    row[places[name, j, e]] = a[j] * x[i][c]
                    if ("amplitudes", j, 0) in places:
                        pair = places[name, j, e], places["amplitudes", j, 0]
                        total[pair[0]][pair[1]] += r * x[i][c] / n
                        total[pair[1]][pair[0]] += r * x[i][c] / n
            if ("amplitudes", j, 0) in places:
                row[places["amplitudes", j, 0]] = z[j]
        for k, u in enumerate(row):
            for k2, v in enumerate(row):
                total[k][k2] += u * v / n
    return total


def empirical(seed, train, scale=1.0, n=6, m=3, d=2):
    r = np.random.default_rng(seed)
    sizes = 10 ** r.uniform(-scale, scale, (m, 1))
    biases = r.standard_normal(m) if "biases" in train else None
    net = rj.ShallowReLU(sizes * r.standard_normal((m, d)), r.standard_normal(m), biases, train=train)
    return rj.EmpiricalLoss(10 ** r.uniform(-scale, scale, (n, 1)) * r.standard_normal((n, d)), r.standard_normal(n)), net


def difference(exact, computed):
    return [[e - Fraction(float(c)) for e, c in zip(*rows, strict=True)] for rows in zip(exact, computed, strict=True)]


def moved(net, distance, r):
    step = r.standard_normal(rj.ravel(net).size)
    return rj.unravel(net, np.asarray(rj.ravel(net)) + 0.999999 * distance * step / np.linalg.norm(step))


@pytest.mark.parametrize("train", TRAIN)
def test_the_rounding_of_an_empirical_hessian_is_covered(train):
    for seed in range(12):
        loss, net = empirical(seed, train, scale=(seed % 4) * 2.0)
        for mode in ("closed", "pair"):
            computed = np.asarray(hessian(loss, net, mode))
            off = norm_of(difference(exact_empirical(loss, net), computed))
            bound = hessian_error(loss, net)
            assert off <= bound
            assert bound <= 1e-12 * np.linalg.norm(computed) + 1e-300 or np.isclose(np.linalg.norm(computed), 0)


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("distance", [1e-8, 1e-2, 0.5])
def test_every_network_within_the_distance_is_covered_across_kinks(train, distance):
    r = np.random.default_rng(0)
    for seed in range(12):
        loss, net = empirical(seed, train)
        computed, bound = np.asarray(hessian(loss, net, "closed")), hessian_error(loss, net, distance=distance)
        for _ in range(3):
            assert norm_of(difference(exact_empirical(loss, moved(net, distance, r)), computed)) <= bound


@pytest.mark.parametrize("train", [t for t in TRAIN if t != ("amplitudes",)])
def test_a_datum_on_a_boundary_is_covered_on_either_side(train):
    """Preactivations that cancel to rounding: the computed pattern is one of the two, and the other is within the bound."""
    for seed in range(6):
        loss, net = empirical(seed, train)
        x, bias = np.asarray(loss.inputs)[0], 0.0 if net.biases is None else float(net.biases[0])
        shift = np.array([-x[1], x[0]]) * 0.7 - bias * x / (x @ x)
        net = eqx.tree_at(lambda n: n.weights, net, np.asarray(net.weights).copy())
        net.weights[0] = shift
        computed, bound = np.asarray(hessian(loss, net, "closed")), hessian_error(loss, net)
        for side in (False, True):
            pattern = np.asarray(rj.activation_pattern(net, loss.inputs)).copy()
            pattern[0, 0] = side
            assert norm_of(difference(exact_empirical(loss, net, pattern), computed)) <= bound


def exact_population(loss, net):
    """The textbook formulas with arccos and 60 digits, at vectors that are not parallel."""
    w = [[mp.mpf(float(v)) for v in row] for row in np.asarray(net.weights)]
    v = w + [[mp.mpf(float(x)) for x in row] for row in np.asarray(loss.teacher.weights)]
    c = [mp.mpf(float(x)) for x in np.asarray(net.amplitudes)] + [-mp.mpf(float(x)) for x in loss.teacher.amplitudes]
    m, d = len(w), net.dim
    hidden, outer = "weights" in net.trained, "amplitudes" in net.trained
    start = m * d if hidden else 0
    total = mp.zeros(start + (m if outer else 0))

    def pair(x, y, same):
        nx, ny = mp.sqrt(mp.fdot(x, x)), mp.sqrt(mp.fdot(y, y))
        ux, uy = [e / nx for e in x], [e / ny for e in y]
        cosine = mp.mpf(1) if same else mp.fdot(ux, uy)
        angle = mp.mpf(0) if same else mp.acos(cosine)
        return nx, ny, ux, uy, cosine, mp.sin(angle), mp.pi - angle

    for i in range(m):
        for b in range(len(v)):
            nx, ny, ux, uy, cosine, sine, opening = pair(w[i], v[b], i == b)
            slope = [(ny * sine * ux[e] + opening * v[b][e]) / (2 * mp.pi) for e in range(d)]
            for e in range(d):
                if hidden and outer:
                    total[i * d + e, start + i] += c[b] * slope[e]
                    if b < m:
                        total[i * d + e, start + b] += c[i] * slope[e]
                for f in (f for f in range(d) if hidden):
                    if sine != 0:
                        n = [(uy[g] - cosine * ux[g]) / sine for g in (e, f)]
                        bend = ny * sine / (2 * mp.pi * nx) * ((e == f) - ux[e] * ux[f] + n[0] * n[1])
                        total[i * d + e, i * d + f] += c[i] * c[b] * bend
                    if b < m:
                        turn = ux[e] * uy[f] + uy[e] * ux[f] - cosine * (ux[e] * ux[f] + uy[e] * uy[f])
                        mixed = opening * (e == f) + (turn / sine if sine != 0 else 0)
                        total[i * d + e, b * d + f] += c[i] * c[b] * mixed / (2 * mp.pi)
            if outer and b < m:
                total[start + i, start + b] += nx * ny * (sine + opening * cosine) / (2 * mp.pi)
    for k in range(start):
        for j in range(start, total.rows):
            total[j, k] = total[k, j]
    return total


def off_by(exact, computed):
    size = range(len(computed))
    return norm_of([[exact[i, j] - mp.mpf(float(computed[i, j])) for j in size] for i in size])


def population(seed, train, near):
    """Students of very different sizes, close to a teacher, to the opposite of one, and to one another."""
    r = np.random.default_rng(seed)
    teacher = r.standard_normal((2, 3))
    weights = 10 ** r.uniform(-2, 2, (4, 1)) * r.standard_normal((4, 3))
    if near is not None:
        weights[0] = teacher[0] * 1.5 + near * r.standard_normal(3)
        weights[1] = -teacher[1] * 0.5 + near * r.standard_normal(3)
        weights[3] = 2.0 * weights[2] + near * r.standard_normal(3)
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.array(teacher), jnp.array([1.0, -2.0])))
    return loss, rj.ShallowReLU(weights, r.standard_normal(4), train=train)


@pytest.mark.parametrize("train", TRAIN[:3])
@pytest.mark.parametrize("near", [None, 1e-3, 1e-8, 1e-12, 1e-15])
def test_the_rounding_of_a_population_hessian_is_covered_at_all_angles(train, near):
    with mp.workdps(60):
        for seed in range(3):
            loss, net = population(seed, train, near)
            computed, bound = np.asarray(hessian(loss, net)), hessian_error(loss, net)
            assert off_by(exact_population(loss, net), computed) <= bound
            assert bound < 1e-8 * np.linalg.norm(computed)


@pytest.mark.parametrize("train", TRAIN[:3])
@pytest.mark.parametrize("distance", [1e-10, 1e-4])
def test_every_network_within_the_distance_is_covered_on_gaussian_inputs(train, distance):
    r = np.random.default_rng(0)
    with mp.workdps(60):
        for seed in range(2):
            loss, net = population(seed, train, 1e-4)
            computed, bound = np.asarray(hessian(loss, net)), hessian_error(loss, net, distance=distance)
            for _ in range(2):
                assert off_by(exact_population(loss, moved(net, distance, r)), computed) <= bound


def test_no_bound_is_finite_where_a_neuron_can_vanish():
    loss, net = population(0, ("weights",), None)
    assert hessian_error(loss, net, distance=float(np.min(np.linalg.norm(net.weights, axis=1)))) == np.inf


def test_losses_without_a_bound_are_refused():
    loss = rj.problems.orthonormal_teacher(2)
    net = rj.ShallowReLU(jnp.eye(2), jnp.ones(2), jnp.zeros(2))
    with pytest.raises(ValueError, match="no bound on the rounding of this PopulationLoss"):
        hessian_error(loss, net)
    assert jax.config.jax_enable_x64
