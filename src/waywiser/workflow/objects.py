"""The tools that a workflow file names as `module:object`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from langchain_core.tools import BaseTool

from waywiser.config.objects import died, load_object


def load_tools(name: str, folder: Path | None = None) -> list[BaseTool]:
    """Import tools: `module:object` is a tool, a list of tools, or a function without arguments that returns one.

    Raises `ValueError` when it's none of these.
    """
    found = load_object(name, folder)
    if callable(found) and not isinstance(found, BaseTool):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise ValueError(died(f"`{name}` gives no tools", error)) from error
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
