"""One call for a spectrum: which method it takes, and the labelled dataset that comes back."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.fixed_space import FixedSpace
from relujax.hessian import spectrum
from relujax.hessian.dense import compiled_hessian

pytest.importorskip("xarray")

ON_DATA = ("weights", "biases", "amplitudes")


class Doubled(rj.SquaredError):
    """A criterion that the package knows no bound for."""


def listed(dataset, point=0):
    """All eigenvalues of one point, with repetition."""
    counts = dataset["multiplicity"].values[point]
    return np.repeat(dataset["eigenvalue"].values[point][counts > 0], counts[counts > 0])


def on_data(n=4, m=6, d=12, batch=3):
    r = np.random.default_rng(1)
    loss = rj.EmpiricalLoss(r.standard_normal((n, d)), r.standard_normal(n))
    return loss, rj.initialise.unbalanced(jax.random.key(0), number=batch, width=m, dim=d)


def test_multiplicities_group_by_gap():
    groups = rj.hessian.multiplicities(np.array([-1.0, 1e-12, 2e-12, 0.5, 0.5 + 1e-12, 4.0]))
    assert [count for _, count in groups] == [1, 2, 2, 1]
    np.testing.assert_allclose([value for value, _ in groups], [-1, 1.5e-12, 0.5, 4], atol=1e-12)


def test_the_global_minimum_of_six_neurons():
    net = rj.ShallowReLU(jnp.eye(6), jnp.ones(6), train=("weights",))
    found = spectrum(rj.PopulationLoss(net), net)
    assert found.attrs["method"] == "dense"
    assert found.attrs["reason"] == "p = 36 is at most 6000"
    assert (int(found["index"][0]), int(found["nullity"][0])) == (0, 0)
    counts = {round(float(v), 10): int(c) for v, c in zip(found["eigenvalue"][0], found["multiplicity"][0], strict=True)}
    assert counts[round(0.25 - 1 / (2 * np.pi), 10)] == 10 + 5
    assert counts[round(0.25 + 1 / (2 * np.pi), 10)] == 9
    assert sum(counts.values()) == 36
    assert found.attrs["note"] == ""
    exact = np.linalg.eigvalsh(compiled_hessian(rj.PopulationLoss(net), net))
    lower, upper, sizes = (found[name].values[0] for name in ("lower", "upper", "multiplicity"))
    for low, high, group in zip(lower, upper, np.split(exact, np.cumsum(sizes)[:-1]), strict=True):
        assert np.all((low <= group) & (group <= high))
    assert np.max(upper - lower) < 1e-11


def test_both_methods_on_data_agree_and_say_what_they_are():
    loss, nets = on_data()
    dense, chosen = (spectrum(loss, nets, method=method) for method in ("dense", "auto"))
    assert chosen.attrs["method"] == "reduced"
    assert chosen.attrs["reason"] == "n + 2m = 16 is less than half of p = 78"
    assert dense.attrs["reason"] == "asked for"
    assert "almost-everywhere" in chosen.attrs["note"]
    np.testing.assert_array_equal(dense["index"], chosen["index"])
    np.testing.assert_array_equal(dense["nullity"], chosen["nullity"])
    for row in range(3):
        np.testing.assert_allclose(listed(dense, row), listed(chosen, row), atol=1e-12)
        assert len(listed(chosen, row)) == 78
        inside = chosen["multiplicity"].values[row] > 0
        for name, sign in (("lower", 1), ("upper", -1)):
            assert np.all(sign * (chosen["eigenvalue"].values - chosen[name].values)[row][inside] >= 0)
    without = spectrum(loss, nets, enclosures=False)
    assert np.all(np.isnan(without["lower"]))
    wider = spectrum(loss, rj.take(nets, 0), distance=1e-4)
    assert float(wider["upper"].max()) > float(chosen["upper"][0].max())


def test_a_symmetry_is_found_and_its_components_are_named():
    """Thirty neurons in any order, at the point that a permutation of S_1 x S_29 fixes."""
    k = 30
    space = FixedSpace((1, k - 1))
    weights = np.asarray(space.embed(np.array([-0.9, 1.0, 0.05, 2.1 / k, -0.1 / k])))
    r = np.random.default_rng(0)
    shuffled = weights[r.permutation(k)][:, r.permutation(k)]
    loss = rj.problems.orthonormal_teacher(k)
    net = rj.ShallowReLU(jnp.array(shuffled), jnp.ones(k), train=("weights",))
    found = spectrum(loss, net)
    assert found.attrs["method"] == "symmetric"
    assert found.attrs["reason"] == "the weights are fixed by S_1 x S_29"
    assert set(found["component"].values[0]) == {"triv", "std_1", "sym_1", "alt_1"}
    assert int(found["multiplicity"].sum()) == 900
    exact = spectrum(loss, net, method="dense", enclosures=False)
    np.testing.assert_allclose(listed(found), listed(exact), atol=1e-12 * float(exact["eigenvalue"].max()))
    np.testing.assert_array_equal(found["index"], exact["index"])
    # the same by hand, and by generators that know less
    ordered = rj.ShallowReLU(jnp.array(weights), jnp.ones(k), train=("weights",))
    given = spectrum(loss, ordered, symmetry=space)
    np.testing.assert_allclose(listed(given), listed(found), atol=1e-12)
    swap, turn = np.r_[0, 2, 1, 3:k], np.r_[0, 2:k, 1]
    generated = spectrum(loss, ordered, symmetry=[(swap, swap), (turn, turn)])
    np.testing.assert_allclose(listed(generated), listed(found), atol=1e-11)


def test_points_without_a_symmetry_take_the_whole_matrix():
    k = 20
    weights = jnp.array(np.random.default_rng(0).standard_normal((2, k, k)))
    nets = rj.ShallowReLU(weights, jnp.ones((2, k)), train=("weights",))
    found = spectrum(rj.problems.orthonormal_teacher(k), nets, enclosures=False)
    assert found.attrs["method"] == "dense"
    assert found["eigenvalue"].shape == (2, 400)


def test_more_inputs_and_a_turned_teacher():
    """Teachers that are orthonormal but not the unit vectors, in more dimensions than there are teachers."""
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]
    inside = np.asarray(FixedSpace((1, 5)).embed(np.array([-0.7, 1.0, 0.2, 0.1, 0.05])))
    loss = rj.PopulationLoss(rj.ShallowReLU(jnp.array(frame[:6]), jnp.ones(6)))
    net = rj.ShallowReLU(jnp.array(inside @ frame[:6]), jnp.ones(6), train=("weights",))
    found = spectrum(loss, net, method="symmetric")
    exact = spectrum(loss, net, method="dense", enclosures=False)
    assert "extra:std_1" in found["component"].values[0]
    np.testing.assert_allclose(listed(found), listed(exact), atol=1e-12 * float(exact["eigenvalue"].max()))


def test_lanczos_method_where_nothing_else_applies(monkeypatch):
    pytest.importorskip("matfree")
    loss, nets = on_data(n=60, m=6, d=12)
    monkeypatch.setattr(sys.modules["relujax.hessian.spectrum"], "_DENSE", 50)
    with pytest.raises(ValueError, match=r"p = 78 exceeds 50 .* give key="):
        spectrum(loss, nets)
    found = spectrum(loss, nets, key=jax.random.key(0))
    assert found.attrs["method"] == "lanczos"
    assert np.all(found["index"] == -1)
    exact = spectrum(loss, nets, method="dense", enclosures=False)
    for point in range(3):
        values = listed(exact, point)
        for low, high in zip(found["lower"][point].values, found["upper"][point].values, strict=True):
            assert np.any((low - 1e-12 <= values) & (values <= high + 1e-12))


def test_a_loss_without_a_bound_has_no_enclosures():
    data, nets = on_data(n=60)
    found = spectrum(rj.EmpiricalLoss(data.inputs, data.targets, Doubled()), nets)
    assert np.all(np.isnan(found["lower"]))
    assert np.all(found["multiplicity"].sum("distinct") == 78)


def test_refusals():
    loss, nets = on_data()
    population = rj.problems.orthonormal_teacher(12)
    with pytest.raises(ValueError, match="is for an empirical loss"):
        spectrum(population, nets, method="reduced")
    with pytest.raises(ValueError, match="rows and the Hessian"):
        spectrum(on_data(n=80)[0], nets, method="reduced")
    with pytest.raises(ValueError, match="no permutation symmetry"):
        spectrum(loss, nets, method="symmetric")
    net = rj.ShallowReLU(jnp.eye(4) + 0.1 * jnp.arange(16.0).reshape(4, 4), jnp.ones(4), train=("weights",))
    with pytest.raises(ValueError, match="they must lie in it"):
        spectrum(rj.problems.orthonormal_teacher(4), net, symmetry=FixedSpace((4,)))
    with pytest.raises((ValueError, TypeError)):
        spectrum(loss, nets, method="exact")
