"""Symmetry of critical points: isotropy, and the names of families."""

from .isotropy import Isotropy as Isotropy, isotropy as isotropy
from .names import identify as identify
