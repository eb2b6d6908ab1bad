"""Symmetry of critical points: families by name and in real size, isotropy and names of found points, additional neurons."""

from .continuation import Crossing as Crossing, crossing as crossing, follow as follow
from .enumeration import CriticalPoint as CriticalPoint, critical_points as critical_points
from .families import Family as Family, family as family
from .isotropy import Isotropy as Isotropy, Refined as Refined, isotropy as isotropy, refine as refine
from .names import identify as identify
from .puiseux import Puiseux as Puiseux, puiseux as puiseux
from .splitting import (
    Annihilation as Annihilation,
    SplitTest as SplitTest,
    add_neurons as add_neurons,
    annihilation as annihilation,
    split as split,
    split_test as split_test,
)
