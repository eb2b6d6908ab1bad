"""Import of packages that only some users need."""

import importlib


def extra(module: str, name: str):
    """The module, or an `ImportError` whose one sentence says which extra of relujax brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is not installed: pip install 'relujax[{name}]' brings it.") from error
