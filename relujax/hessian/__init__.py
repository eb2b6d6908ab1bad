"""Hessians and their spectra."""

from .dense import dense_eigenvalues as dense_eigenvalues, hessian as hessian
from .enclosures import Enclosure as Enclosure, enclose as enclose, is_positive_definite as is_positive_definite
from .reduced import reduced_eigenvalues as reduced_eigenvalues, reduced_size as reduced_size
from .rounding import hessian_error as hessian_error
from .solver import eigenvalues as eigenvalues
from .spectrum import (
    ALMOST_EVERYWHERE as ALMOST_EVERYWHERE,
    Inertia as Inertia,
    inertia as inertia,
    inertia_of as inertia_of,
    linear_operator as linear_operator,
    multiplicities as multiplicities,
    spectrum as spectrum,
)
from .symmetric import Component as Component, symmetric_spectrum as symmetric_spectrum
