"""Finding what a workflow file names as `module:object`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from langchain_core.tools import BaseTool


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


def load_tools(name: str, folder: Path | None = None) -> list[BaseTool]:
    """Import tools: `module:object` is a tool, a list of tools, or a function without arguments that returns one.

    Raises `ValueError` when it's none of these.
    """
    found = load_object(name, folder)
    if callable(found) and not isinstance(found, BaseTool):
        found = found()
    if isinstance(found, BaseTool):
        return [found]
    tools = list(found) if isinstance(found, Sequence) else []
    if not tools or not all(isinstance(tool, BaseTool) for tool in tools):
        raise ValueError(f"`{name}` is neither a tool nor a list of tools, nor a function that returns them")
    return tools


def named(tools: Iterable[BaseTool]) -> dict[str, BaseTool]:
    """Key tools by name. Raises `ValueError` when two have the same name."""
    known: dict[str, BaseTool] = {}
    for tool in tools:
        if tool.name in known:
            raise ValueError(f"two tools are named `{tool.name}`")
        known[tool.name] = tool
    return known


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
