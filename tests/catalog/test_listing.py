"""The listing filters, sorts, and says None rather than zero for what is not known."""

from datetime import date

from waywiser.catalog.catalog import Catalog
from waywiser.catalog.listing import ModelQuery, rows
from waywiser.core.models import Ability, Model

CATALOG = Catalog(on=date(2026, 11, 1))


def test_everything_by_name() -> None:
    assert [row.name for row in rows(CATALOG, ModelQuery())] == list(CATALOG.names())


def test_filters_are_and() -> None:
    query = ModelQuery(
        words=("GPT-5",), provider="openai", abilities=frozenset({Ability.TOOLS}), min_context=300_000, max_usd=1.0
    )
    found = rows(CATALOG, query)
    assert {"openai/gpt-5-mini", "openai/gpt-5-nano"} <= {row.name for row in found}
    for row in found:
        assert row.name.startswith("openai/")
        assert "gpt-5" in row.name
        assert row.context_tokens >= 300_000
        assert row.input_usd is not None
        assert row.output_usd is not None
        assert (3 * row.input_usd + row.output_usd) / 4 <= 1.0
    assert not rows(CATALOG, ModelQuery(words=("gpt-5", "claude")))


def test_regions() -> None:
    found = rows(CATALOG, ModelQuery(regions=frozenset({"eu"})))
    assert found
    assert all("eu" in row.regions for row in found)


def test_prices_and_the_length_from_which_a_call_is_dearer() -> None:
    (row,) = [row for row in rows(CATALOG, ModelQuery(words=("openai/gpt-5.4",))) if row.name == "openai/gpt-5.4"]
    assert (row.input_usd, row.cached_usd, row.output_usd, row.dearer_above) == (2.5, 0.25, 15.0, 272_000)


def test_a_model_without_a_price_is_listed_without_one_and_is_below_no_limit() -> None:
    catalog = CATALOG.with_overrides([Model("local/qwen")])
    (row,) = rows(catalog, ModelQuery(provider="local"))
    assert (row.input_usd, row.cached_usd, row.output_usd, row.dearer_above) == (None, None, None, None)
    assert not rows(catalog, ModelQuery(provider="local", max_usd=1e9))
