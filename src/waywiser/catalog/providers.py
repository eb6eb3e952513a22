"""Providers: where they are reached, which key they ask for, and what their endpoint can do.

The facts are those of the providers' own documentation. What is not documented is left out: a policy can add it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from waywiser.core.models import Ability

A = Ability


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider's endpoint.

    `api` picks the codec; `remote_prefix` is what the provider puts before the names that people use; `never` lists
    what the endpoint does not pass on, whatever the model behind it can do.
    `cache_ttl_s` and `cache_min_tokens` describe its prompt cache (0: none that is documented). `regions` is set only
    where the provider says that requests are answered there by default; an account's residency is a user's override.
    """

    base_url: str
    key_env: str
    api: str = "openai"
    regions: frozenset[str] = frozenset()
    never: frozenset[Ability] = frozenset()
    cache_ttl_s: float = 0.0
    cache_min_tokens: int = 1024
    remote_prefix: str = ""


_SEARCH = frozenset({A.WEB_SEARCH})

PROVIDERS: Final = MappingProxyType(
    {
        # Web search is a tool of the Responses endpoint; over chat completions only the *-search-* models have it.
        "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY", cache_ttl_s=300, cache_min_tokens=1024),
        "anthropic": Provider(
            "https://api.anthropic.com/v1",
            "ANTHROPIC_API_KEY",
            api="anthropic",
            never=frozenset({A.LOGPROBS}),
            cache_ttl_s=300,
        ),
        # The OpenAI-compatible endpoint; implicit caching has no promised lifetime.
        "google": Provider(
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "GEMINI_API_KEY",
            never=frozenset({A.LOGPROBS, A.WEB_SEARCH, A.PREFILL, A.FILES}),
            cache_ttl_s=180,
            cache_min_tokens=2048,
        ),
        "mistral": Provider(
            "https://api.mistral.ai/v1",
            "MISTRAL_API_KEY",
            regions=frozenset({"eu"}),
            never=frozenset({A.LOGPROBS}) | _SEARCH,
        ),
        # Kept on disk for hours at least, in units of 64 tokens; json_object only, no schema.
        "deepseek": Provider(
            "https://api.deepseek.com/v1",
            "DEEPSEEK_API_KEY",
            regions=frozenset({"cn"}),
            never=frozenset({A.JSON_SCHEMA}) | _SEARCH,
            cache_ttl_s=3600,
            cache_min_tokens=64,
        ),
        "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY", never=frozenset({A.LOGPROBS}) | _SEARCH),
        "together": Provider("https://api.together.xyz/v1", "TOGETHER_API_KEY", never=_SEARCH),
        "fireworks": Provider(
            "https://api.fireworks.ai/inference/v1",
            "FIREWORKS_API_KEY",
            never=_SEARCH,
            remote_prefix="accounts/fireworks/models/",
        ),
        "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", never=_SEARCH),
        "x-ai": Provider("https://api.x.ai/v1", "XAI_API_KEY", cache_ttl_s=300, cache_min_tokens=1024),
        # Its response_format takes another shape than a json_schema, and stream_options is refused.
        "cohere": Provider(
            "https://api.cohere.ai/compatibility/v1",
            "COHERE_API_KEY",
            never=frozenset({A.LOGPROBS, A.VISION, A.JSON_SCHEMA}) | _SEARCH,
        ),
        "moonshotai": Provider(
            "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", never=frozenset({A.LOGPROBS}) | _SEARCH, cache_ttl_s=300
        ),
        "zai": Provider(
            "https://api.z.ai/api/paas/v4", "ZAI_API_KEY", never=frozenset({A.LOGPROBS, A.JSON_SCHEMA}) | _SEARCH
        ),
        # Who answers behind OpenRouter varies, so nothing that only some of them pass on is promised.
        "openrouter": Provider(
            "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", never=frozenset({A.LOGPROBS, A.PREFILL}) | _SEARCH
        ),
    }
)
"""By the name that stands before the first slash of a model's name; the names are those of genai-prices."""
