"""Dynamics and landscapes of shallow ReLU networks."""

from importlib.metadata import PackageNotFoundError, version

from . import (
    datasets as datasets,
    flow as flow,
    hessian as hessian,
    initialise as initialise,
    problems as problems,
    runs as runs,
    symmetry as symmetry,
    theory as theory,
)
from .census import census as census
from .critical import (
    PointStatus as PointStatus,
    Polished as Polished,
    PolishStatus as PolishStatus,
    Verdict as Verdict,
    classify as classify,
    polish as polish,
)
from .flow import (
    Ensemble as Ensemble,
    FlowStatus as FlowStatus,
    Trajectory as Trajectory,
    flow_ensemble as flow_ensemble,
    gradient_flow as gradient_flow,
)
from .loss import (
    AbstractCriterion as AbstractCriterion,
    AbstractLoss as AbstractLoss,
    EmpiricalLoss as EmpiricalLoss,
    ExponentialError as ExponentialError,
    LogisticError as LogisticError,
    PopulationLoss as PopulationLoss,
    SquaredError as SquaredError,
)
from .network import (
    ShallowReLU as ShallowReLU,
    activation_pattern as activation_pattern,
    balance as balance,
    canonical as canonical,
    dead_neurons as dead_neurons,
    hidden_vectors as hidden_vectors,
    kinks as kinks,
    ravel as ravel,
    stack as stack,
    take as take,
    unravel as unravel,
    variation_norm as variation_norm,
)
from .stream import flow_stream as flow_stream

try:
    __version__ = version("relujax")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"
