"""What a user gives as numbers: NaN comes out as NaN, data that are none are refused, lists are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.flow import observe

TRAINS = [("weights", "biases", "amplitudes"), ("weights",), ("amplitudes",)]


def problem(biased=True, train=TRAINS[0], criterion=None, m=3):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(7, 2)), np.sign(rng.normal(size=7))
    net = rj.ShallowReLU(
        rng.normal(size=(m, 2)), rng.normal(size=m), rng.normal(size=m) if biased else None, train=train
    )  # fmt: skip
    return rj.EmpiricalLoss(jnp.asarray(inputs), jnp.asarray(targets), criterion or rj.SquaredError()), net


def with_nan(net, name, place):
    array = np.array(getattr(net, name))
    array.flat[place] = np.nan
    return rj.ShallowReLU(
        **{"weights": net.weights, "amplitudes": net.amplitudes, "biases": net.biases, name: array}, train=net.train
    )


@pytest.mark.parametrize("criterion", [rj.SquaredError(), rj.LogisticError(), rj.ExponentialError()])
@pytest.mark.parametrize("train", TRAINS)
def test_a_nan_in_a_parameter_is_a_nan_in_all_that_depends_on_it(criterion, train):
    loss, net = problem(train=train, criterion=criterion)

    @jax.jit
    def everything(net):
        automatic = rj.ravel(jax.grad(lambda net: loss(net), allow_int=True)(net))
        return {
            "value": loss(net),
            "outputs": loss.outputs(net),
            "network": jax.vmap(net)(loss.inputs),
            "observed": observe.outputs(loss.inputs)(net),
            "gradient": rj.ravel(loss.gradient(net)),
            "automatic": automatic,
            "hessian": loss.hessian(net),
            "jacobian": loss.jacobian(net),
        }

    for name in ("weights", "biases", "amplitudes"):
        for place in range(getattr(net, name).size):
            broken = with_nan(net, name, place)
            for what, array in everything(broken).items():
                # the derivative of the outputs in the amplitudes does not depend on them
                if what == "jacobian" and name == "amplitudes" and train == ("amplitudes",):
                    continue
                assert np.isnan(array).any(), (what, name, place)
    for array in everything(net).values():
        assert np.isfinite(array).all()


@pytest.mark.parametrize("m", [3, 40])
def test_a_neuron_that_is_nan_has_no_gradient_whatever_the_layout(m):
    loss, net = problem(m=m)
    broken = with_nan(net, "weights", 0)
    gradient = jax.jit(lambda net: loss.gradient(net))(broken)
    assert np.isnan(gradient.weights[0]).all()
    assert np.isnan(gradient.biases[0])
    assert np.isnan(gradient.amplitudes[0])
    assert not np.any(rj.activation_pattern(broken, loss.inputs)[:, 0])
    assert not rj.dead_neurons(broken, loss.inputs)[0]


@pytest.mark.parametrize("row", range(7))
def test_a_traced_datum_that_is_nan_makes_the_loss_nan(row):
    loss, net = problem()
    inputs = loss.inputs.at[row, 1].set(jnp.nan)

    @jax.jit
    def value_and_slope(inputs):
        return jax.value_and_grad(lambda net: rj.EmpiricalLoss(inputs, loss.targets)(net))(net)

    value, slope = value_and_slope(inputs)
    assert np.isnan(value)
    assert np.isnan(rj.ravel(slope)).any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_data_that_are_no_finite_numbers_are_refused(wrong):
    for inputs, targets, name in (([[1.0], [wrong]], [1.0, 2.0], "inputs"), ([[1.0], [2.0]], [1.0, wrong], "targets")):
        for make in (np.array, jnp.array, list):
            with pytest.raises(ValueError, match=f"{name} hold 1 numbers that are NaN or infinite: leave those data out."):
                rj.EmpiricalLoss(make(inputs), make(targets))


def test_lists_and_whole_numbers_are_data_and_networks():
    loss = rj.EmpiricalLoss([[1, 2], [3, 4]], [1, 0])
    net = rj.ShallowReLU([[1, -1], [0, 2]], [1, -2], [0, 1])
    as_arrays = rj.EmpiricalLoss(np.array([[1.0, 2], [3, 4]]), np.array([1.0, 0]))
    given = rj.ShallowReLU(np.array([[1.0, -1], [0, 2]]), np.array([1.0, -2]), np.array([0.0, 1]))
    assert loss(net) == as_arrays(given)
    np.testing.assert_array_equal(rj.ravel(jax.grad(lambda n: loss(n))(net)), rj.ravel(as_arrays.gradient(given)))
    whole = rj.EmpiricalLoss(jnp.array([[1, 2], [3, 4]]), jnp.array([True, False]))
    assert whole(net) == as_arrays(given)
    traced = jax.jit(lambda x: rj.EmpiricalLoss([[x, 2], [3, 4]], [1, 0])(net))
    assert traced(1.0) == as_arrays(given)
    end = rj.gradient_flow(loss, net, end_time=0.1, save_at=[0.05])
    many = rj.flow_ensemble(loss, rj.stack([net]), end_time=[0.1], save_at=[0.05], loss_levels=[1.0])
    assert np.isfinite(end.losses)
    assert np.isfinite(many.losses).all()


@pytest.mark.parametrize("wrong", [[[1.0, 2.0], [3.0]], "four", [["a"]], [[1j]]])
def test_what_is_no_table_of_real_numbers_is_refused(wrong):
    with pytest.raises(ValueError, match="inputs must be real numbers in rows of one length, and are"):
        rj.EmpiricalLoss(wrong, [1.0])
    with pytest.raises(ValueError, match="weights must be real numbers in rows of one length, and are"):
        rj.ShallowReLU(wrong, [1.0])


def test_an_empty_stack_has_empty_results():
    nets = rj.initialise.balanced(jax.random.key(0), number=3, width=4, dim=2, scale=1.0)
    nothing = rj.take(nets, slice(0, 0))
    for loss in (problem(biased=False)[0], rj.problems.orthonormal_teacher(2)):
        run = rj.flow_ensemble(loss, nothing, end_time=1.0, save_at=[0.5], loss_levels=[0.1, 0.2])
        assert run.networks.weights.shape == (0, 4, 2)
        assert run.losses.shape == (0,)
        assert run.observed["loss"].shape == (0, 1)
        assert run.level_times.shape == (0, 2)
        assert rj.flow_ensemble(loss, nothing).status.shape == (0,)
        assert rj.polish(loss, nothing).networks.weights.shape == (0, 4, 2)
        verdict = rj.classify(loss, nothing)
        assert verdict.status.shape == (0,)
        assert verdict.eigenvalues.shape == (0, 12)
        assert verdict.words == []
        assert rj.flow.momentum_flow(loss, nothing, friction=1.0, end_time=1.0).times.shape == (0,)


def test_an_ensemble_inside_a_callers_jit_is_refused_in_one_sentence():
    loss, net = problem()
    nets = rj.stack([net])
    flow = rj.flow_ensemble
    for call in (
        lambda x: flow(loss, nets, end_time=jnp.full(1, x)).losses,
        lambda x: flow(loss, jax.tree.map(lambda leaf: x * leaf, nets), end_time=1.0).losses,
        lambda x: flow(rj.EmpiricalLoss(x * loss.inputs, loss.targets), nets, end_time=1.0).losses,
        lambda x: flow(loss, nets, end_time=1.0).losses + x,
        lambda x: rj.polish(loss, nets).status + x,
    ):
        with pytest.raises(ValueError, match="call it outside of jax.jit, jax.grad and jax.vmap"):
            jax.jit(call)(1.0)
