"""Published systems as studies: each a setting, a run, claims and a figure, in one file.

To add a study, copy `tian_2017.py`, keep it below 150 lines, and end it with `STUDY = …`. A file in this folder is found by
itself; a file elsewhere runs as `relujax study run path/to/it.py`.
"""

from .base import (
    AbstractStudy as AbstractStudy,
    Claim as Claim,
    Results as Results,
    at_least as at_least,
    at_most as at_most,
    close as close,
    equal as equal,
)
from .registry import find as find, last_summary as last_summary, names as names
from .runner import Report as Report, run as run
