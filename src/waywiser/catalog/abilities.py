"""What families of models can do, as one table: the first row whose pattern a model's name matches says it.

Prices and most context windows come from the snapshot; abilities, output limits and generations are kept by nobody in
a form that could be read, so they stand here, from the providers' own documentation. The table is conservative: an
ability that is missing costs a candidate, one that is wrongly there costs a failed call. A policy can add what is
missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from waywiser.core.models import Ability

_LETTERS: Final = {
    "t": Ability.TOOLS,
    "j": Ability.JSON_SCHEMA,
    "v": Ability.VISION,
    "f": Ability.FILES,
    "r": Ability.THINKING,
    "l": Ability.LOGPROBS,
    "w": Ability.WEB_SEARCH,
    "p": Ability.PREFILL,
}


@dataclass(frozen=True, slots=True)
class Family:
    """Models that behave alike. `year` is the generation that prices are compared within, in years.

    `context_tokens` holds where the snapshot knows no window; `cache_min_tokens` of 0 leaves it to the provider.
    """

    pattern: re.Pattern[str]
    abilities: frozenset[Ability]
    year: float
    context_tokens: int
    max_output_tokens: int
    encoding: str = "o200k_base"
    cache_min_tokens: int = 0


def _family(
    pattern: str, letters: str, year: float, context: int, output: int, encoding: str = "o200k_base", cache_min: int = 0
) -> Family:
    abilities = frozenset(_LETTERS[letter] for letter in letters)
    return Family(re.compile(pattern), abilities, year, context, output, encoding, cache_min)


# Abilities: t tools, j json_schema, v vision, f files, r thinking (reasoning), l logprobs, w web search, p prefill.
# Patterns are searched in the last part of the name, in small letters, dots read as hyphens.
_F = _family
FAMILIES: Final = (
    # OpenAI. Reasoning models refuse logprobs; the search models take no tools of the caller's.
    _F(r"^gpt-.*search", "w", 2025, 128_000, 16_384),
    _F(r"^gpt-oss-safeguard", "", 2025, 131_072, 32_768),
    _F(r"^gpt-oss", "tr", 2025, 131_072, 32_768),
    _F(r"^gpt-(5|chat).*chat|^gpt-chat", "jv", 2025, 128_000, 16_384),
    _F(r"^gpt-5-?(mini|nano|pro|codex|image|20\d\d|$)|^gpt-5-1", "tjvfr", 2025, 400_000, 128_000),
    _F(r"^gpt-(5|6)", "tjvfr", 2026, 400_000, 128_000),
    _F(r"^gpt-4-1", "tjvfl", 2025, 1_047_576, 32_768),
    _F(r"^gpt-4-5", "tjvf", 2025, 128_000, 16_384),
    _F(r"^gpt-4o-2024-05-13", "tvl", 2024, 128_000, 4_096),
    _F(r"^gpt-4o", "tjvfl", 2024, 128_000, 16_384),
    _F(r"^chatgpt-4o", "v", 2024, 128_000, 16_384),
    _F(r"^gpt-4-(turbo|vision|1106|0125)", "tvl", 2024, 128_000, 4_096, "cl100k_base"),
    _F(r"^gpt-4-32k", "tl", 2023, 32_768, 4_096, "cl100k_base"),
    _F(r"^gpt-4", "tl", 2023, 8_192, 4_096, "cl100k_base"),
    _F(r"^gpt-3-5-0301", "", 2023, 4_096, 4_096, "cl100k_base"),
    _F(r"^gpt-3-5", "tl", 2023, 16_385, 4_096, "cl100k_base"),
    _F(r"^o1-(mini|preview)", "r", 2024, 128_000, 32_768),
    _F(r"^o3-mini", "tjr", 2025, 200_000, 100_000),
    _F(r"^o[134]", "tjvfr", 2025, 200_000, 100_000),
    # Anthropic. Since 4.6 an assistant prefill is refused; since Opus 4.7 another tokenizer is used.
    _F(r"^claude-haiku-[5-9]|^claude-[5-9].*haiku", "tjvfrw", 2026, 200_000, 64_000, "claude_2026", 1024),
    _F(r"^claude-([a-z]+-)?[5-9]", "tjvfrw", 2026, 200_000, 128_000, "claude_2026", 1024),
    _F(r"^claude-opus-4-8|^claude-4-8-opus", "tjvfrw", 2026, 200_000, 128_000, "claude_2026", 1024),
    _F(r"^claude-opus-4-7|^claude-4-7-opus", "tjvfrw", 2026, 200_000, 128_000, "claude_2026", 2048),
    _F(r"^claude-opus-4-6|^claude-4-6-opus", "tjvfrw", 2026, 200_000, 128_000, "claude", 4096),
    _F(r"^claude-sonnet-4-6|^claude-4-6-sonnet", "tjvfrw", 2026, 200_000, 128_000, "claude", 2048),
    _F(r"^claude-(opus|haiku)-4-5|^claude-4-5-(opus|haiku)", "tjvfrwp", 2025, 200_000, 64_000, "claude", 4096),
    _F(r"^claude-sonnet-4-5|^claude-4-5-sonnet", "tjvfrwp", 2025, 200_000, 64_000, "claude", 1024),
    _F(r"^claude-opus-4-1|^claude-4-1-opus", "tjvfrwp", 2025, 200_000, 32_000, "claude", 1024),
    _F(r"^claude-opus-4|^claude-4-opus", "tvfrwp", 2025, 200_000, 32_000, "claude", 1024),
    _F(r"^claude-sonnet-4|^claude-4-sonnet", "tvfrwp", 2025, 200_000, 64_000, "claude", 1024),
    _F(r"^claude-3-7", "tvfrwp", 2025, 200_000, 64_000, "claude", 1024),
    _F(r"^claude-3-5-haiku", "tvp", 2024, 200_000, 8_192, "claude", 2048),
    _F(r"^claude-3-5", "tvfp", 2024, 200_000, 8_192, "claude", 1024),
    _F(r"^claude-3-haiku", "tvp", 2024, 200_000, 4_096, "claude", 2048),
    _F(r"^claude-3", "tvp", 2024, 200_000, 4_096, "claude", 1024),
    # Google.
    _F(r"^gemini-(flash-1-5|pro-1-5|1-5)", "tjv", 2024, 1_000_000, 8_192, "gemini"),
    _F(r"^gemini-2-0", "tjvf", 2025, 1_048_576, 8_192, "gemini"),
    _F(r"^gemini-2-5", "tjvfr", 2025, 1_048_576, 65_536, "gemini"),
    _F(r"^gemini-[34]", "tjvfr", 2026, 1_048_576, 65_536, "gemini"),
    _F(r"^gemini", "", 2023, 32_760, 8_192, "gemini"),
    _F(r"^gemma-?[34]", "v", 2025, 131_072, 8_192, "gemini"),
    _F(r"^gemma", "", 2024, 8_192, 4_096, "gemini"),
    # DeepSeek. deepseek-chat answers without thinking; a schema is taken by hosts, not by DeepSeek itself.
    _F(r"^deepseek-(chat|v3-0324|v3$)", "tl", 2025, 65_536, 8_192, "open"),
    _F(r"^deepseek-(r1|reasoner)", "r", 2025, 65_536, 8_192, "open"),
    _F(r"^deepseek-(v4|flash)", "tr", 2026, 131_072, 8_192, "open"),
    _F(r"^deepseek-v3|^deepseek-v3p", "t", 2025, 131_072, 8_192, "open"),
    # Mistral.
    _F(r"^(mistral-7b|mistral-tiny|mixtral-8x7b)", "", 2023, 32_768, 4_096, "open"),
    _F(r"^mixtral", "t", 2024, 65_536, 4_096, "open"),
    _F(r"^pixtral|^mistral-(medium-(3|latest)|large-(2512|4))", "tjv", 2025, 131_072, 8_192, "open"),
    _F(r"^mistral-small-(3-[12]|2603|latest)", "tjv", 2025, 131_072, 8_192, "open"),
    _F(r"^ministral-.*2512", "tjv", 2025, 262_144, 8_192, "open"),
    _F(r"^magistral", "tjr", 2025, 131_072, 8_192, "open"),
    _F(r"^(codestral|devstral)", "tj", 2025, 131_072, 8_192, "open"),
    _F(r"^(mistral-(large|medium|small|nemo)|ministral)", "tj", 2024, 131_072, 8_192, "open"),
    # xAI.
    _F(r"^grok-4.*non-reasoning", "tjv", 2025, 131_072, 8_192, "open"),
    _F(r"^grok-4-(3|5|6|7|20)", "tjvr", 2026, 131_072, 8_192, "open"),
    _F(r"^grok-4", "tjvr", 2025, 131_072, 8_192, "open"),
    _F(r"^grok-(code|build)|^grok-3-mini", "tjr", 2025, 131_072, 8_192, "open"),
    _F(r"^grok-3", "tj", 2025, 131_072, 8_192, "open"),
    _F(r"^grok-2-vision", "v", 2024, 32_768, 4_096, "open"),
    _F(r"^grok-2", "tj", 2024, 131_072, 4_096, "open"),
    # Open weights, by whoever hosts them.
    _F(r"llama-?(4|v4)", "tjv", 2025, 131_072, 8_192, "open"),
    _F(r"llama-?3.*-vision", "v", 2024, 131_072, 4_096, "llama"),
    _F(r"llama-?v?3[-p.]?3", "t", 2024.5, 131_072, 8_192, "llama"),
    _F(r"llama-?v?3[-p.]?1", "t", 2024, 131_072, 8_192, "llama"),
    _F(r"llama-?v?3-?2", "", 2024, 131_072, 4_096, "llama"),
    _F(r"llama-?3", "", 2024, 8_192, 4_096, "llama"),
    _F(r"llama", "", 2023, 4_096, 2_048, "open"),
    _F(r"qwen-?[23][-p.]?5?.*vl", "v", 2025, 32_768, 8_192, "open"),
    _F(r"qwen-?3-?[5-9]|qwen3p[5-9]", "tr", 2026, 131_072, 16_384, "open"),
    _F(r"qwen-?3.*(instruct|coder)", "t", 2025, 131_072, 16_384, "open"),
    _F(r"qwen-?3", "tr", 2025, 40_960, 16_384, "open"),
    _F(r"qwen-?2[-p.]?5", "t", 2024, 32_768, 8_192, "open"),
    _F(r"^kimi-k2-(thinking)", "tr", 2025, 262_144, 16_384, "open"),
    _F(r"^kimi-k2([-p][5-9])", "tvr", 2026, 262_144, 16_384, "open"),
    _F(r"^kimi-k2", "t", 2025, 131_072, 16_384, "open"),
    _F(r"^kimi-k3", "tvr", 2026, 262_144, 16_384, "open"),
    _F(r"^moonshot-v1-8k", "t", 2024, 8_192, 4_096, "open"),
    _F(r"^moonshot-v1-32k", "t", 2024, 32_768, 8_192, "open"),
    _F(r"^moonshot-v1", "t", 2024, 131_072, 8_192, "open"),
    _F(r"glm-4-?[56]v", "tvr", 2025, 65_536, 16_384, "open"),
    _F(r"glm-(4-[5-9]|4p[5-9])", "tr", 2025, 131_072, 32_768, "open"),
    _F(r"glm-5", "tr", 2026, 131_072, 32_768, "open"),
    _F(r"^minimax-m[23]", "tr", 2025.5, 196_608, 32_768, "open"),
    _F(r"^command-a", "t", 2025, 256_000, 8_192, "open"),
    _F(r"^command-r", "t", 2024, 128_000, 4_096, "open"),
)  # fmt: skip

UNKNOWN: Final = _F(r"", "", 2024, 8_192, 4_096, "open")
"""A model that no row speaks of: text in, text out, a short window."""


@cache
def family(name: str) -> Family:
    """Find the family of a model by its remote name (`openai/gpt-5-mini` at a reseller reads as `gpt-5-mini`)."""
    bare = name.rpartition("/")[2].lower().partition(":")[0].replace(".", "-").replace("_", "-")
    return next((row for row in FAMILIES if row.pattern.search(bare)), UNKNOWN)
