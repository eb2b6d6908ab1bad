"""Gradient flow: one differentiable trajectory, and ensembles."""

from . import detect as detect, observe as observe
from .descent import Descent as Descent, descent as descent, heavy_ball as heavy_ball, nesterov as nesterov
from .ensemble import flow_ensemble as flow_ensemble
from .momentum import momentum_flow as momentum_flow
from .pieces import AbstractPieces as AbstractPieces, RungeKuttaPieces as RungeKuttaPieces, Taylor as Taylor
from .record import EventLog as EventLog
from .result import Ensemble as Ensemble, Trajectory as Trajectory
from .status import EventKind as EventKind, FlowStatus as FlowStatus
from .steppers import AbstractStepper as AbstractStepper, Chebyshev as Chebyshev, RungeKutta as RungeKutta
from .trajectory import gradient_flow as gradient_flow
