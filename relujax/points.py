"""One network and its loss from an NPZ file."""

from pathlib import Path

import numpy as np

from .datasets import from_arrays, read_npz
from .loss import AbstractLoss
from .network import TRAINABLE, ShallowReLU, number_of_parameters
from .problems import teacher

_KNOWN = ("weights", "amplitudes", "biases", "teacher_weights", "teacher_amplitudes", "inputs", "targets", "train")


def load_point(path: str | Path) -> tuple[AbstractLoss, ShallowReLU]:
    """The network of an NPZ file, and the loss that the file describes.

    The file holds `weights` (m, d), and optionally `amplitudes` (m,), `biases` (m,), `train` (strings). The loss is over
    data when it holds `inputs` and `targets`, else over Gaussian inputs. The teacher has the neurons `teacher_weights`, or one
    along every input, and `teacher_amplitudes`, or 1. Without `amplitudes` they are 1 and only the weights are trained;
    without `train`, otherwise, everything is.

    **Raises:** `ValueError` for arrays that are missing, unknown, not finite or of shapes that do not belong together;
    `FileNotFoundError` for a file that is not there.
    """
    path = Path(path)
    arrays = _read(path)
    weights = _finite(path, arrays, "weights", 2)
    m, d = weights.shape
    amplitudes = _finite(path, arrays, "amplitudes", 1) if "amplitudes" in arrays else np.ones(m)
    biases = _finite(path, arrays, "biases", 1) if "biases" in arrays else None
    for name, array in (("amplitudes", amplitudes), ("biases", biases)):
        if array is not None and array.shape != (m,):
            raise ValueError(f"{path}: {name} have shape {array.shape} and weights {weights.shape}: shape {(m,)} is needed.")
    default = TRAINABLE if "amplitudes" in arrays else ("weights",)
    train = tuple(np.atleast_1d(arrays.get("train", np.array(default))).astype(str).tolist())
    net = ShallowReLU(weights, amplitudes, biases, train=train)
    if number_of_parameters(net) == 0:
        raise ValueError(f"{path}: train = {list(train)} leaves no parameter to move: name weights, biases or amplitudes.")
    return _loss(path, arrays, d), net


def _read(path):
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give an .npz file that holds at least weights.")
    arrays = read_npz(path)
    unknown = [name for name in arrays if name not in _KNOWN]
    if "weights" not in arrays:
        raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}: an array named weights is needed.")
    if unknown:
        raise ValueError(f"{path} holds an array named {unknown[0]}: known are {', '.join(_KNOWN)}.")
    return arrays


def _loss(path, arrays, d):
    if ("inputs" in arrays) != ("targets" in arrays):
        present = "inputs" if "inputs" in arrays else "targets"
        raise ValueError(f"{path} holds {present} alone: a loss over data needs inputs and targets.")
    teachers = [name for name in ("teacher_weights", "teacher_amplitudes") if name in arrays]
    if "inputs" in arrays and teachers:
        raise ValueError(f"{path} holds inputs and {teachers[0]}: a loss is either over data or against a teacher.")
    if "inputs" in arrays:
        data = from_arrays(arrays["inputs"], arrays["targets"], source=str(path))
        if data.inputs.shape[1] != d:
            raise ValueError(f"{path}: inputs have {data.inputs.shape[1]} columns and weights {d}: they must be equal.")
        return data.loss()
    weights = _finite(path, arrays, "teacher_weights", 2) if "teacher_weights" in arrays else np.eye(d)
    if weights.shape[1] != d:
        raise ValueError(f"{path}: teacher_weights have {weights.shape[1]} columns and weights {d}: they must be equal.")
    k = len(weights)
    amplitudes = _finite(path, arrays, "teacher_amplitudes", 1) if "teacher_amplitudes" in arrays else np.ones(k)
    if amplitudes.shape != (k,):
        raise ValueError(f"{path}: teacher_amplitudes have shape {amplitudes.shape}: shape {(k,)} is needed.")
    return teacher(weights, amplitudes)


def _finite(path, arrays, name, ndim):
    array = arrays[name]
    if array.dtype.kind not in "fiu" or array.ndim != ndim or 0 in array.shape:
        raise ValueError(
            f"{path}: {name} are {array.dtype} of shape {array.shape}: numbers with {ndim} axes, none empty, are needed."
        )
    if not np.all(np.isfinite(array)):
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{path}: {name} hold {array[place]} at {place}: every value must be finite.")
    return array.astype(float)
