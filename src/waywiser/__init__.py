"""Waywiser routes every step of an LLM agent to the cheapest model that is enough for it, within a budget.

    from waywiser import Router

    router = Router.from_policy("policies/simulated.yaml")
    model = router.chat_model()          # a LangChain chat model for any LangGraph agent

Names are loaded when they are first used, so that `import waywiser` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from waywiser.core.receipt import Receipt as Receipt
    from waywiser.errors import BadInput as BadInput
    from waywiser.errors import BudgetExceeded as BudgetExceeded
    from waywiser.errors import ConfigError as ConfigError
    from waywiser.errors import LoopDetected as LoopDetected
    from waywiser.errors import NoEligibleModel as NoEligibleModel
    from waywiser.errors import RoutingRefused as RoutingRefused
    from waywiser.errors import StoreError as StoreError
    from waywiser.errors import UpstreamError as UpstreamError
    from waywiser.errors import WaywiserError as WaywiserError
    from waywiser.langgraph.router import Router as Router

__version__ = "0.1.0"

_HOME = {
    "Receipt": "waywiser.core.receipt",
    "Router": "waywiser.langgraph.router",
    "BadInput": "waywiser.errors",
    "BudgetExceeded": "waywiser.errors",
    "ConfigError": "waywiser.errors",
    "LoopDetected": "waywiser.errors",
    "NoEligibleModel": "waywiser.errors",
    "RoutingRefused": "waywiser.errors",
    "StoreError": "waywiser.errors",
    "UpstreamError": "waywiser.errors",
    "WaywiserError": "waywiser.errors",
}

__all__ = [  # noqa: PLE0604 - computed, so that one table names them all
    *_HOME
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'waywiser' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
