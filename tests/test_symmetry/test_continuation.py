"""Families in real k: thresholds and series, against arithmetic with more digits that shares no code with the solver."""

import numpy as np
import pytest

from relujax.symmetry import crossing, family, follow, puiseux

mpmath = pytest.importorskip("mpmath")

from relujax.symmetry.precise import PrecisePoint, solve_precisely
from relujax.theory import closed_eigenvalues


def precise(name, k):
    """A member with the working precision of mpmath, from the one in double precision."""
    one = family(name, float(k))
    sizes = [mpmath.mpf(k)] if len(one.blocks) == 1 else [mpmath.mpf(one.blocks[0]), mpmath.mpf(k) - one.blocks[0]]
    return solve_precisely(sizes, list(one.coordinates))


# by a search with 20 digits: k, component and loss (dimension n = k = d)
THRESHOLDS = {"A": (5.76381273491957, "alt_0", 0.0539354187685796), "M": (7.56119049794540, "std_1", 0.0408174265360755)}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_of_families(name):
    found = crossing(name)
    k, component, loss = THRESHOLDS[name]
    np.testing.assert_allclose(found.k, k, atol=1e-12)
    assert found.component == component
    np.testing.assert_allclose(found.loss, loss, atol=1e-14)
    assert found.slope > 0


def test_the_threshold_of_a_makes_the_closed_form_vanish_in_34_digits():
    with mpmath.workdps(34):
        point = precise("A", repr(crossing("A").k))
        value = closed_eigenvalues(point.sizes, point.diagonal, point.off, mpmath.mp)["alt_0"][0]
        assert abs(value) < 1e-14


def test_the_threshold_of_ii_makes_a_refined_hessian_singular_in_40_digits():
    """One more neuron of the large block singled out: vectors of std_1 become invariant, and their block of the Hessian is that
    of a loss with three blocks, here by differences of gradients with 40 digits."""
    found = crossing("II")
    assert found.component == "std_1"
    with mpmath.workdps(40):
        point = precise("II", repr(found.k))
        p = point.sizes[1]
        sizes = [mpmath.mpf(1), mpmath.mpf(1), p - 1]
        (d0, d1), ((_, o01), (o10, o11)) = point.diagonal, point.off
        coordinates = [d0, d1, d1, o01, o01, o10, o11, o10, o11, o11]
        counts = [1, 1, p - 1, 1, p - 1, 1, p - 1, p - 1, p - 1, (p - 1) * (p - 2)]

        def gradient(entries):
            a, b, c, o = entries[0], entries[1], entries[2], entries[3:]
            off = [[0, o[0], o[1]], [o[2], 0, o[3]], [o[4], o[5], o[6]]]
            return PrecisePoint(sizes, [a, b, c], off).gradient()

        size, shift = len(coordinates), mpmath.mpf("1e-13")
        hessian = mpmath.matrix(size, size)
        for j in range(size):
            moved = [[x + sign * shift * (i == j) for i, x in enumerate(coordinates)] for sign in (1, -1)]
            for i, (up, down) in enumerate(zip(*map(gradient, moved), strict=True)):
                hessian[i, j] = (up - down) / (2 * shift) * mpmath.sqrt(counts[i] / counts[j])
        values = sorted(mpmath.eigsy((hessian + hessian.T) / 2, eigvals_only=True))
        assert abs(values[0]) < 1e-14
        assert values[1] > 1e-3


def test_families_of_kind_i_lose_their_minima_as_neurons_are_added():
    found = crossing("I_q", q=6)
    assert found.slope < 0
    assert found.component == "std_0"
    below, above = (family("I_6", k).index for k in (int(found.k), int(found.k) + 1))
    assert (below, above) == (0, 5)
    with pytest.raises(ValueError, match="no crossing"):
        crossing("I_q", q=5)
    with pytest.raises(ValueError, match="no crossing"):
        crossing("global")


def test_a_family_is_followed_through_fractional_sizes():
    ks = np.linspace(30.0, 12.0, 37)
    chain = follow("II_3", ks)
    assert [one.k for one in chain] == ks.tolist()
    np.testing.assert_allclose(chain[-1].loss, family("II_3", 12).loss, rtol=1e-13)
    assert follow("II_3", np.array([8.0, 4.1]))[-1].k == 8.0


@pytest.mark.parametrize(
    ("name", "quantity", "terms"),
    [
        ("A", "loss", (0.5 - 1 / np.pi, -4 / (3 * np.pi), -0.5 + 3 / np.pi - 2 / np.pi**2, 58 / (15 * np.pi) - 8 / np.pi**2)),
        ("A", "alt_0", (0.25 - 1 / (2 * np.pi), -1 / np.pi, 1 / np.pi)),
        ("A", "D0", (-1, 0, 2, 0, 8 / np.pi - 4)),
        ("II", "loss", (0, 0, 0.5 - 2 / np.pi**2, -32 / (3 * np.pi**4), -1.37714680074381)),
        ("II", "O01", (0, 0, 4 / np.pi, 32 / np.pi**3, -6.06498950245235)),
        ("M", "loss", (0, 0, 2 * (0.5 - 2 / np.pi**2))),
    ],
)
def test_series_have_the_known_coefficients(name, quantity, terms):
    """Known by an integer relation search on 70-digit values, and by hand where they are short."""
    found = puiseux(name, quantity, terms=len(terms))
    np.testing.assert_allclose(found.as_floats, terms, atol=1e-14)
    assert min(found.digits) >= 15


def test_a_precise_point_is_critical_and_has_the_known_loss():
    with mpmath.workdps(40):
        point = precise("II", 10)
        assert abs(point.loss() - mpmath.mpf("0.018702194585606972542")) < 1e-20
        assert max(abs(entry) for entry in point.gradient()) < 1e-38


def test_refusals():
    with pytest.raises(ValueError, match="series are for"):
        puiseux("I")
    with pytest.raises(ValueError, match="quantity is 'D7'"):
        puiseux("A", "D7")
    with pytest.raises(ValueError, match="ask for fewer"):
        puiseux("A", terms=3, digits=60)
