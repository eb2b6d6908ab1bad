"""The claims of the study on results built from the published counts, and the way to large k against the census."""

import jax
import numpy as np
import pytest

xarray = pytest.importorskip("xarray")

import relujax as rj
from relujax.studies.overparameterization_2021 import PUBLISHED, STUDY, _by_census, _by_symmetry


def piece(k, *, hits=None, index=0, splitting=-0.08, smallest=0.02, lost=0):
    hits = PUBLISHED[k] if hits is None else hits
    data = {
        "name": (["point"], np.array(["global", "II"])),
        "loss": (["point"], np.array([0.0, 0.02])),
        "count": (["point"], np.array([hits, 500 - hits - lost])),
        "index": (["point"], np.array([0, index])),
        "min_eigenvalue": (["point"], np.array([0.09, smallest])),
        "splitting": (["point"], np.array([0.0, splitting])),
    }
    return xarray.Dataset(data, attrs={"k": k, "starts": 500, "unresolved": lost})


def failed(results):
    return [claim.name for claim in STUDY.claims(results) if not claim.passed]


def test_the_published_counts_pass():
    results = {f"k{k:03d}": piece(k) for k in PUBLISHED}
    assert failed(results) == []
    assert len(STUDY.claims(results)) == len(PUBLISHED) + 4


@pytest.mark.parametrize(
    ("wrong", "claim"),
    [
        ({"hits": 250}, "reach the global minimum at k = 10"),
        ({"index": 3}, "indices"),
        ({"smallest": -0.01}, "smallest eigenvalue"),
        ({"splitting": 0.0}, "splitting"),
        ({"lost": 2}, "no critical point"),
    ],
)
def test_a_perturbed_run_fails(wrong, claim):
    assert any(claim in name for name in failed({"k010": piece(10, **wrong)}))


@pytest.mark.slow
def test_the_way_to_large_k_finds_what_the_census_finds():
    loss = rj.problems.orthonormal_teacher(12)
    nets = rj.initialise.xavier(jax.random.key(0), number=60, width=12, dim=12, amplitudes=1.0, train=("weights",))
    (_, census), (_, symmetry) = _by_census(loss, nets), _by_symmetry(loss, nets)
    assert symmetry["name"].tolist() == census["name"].tolist()
    assert symmetry["count"].tolist() == census["count"].tolist()
    np.testing.assert_allclose(symmetry["loss"], census["loss"], atol=1e-12)
    np.testing.assert_allclose(symmetry["min_eigenvalue"], census["min_eigenvalue"], atol=1e-11)
