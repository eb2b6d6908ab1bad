"""Losses against plain sums, automatic differentiation, finite differences and the known spectrum at the global minimum."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("hypothesis")
import hypothesis.strategies as st
from hypothesis import given

import relujax as rj

TRAIN = [
    ("weights",),
    ("weights", "amplitudes"),
    ("weights", "biases"),
    ("weights", "biases", "amplitudes"),
    ("amplitudes",),
]


def random_net(seed, m=4, d=3, *, biased, train=("weights", "biases", "amplitudes")):
    r = np.random.default_rng(seed)
    biases = jnp.array(0.5 * r.standard_normal(m)) if biased else None
    return rj.ShallowReLU(jnp.array(r.standard_normal((m, d))), jnp.array(r.standard_normal(m)), biases, train=train)


def random_data(seed, n=20, d=3):
    r = np.random.default_rng(seed)
    return rj.EmpiricalLoss(jnp.array(r.standard_normal((n, d))), jnp.array(r.standard_normal(n)))


def of_vector(loss, net):
    return lambda vector: loss(rj.unravel(net, vector))


@eqx.filter_jit
def value(loss, net):
    return loss(net)


@eqx.filter_jit
def closed_gradient(loss, net):
    return rj.ravel(loss.gradient(net))


@eqx.filter_jit
def closed_hessian(loss, net):
    return loss.hessian(net)


@eqx.filter_jit
def automatic_gradient(loss, net):
    return jax.grad(of_vector(loss, net))(rj.ravel(net))


@eqx.filter_jit
def automatic_hessian(loss, net):
    return jax.hessian(of_vector(loss, net))(rj.ravel(net))


@eqx.filter_jit
def derivatives(loss, net):
    """For every choice of what is trained: gradient and Hessian, each in closed form and by automatic differentiation."""
    found = {}
    for train in TRAIN:
        one = rj.ShallowReLU(net.weights, net.amplitudes, net.biases, train=train)
        function, vector = of_vector(loss, one), rj.ravel(one)
        gradients = rj.ravel(loss.gradient(one)), jax.grad(function)(vector)
        found[train] = gradients, (loss.hessian(one), jax.hessian(function)(vector))
    return found


def plain_outputs(net, inputs):
    biases = 0.0 if net.biases is None else np.asarray(net.biases)
    return np.maximum(inputs @ np.asarray(net.weights).T + biases, 0) @ np.asarray(net.amplitudes)


def differences(function, loss, net, h):
    """Central differences of a function of (loss, net) along every trained parameter."""
    vector = np.asarray(rj.ravel(net))
    ahead, behind = ([function(loss, rj.unravel(net, vector + s)) for s in sign * h * np.eye(len(vector))] for sign in (1, -1))
    return (np.asarray(ahead) - np.asarray(behind)) / (2 * h)


@pytest.mark.parametrize("n", range(60, 81))
def test_empirical_loss_is_the_plain_sum_for_every_number_of_data(n):
    loss, net = random_data(n, n=n), random_net(1, biased=True)
    total = sum((f - y) ** 2 for f, y in zip(plain_outputs(net, np.asarray(loss.inputs)), loss.targets.tolist(), strict=True))
    np.testing.assert_allclose(value(loss, net), total / (2 * n), rtol=1e-13)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("population", [False, True])
def test_closed_forms_are_the_derivatives_whatever_is_trained(population, biased):
    net = random_net(1, biased=biased)
    loss = rj.PopulationLoss(random_net(5, m=3, biased=biased)) if population else random_data(0)
    for train, (gradients, hessians) in derivatives(loss, net).items():
        np.testing.assert_allclose(*gradients, rtol=0, atol=1e-14, err_msg=str(train))
        np.testing.assert_allclose(*hessians, rtol=0, atol=1e-13 if population else 1e-14, err_msg=str(train))


@pytest.mark.parametrize("biased", [False, True])
def test_population_derivatives_are_those_of_finite_differences(biased):
    loss, net = rj.PopulationLoss(random_net(5, m=3, biased=biased)), random_net(1, biased=biased)
    np.testing.assert_allclose(closed_gradient(loss, net), differences(value, loss, net, 1e-5), rtol=0, atol=1e-8)
    np.testing.assert_allclose(closed_hessian(loss, net), differences(automatic_gradient, loss, net, 1e-5), rtol=0, atol=1e-8)


@pytest.mark.parametrize("biased", [False, True])
def test_population_loss_is_the_mean_over_gaussian_inputs(biased):
    teacher, net = random_net(5, m=3, biased=biased), random_net(1, biased=biased)
    x = np.random.default_rng(0).standard_normal((400_000, 3))
    samples = (plain_outputs(net, x) - plain_outputs(teacher, x)) ** 2 / 2
    error = samples.std() / np.sqrt(len(samples))
    assert abs(value(rj.PopulationLoss(teacher), net) - samples.mean()) < 5 * error


@pytest.mark.parametrize("k", [4, 6, 10])
def test_spectrum_at_the_global_minimum_is_the_exact_one(k):
    """Arjevani and Field 2020: ¼ ± 1/2π, two roots of a quadratic k−1 times each, and two from a 2 x 2 block."""
    net = rj.ShallowReLU(jnp.eye(k), jnp.ones(k), train=("weights",))
    pi = np.pi
    roots = np.roots([1, -(k / 4 + 0.5), k / 16 + 1 / 16 + 1 / (4 * pi) - 1 / (4 * pi**2)])
    block = [[0.5 + (k - 1) / (2 * pi), (k - 1) / 4], [0.25, k / 4 + 1 / (2 * pi)]]
    expected = np.concatenate(
        [
            np.repeat(0.25 - 1 / (2 * pi), (k - 1) * (k - 2) // 2 + k - 1),
            np.repeat(0.25 + 1 / (2 * pi), k * (k - 3) // 2),
            np.repeat(roots, k - 1),
            np.linalg.eigvals(block),
        ]
    )
    np.testing.assert_allclose(
        np.linalg.eigvalsh(closed_hessian(rj.PopulationLoss(net), net)), np.sort(expected), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 1, 0, 5, 4, 2]])
def test_automatic_hessian_is_exact_at_the_global_minimum_and_its_permutations(order):
    net = rj.ShallowReLU(jnp.eye(6)[np.array(order)], jnp.ones(6), train=("weights",))
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(6), jnp.ones(6)))
    automatic = automatic_hessian(loss, net)
    for row in range(6):
        for column in range(6):
            # ¼ I + (E_ij + E_ji)/2π between neurons at e_i and e_j, ½ I on the diagonal
            i, j = order[row], order[column]
            exact = 0.5 * np.eye(6) if row == column else 0.25 * np.eye(6)
            if row != column:
                exact[i, j] = exact[j, i] = 1 / (2 * np.pi)
            block = automatic[6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
            np.testing.assert_allclose(block, exact, rtol=0, atol=1e-14)


def test_coincident_and_opposite_students_have_finite_derivatives():
    weights = jnp.array([[1.0, 2.0, 0.5], [1.0, 2.0, 0.5], [-2.0, -4.0, -1.0], [0.3, 0.0, 1.0]])
    net = rj.ShallowReLU(weights, jnp.array([1.0, 0.5, -0.7, 0.2]))
    loss = rj.PopulationLoss(random_net(5, m=3, biased=False))
    closed = closed_hessian(loss, net)
    np.testing.assert_allclose(closed, automatic_hessian(loss, net), rtol=0, atol=1e-14)
    np.testing.assert_allclose(closed, differences(automatic_gradient, loss, net, 1e-6), rtol=0, atol=1e-5)


def test_a_zero_neuron_is_flagged_and_has_no_gradient():
    net = rj.ShallowReLU(jnp.array([[0.0, 0.0], [1.0, 2.0]]), jnp.ones(2), train=("weights",))
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.eye(2), jnp.ones(2)))
    assert bool(loss.has_zero_neuron(net))
    for size, zero in ((1e-17, True), (1e-9, False)):
        assert bool(loss.has_zero_neuron(rj.ShallowReLU(net.weights.at[0, 0].set(size), net.amplitudes))) is zero
    np.testing.assert_array_equal(closed_gradient(loss, net)[:2], 0.0)
    smaller = rj.ShallowReLU(net.weights[1:], net.amplitudes[1:])
    np.testing.assert_allclose(value(loss, net), value(loss, smaller), rtol=1e-14)


def test_gradients_reach_the_teacher():
    net, teacher = random_net(1, biased=False), random_net(5, m=3, biased=False)
    function = jax.jit(lambda vector: rj.PopulationLoss(rj.unravel(teacher, vector))(net))
    vector, h = np.asarray(rj.ravel(teacher)), 1e-6
    slope = [(function(vector + s) - function(vector - s)) / (2 * h) for s in h * np.eye(len(vector))]
    np.testing.assert_allclose(jax.jit(jax.grad(function))(vector), slope, rtol=1e-6, atol=1e-9)


@eqx.filter_jit
def gradient_and_outputs(loss, net):
    return loss.gradient(net), loss.outputs(net)


@given(seed=st.integers(0, 10**6))
def test_euler_identities_of_homogeneous_networks(seed):
    """f is 2-homogeneous in (w, a): ⟨θ, ∇L⟩ = 2/n Σ r f, and per neuron ⟨w_j, ∇_{w_j} L⟩ = a_j ∂L/∂a_j."""
    loss, net = random_data(seed), random_net(seed, biased=True)
    gradient, outputs = gradient_and_outputs(loss, net)
    left = jnp.sum(rj.ravel(net) * rj.ravel(gradient))
    np.testing.assert_allclose(left, 2 * jnp.mean((outputs - loss.targets) * outputs), rtol=1e-10, atol=1e-13)
    hidden = jnp.sum(rj.hidden_vectors(net) * rj.hidden_vectors(gradient), axis=1)
    np.testing.assert_allclose(hidden, net.amplitudes * gradient.amplitudes, rtol=1e-10, atol=1e-13)


def test_with_fixed_amplitudes_the_empirical_hessian_never_has_a_negative_eigenvalue():
    net = random_net(1, m=6, biased=True, train=("weights", "biases"))
    assert np.linalg.eigvalsh(random_data(0).hessian(net))[0] > -1e-14


def test_relu_derivative_is_zero_on_a_boundary():
    net = rj.ShallowReLU(jnp.array([[1.0, 0.0]]), jnp.array([1.0]))
    loss = rj.EmpiricalLoss(jnp.array([[0.0, 1.0]]), jnp.array([1.0]))
    np.testing.assert_array_equal(rj.ravel(loss.gradient(net)), 0.0)


def test_only_a_neuron_beyond_a_boundary_is_pushed_off_it():
    """Two orthogonal data: the height over the first rests on its boundary, and moves at a y |x|²/n beyond it."""
    inputs, targets, size = jnp.array([[-0.5, 1.0], [2.0, 1.0]]), jnp.array([-1.0, 1.0]), 1e-3
    loss = rj.EmpiricalLoss(inputs, targets)
    for height, rate in ((0.0, 0.0), (1e-12, -size * 1.25 / 2), (-1e-12, 0.0)):
        w = size * jnp.array([1.0, 0.5]) + height * inputs[0] / 1.25
        gradient = loss.gradient(rj.ShallowReLU(w[None], jnp.array([size])))
        found = -float(gradient.weights[0] @ inputs[0])
        assert found == 0 if height == 0 else abs(found - rate) < 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rj.EmpiricalLoss(np.ones((3, 2)), np.ones(4)), "targets have shape"),
        (lambda: rj.EmpiricalLoss(np.ones((0, 2)), np.ones(0)), "inputs have shape"),
        (lambda: rj.PopulationLoss(rj.ShallowReLU(np.ones((2, 3, 3)), np.ones((2, 3)))), "one network is needed"),
        (lambda: rj.PopulationLoss(random_net(0, biased=False))(random_net(0, d=2, biased=False)), "2 inputs"),
    ],
)
def test_refusals_name_the_value(make, message):
    with pytest.raises((ValueError, TypeError)) as error:
        make()
    assert message in str(error.value) or error.type.__name__ == "TypeCheckError"


@pytest.mark.parametrize("criterion", [rj.LogisticError(), rj.ExponentialError()])
def test_classification_losses_are_their_definitions_and_derivatives(criterion):
    data, net = random_data(0), random_net(1, biased=True)
    loss = rj.EmpiricalLoss(data.inputs, jnp.sign(data.targets), criterion)
    margins = np.asarray(loss.targets * jax.vmap(net)(loss.inputs))
    plain = np.log(1 + np.exp(-margins)) if isinstance(criterion, rj.LogisticError) else np.exp(-margins)
    np.testing.assert_allclose(loss(net), plain.mean(), rtol=1e-13)
    vector = rj.ravel(net)
    np.testing.assert_allclose(rj.ravel(loss.gradient(net)), jax.grad(of_vector(loss, net))(vector), atol=1e-13)
    np.testing.assert_allclose(loss.hessian(net), jax.hessian(of_vector(loss, net))(vector), atol=1e-12)


def test_logistic_loss_is_finite_far_out():
    net = rj.ShallowReLU(jnp.array([[1e3]]), jnp.array([1e3]))
    for sign in (1.0, -1.0):
        loss = rj.EmpiricalLoss(jnp.array([[1.0]]), jnp.array([sign]), rj.LogisticError())
        np.testing.assert_allclose(loss(net), 0.0 if sign > 0 else 1e6)
        assert np.all(np.isfinite(loss.hessian(net)))


@pytest.mark.parametrize("criterion", [rj.LogisticError(), rj.ExponentialError()])
def test_the_smoothed_margin_never_falls_once_the_data_are_separated(criterion):
    """Lyu and Li 2020: for the exponential loss and, as −ln(e^{nL} − 1)/|θ|², for the logistic one."""
    inputs = jnp.array([[1.0, 0.2], [0.8, -0.4], [-1.0, 0.3], [-0.7, -0.5]])
    loss = rj.EmpiricalLoss(inputs, jnp.array([1.0, 1.0, -1.0, -1.0]), criterion)
    nets = rj.initialise.balanced(jax.random.key(4), number=3, width=6, dim=2)

    def smoothed(net):
        if isinstance(criterion, rj.ExponentialError):
            return rj.flow.observe.smoothed_margin(loss)(net)
        return -jnp.log(jnp.expm1(4 * loss(net))) / jnp.sum(rj.ravel(net) ** 2)

    times = np.geomspace(1.0, 1e4, 60)
    run = rj.flow_ensemble(loss, nets, end_time=1e4, save_at=times, observe={"margin": smoothed}, rtol=1e-8, atol=1e-8)
    for margins, losses in zip(run.observed["margin"], run.observed["loss"], strict=True):
        separated = 4 * losses < np.log(2)
        assert separated.sum() > 20
        assert np.all(np.diff(margins[separated]) > -1e-7)
        assert np.all(np.diff(losses) < 0)


@pytest.mark.parametrize(
    ("w", "b", "slope"),
    [
        (0.0, 1.0, 0.5 - 1 / np.sqrt(2 * np.pi)),  # E[1(x > 0) (relu(x) - 1) x]
        (1 / 80, 1.0, 0.5 - 1 / np.sqrt(2 * np.pi) - 1 / 160),
        (0.0, 1e8, 0.5 - 1e8 / np.sqrt(2 * np.pi)),
        (0.01, -1.0, 0.5),  # never active
    ],
)
def test_a_teacher_far_from_its_boundary_pulls_with_all_its_bias(w, b, slope):
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.array([[w]]), jnp.ones(1), jnp.array([b])))
    net = rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1), jnp.zeros(1))
    np.testing.assert_allclose(loss.gradient(net).weights[0, 0], slope, rtol=1e-14)
    # d/db E[1(x + b > 0) (x + b - f*(x))] at 0: the mean of 1(x > 0), and f* on the boundary
    np.testing.assert_allclose(loss.hessian(net)[1, 1], 0.5 - max(b, 0) / np.sqrt(2 * np.pi), rtol=1e-14)


@pytest.mark.parametrize(("w", "b"), [(1.0, 0.5), (0.3, -0.7), (3e-6, 1e-6)])
def test_exactly_opposite_neurons_with_biases_never_act_together(w, b):
    """z and −z, so that E[relu(z) relu(−z)] = 0 and the loss is E[z²]/4 + E[z²]/4."""
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.array([[-w]]), jnp.ones(1), jnp.array([-b])))
    net = rj.ShallowReLU(jnp.array([[w]]), jnp.ones(1), jnp.array([b]))
    np.testing.assert_allclose(loss(net), (w**2 + b**2) / 2, rtol=1e-14)


def test_a_parameter_that_is_not_a_number_is_seen_in_the_gradient_of_a_population_loss():
    for biases in (None, jnp.zeros(1)):
        loss = rj.PopulationLoss(rj.ShallowReLU(jnp.ones((1, 1)), jnp.ones(1)))
        net = rj.ShallowReLU(jnp.array([[jnp.nan]]), jnp.ones(1), biases)
        assert np.isnan(loss(net))
        assert np.isnan(loss.gradient(net).weights[0, 0])
