"""Critical points: descent to them, polish to machine precision, verdict, matching."""

from .descend import EndPoints as EndPoints, descend as descend
from .escape import is_escaping as is_escaping
from .matching import Distinct as Distinct, distinct as distinct
from .newton import polish_minima as polish_minima
from .polish import Polished as Polished, PolishStatus as PolishStatus, polish as polish
from .taylor import losses as losses
from .verdict import (
    PointStatus as PointStatus,
    Verdict as Verdict,
    classify as classify,
    count_dead as count_dead,
)
