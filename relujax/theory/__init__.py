"""Closed forms and exact small programmes that a simulation is held against."""

from .extremal import ExtremalVector as ExtremalVector, extremal_vectors as extremal_vectors
from .family_spectra import closed_eigenvalues as closed_eigenvalues
from .least_squares import LeastSquares as LeastSquares, least_squares_limit as least_squares_limit
from .momentum import (
    gradient_flow_mode as gradient_flow_mode,
    heavy_ball_mode as heavy_ball_mode,
    heavy_ball_rate as heavy_ball_rate,
    kernel_residuals as kernel_residuals,
    nesterov_mode as nesterov_mode,
)
from .neuron import (
    OrthonormalCurve as OrthonormalCurve,
    linear_regime as linear_regime,
    logistic_growth as logistic_growth,
    logistic_half_time as logistic_half_time,
    orthonormal_neuron as orthonormal_neuron,
)
from .orthogonal import (
    OrthogonalLimit as OrthogonalLimit,
    excess_exponent as excess_exponent,
    orthogonal_limit as orthogonal_limit,
)
from .quadrics import (
    betti_numbers as betti_numbers,
    components as components,
    effective_components as effective_components,
    obstruction_probability as obstruction_probability,
    pathological_probability as pathological_probability,
)
from .splines import (
    KnotTable as KnotTable,
    LinearSpline as LinearSpline,
    MinimumNorm as MinimumNorm,
    explicit_interpolant as explicit_interpolant,
    knot_table as knot_table,
    minimum_norm_interpolant as minimum_norm_interpolant,
    read_spline as read_spline,
)
from .teacher import split_example as split_example, splitting_gap as splitting_gap, teacher_slope as teacher_slope
from .univariate import (
    expand as expand,
    kernel_interpolant as kernel_interpolant,
    reduce as reduce,
    reduced_velocity as reduced_velocity,
)
from .variation import MinimumVariation as MinimumVariation, minimum_variation_norm as minimum_variation_norm
