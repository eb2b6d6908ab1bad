"""Closed-form Hessians against jax.hessian, in every mode and layout."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.hessian.pairs import slice_length

TRAIN = [("weights",), ("weights", "amplitudes"), ("weights", "biases", "amplitudes"), ("biases", "amplitudes")]
hessian = eqx.filter_jit(rj.hessian.hessian)


class Quartic(rj.AbstractCriterion):
    """A criterion whose curvature varies."""

    def value(self, outputs, targets):
        return (outputs - targets) ** 4 / 12 + (outputs - targets) ** 2 / 2

    def slope(self, outputs, targets):
        return (outputs - targets) ** 3 / 3 + (outputs - targets)

    def curvature(self, outputs, targets):
        return (outputs - targets) ** 2 + 1


def problem(seed, train, *, batch=(), n=40, m=5, d=3, criterion=None):
    r = np.random.default_rng(seed)
    net = rj.ShallowReLU(
        r.standard_normal((*batch, m, d)), r.standard_normal((*batch, m)), r.standard_normal((*batch, m)), train=train
    )
    criterion = rj.SquaredError() if criterion is None else criterion
    return rj.EmpiricalLoss(r.standard_normal((n, d)), r.standard_normal(n), criterion), net


@pytest.mark.parametrize("train", TRAIN)
def test_every_mode_is_the_automatic_hessian(train):
    loss, net = problem(0, train)
    expected = hessian(loss, net, "ad")
    for mode in ("auto", "closed", "pair"):
        np.testing.assert_allclose(hessian(loss, net, mode), expected, atol=1e-13)


def test_another_criterion_and_several_slices_of_data():
    """Data that are no multiple of a slice, which the pair form fills up with zeros."""
    loss, net = problem(1, TRAIN[2], n=2 * slice_length(15 + 10) + 7, criterion=Quartic())
    expected = hessian(loss, net, "ad")
    np.testing.assert_allclose(hessian(loss, net, "pair"), expected, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(hessian(loss, net), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["auto", "pair", "ad"])
def test_a_stack_is_its_members_and_runs_inside_jit(mode):
    loss, nets = problem(2, TRAIN[1], batch=(3,))
    together = jax.jit(lambda nets: rj.hessian.hessian(loss, nets, mode))(nets)
    for i in range(3):
        np.testing.assert_allclose(together[i], hessian(loss, rj.take(nets, i), mode), atol=1e-14)


def test_spectra_of_a_stack_in_chunks_are_those_of_its_members(monkeypatch):
    from relujax.hessian import dense

    loss, nets = problem(2, TRAIN[1], batch=(7,))
    whole = rj.hessian.dense_eigenvalues(loss, nets)
    assert whole.shape == (7, 20)
    monkeypatch.setattr(dense, "_CHUNK", {"cpu": 3 * 20**2, "other": 3 * 20**2})
    np.testing.assert_array_equal(rj.hessian.dense_eigenvalues(loss, nets), whole)
    np.testing.assert_allclose(rj.hessian.dense_eigenvalues(loss, rj.take(nets, 4)), whole[4], atol=1e-13)
    assert rj.hessian.dense_eigenvalues(loss, rj.take(nets, slice(0, 0))).shape == (0, 20)


def test_the_memory_of_a_hessian_is_a_few_copies_of_it():
    """Temporaries, as XLA plans them: four matrices and a slice of pairs, where jax.hessian needs one matrix a datum."""
    for n, m, d in ((100, 50, 9), (1000, 50, 9), (1000, 100, 19)):
        loss = rj.EmpiricalLoss(jnp.zeros((n, d)), jnp.zeros(n))
        net = rj.ShallowReLU(jnp.zeros((m, d)), jnp.zeros(m))
        plan = jax.jit(rj.hessian.hessian).lower(loss, net).compile().memory_analysis()
        p, pairs = m * (d + 1), (m * (m + 1) // 2, d * (d + 1) // 2)
        assert plan.temp_size_in_bytes <= 4 * 8 * p**2 + 8 * slice_length(sum(pairs)) * sum(pairs)


def test_linear_operator_is_multiplication_by_the_hessian():
    loss, net = problem(3, TRAIN[2])
    unbiased = rj.ShallowReLU(net.weights, net.amplitudes, train=("weights",))
    apply = eqx.filter_jit(lambda loss, net, vector: rj.hessian.linear_operator(loss, net)(vector))
    for of, at in ((loss, net), (rj.problems.orthonormal_teacher(3), unbiased)):
        vector = np.random.default_rng(0).standard_normal(rj.ravel(at).size)
        np.testing.assert_allclose(apply(of, at, vector), hessian(of, at) @ vector, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss, net: rj.hessian.hessian(loss, net, "exact"), "mode is 'exact'"),
        (
            lambda loss, net: rj.hessian.hessian(rj.problems.orthonormal_teacher(3), net, "pair"),
            "form of the empirical loss",
        ),
    ],
)
def test_refusals(call, message):
    loss, net = problem(0, TRAIN[0])
    with pytest.raises((ValueError, TypeError)) as error:
        call(loss, net)
    assert message in str(error.value) or error.type.__name__ == "TypeCheckError"
