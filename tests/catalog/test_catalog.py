"""The catalogue: names, releases, prices by day, overrides, abilities; and that the snapshot is not out of date."""

import json
import subprocess
import sys
from datetime import date
from decimal import Decimal
from importlib.metadata import version

import genai_prices
import pytest
from genai_prices import Usage as TheirUsage

from waywiser.catalog import snapshot
from waywiser.catalog.abilities import family
from waywiser.catalog.catalog import SIMULATED, Catalog, blended_usd
from waywiser.catalog.encodings import TOKENIZERS
from waywiser.catalog.providers import PROVIDERS
from waywiser.core.calls import Usage
from waywiser.core.models import Ability, Model, Price, cost_nanos

DAY = date(2026, 11, 1)
CATALOG = Catalog(on=DAY)

same_version = pytest.mark.skipif(
    version("genai-prices") != snapshot.load().version,
    reason="another genai-prices is installed than the snapshot was taken from",
)

POLICY_MODELS = [
    "groq/llama-3.1-8b-instant",
    "deepseek/deepseek-chat",
    "anthropic/claude-haiku-4-5",
    "google/gemini-3-flash-preview",
    "anthropic/claude-opus-4-7",
    "openai/gpt-5.4",
]
RECORDED_MODELS = ["gemini-3-flash", "gpt-4.1-mini", "gpt-5-mini", "gpt-5-nano", "gpt-4.1", "gpt-4o", "gpt-4o-mini"]


@same_version
def test_snapshot_says_what_genai_prices_says() -> None:
    stored = snapshot.files("waywiser.catalog").joinpath(snapshot.FILE).read_text(encoding="utf-8")
    assert stored == snapshot.dump(snapshot.taken()), "run python -m waywiser.catalog.snapshot"


def test_importing_the_catalogue_does_not_import_genai_prices() -> None:
    code = (
        "import sys; from waywiser.catalog.catalog import Catalog; Catalog().get('openai/gpt-5.4');"
        "print(sorted({'genai_prices', 'numpy', 'tiktoken', 'httpx', 'pydantic'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("name", POLICY_MODELS)
def test_models_of_the_example_policy_are_known(name: str) -> None:
    model = CATALOG.get(name)
    assert model.prices
    assert model.base_url.startswith("https://")
    assert model.key_env
    assert Ability.TOOLS in model.abilities
    assert model.remote == name.partition("/")[2]


@pytest.mark.parametrize("bare", RECORDED_MODELS)
def test_models_of_recordings_are_found_without_their_provider(bare: str) -> None:
    assert bare not in CATALOG
    assert CATALOG.get(CATALOG.closest(bare)).prices


def test_a_name_without_preview_is_sent_with_it() -> None:
    assert CATALOG.get("google/gemini-3-flash").remote == "gemini-3-flash-preview"


def _theirs(name: str, usage: Usage) -> Decimal:
    provider, _, ref = name.partition("/")
    calculated = genai_prices.calc_price(
        TheirUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        ),
        ref,
        provider_id=provider,
        genai_request_timestamp=genai_prices.types.datetime(2026, 11, 1, 12, 0, tzinfo=genai_prices.types.UTC),
    )
    return calculated.total_price


PRICED = [
    *POLICY_MODELS,
    "openai/gpt-4.1-mini",
    "google/gemini-2.5-pro",
    "mistral/mistral-small-latest",
    "x-ai/grok-4-0709",
]
USAGES = [
    Usage(1, 1),
    Usage(1000, 100),
    Usage(10_000, 500, cached_tokens=8000),
    Usage(250_000, 2000, cached_tokens=100_000),
    Usage(300_001, 2000, cached_tokens=100_000),
    Usage(10_000, 500, cached_tokens=2000, cache_write_tokens=6000),
]


@same_version
@pytest.mark.parametrize(
    ("name", "usage"),
    [
        (name, usage)
        for name in PRICED
        for usage in USAGES
        if usage.input_tokens <= CATALOG.get(name).context_tokens
        # only Anthropic charges for writing a cache
        and (not usage.cache_write_tokens or name.startswith("anthropic/"))
    ],
)
def test_costs_are_those_of_genai_prices(name: str, usage: Usage) -> None:
    model = CATALOG.get(name)
    nanos = _theirs(name, usage) * 1_000_000_000
    assert nanos <= cost_nanos(model, usage) <= nanos + 1


def test_prices_follow_the_calendar() -> None:
    name = "mistral/mistral-small-latest"
    before, after = Catalog(on=date(2026, 3, 15)).get(name), Catalog(on=date(2026, 3, 16)).get(name)
    assert before.prices[0].input_picos == 100_000
    assert after.prices[0].input_picos == 150_000


def test_hourly_prices_count_as_the_dearest_hour() -> None:
    assert CATALOG.get("deepseek/deepseek-chat").prices[0].input_picos == 270_000


