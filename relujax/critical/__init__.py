"""Critical points: polish to machine precision, verdict, matching."""

from .polish import Polished as Polished, PolishStatus as PolishStatus, polish as polish, polish_minima as polish_minima
from .verdict import PointStatus as PointStatus, Verdict as Verdict, classify as classify
