"""Results on disk: a folder with labelled data in zarr, figures, and what is needed to run it again."""

import json
import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ._extras import extra

_SETTINGS = "settings.json"
_DATA = "data.zarr"


class Run:
    """A run folder that fills up as parts of the work finish; each part is written elsewhere first and then moved in.

    The folder comes into being with the first part. `settings.json` says `"finished": false` until `finish` is called.

    **Arguments:**

    - `out`: the folder; without it the first free one of `prefix-001`, `prefix-002`, … in the current folder.
    - `force`: replace a folder that holds an earlier run.
    - `resume`: go on with a folder that holds an unfinished run of the same command and arguments; `load` has its parts.
    - `prefix`: the command unless said otherwise.

    **Raises:** `ValueError` when `out` exists and is not an empty folder, unless `force` is given and it holds a run, or it is
    resumed.
    """

    def __init__(
        self,
        command: str,
        arguments: dict[str, Any],
        *,
        out: str | Path | None = None,
        force: bool = False,
        resume: bool = False,
        prefix: str | None = None,
    ):
        self.path = _fresh_folder(prefix or command) if out is None else Path(out)
        self.settings = {"command": command, "arguments": arguments, "finished": False, **_environment()}
        resumes = resume and not force and _is_unfinished(self.path, command, arguments)
        self._replace = False if resumes else _check_target(self.path, force)

    def save(self, part: str, dataset) -> None:
        """Write one part as a zarr group, with the settings of the run in its attributes."""
        self._open()
        stamped = dataset.assign_attrs(settings=json.dumps(self.settings), part=part)
        target, temporary = self.path / _DATA / part, self.path / f".{part}.writing"
        shutil.rmtree(temporary, ignore_errors=True)
        # strings of variable length have no agreed encoding in zarr 3 and would warn
        _without_fixed_strings(stamped).to_zarr(temporary, mode="w", zarr_format=2, consolidated=True)
        target.parent.mkdir(exist_ok=True)
        os.replace(temporary, target)

    def load(self, part: str):
        """A part that an unfinished run has left, or None."""
        source = self.path / _DATA / part
        if self._replace or not source.is_dir():
            return None
        return _read_part(self.path, source)

    def save_figure(self, name: str, figure) -> Path:
        """Write a matplotlib figure as `name.png`, an animation as `name.gif`."""
        self._open()
        if hasattr(figure, "savefig"):
            path = self.path / f"{name}.png"
            figure.savefig(path, dpi=150)
        else:
            path = self.path / f"{name}.gif"
            figure.save(path, writer="pillow", dpi=100)
        return path

    def finish(self, summary: Any) -> None:
        """Write `summary.json` and mark the run as finished."""
        self._open()
        write_json(self.path / "summary.json", summary)
        self.settings["finished"] = True
        write_json(self.path / _SETTINGS, self.settings)

    def _open(self):
        if self._replace:
            shutil.rmtree(self.path)
            self._replace = False
        if not (self.path / _SETTINGS).exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / _SETTINGS, self.settings)


def open_run(path: str | Path) -> dict[str, Any]:
    """The finished parts of a run folder, as `xarray.Dataset`s by name; also of a run that was interrupted.

    **Raises:** `FileNotFoundError` when there is no such folder, `ValueError` when it is not a run or cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: give the folder that a relujax command wrote.")
    try:
        settings = json.loads((path / _SETTINGS).read_text())
        settings["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no run of relujax: give the folder that a relujax command wrote.") from error
    parts = sorted((path / _DATA).iterdir()) if (path / _DATA).is_dir() else []
    return {part.name: _read_part(path, part) for part in parts}


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, path)


def _read_part(path, part):
    xarray = extra("xarray", "io")
    extra("zarr", "io")
    try:
        return xarray.open_zarr(part, consolidated=True).load()
    except Exception as error:
        raise ValueError(f"the data in {path} cannot be read ({type(error).__name__}): run the command again.") from error


def _is_unfinished(path, command, arguments):
    try:
        settings = json.loads((path / _SETTINGS).read_text())
        same = settings["command"] == command and settings["arguments"] == json.loads(json.dumps(arguments))
        return same and not settings["finished"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_target(path, force):
    """Whether the folder is an earlier run that is to be replaced; raises for anything else that is in the way."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    if not path.is_dir():
        raise ValueError(f"{path} is a file: give --out a folder.")
    if not (path / _SETTINGS).exists():
        raise ValueError(f"{path} exists and holds no run of relujax: give --out another folder.")
    if not force:
        raise ValueError(f"{path} already holds a run: give --out another folder, or --force to replace it.")
    return True


def _fresh_folder(command):
    number = 1
    while Path(f"{command}-{number:03d}").exists():
        number += 1
    return Path(f"{command}-{number:03d}")


def _environment():
    import jax

    versions = {"python": platform.python_version()}
    for package in ("relujax", "jax", "jaxlib", "diffrax", "equinox", "optax", "numpy", "scipy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "platform": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv[1:],
    }


def _without_fixed_strings(dataset):
    return dataset.assign({name: variable.astype(object) for name, variable in dataset.items() if variable.dtype.kind == "U"})
