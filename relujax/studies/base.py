"""What a study is: a published setting, a run, claims and figures."""

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

Real = float | int | np.floating | np.integer | np.ndarray

Results = Mapping[str, Any]
"""The datasets that a run of a study kept, by name."""

Keep = Callable[..., Any]
"""`keep(name, function, *arguments)`: the dataset of that name, computed by `function(*arguments)` unless it is on disk."""


@dataclass(frozen=True)
class Claim:
    """One measured value beside the published or derived one.

    `close`, `equal`, `at_most` and `at_least` make claims. A value that is not finite fails. An error that should vanish is best
    claimed as `close` to 0.
    """

    name: str
    measured: Any
    expected: Any
    tolerance: float
    source: str
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """The claim as plain numbers and strings; numbers that are not finite are null."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def close(name: str, measured, expected, tolerance: Real, source: str) -> Claim:
    """Every number of `measured` lies within `tolerance` of that of `expected`, or of `expected` where it is one number.

    ```python
    >>> close("pi", 3.14, 3.14159, 1e-2, "Archimedes").passed, close("pi", 3.2, 3.14159, 1e-2, "Archimedes").passed
    (True, False)

    ```
    """
    left, right = np.asarray(measured, float), np.asarray(expected, float)
    # written so that NaN fails
    passed = (left.shape == right.shape or right.ndim == 0) and bool(np.all(np.abs(left - right) <= tolerance))
    return Claim(name, measured, expected, float(tolerance), source, passed)


def equal(name: str, measured, expected, source: str) -> Claim:
    """`measured` is `expected`: numbers, words, or lists of them."""
    return Claim(name, measured, expected, 0.0, source, _plain(measured) == _plain(expected))


def at_most(name: str, measured: Real, bound: Real, source: str) -> Claim:
    """A number is not above `bound`."""
    return Claim(name, measured, f"at most {bound:.10g}", 0.0, source, bool(measured <= bound))


def at_least(name: str, measured: Real, bound: Real, source: str) -> Claim:
    """A number is not below `bound`."""
    return Claim(name, measured, f"at least {bound:.10g}", 0.0, source, bool(measured >= bound))


class AbstractStudy(abc.ABC):
    """A published system: its setting, its run, its claims and its figures. `studies.tian_2017` is one to copy.

    - `name`: what the command line calls it; `paper`: where it was published; `about`: one line of what it shows.
    - `quick`, `full`: the settings, passed to `measure` by name. The quick form ends within 90 seconds on two cores.
    - `cost`: what the full form takes, printed before it begins.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    about: ClassVar[str]
    cost: ClassVar[str]
    quick: ClassVar[Mapping[str, Any]]
    full: ClassVar[Mapping[str, Any]]

    @abc.abstractmethod
    def measure(self, keep: Keep, *_: Any, **settings: Any) -> None:
        """Do the work in pieces `keep(name, function, *arguments)`, each an `xarray.Dataset`.

        A piece is written to disk when it is done, and is not computed again when an interrupted run goes on. `keep` returns
        it, so that one piece can build on another.
        """

    @abc.abstractmethod
    def claims(self, results: Results) -> list[Claim]:
        """What the pieces show: a pure function of them, and never empty."""

    @abc.abstractmethod
    def figures(self, results: Results) -> Mapping[str, Any]:
        """Matplotlib figures by name, and animations where the paper's point is one."""


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)
