"""The studies there are: one for each module of this folder that names one, and any file of one's own."""

import importlib
import importlib.util
import json
import pkgutil
from pathlib import Path
from typing import Any

from .base import AbstractStudy


def names() -> list[str]:
    """The names of the registered studies, in alphabetical order."""
    return sorted(_registered())


def find(name: str) -> AbstractStudy:
    """The study of this name, or the `STUDY` of the Python file at this path.

    **Raises:** `ValueError` for an unknown name and for a file that holds no study, `FileNotFoundError` for one that is not
    there.

    ```python
    >>> find("tian-2017").paper
    'Tian 2017 (arXiv 1703.00560)'

    ```
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    registered = _registered()
    if name not in registered:
        raise ValueError(f"there is no study {name!r}: choose among {', '.join(sorted(registered))}.")
    return registered[name]


def last_summary(name: str, folder: str | Path = ".") -> dict[str, Any] | None:
    """The summary of the last finished run of a study among the run folders in `folder`, and whether it was `quick`, or None."""
    found = []
    for settings in Path(folder).glob("*/settings.json"):
        try:
            content = json.loads(settings.read_text())
            if content["command"] == "study" and content["arguments"]["study"] == name and content["finished"]:
                summary = json.loads((settings.parent / "summary.json").read_text())
                found.append((content["started"], {**summary, "quick": content["arguments"]["quick"]}))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another program's folder
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _registered():
    package = __package__ or "relujax.studies"
    path = importlib.import_module(package).__path__
    modules = (importlib.import_module(f"{package}.{info.name}") for info in pkgutil.iter_modules(path))
    studies = (module.STUDY for module in modules if hasattr(module, "STUDY"))
    return {study.name: study for study in studies}


def _from_file(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the name of a study or a Python file with a STUDY.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "STUDY", None), AbstractStudy):
        raise ValueError(f"{path} holds no STUDY: end it with STUDY = the study, an AbstractStudy.")
    return module.STUDY
