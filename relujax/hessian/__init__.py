"""Hessians and their spectra."""

from .dense import eigenvalues as eigenvalues, hessian as hessian
from .spectrum import (
    ALMOST_EVERYWHERE as ALMOST_EVERYWHERE,
    Inertia as Inertia,
    inertia as inertia,
    inertia_of as inertia_of,
    linear_operator as linear_operator,
    multiplicities as multiplicities,
    spectrum as spectrum,
)
