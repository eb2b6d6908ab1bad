"""Critical points of fixed spaces, from random starts."""

import jax
import numpy as np
import pytest

from relujax.fixed_space import FixedSpace
from relujax.symmetry import critical_points


def parallel_losses(k):
    """All students along ±(1, …, 1): `½ (k/2 + k(k−1)/2π) − k² r²/4`, r = (sin α + (π − α) cos α)/π, cos α = ±1/√k."""
    alphas = np.arccos(np.array([1, -1]) / np.sqrt(k))
    r = (np.sin(alphas) + (np.pi - alphas) * np.cos(alphas)) / np.pi
    return 0.5 * (k / 2 + k * (k - 1) / (2 * np.pi)) - k**2 * r**2 / 4


@pytest.mark.parametrize("k", [6, 10])
def test_the_fully_symmetric_space_has_two_points_and_two_continua(k):
    found = critical_points(FixedSpace((k,)), jax.random.key(1), starts=200)
    assert [(point.name, point.parallel) for point in found] == [
        ("global", False), ("A", False), ("unnamed", True), ("unnamed", True),
    ]  # fmt: skip
    np.testing.assert_allclose([point.loss for point in found[2:]], parallel_losses(k), rtol=1e-9)
    assert sum(point.hits for point in found) <= 200


def test_one_neuron_apart_there_are_saddles_between_the_minima():
    """Losses and eigenvalues of the two saddles of index 1 between global and II, from a search with 3000 starts."""
    found = critical_points(FixedSpace((1, 9)), jax.random.key(2), starts=600)
    proper = [point for point in found if not point.parallel]
    assert {"global", "II", "A", "I"} <= {point.name for point in proper}
    saddles = [point for point in proper if point.index == 1]
    np.testing.assert_allclose([point.loss for point in saddles], [0.054436745987, 0.054463734706], atol=1e-11)
    lowest = [min(part.eigenvalues[0] for part in point.spectrum) for point in saddles]
    np.testing.assert_allclose(lowest, [-2.95448208, -1.0189742091], atol=1e-8)
    assert [point.index for point in proper if point.name == "unnamed"] == [1, 1, 9, 9]
    assert all(point.gradient_norm < 1e-10 for point in found)


def test_refusals():
    with pytest.raises(ValueError, match="starts is 0"):
        critical_points(FixedSpace((6,)), jax.random.key(0), starts=0)
    with pytest.raises(ValueError, match="whole"):
        critical_points(FixedSpace((1, 5.5)), jax.random.key(0))
