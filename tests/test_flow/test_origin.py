"""Neurons that reach the origin on Gaussian inputs, against descent with small steps on the textbook gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj


def push(rows, vectors, coefficients):
    """`E[Σ_b c_b relu(v_b·x) 1(w·x > 0) x]` for rows w, by the formula with the angle (Cho and Saul 2009)."""
    norms, lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(vectors, axis=1)
    units = rows / np.where(norms > 0, norms, 1.0)[:, None]
    cosine = units @ (vectors / np.where(lengths > 0, lengths, 1.0)[:, None]).T
    angle = np.arccos(np.clip(cosine, -1, 1))
    along = (np.sin(angle) * lengths) @ coefficients
    return (along[:, None] * units + ((np.pi - angle) * coefficients) @ vectors) / (2 * np.pi)


def descent_loss(weights, amplitudes, teacher, time, step):
    """The loss after descent with a fixed step: the first-order extrapolation of two steps to 0."""

    def run(step):
        w = weights.copy()
        for _ in range(round(time / step)):
            pull = push(w, w, amplitudes) - push(w, teacher, np.ones(len(teacher)))
            w = w - step * amplitudes[:, None] * pull
        both, c = np.concatenate([w, teacher]), np.concatenate([amplitudes, -np.ones(len(teacher))])
        return np.sum(c * np.sum(push(both, both, c) * both, axis=1)) / 2

    return 2 * run(step / 2) - run(step)


def starts(students, teachers, number=40, amplitudes=1.0, seed=0):
    draw = rj.initialise.xavier
    return draw(jax.random.key(seed), number=number, width=students, dim=teachers, amplitudes=amplitudes, train=("weights",))


def test_a_flow_goes_on_when_a_neuron_reaches_the_origin():
    """In both, a neuron reaches the origin at about t = 1 and 0.5; in the second it rests there for a while."""
    nets = rj.take(starts(9, 4), np.array([23, 33, 23, 33]))
    times = np.array([2.0, 2.0, 5.0, 5.0])
    ends = rj.flow_ensemble(rj.problems.orthonormal_teacher(4), nets, end_time=times)
    assert np.all(ends.status == rj.FlowStatus.END_TIME)
    for i, time in enumerate(times):
        exact = descent_loss(np.asarray(nets.weights[i]), np.ones(9), np.eye(4), time, 1e-3)
        np.testing.assert_allclose(ends.losses[i], exact, rtol=2e-4)
    assert ends.networks.weights[1, 0].tolist() == [0.0] * 4
    assert np.linalg.norm(ends.networks.weights[3, 0]) > 0.01


def test_a_repelled_neuron_rests_at_the_origin_whatever_its_size():
    """The teacher is opposite in sign for all inputs, so that the drive is positive everywhere; nothing else moves."""
    sizes = np.array([1.0, 1e-12, 1e-50])
    weights = sizes[:, None, None] * np.array([[[0.3, 1.0]]])
    nets = rj.ShallowReLU(jnp.array(weights), -jnp.ones((3, 1)), train=("weights",))
    ends = rj.flow_ensemble(rj.problems.orthonormal_teacher(2), nets, end_time=20.0)
    assert np.all(ends.status == rj.FlowStatus.CONVERGED)
    np.testing.assert_array_equal(ends.networks.weights, 0.0)
    assert np.max(ends.stats["steps"]) < 200


def test_a_tiny_neuron_that_is_wanted_grows():
    nets = rj.ShallowReLU(jnp.array([[[1e-12, 3e-13]], [[-1e-12, 1e-13]]]), jnp.ones((2, 1)), train=("weights",))
    ends = rj.flow_ensemble(rj.problems.orthonormal_teacher(2), nets, end_time=10.0)
    sizes = np.array([[[1e-5, 3e-6]], [[-1e-5, 1e-6]]])
    for i in range(2):
        exact = descent_loss(sizes[i], np.ones(1), np.eye(2), 10.0, 1e-3)
        np.testing.assert_allclose(ends.losses[i], exact, rtol=1e-3)


def test_records_beyond_what_a_flow_has_reached_are_not_numbers():
    nets = starts(3, 2, number=2)
    flow = rj.flow_ensemble(rj.problems.orthonormal_teacher(2), nets, end_time=50.0, max_steps=4, save_at=np.array([0.0, 50.0]))
    assert np.all(flow.status == rj.FlowStatus.STEP_LIMIT)
    assert np.all(np.isfinite(flow.observed["loss"][:, 0]))
    assert np.all(np.isnan(flow.observed["loss"][:, 1]))
    assert np.all(np.isfinite(flow.losses))


@pytest.mark.slow
@pytest.mark.parametrize(("students", "teachers", "amplitudes"), [(9, 4, 1.0), (8, 3, 1.0), (9, 4, None)])
def test_no_start_is_stopped_by_the_origin(students, teachers, amplitudes):
    nets = starts(students, teachers, number=100, amplitudes=amplitudes)
    ends = rj.flow_ensemble(rj.problems.orthonormal_teacher(teachers), nets, end_time=3.0)
    assert np.all(ends.status == rj.FlowStatus.END_TIME)
    smallest = np.min(np.linalg.norm(ends.networks.weights, axis=2), axis=1)
    for i in np.argsort(smallest)[:4]:
        exact = descent_loss(np.asarray(nets.weights[i]), np.asarray(nets.amplitudes[i]), np.eye(teachers), 3.0, 1e-3)
        np.testing.assert_allclose(ends.losses[i], exact, rtol=1e-3)
