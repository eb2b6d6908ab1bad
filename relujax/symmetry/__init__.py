"""Symmetry of critical points: families by name, isotropy, and the names of found points."""

from .families import Family as Family, family as family
from .isotropy import Isotropy as Isotropy, Refined as Refined, isotropy as isotropy, refine as refine
from .names import identify as identify
