"""Synthetic problems have the properties that their names promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

problems = rj.problems


@pytest.mark.parametrize(("k", "dim"), [(3, None), (2, 5)])
def test_orthonormal_teacher(k, dim):
    loss = problems.orthonormal_teacher(k, dim)
    np.testing.assert_array_equal(loss.teacher.weights, np.eye(k, dim or k))
    np.testing.assert_array_equal(loss.teacher.amplitudes, 1.0)
    # half the teacher's own second moment: ½ (k/2 + k(k−1)/2π)
    nothing = rj.ShallowReLU(jnp.zeros((1, dim or k)), jnp.zeros(1))
    np.testing.assert_allclose(loss(nothing), (k / 2 + k * (k - 1) / (2 * np.pi)) / 2, rtol=1e-14)


@pytest.mark.parametrize("biases", [False, True])
def test_over_and_underparameterised_students_have_a_loss(biases):
    loss = problems.random_teacher(jax.random.key(0), k=3, dim=4, biases=biases)
    for width in (1, 5):
        net = rj.take(rj.initialise.xavier(jax.random.key(1), number=1, width=width, dim=4), 0)
        assert np.isfinite(loss(net))
        assert jax.eval_shape(loss.hessian, net).shape == (5 * width, 5 * width)


def test_orthogonal_data_are_orthogonal():
    loss = problems.orthogonal(jax.random.key(0), number=4, dim=6)
    gram = np.asarray(loss.inputs @ loss.inputs.T)
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0.0, rtol=0, atol=1e-14)
    assert np.all((np.sqrt(np.diag(gram)) >= 0.8) & (np.sqrt(np.diag(gram)) <= 1.2))


@pytest.mark.parametrize("centred", [True, False])
def test_correlated_data_are_fitted_by_one_unit_neuron(centred):
    loss = problems.correlated_with_teacher(jax.random.key(0), number=6, dim=6, centred=centred)
    assert np.all(loss.targets > 0)
    # with as many independent inputs as dimensions the teacher is the solution of X v = y
    direction = np.linalg.solve(np.asarray(loss.inputs), np.asarray(loss.targets))
    np.testing.assert_allclose(np.linalg.norm(direction), 1.0, rtol=1e-10)


def test_univariate_and_gaussian_regression():
    assert problems.univariate(jnp.arange(3.0), jnp.arange(3.0)).inputs.shape == (3, 1)
    loss = problems.gaussian_regression(jax.random.key(0), number=50, dim=3, teacher_width=2)
    assert loss.inputs.shape == (50, 3)
    plain = problems.gaussian_regression(jax.random.key(0), number=2000, dim=3)
    assert abs(np.var(plain.targets) - 1) < 5 * np.sqrt(2 / 2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: problems.orthonormal_teacher(0), "0 neurons"),
        (lambda: problems.orthonormal_teacher(4, 3), "3 inputs"),
        (lambda: problems.orthogonal(jax.random.key(0), number=5, dim=3), "5 orthogonal inputs"),
        (lambda: problems.correlated_with_teacher(jax.random.key(0), number=3, dim=3, spread=-1.0), "spread is -1.0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
