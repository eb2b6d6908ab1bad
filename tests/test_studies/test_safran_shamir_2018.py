"""The claims of the study on results built from the published counts, and on the same with something wrong."""

import numpy as np
import pytest

xarray = pytest.importorskip("xarray")

from relujax.studies.safran_shamir_2018 import CLASSES, PUBLISHED, STUDY, class_of, counts
from relujax.symmetry import family


def piece(k, *, spurious=None, losses=0.0, index=0, norm=1e-15, unresolved=0):
    """A census of 1000 starts that found the published counts; kinds I and three blocks under names that a census gives."""
    classes = PUBLISHED[k][1] if spurious is None else spurious
    names = [*CLASSES[:7], "I_8", "I_(6,1,13)"]
    there = [(name, count) for name, count in zip(names, classes, strict=True) if count]
    words = ["global", *(name for name, _ in there)]
    levels = [0.0, *(family("II", k).loss + losses if name == "II" else 0.05 for name, _ in there)]
    hits = [1000 - sum(classes), *(count for _, count in there)]
    starts = np.zeros(1000, int)
    starts[:unresolved] = -1
    data = {
        "name": (["point"], np.array(words)),
        "loss": (["point"], np.array(levels)),
        "count": (["point"], np.array(hits)),
        "index": (["point"], np.full(len(words), index)),
        "min_eigenvalue": (["point"], np.full(len(words), 0.01)),
        "point_of_start": (["start"], starts),
        "end_gradient_norm": (["start"], np.full(1000, norm)),
    }
    return xarray.Dataset(data, attrs={"k": k})


def failed(results):
    return [claim.name for claim in STUDY.claims(results) if not claim.passed]


def test_the_published_counts_pass():
    results = {f"k{k:02d}": piece(k) for k in PUBLISHED}
    assert failed(results) == []
    assert len(STUDY.claims(results)) > 20
    assert counts(results["k20"])["II_3"] == 241


@pytest.mark.parametrize(
    ("wrong", "claim"),
    [
        ({"spurious": (200, 34, 0, 0, 0, 0, 0, 0, 0)}, "spurious runs of 1000 at k = 10"),
        ({"spurious": (246, 100, 0, 0, 0, 0, 0, 0, 0)}, "largest deviation of a class"),
        ({"losses": 1e-9}, "loss of II among the end points at k = 10"),
        ({"index": 1}, "indices of the end points"),
        ({"norm": 1e-9}, "largest gradient norm"),
        ({"unresolved": 1}, "reached no critical point"),
    ],
)
def test_a_perturbed_run_fails(wrong, claim):
    assert any(claim in name for name in failed({"k10": piece(10, **wrong)}))


def test_names_fall_into_the_published_classes():
    found = [class_of(name) for name in ("global", "II", "II_5", "I", "I_8", "A", "I_(6,1,13)", "unnamed")]
    assert found == [None, "II", "II_5", "kind I", "kind I", "kind I", "three blocks", None]
