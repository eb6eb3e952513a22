"""A row of the catalogue: what a model costs, takes and can do. Prices are integers, so that money stays exact."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from waywiser.core.calls import Usage

PICOS_PER_NANO = 1000


class Ability(StrEnum):
    """What a model can do beyond text in and text out."""

    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    VISION = "vision"
    FILES = "files"
    THINKING = "thinking"
    LOGPROBS = "logprobs"
    WEB_SEARCH = "web_search"
    PREFILL = "prefill"


@dataclass(frozen=True, slots=True)
class Price:
    """Pico-dollars per token (1 USD per million tokens = 1 000 000 picos a token), for prompts of any length.

    `above_tokens` is the prompt length from which this price holds for the whole call (providers that charge long
    prompts more); the price of a model is a tuple of these, shortest first.
    """

    input_picos: int
    output_picos: int
    cached_picos: int
    cache_write_picos: int
    above_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """One model as the policy names it, `provider/name`.

    `remote` is the name the provider knows; `api` picks the codec (`openai`, `anthropic`, `simulated`, `langchain`);
    `key_env` names the environment variable that holds the key (empty: no key is sent). `quality` in 0..1 is a prior
    for how good its answers are, relative to its neighbours. `cache_ttl_s` is how long a provider keeps a prompt
    prefix warm (0: no prompt cache), `cache_min_tokens` the shortest prefix it keeps.
    """

    name: str
    api: str = "openai"
    remote: str = ""
    base_url: str = ""
    key_env: str = ""
    context_tokens: int = 8192
    max_output_tokens: int = 4096
    abilities: frozenset[Ability] = frozenset()
    prices: tuple[Price, ...] = ()
    regions: frozenset[str] = frozenset()
    encoding: str = "o200k_base"
    quality: float = 0.5
    latency_ms: float = 1000.0
    cache_ttl_s: float = 0.0
    cache_min_tokens: int = 1024
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def provider(self) -> str:
        """The part of the name before the first slash."""
        return self.name.partition("/")[0]


def cost_nanos(model: Model, usage: Usage) -> int:
    """What `usage` costs on `model`, in nano-dollars, rounded up so that nothing is ever free by rounding.

    Raises `ValueError` for a model without a price: a price that is not known is never taken for zero.
    """
    if not model.prices:
        raise ValueError(f"the price of {model.name} is not known")
    price = model.prices[0]
    for step in model.prices[1:]:
        if usage.input_tokens > step.above_tokens:
            price = step
    fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    picos = (
        max(fresh, 0) * price.input_picos
        + usage.cached_tokens * price.cached_picos
        + usage.cache_write_tokens * price.cache_write_picos
        + usage.output_tokens * price.output_picos
    )
    return -(-picos // PICOS_PER_NANO)
