"""Data of one's own: CSV and NPZ files, arrays, and two sets that scikit-learn ships."""

import csv
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._extras import extra
from .loss import EmpiricalLoss

BUNDLED = ("breast-cancer", "diabetes")
_LARGEST = 1e100


class DataSet(NamedTuple):
    """Inputs `(n, d)`, targets `(n,)`, a name, a sentence that says what was done to them, and the names of the inputs."""

    inputs: np.ndarray
    targets: np.ndarray
    name: str
    description: str
    features: tuple[str, ...]

    def loss(self) -> EmpiricalLoss:
        """The squared loss on these data."""
        return EmpiricalLoss(self.inputs, self.targets)


def load(source: str | Path) -> DataSet:
    """A CSV file (header optional, last column the target), an NPZ file with `inputs` and `targets`, or a bundled set by name.

    **Raises:** `ValueError` for anything but finite numbers in matching shapes, with the place of the offending value;
    `FileNotFoundError` for a file that is not there; `ImportError` when a bundled set needs scikit-learn.
    """
    if str(source) in BUNDLED:
        return _bundled(str(source))
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a .csv or .npz file, or one of {', '.join(BUNDLED)}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a .csv or .npz file.")
    readers = {".csv": _read_csv, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} ends in {path.suffix!r}: give a .csv or .npz file, or one of {', '.join(BUNDLED)}.")
    inputs, targets, features = readers[path.suffix.lower()](path)
    return from_arrays(inputs, targets, name=path.stem, features=features, source=str(path))


def from_arrays(
    inputs, targets, *, name: str = "data", features: Sequence[str] | None = None, source: str = "the data"
) -> DataSet:
    """Arrays as a data set, after checking that they are finite numbers of shapes `(n, d)` and `(n,)`."""
    inputs, targets = _numbers(inputs, f"inputs of {source}"), _numbers(targets, f"targets of {source}")
    if inputs.ndim != 2 or 0 in inputs.shape:
        raise ValueError(
            f"the inputs of {source} have shape {inputs.shape}: a table of at least one row and one column is needed."
        )
    if targets.shape != inputs.shape[:1]:
        raise ValueError(f"the targets of {source} have shape {targets.shape}: one a row is needed, shape {inputs.shape[:1]}.")
    for what, array in (("inputs", inputs), ("targets", targets)):
        if not np.all(np.isfinite(array)):
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"the {what} of {source} hold {array[place]} at {place}: every value must be finite.")
        if np.max(np.abs(array)) > _LARGEST:
            place = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(array)), array.shape))
            raise ValueError(f"the {what} of {source} hold {array[place]} at {place}, whose square overflows: rescale them.")
    names = tuple(features) if features is not None else tuple(f"x{i + 1}" for i in range(inputs.shape[1]))
    return DataSet(inputs, targets, name, f"{len(targets)} data with {inputs.shape[1]} inputs, as given.", names)


def _numbers(array, what):
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"the {what} are of type {array.dtype}: numbers are needed.")
    return array.astype(float)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name.

    **Raises:** `ValueError` for any other kind of file, a damaged one, and arrays of Python objects.
    """
    try:
        # opened here, since NumPy leaves a file open that it cannot read
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as an NPZ file of plain arrays: save it with numpy.savez.") from error


def _read_npz(path):
    arrays = read_npz(path)
    missing = [name for name in ("inputs", "targets") if name not in arrays]
    if missing:
        raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}: an array named {missing[0]} is needed.")
    return arrays["inputs"], arrays["targets"], None


def _read_csv(path):
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as comma-separated text: save it as UTF-8 CSV.") from error
    if not rows:
        raise ValueError(f"{path} is empty: give one row a datum, the target in the last column.")
    header = None if any(_as_number(cell) is not None for cell in rows[0][1]) else [c.strip() for c in rows.pop(0)[1]]
    if not rows:
        raise ValueError(f"{path} has a header and no data: give one row a datum, the target in the last column.")
    columns = len(rows[0][1]) if header is None else len(header)
    if columns < 2:
        raise ValueError(f"{path} has {columns} column: an input and, last, the target are needed, separated by commas.")
    table = [_csv_row(path, line, row, columns) for line, row in rows]
    array = np.array(table)
    return array[:, :-1], array[:, -1], None if header is None else header[:-1]


def _csv_row(path, line, row, columns):
    if len(row) != columns:
        raise ValueError(
            f"{path}, line {line}, has {len(row)} cells and the first row {columns}: every row needs the same number."
        )
    values = []
    for column, cell in enumerate(row, 1):
        value = _as_number(cell)
        if value is None:
            raise ValueError(f"{path}, line {line}, column {column}, holds {cell.strip()!r}: every cell must be a number.")
        if not math.isfinite(value):
            raise ValueError(f"{path}, line {line}, column {column}, holds {cell.strip()}: every value must be finite.")
        values.append(value)
    return values


def _as_number(cell):
    try:
        # Python reads 1_000 as a number, a table means something else by it
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _bundled(name):
    try:
        sets = extra("sklearn.datasets", "all")
    except ImportError as error:
        raise ImportError(f"the data set {name} comes with scikit-learn: pip install scikit-learn brings it.") from error
    bunch = sets.load_breast_cancer() if name == "breast-cancer" else sets.load_diabetes(scaled=False)
    raw = np.asarray(bunch.data, float)
    inputs = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    targets = np.asarray(bunch.target, float)
    if name == "breast-cancer":
        targets, what = 2 * targets - 1, "targets +1 (benign) and -1 (malignant)"
    else:
        targets, what = (targets - targets.mean()) / targets.std(), "targets standardised"
    description = f"{len(targets)} data with {inputs.shape[1]} inputs, standardised to mean 0 and variance 1; {what}."
    return DataSet(inputs, targets, name, description, tuple(str(f) for f in bunch.feature_names))
