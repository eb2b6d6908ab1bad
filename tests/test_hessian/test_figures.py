"""Figures of spectra: what is drawn is what is in the data."""

import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax import plot
from relujax.fixed_space import FixedSpace
from relujax.hessian import Density, symmetric_spectrum

pytest.importorskip("matplotlib")


def saved(axes, tmp_path):
    axes.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_a_spectrum_has_one_stem_an_eigenvalue_and_marks_negative_ones(tmp_path):
    pytest.importorskip("xarray")
    saddle = rj.ShallowReLU(0.4 * jnp.ones((5, 5)), jnp.ones(5), train=("weights",))
    found = rj.hessian.spectrum(rj.problems.orthonormal_teacher(5), saddle, symmetry=FixedSpace((5,)))
    axes = plot.spectrum(found, plot.figure()[1])
    assert sum(len(stems.get_segments()) for stems in axes.collections) == found.sizes["distinct"]
    assert f"negative ({int(found['index'][0])})" in [text.get_text() for text in axes.get_legend().get_texts()]
    assert axes.get_xscale() == "symlog"
    saved(axes, tmp_path)


def test_a_density(tmp_path):
    density = Density(np.array([-0.5, 0.0, 3.0]), np.array([0.1, 0.85, 0.05]), np.array(10.0), np.array(11.0), 1000)
    axes = plot.spectral_density(density, plot.figure()[1], width=0.05)
    assert "10 % of them below" in axes.get_title()
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(np.trapezoid(y, x), 1, rtol=0.02)
    saved(axes, tmp_path)


def test_spectra_along_a_trajectory(tmp_path):
    times = np.geomspace(0.1, 100, 5)
    spectra = np.stack([np.linspace(-1, 1, 5), np.linspace(1, 2, 5)], axis=1)
    axes = plot.spectrum_along_trajectory(times, spectra, plot.figure()[1])
    assert axes.get_title() == "Negative eigenvalues: 1 at the start, 0 at the end"
    assert axes.get_xscale() == "log"
    saved(axes, tmp_path)


def test_eigenvalues_against_the_number_of_neurons(tmp_path):
    sizes = [6, 60, 600]
    spectra = [symmetric_spectrum(FixedSpace((7,)), np.array([1.0, 0.0]), (k,)) for k in sizes]
    axes = plot.eigenvalues_against_size(sizes, spectra, plot.figure()[1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["triv", "std_0", "sym_0", "alt_0"]
    assert axes.get_yscale() == "log"
    assert len(axes.lines) == 2 + 3 + 1 + 1
    saved(axes, tmp_path)