def test_dated_releases_are_known_and_typing_errors_are_not() -> None:
    base = CATALOG.get("openai/gpt-5-mini")
    dated = CATALOG.get("openai/gpt-5-mini-2025-08-07")
    assert (dated.prices, dated.remote) == (base.prices, "gpt-5-mini-2025-08-07")
    assert "anthropic/claude-haiku-4-5-20251001" in CATALOG
    assert "anthropic/claude-haiku-4-5-20251001" not in CATALOG.names()
    for wrong in ("openai/gpt-5-minii", "openai/gpt-4.1-mini-foo", "openai/gpt", "nobody/gpt-5", "", "/", "openai/"):
        assert wrong not in CATALOG
        with pytest.raises(KeyError):
            CATALOG.get(wrong)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("openai/gpt-5-minii", "openai/gpt-5-mini"),
        ("antropic/claude-opus-4-7", "anthropic/claude-opus-4-7"),
        ("anthropic/claude-opus-47", "anthropic/claude-opus-4-7"),
        ("gpt-5-mini", "openai/gpt-5-mini"),
        ("simulated/economie", "simulated/economy"),
        ("zzzz", ""),
        ("", ""),
    ],
)
def test_closest(wrong: str, meant: str) -> None:
    assert CATALOG.closest(wrong) == meant


def test_overrides_win_and_leave_the_first_catalogue_alone() -> None:
    own = Model("openai/gpt-5.4", prices=(Price(1, 2, 1, 1),), context_tokens=99)
    local = Model("local/qwen", base_url="http://127.0.0.1:8812/v1")
    other = CATALOG.with_overrides([own, local])
    assert other.get("openai/gpt-5.4") is own
    assert other.get("local/qwen") is local
    assert "local/qwen" in other.names()
    assert "local/qwen" not in CATALOG
    assert CATALOG.get("openai/gpt-5.4").context_tokens > 99
    assert other.with_overrides([]).get("local/qwen") is local


def test_every_row_is_sound() -> None:
    for model in CATALOG:
        first = model.prices[0] if model.prices else None
        assert model.context_tokens >= 1024, model.name
        assert 0 < model.max_output_tokens <= model.context_tokens, model.name
        assert model.encoding in TOKENIZERS, model.name
        assert 0 < model.quality < 1, model.name
        assert model.latency_ms > 0, model.name
        assert [price.above_tokens for price in model.prices] == sorted({price.above_tokens for price in model.prices})
        assert first is None or (first.above_tokens == 0 and first.cached_picos <= first.input_picos), model.name
        if model.api != "simulated":
            assert model.base_url == PROVIDERS[model.provider].base_url


def test_quality_rises_with_price_within_a_generation() -> None:
    for provider in PROVIDERS:
        generations: dict[float, list[Model]] = {}
        for model in CATALOG:
            if model.provider == provider and blended_usd(model.prices) > 0.05:
                generations.setdefault(family(model.remote).year, []).append(model)
        for models in generations.values():
            by_price = sorted(models, key=lambda model: blended_usd(model.prices))
            qualities = [model.quality for model in by_price]
            assert qualities == sorted(qualities)


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("anthropic/claude-sonnet-4-5", {Ability.PREFILL, Ability.JSON_SCHEMA}, {Ability.LOGPROBS}),
        ("anthropic/claude-opus-4-6", {Ability.THINKING}, {Ability.PREFILL}),
        ("anthropic/claude-sonnet-5", {Ability.TOOLS}, {Ability.PREFILL}),
        ("openai/gpt-4.1", {Ability.LOGPROBS, Ability.VISION}, {Ability.THINKING}),
        ("openai/gpt-5", {Ability.THINKING}, {Ability.LOGPROBS}),
        ("openai/o3-mini", {Ability.TOOLS}, {Ability.VISION}),
        ("openai/gpt-4o-mini", {Ability.LOGPROBS}, {Ability.THINKING}),
        ("mistral/mistral-large-latest", {Ability.TOOLS}, {Ability.LOGPROBS}),
        ("deepseek/deepseek-chat", {Ability.TOOLS, Ability.LOGPROBS}, {Ability.JSON_SCHEMA, Ability.VISION}),
        ("google/gemini-2.5-flash", {Ability.TOOLS, Ability.VISION}, {Ability.WEB_SEARCH, Ability.LOGPROBS}),
        ("openrouter/anthropic/claude-opus-4.7", {Ability.TOOLS}, {Ability.PREFILL}),
        ("groq/llama-3.1-8b-instant", {Ability.TOOLS}, {Ability.JSON_SCHEMA, Ability.LOGPROBS}),
    ],
)
def test_abilities(name: str, has: set[Ability], lacks: set[Ability]) -> None:
    abilities = CATALOG.get(name).abilities
    assert has <= abilities
    assert not lacks & abilities


def test_what_is_no_chat_model_is_left_out() -> None:
    for part in ("embedding", "whisper", "tts", "realtime", "moderation", "davinci", "deep-research", "-ocr"):
        assert not [name for name in CATALOG.names() if part in name.lower()], part


def test_simulated_models_are_a_ladder() -> None:
    economy, standard, premium = SIMULATED
    assert economy.quality < standard.quality < premium.quality
    assert economy.prices[0].output_picos < standard.prices[0].output_picos < premium.prices[0].output_picos
    assert all(model.abilities == frozenset(Ability) and model.api == "simulated" for model in SIMULATED)


def test_snapshot_is_one_model_a_line() -> None:
    text = snapshot.dump({"genai_prices": "1", "models": {"openai": [["a", 1, [], [], []], ["b", 1, [], [], []]]}})
    assert json.loads(text)["models"]["openai"][1][0] == "b"
    assert text.splitlines()[2:4] == ['["a",1,[],[],[]],', '["b",1,[],[],[]]']
