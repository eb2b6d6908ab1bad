"""Closed-form Hessians against jax.hessian, in every mode and layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj

TRAIN = [("weights",), ("weights", "amplitudes"), ("weights", "biases", "amplitudes"), ("biases", "amplitudes")]


def problem(seed, train, *, batch=(), n=40, m=5, d=3):
    r = np.random.default_rng(seed)
    net = rj.ShallowReLU(
        r.standard_normal((*batch, m, d)), r.standard_normal((*batch, m)), r.standard_normal((*batch, m)), train=train
    )
    return rj.EmpiricalLoss(r.standard_normal((n, d)), r.standard_normal(n)), net


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("mode", ["auto", "closed", "pair"])
def test_every_mode_is_the_automatic_hessian(train, mode):
    loss, net = problem(0, train)
    expected = rj.hessian.hessian(loss, net, "ad")
    np.testing.assert_allclose(rj.hessian.hessian(loss, net, mode), expected, atol=1e-13)


def test_many_data_take_the_pair_form_and_agree():
    loss, net = problem(1, TRAIN[2], n=400)
    np.testing.assert_allclose(rj.hessian.hessian(loss, net), rj.hessian.hessian(loss, net, "ad"), atol=1e-13)


@pytest.mark.parametrize("mode", ["auto", "pair", "ad"])
def test_a_stack_is_its_members_and_runs_inside_jit(mode):
    loss, nets = problem(2, TRAIN[1], batch=(3,))
    together = jax.jit(lambda nets: rj.hessian.hessian(loss, nets, mode))(nets)
    for i in range(3):
        np.testing.assert_allclose(together[i], rj.hessian.hessian(loss, rj.take(nets, i), mode), atol=1e-14)


def test_eigenvalues_are_those_of_a_planted_spectrum():
    r = np.random.default_rng(0)
    planted = np.sort(r.standard_normal((4, 33)), axis=1)
    frames = np.linalg.qr(r.standard_normal((4, 33, 33)))[0]
    matrices = np.einsum("bij,bj,bkj->bik", frames, planted, frames)
    np.testing.assert_allclose(rj.hessian.eigenvalues(matrices), planted, atol=1e-13)


def test_multiplicities_group_by_gap():
    groups = rj.hessian.multiplicities(np.array([-1.0, 1e-12, 2e-12, 0.5, 0.5 + 1e-12, 4.0]))
    assert [count for _, count in groups] == [1, 2, 2, 1]
    np.testing.assert_allclose([value for value, _ in groups], [-1, 1.5e-12, 0.5, 4], atol=1e-12)


def test_inertia_counts_at_the_stated_tolerance():
    counted = rj.hessian.inertia_of(np.array([-2.0, -1e-11, 0.0, 1e-11, 1.0, 3.0]))
    assert (int(counted.negative), int(counted.null), int(counted.positive)) == (1, 3, 2)


def test_linear_operator_is_multiplication_by_the_hessian():
    loss, net = problem(3, TRAIN[2])
    vector = np.random.default_rng(0).standard_normal(rj.ravel(net).size)
    expected = rj.hessian.hessian(loss, net, "ad") @ vector
    np.testing.assert_allclose(rj.hessian.linear_operator(loss, net)(jnp.asarray(vector)), expected, atol=1e-13)


def test_spectrum_dataset_at_the_global_minimum_of_six_neurons():
    pytest.importorskip("xarray")
    net = rj.ShallowReLU(jnp.eye(6), jnp.ones(6), train=("weights",))
    found = rj.hessian.spectrum(rj.PopulationLoss(net), net)
    assert int(found["index"][0]) == 0
    assert int(found["nullity"][0]) == 0
    counts = {round(float(v), 10): int(c) for v, c in zip(found["value"][0], found["multiplicity"][0], strict=True) if c}
    assert counts[round(0.25 - 1 / (2 * np.pi), 10)] == 10 + 5
    assert counts[round(0.25 + 1 / (2 * np.pi), 10)] == 9
    assert sum(counts.values()) == 36
    assert found.attrs["note"] == ""


def test_the_dataset_of_an_empirical_loss_says_what_its_hessian_is():
    pytest.importorskip("xarray")
    loss, net = problem(4, TRAIN[0])
    assert "almost-everywhere" in rj.hessian.spectrum(loss, net).attrs["note"]


def test_a_population_saddle_looks_like_a_minimum_to_the_sampled_hessian():
    """Two opposite groups of parallel students: a saddle of the population loss, whose sample Hessian is never negative."""
    k = 4
    alpha = np.arccos(1 / np.sqrt(k))
    r = (np.sin(alpha) + (np.pi - alpha) * np.cos(alpha)) / np.pi
    # the maximally symmetric critical point: every student along (1, ..., 1), with k r / k of the norm each
    weights = jnp.ones((k, k)) / np.sqrt(k) * r
    net = rj.ShallowReLU(weights, jnp.ones(k), train=("weights",))
    loss = rj.problems.orthonormal_teacher(k)
    assert float(jnp.linalg.norm(rj.ravel(loss.gradient(net)))) < 1e-14
    assert rj.hessian.eigenvalues(rj.hessian.hessian(loss, net))[0] < -0.05
    x = jax.random.normal(jax.random.key(0), (20_000, k))
    sampled = rj.EmpiricalLoss(x, jnp.sum(jnp.maximum(x, 0), axis=1))
    assert rj.hessian.eigenvalues(rj.hessian.hessian(sampled, net))[0] > -1e-12


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
