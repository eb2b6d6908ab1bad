"""The claims of the studies of families, on small runs and on the same with something wrong."""

import numpy as np
import pytest

xarray = pytest.importorskip("xarray")

from relujax.studies import arjevani_field_annihilation as annihilation, arjevani_field_spectra as spectra


def failed(study, results):
    return [claim.name for claim in study.claims(results) if not claim.passed]


@pytest.fixture(scope="module")
def spectral():
    pieces = {}
    spectra.STUDY.measure(lambda name, function, *given: pieces.setdefault(name, function(*given)), dense=[6], shown=4)
    return pieces


def test_small_spectra_pass(spectral):
    assert failed(spectra.STUDY, spectral) == []


@pytest.mark.parametrize(
    ("piece", "variable", "change", "claim"),
    [
        ("A-series", "eigenvalue", lambda values: values + 1e-3, "A, eigenvalue 1 of alt_0"),
        ("II-against-k", "loss", lambda values: 1.3 * values, "k times the loss of II"),
        ("global-against-k", "eigenvalue", lambda values: values - 1e-6, "smallest eigenvalue at global minima"),
        ("dense", "difference", lambda values: values + 1e-9, "spectra by components minus dense ones"),
        ("M-against-k", "eigenvalue", lambda values: values + 0.05, "eigenvalues of M away from the three limits"),
    ],
)
def test_perturbed_spectra_fail(spectral, piece, variable, change, claim):
    wrong = spectral | {piece: spectral[piece].assign({variable: change(spectral[piece][variable])})}
    assert any(claim in name for name in failed(spectra.STUDY, wrong))


def table(k, *, index=0, share=1.0, left=1.0, splitting=-0.05):
    families = list(annihilation.FAMILIES)
    shares = np.full((len(families), 2), share)
    data = {
        "index": (["family"], np.full(len(families), index)),
        "splitting": (["family"], np.full(len(families), splitting)),
        "share": (["family", "added"], shares),
        "left": (["family", "added"], np.full_like(shares, left)),
    }
    return xarray.Dataset(data, {"family": families, "added": [1, 2]}, attrs={"k": k})


def thresholds(**changes):
    found = {"A": annihilation.THRESHOLDS["A"], "I": (6.7, "alt_0", 0.05), "II": (5.6, "std_1", 0.03)}
    found |= {"M": annihilation.THRESHOLDS["M"]} | changes
    columns = zip(*(found[name] for name in annihilation.FAMILIES), strict=True)
    data = {key: (["family"], np.array(column)) for key, column in zip(("k", "component", "loss"), columns, strict=True)}
    return xarray.Dataset(data, {"family": list(annihilation.FAMILIES)})


def test_annihilation_passes_on_what_is_known():
    assert failed(annihilation.STUDY, {"thresholds": thresholds(), "k10": table(10)}) == []


@pytest.mark.parametrize(
    ("wrong", "changes", "claim"),
    [
        ({"index": 2}, {}, "minima from their threshold on"),
        ({"share": 0.5}, {}, "two added neurons"),
        ({"left": 0.9}, {}, "leave a family"),
        ({"splitting": -1e-5}, {}, "splitting eigenvalue"),
        ({}, {"A": (5.7638127360, "alt_0", 0.0539354187685796)}, "neurons at which A becomes a minimum"),
        ({}, {"M": (7.56119049794540, "std_0", 0.0408174265360755)}, "component that crosses 0"),
    ],
)
def test_annihilation_fails_on_what_is_wrong(wrong, changes, claim):
    results = {"thresholds": thresholds(**changes), "k10": table(10, **wrong)}
    assert any(claim in name for name in failed(annihilation.STUDY, results))
