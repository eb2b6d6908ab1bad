"""Hessians and their spectra."""

from .boundary import (
    BoundaryTerm as BoundaryTerm,
    SampledSpectrum as SampledSpectrum,
    boundary_term as boundary_term,
    sampled_spectrum as sampled_spectrum,
)
from .certificates import (
    Floor as Floor,
    Inertia as Inertia,
    Nullity as Nullity,
    expected_nullity as expected_nullity,
    inertia as inertia,
    is_strict_minimum as is_strict_minimum,
    negative_floor as negative_floor,
)
from .dense import dense_eigenvalues as dense_eigenvalues, hessian as hessian
from .density import Density as Density, density as density, hessian_trace as hessian_trace
from .enclosures import Enclosure as Enclosure, enclose as enclose, is_positive_definite as is_positive_definite
from .matrix_free import (
    Extremes as Extremes,
    extreme_eigenvalues as extreme_eigenvalues,
    linear_operator as linear_operator,
)
from .reduced import (
    reduced_eigenvalues as reduced_eigenvalues,
    reduced_enclosure as reduced_enclosure,
    reduced_size as reduced_size,
)
from .rounding import hessian_error as hessian_error
from .solver import eigenvalues as eigenvalues
from .spectrum import (
    ALMOST_EVERYWHERE as ALMOST_EVERYWHERE,
    multiplicities as multiplicities,
    spectrum as spectrum,
)
from .subgroup import subgroup_spectrum as subgroup_spectrum
from .symmetric import Component as Component, symmetric_spectrum as symmetric_spectrum
