"""Population losses of thousands of random small problems, degenerate ones above all, against quadrature and differences.

The reference knows nothing of orthants and angles: given the coordinate of x along the first of two neurons, the second one is
a normal variable whose truncated moments are elementary, and the integral over that coordinate is done by Gauss's rule on
panels that resolve the layer in which the second neuron switches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

import relujax as rj

EPS = np.finfo(float).eps
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
LAYER = np.array([-40.0, -12.0, -8.0, -5.0, -3.0, -1.5, 0.0, 1.5, 3.0, 5.0, 8.0, 12.0, 40.0])
FAR = 13.0

# students, teachers, inputs
SHAPES = [(1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 3, 3)]


def draw_neuron(r, earlier, dim, biased):
    """One neuron: generic, or in a special position beside one that is there already; `[w | b]`, of any size."""
    size = 10.0 ** r.choice([0.0, 0.0, r.uniform(-8, 8)])
    w, b = r.standard_normal(dim), r.standard_normal()
    if r.random() < 0.5:
        w[r.integers(dim)] = 0.0
    kind = r.choice(["generic", "beside", "zero", "constant", "far", "axis"], p=[0.25, 0.5, 0.05, 0.05, 0.1, 0.05])
    if kind == "axis":
        w = np.eye(dim)[r.integers(dim)]
    if kind in ("zero", "constant"):
        w, b = np.zeros(dim), b * (kind == "constant")
    if kind == "far":
        b *= 10.0 ** r.uniform(1, 9)
    if kind == "beside" and earlier:
        other = earlier[r.integers(len(earlier))]
        sign, factor = r.choice([1.0, -1.0]), r.choice([1.0, 2.0, r.uniform(0.1, 10), 10 ** r.uniform(-8, 8)])
        w, b = sign * factor * other[:-1], sign * factor * other[-1]
        apart = r.choice([0.0, 10.0 ** r.uniform(-5, 0), 10.0 ** r.uniform(-17, -5), 10.0 ** r.uniform(-80, -17)])
        shift = apart * r.standard_normal(dim) * np.linalg.norm(w)
        # where the other neuron has a component 0, a separation of any size survives rounding
        w = w + np.where((r.random() < 0.5) & (w != 0), 0.0, shift)
        b = r.choice([b, b, b * (1 + apart), b + np.linalg.norm(w) * r.standard_normal(), -b])
        return np.append(w, b if biased else 0.0)
    return np.append(w, b if biased else 0.0) * size


def draw(seed, number, shape, biased):
    """`number` problems: students (m, d + 1), teachers, and their amplitudes of any sign, 0 among them.

    A third of them are smaller ones, padded with neurons that are absent and inputs that no neuron sees.
    """
    r, (m, k, d) = np.random.default_rng(seed), shape
    neurons, there = np.zeros((number, m + k, d + 1)), np.ones((number, m + k), bool)
    for problem, present in zip(neurons, there, strict=True):
        dim = d if r.random() < 2 / 3 else r.integers(1, d + 1)
        for i in range(m + k):
            vector = draw_neuron(r, list(problem[:i, [*range(dim), d]]), dim, biased)
            problem[i, :dim], problem[i, d] = vector[:-1], vector[-1]
        r.shuffle(problem)
        if dim < d:
            present[1:] = r.random(m + k - 1) < 0.7
    amplitudes = r.standard_normal((number, m + k)) * 10.0 ** r.choice([0.0, 0.0, 0.0, -8.0, 8.0], (number, m + k))
    neurons[~there] = 0.0
    return neurons, np.where(there & (r.random((number, m + k)) > 0.05), amplitudes, 0.0)


def exact_product_difference(a, b, c, d):
    """`a b − c d` with the rounding of one operation, by error-free products (Dekker 1971)."""

    def split(x):
        big = 134217729.0 * x
        high = big - (big - x)
        return high, x - high

    def product(x, y):
        (xh, xl), (yh, yl), p = split(x), split(y), x * y
        return p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl

    (p, e), (q, f) = product(a, b), product(c, d)
    return (p - q) + (e - f)


class Quadrature:
    """Expectations of pairs of neurons `u`, `v`, arrays (..., d + 1): overlap, gradient in u, own and mixed curvature."""

    def __init__(self, u, v):
        dim = u.shape[-1] - 1
        w, b, other, c = u[..., :-1], u[..., -1], v[..., :-1], v[..., -1]
        r = np.linalg.norm(w, axis=-1)
        plain = np.where((r > 0)[..., None], w, np.eye(dim)[0])
        length = np.linalg.norm(plain, axis=-1)
        unit = plain / length[..., None]
        wedge = exact_product_difference(
            plain[..., None, :], other[..., :, None], plain[..., :, None], other[..., None, :]
        )  # w_j v_i − w_i v_j
        across = np.einsum("...ij,...j->...i", wedge, unit)  # |w| times the part of v across w
        size = np.linalg.norm(across, axis=-1)
        normal = across / np.where(size > 0, size, 1.0)[..., None]
        sigma = size / length
        slope = np.sum(unit * other, axis=-1)  # |v| ρ
        with np.errstate(divide="ignore", invalid="ignore"):
            start = np.where(r > 0, -b / r, np.where(b > 0, -np.inf, np.inf))
            centre = np.where(slope != 0, -c / slope, np.inf)
            width = np.where(slope != 0, sigma / np.abs(slope), 0.0)
        low = np.clip(start, -FAR, FAR)
        cuts = [np.linspace(-FAR, FAR, 14) + 0 * low[..., None]]
        cuts += [np.where(np.isfinite(centre), centre, 0.0)[..., None] + width[..., None] * LAYER, low[..., None]]
        cuts = np.sort(np.clip(np.concatenate(cuts, axis=-1), low[..., None], FAR), axis=-1)
        half, middle = np.diff(cuts) / 2, (cuts[..., 1:] + cuts[..., :-1]) / 2
        t = (middle[..., None] + half[..., None] * NODES).reshape(*low.shape, -1)
        weight = (half[..., None] * WEIGHTS).reshape(t.shape) * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

        def moments(mean, sigma):
            """E[1], E[s], E[s²] where m + σs > 0, and E[relu], E[relu s], E[relu s²]."""
            with np.errstate(divide="ignore", invalid="ignore"):
                kappa = np.where(sigma > 0, np.clip(mean / sigma, -50, 50), 50 * np.sign(mean))
            on = np.where((sigma > 0) | (mean != 0), ndtr(kappa), 0.0)
            density = np.exp(-(kappa**2) / 2) / np.sqrt(2 * np.pi)
            second, third = on - kappa * density, density * (kappa**2 + 2)
            lifted = (mean * on + sigma * density, sigma * on, mean * second + sigma * third)
            return (on, density, second), lifted

        (on, first, second), (relu, relu_s, _) = moments(c[..., None] + slope[..., None] * t, sigma[..., None])
        z = r[..., None] * t + b[..., None]
        mean = lambda x: np.sum(weight * x, axis=-1)  # noqa: E731
        frame = np.zeros((*low.shape, 3, dim + 1))
        frame[..., 0, :-1], frame[..., 1, :-1], frame[..., 2, -1] = unit, normal, 1.0
        rest = np.zeros((*low.shape, dim + 1, dim + 1))
        rest[..., :-1, :-1] = np.eye(dim) - sum(frame[..., i, :-1, None] * frame[..., i, None, :-1] for i in (0, 1))

        def in_frame(tt, ts, t1, ss, s1, one):
            entries = np.stack([np.stack([tt, ts, t1], -1), np.stack([ts, ss, s1], -1), np.stack([t1, s1, one], -1)], -1)
            return np.einsum("...ia,...ij,...jb->...ab", frame, entries, frame) + one[..., None, None] * rest

        self.overlap = mean(z * relu)
        self.gradient = np.einsum("...i,...ia->...a", np.stack([mean(t * relu), mean(relu_s), mean(relu)], -1), frame)
        self.mixed = in_frame(mean(t * t * on), mean(t * first), mean(t * on), mean(second), mean(first), mean(on))
        at = np.clip(start, -FAR * 3, FAR * 3)
        _, (lifted, lifted_s, lifted_ss) = moments(c + slope * at, sigma)
        scale = np.where(r > 0, np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi) / np.where(r > 0, r, 1.0), 0.0)
        self.own = scale[..., None, None] * in_frame(at * at * lifted, at * lifted_s, at * lifted, lifted_ss, lifted_s, lifted)


def reference(neurons, amplitudes, m):
    """Loss, gradient (in hidden vectors and in amplitudes) and Hessian blocks, each with the size of what it is summed from."""
    students, c = neurons[:, :m], amplitudes.copy()
    c[:, m:] *= -1
    of = Quadrature(neurons[:, :, None] + 0 * neurons[:, None], neurons[:, None] + 0 * neurons[:, :, None])
    a, sizes = amplitudes[:, :m], np.abs(c) * np.linalg.norm(neurons, axis=-1)
    loss = np.einsum("pa,pb,pab->p", c, c, of.overlap) / 2
    force = np.einsum("pb,pibx->pix", c, of.gradient[:, :m])
    weight = np.einsum("pi,pj,pijxy->pixjy", a, a, of.mixed[:, :m, :m])
    i = np.arange(m)
    own = a[..., None, None] * np.einsum("pb,pibxy->pixy", c, of.own[:, :m])
    weight[:, i, :, i, :] += np.moveaxis(own, 1, 0)
    cross = a[:, :, None, None] * of.gradient[:, :m, :m]
    cross[:, i, i] += force
    total, length = np.sum(sizes, axis=1), np.linalg.norm(students[..., :-1], axis=-1)
    bend = np.abs(a) * np.divide(total[:, None], length, out=np.zeros_like(length), where=length > 0)
    norms = np.linalg.norm(students, axis=-1)
    of_weight = np.abs(a[:, :, None] * a[:, None]) + bend[..., None] * np.eye(m)
    of_cross = np.abs(a)[:, :, None] * norms[:, None] + total[:, None, None] * np.eye(m)
    scale = {
        "loss": total**2,
        "hidden": np.abs(a)[..., None] * total[:, None, None],
        "amplitudes": norms * total[:, None],
        "weight": of_weight[:, :, None, :, None],
        "cross": of_cross[..., None],
        "outer": norms[:, :, None] * norms[:, None],
    }
    value = {
        "loss": loss,
        "hidden": a[..., None] * force,
        "amplitudes": np.einsum("pb,pib->pi", c, of.overlap[:, :m]),
        "weight": weight,
        "cross": cross,
        "outer": of.overlap[:, :m, :m],
    }
    return value, scale


def as_networks(neurons, amplitudes, biased):
    """A stack of networks that train everything they have."""
    biases = jnp.array(neurons[..., -1]) if biased else None
    return rj.ShallowReLU(jnp.array(neurons[..., :-1]), jnp.array(amplitudes), biases)


@jax.jit
def compiled(teachers, students):
    """Loss, gradient and Hessian of every problem in one compiled call."""

    def one(teacher, net):
        loss = rj.PopulationLoss(teacher)
        return loss(net), loss.gradient(net), loss.hessian(net)

    return jax.vmap(one)(teachers, students)


@jax.jit
def automatic(teachers, students):
    """The Hessians by differentiating the loss twice, one problem after the other."""

    def one(pair):
        return jax.hessian(lambda vector: rj.PopulationLoss(pair[0])(rj.unravel(pair[1], vector)))(rj.ravel(pair[1]))

    return jax.lax.map(one, (teachers, students))


def as_blocks(hessian, m, dim, biased):
    """The Hessian over [weights, biases, amplitudes] in blocks: hidden vectors, these with amplitudes, amplitudes."""
    q = dim + biased
    number = len(hessian)
    order = np.concatenate([np.append(i * dim + np.arange(dim), [m * dim + i] if biased else []).astype(int) for i in range(m)])
    weight = hessian[:, order][:, :, order].reshape(number, m, q, m, q)
    cross = hessian[:, order][:, :, m * q :].reshape(number, m, q, m)
    return weight, np.swapaxes(cross, 2, 3), hessian[:, m * q :, m * q :]


def worst(found, exact, scale):
    """The largest error in roundings of what the answer is summed from."""
    error = np.abs(found - exact)
    allowed = EPS * np.broadcast_to(scale, error.shape)
    assert np.all(np.isfinite(found))
    return np.max(np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0), initial=0.0)


def evaluated(neurons, amplitudes, m, biased):
    """Loss, gradient and Hessian as the package has them, laid out like the reference."""
    students = as_networks(neurons[:, :m], amplitudes[:, :m], biased)
    teachers = as_networks(neurons[:, m:], amplitudes[:, m:], biased)
    loss, gradient, hessian = compiled(teachers, students)
    hidden = rj.hidden_vectors(gradient)
    weight, cross, outer = as_blocks(np.asarray(hessian), m, neurons.shape[-1] - 1, biased)
    found = {"loss": loss, "hidden": hidden, "amplitudes": gradient.amplitudes, "weight": weight, "cross": cross, "outer": outer}
    return {name: np.asarray(array) for name, array in found.items()}, (teachers, students, np.asarray(hessian))


def errors_beside_quadrature(seed, number, shape, biased):
    m, q = shape[0], slice(None) if biased else slice(-1)
    neurons, amplitudes = draw(seed, number, shape, biased)
    exact, scale = reference(neurons, amplitudes, m)
    found, _ = evaluated(neurons, amplitudes, m, biased)
    exact["hidden"], exact["cross"] = exact["hidden"][..., q], exact["cross"][..., q]
    exact["weight"] = exact["weight"][:, :, q, :, q]
    return {name: worst(found[name], exact[name], scale[name]) for name in found}


def errors_beside_differences(seed, number, shape, biased):
    """Slope and curvature along a random direction against differences of the loss alone, over the square of the outputs.

    Each neuron moves in proportion to its own size. At parallel neurons the third derivative jumps, hence the error of first
    order in the second difference; at a neuron that is 0 there is no derivative, and it does not move.
    """
    m, d = shape[0], shape[2]
    neurons, amplitudes = draw(seed, number, shape, biased)
    r = np.random.default_rng(seed + 1)
    students, a = neurons[:, :m], amplitudes[:, :m]
    length, size = (np.linalg.norm(x, axis=-1)[..., None] for x in (students[..., :-1], students))
    step = r.standard_normal(students.shape) * np.append(np.ones(d), 1.0 if biased else 0.0)
    step *= np.concatenate([np.where(length > 0, length, size) * np.ones(d), size], axis=-1)
    step_a = r.standard_normal(a.shape) * np.abs(a)

    def along(s):
        moved, strength = neurons.copy(), amplitudes.copy()
        moved[:, :m] += s * step
        strength[:, :m] += s * step_a
        return evaluated(moved, strength, m, biased)[0]

    q = slice(None) if biased else slice(-1)
    here, h, far = along(0.0), 1e-4, 1e-3
    slope = np.einsum("pix,pix->p", here["hidden"], step[..., q]) + np.sum(here["amplitudes"] * step_a, axis=1)
    bend = np.einsum("pix,pixjy,pjy->p", step[..., q], here["weight"], step[..., q])
    bend += 2 * np.einsum("pix,pijx,pj->p", step[..., q], here["cross"], step_a)
    bend += np.einsum("pi,pij,pj->p", step_a, here["outer"], step_a)
    ahead, behind, later, earlier = (along(s)["loss"] for s in (h, -h, far, -far))
    total = np.sum(np.abs(amplitudes) * np.linalg.norm(neurons, axis=-1), axis=1) ** 2
    total = np.where(total > 0, total, 1.0)
    first = np.max(np.abs((ahead - behind) / (2 * h) - slope) / total)
    second = np.max(np.abs((later - 2 * here["loss"] + earlier) / far**2 - bend) / total)
    return first, second


def check(seed, number, shape, biased):
    errors = errors_beside_quadrature(seed, number, shape, biased)
    assert max(errors.values()) < 10, errors
    first, second = errors_beside_differences(seed, number, shape, biased)
    assert first < 1e-6
    assert second < 1e-2


@pytest.mark.parametrize("biased", [False, True])
def test_value_gradient_and_hessian_of_some_random_problems(biased):
    check(0, 150, (3, 2, 3), biased)


@pytest.mark.slow
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_gradient_and_hessian_of_ten_thousand_random_problems(shape, biased):
    for seed in range(1, 6):
        check(seed, 250, shape, biased)


@pytest.mark.slow
@pytest.mark.parametrize("biased", [False, True])
def test_differentiating_the_loss_twice_gives_the_closed_form(biased):
    m, _, d = shape = (3, 2, 3)
    neurons, amplitudes = draw(9, 500, shape, biased)
    _, (teachers, students, hessian) = evaluated(neurons, amplitudes, m, biased)
    _, scale = reference(neurons, amplitudes, m)
    found = as_blocks(np.asarray(automatic(teachers, students)), m, d, biased)
    closed = as_blocks(hessian, m, d, biased)
    for name, automatic_block, block in zip(("weight", "cross", "outer"), found, closed, strict=True):
        assert worst(automatic_block, block, scale[name]) < 10
