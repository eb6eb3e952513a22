"""Finding what a configuration file names as `module:object`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def load_object(name: str, folder: Path | None = None) -> object:
    """Import `module:object`. The module may lie beside the workflow file, in the folder above, or where one works.

    Raises `ValueError` that says what is missing; an exception in the module itself comes through as it is.
    """
    module_name, _, path = name.partition(":")
    with _importable(folder):
        try:
            found: object = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and module_name.startswith(error.name):
                raise ValueError(f"there is no module `{error.name}`") from None
            raise
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"`{module_name}` has no `{path}`") from None
    return found


@contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    """Let imports look in a few more folders, last of all, and only for now."""
    more = [str(Path.cwd()), *([str(folder), str(folder.parent)] if folder else [])]
    added = [entry for entry in dict.fromkeys(more) if entry not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for entry in added:
            if entry in sys.path:
                sys.path.remove(entry)
