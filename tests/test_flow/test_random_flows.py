"""Random small flows, degenerate ones most of all, against an event-driven reference, with descent in short steps as arbiter."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax.numpy as jnp
import numpy as np
import pytest
from random_problems import SHAPES, problem, variant
from reference import flow
from small_flows import Problem, Unresolved, descend, hidden_vectors, loss_of

import relujax as rj

CRITERIA = {"squared": rj.loss.SquaredError(), "logistic": rj.LogisticError(), "exponential": rj.ExponentialError()}
# outputs may differ by so much of the largest target or output; a status other than the end time in so many of all flows
ALLOWED, HONEST = 1e-4, 0.01


def engine(given: Problem, rtol: float, solver=None):
    """The end's status, outputs, loss, hidden vectors and amplitudes."""
    loss = rj.EmpiricalLoss(jnp.asarray(given.inputs), jnp.asarray(given.targets), CRITERIA[given.criterion])
    train = tuple(name for name in given.train if name != "biases" or given.biases is not None)
    biases = None if given.biases is None else jnp.asarray(given.biases)[None]
    nets = rj.ShallowReLU(jnp.asarray(given.weights)[None], jnp.asarray(given.amplitudes)[None], biases, train=train)
    end = rj.flow_ensemble(
        loss, nets, end_time=given.end_time, rtol=rtol, atol=rtol, kinks="locate", solver=solver, max_steps=20_000
    )
    net = rj.take(end.networks, 0)
    return rj.FlowStatus(int(end.status[0])), np.asarray(loss.outputs(net)), float(end.losses[0]), net


def gap(given, outputs, others):
    """The largest difference of two functions at the data, in units of the largest target or output."""
    return np.max(np.abs(outputs - others)) / np.max(np.abs(np.concatenate([given.targets, others])))


def is_right(given, right, unit, rtol, solver=None):
    """Whether the engine ends where the reference does; None where its status says that it does not end. `unit` are the
    factors, and the order, of outputs, from the problem of the reference to `given`."""
    for tolerance in (rtol, 1e-3 * rtol):
        status, outputs, loss, _ = engine(given, tolerance, solver)
        if status not in (rj.FlowStatus.END_TIME, rj.FlowStatus.CONVERGED):
            return None
        expected = unit(right.outputs)
        if gap(given, outputs, expected) <= ALLOWED:
            exact = loss_of(given, outputs)
            return abs(loss - exact) <= 1e-9 * max(exact, np.max(np.abs(given.targets)) ** 2)
        # what a problem makes of rounding it makes of tolerances
    return False


def arbiter_sides_with(given, right):
    """Whether descent comes closer to the reference as its steps get shorter."""
    before = np.inf
    for steps in (2_000, 20_000):
        with np.errstate(all="ignore"):
            after = gap(given, descend(given, steps).outputs, right.outputs)
        if after <= max(ALLOWED, 0.3 * before if np.isfinite(before) else 0.0):
            return True
        before = after
    return False


def check(shape, seed, numbers, *, rtol=1e-8, solver=None):
    """The numbers of the problems of which the engine's end is wrong, and how many it does not end."""
    wrong, honest = [], 0
    for number in numbers:
        plain = problem(seed, number, shape)
        try:
            right = flow(plain)
        except Unresolved:
            continue
        given, unit = variant(plain, seed, number)
        verdict = is_right(given, right, unit, rtol, solver)
        honest += verdict is None
        if verdict is False and arbiter_sides_with(plain, right):
            wrong.append((number, plain.kind))
    return wrong, honest


def test_random_flows_end_where_the_reference_ends():
    wrong, honest = check(SHAPES[3], 3, range(40))
    assert not wrong
    assert honest <= 1


@pytest.mark.slow
def test_more_random_flows_end_where_the_reference_ends():
    wrong, honest = check(SHAPES[3], 3, range(150, 270))
    assert not wrong
    assert honest <= 1


def _is_limit_of_descent(seed, number):
    given = problem(seed, number, SHAPES[seed])
    try:
        right = flow(given)
    except Unresolved:
        return True
    return arbiter_sides_with(given, right)


@pytest.mark.parametrize("seed", [3, 6, 9])
def test_the_reference_is_the_limit_of_descent(seed):
    assert all(_is_limit_of_descent(seed, number) for number in (100, 101))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_the_reference_is_the_limit_of_descent_for_many(seed):
    assert [number for number in range(15, 27) if not _is_limit_of_descent(seed, number)] == []


def test_the_reference_keeps_the_balance_of_a_neuron_that_dies():
    """Inputs ±1, targets ∓1, one neuron a = w: s² = 1/((1 + 1/s₀²)eᵗ − 1)."""
    given = Problem(
        np.array([[1.0], [-1.0]]),
        np.array([-1.0, 1.0]),
        np.array([[0.5]]),
        None,
        np.array([0.5]),
        ("weights", "amplitudes"),
        60.0,
    )
    right = flow(given)
    np.testing.assert_allclose(right.amplitudes[0] ** 2, 1 / (5 * np.exp(60) - 1), rtol=1e-8)
    assert right.hidden[0, 0] == right.amplitudes[0]


def test_the_reference_takes_data_given_twice_as_their_mean():
    r = np.random.default_rng(0)
    x, y = r.standard_normal((4, 2)), r.standard_normal(4)
    w, a, names = r.standard_normal((3, 2)), r.standard_normal(3), ("weights", "amplitudes")
    once = flow(Problem(x, y, w, None, a, names, 5.0))
    twice = flow(Problem(np.repeat(x, 2, axis=0), np.repeat(y, 2) + np.tile([1.0, -1.0], 4), w, None, a, names, 5.0))
    np.testing.assert_allclose(twice.hidden, once.hidden, rtol=0, atol=1e-9)
    assert hidden_vectors(Problem(x, y, w, None, a, names, 5.0)).shape == (3, 2)


def test_the_reference_leaves_the_origin_as_descent_does():
    """A neuron that rests there from t = .378 on, while descent chatters, and goes when a way down opens at t = .933."""
    given = Problem(
        np.array([[1.4781614521266793, 0.5208249042714488], [-0.6721811916581941, 1.716733435778187],
                  [1.4781614521266793, 0.5208249042714488],
                  [-0.9124204391341499, 0.49068566610319175], [-0.197097827265104, -2.3143974652003325], [0.0, 0.0]]),
        np.array([1.2577870374540419, 0.4630324432720382, 1.094489583292569, 0.38028088903061674, 2.084773805212377, 0.0]),
        np.array([[-1.6446567399418432, 0.43070731641010135], [-0.06865330568841113, -2.2565478241332797],
                  [0.022409494532210878, 0.16113064297173765], [-0.7426334393649555, -0.7432967806298545]]),
        None,
        np.array([0.0, -1.0337128939617133, -1.9556901601136305, 0.7488219582061639]),
        ("weights", "amplitudes"),
        1.4671888200093859,
    )  # fmt: skip
    right = flow(given)
    assert "origin" in right.notes
    assert np.all(right.hidden[2] != 0)
    np.testing.assert_allclose(right.loss, descend(given, 20_000).loss, rtol=0, atol=5e-6)


if __name__ == "__main__":
    # the long draw, all shapes: `python tests/test_flow/test_random_flows.py 10000`
    import jax

    jax.config.update("jax_enable_x64", True)
    for seed, shape in enumerate(SHAPES):
        print(shape, *check(shape, seed, range(int(sys.argv[1]) // len(SHAPES) + 1)), flush=True)
