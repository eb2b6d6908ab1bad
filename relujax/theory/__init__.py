"""Closed forms that simulations and solvers are held against."""

from .family_spectra import closed_eigenvalues as closed_eigenvalues
