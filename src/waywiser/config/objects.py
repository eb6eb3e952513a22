"""Finding what a configuration file names as `module:object`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def load_object(name: str, folder: Path | None = None) -> object:
    """Import `module:object`. The module may lie beside the workflow file, in the folder above, or where one works.

    Raises `ValueError` that says what is missing, or what the module died of and where.
    """
    module_name, _, path = name.partition(":")
    with _importable(folder):
        try:
            found: object = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and module_name.startswith(error.name):
                raise ValueError(f"there is no module `{error.name}`") from None
            raise ValueError(died(f"`{module_name}` can't be imported", error)) from error
        except (Exception, SystemExit) as error:
            raise ValueError(died(f"`{module_name}` can't be imported", error)) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"`{module_name}` has no `{path}`") from None
    return found


def died(what: str, error: BaseException) -> str:
    """Say in one line what somebody's code died of, and where."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace is not None else ""
    if isinstance(error, SyntaxError):
        place = f" ({Path(error.filename or '?').name}:{error.lineno})"
    return f"{what}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{place}"


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
