"""Results on disk: a folder with labelled data in zarr, figures, and what is needed to run it again."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
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
    - `force`: replace the data, figures and summaries of the run that the folder holds; any other file in it stays.
    - `resume`: go on with a folder that holds an unfinished run of the same command and arguments; `load` has its parts.
    - `prefix`: the command unless said otherwise.

    **Raises:** `ValueError` when `out` exists and is not an empty folder, unless `force` is given and it holds a run, or it is
    resumed; and when no folder can be made there.
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
        _check_writable(self.path)
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
        if not target.parent.exists():
            target.parent.mkdir()
            write_json(target.parent / ".zgroup", {"zarr_format": 2})
        os.replace(temporary, target)

    def has(self, part: str) -> bool:
        """Whether an unfinished run has left this part."""
        return not self._replace and (self.path / _DATA / part).is_dir()

    def load(self, part: str):
        """A part that an unfinished run has left, or None."""
        return _read_part(self.path, self.path / _DATA / part) if self.has(part) else None

    def save_figure(self, name: str, figure) -> Path:
        """Write a matplotlib figure as `name.png`, an animation as `name.gif`."""
        self._open()
        if hasattr(figure, "savefig"):
            path = self.path / f"{name}.png"
            _whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
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
            _remove_run(self.path)
            self._replace = False
        if not (self.path / _SETTINGS).exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / _SETTINGS, self.settings)


def open_run(path: str | Path) -> dict[str, Any]:
    """The finished parts of a run folder, as `xarray.Dataset`s by name; also of a run that was interrupted.

    **Raises:** `FileNotFoundError` when there is no such folder, `ValueError` when it is not a run or cannot be read.
    """
    return dict(iterate_run(path))


def iterate_run(path: str | Path) -> Iterator[tuple[str, Any]]:
    """The parts of `open_run` by name one after another, for runs that are larger than memory.

    **Raises:** the same, when the first part is asked for.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: give the folder that a relujax command wrote.")
    if _read_settings(path) is None:
        raise ValueError(f"{path} holds no run of relujax: give the folder that a relujax command wrote.")
    for part in sorted((path / _DATA).iterdir()) if (path / _DATA).is_dir() else []:
        if part.is_dir():
            yield part.name, _read_part(path, part)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    _whole(Path(path), lambda temporary: temporary.write_text(text))


def _whole(path, write):
    """Let `write` fill a file beside `path`, and move it there."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_part(path, part):
    xarray = extra("xarray", "io")
    extra("zarr", "io")
    try:
        return xarray.open_zarr(part, consolidated=True).load()
    except Exception as error:
        raise ValueError(f"the data in {path} cannot be read ({type(error).__name__}): run the command again.") from error


def _read_settings(path):
    """The settings of the run that a folder holds; None when it holds none, or a `settings.json` of something else."""
    try:
        settings = json.loads((path / _SETTINGS).read_text())
        settings["versions"]["relujax"], settings["command"], settings["arguments"], settings["finished"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return settings


def _is_unfinished(path, command, arguments):
    settings = _read_settings(path)
    if settings is None:
        return False
    same = settings["command"] == command and settings["arguments"] == json.loads(json.dumps(arguments))
    return same and not settings["finished"]


def _check_target(path, force):
    """Whether the folder holds an earlier run that is to be replaced; raises for anything else that is in the way."""
    if not path.exists() or not any(path.iterdir()):
        return False
    if _read_settings(path) is None:
        raise ValueError(f"{path} exists and holds no run of relujax: give --out another folder.")
    if not force:
        raise ValueError(f"{path} already holds a run: give --out another folder, or --force to replace it.")
    return True


def _check_writable(path):
    """Raise unless the folder is there, or can be made, and can be written to."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise ValueError(f"{there if there != path.absolute() else path} is a file: give --out a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there} cannot be written to: give --out a folder elsewhere.")


def _remove_run(path):
    """Remove what a run writes, the settings last, so that what an interrupt leaves is still known as a run."""
    shutil.rmtree(path / _DATA, ignore_errors=True)
    for pattern in ("*.png", "*.gif", "summary.json", ".*.writing", _SETTINGS):
        for file in path.glob(pattern):
            shutil.rmtree(file) if file.is_dir() else file.unlink()


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
