"""The config that LangChain hands from a caller to whatever is called inside of it, by way of a context variable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config


@contextmanager
def handed_down(config: RunnableConfig) -> Iterator[None]:
    """Let what is called inside find `config`, as it would inside a graph."""
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def without_handlers() -> RunnableConfig:
    """The config around us, but for its handlers: a model that was bound would be heard by them, too."""
    around = (var_child_runnable_config.get() or RunnableConfig()).copy()
    around.pop("callbacks", None)
    return around
