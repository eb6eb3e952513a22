"""The catalogue as a table: what `waywiser models` prints, whatever it prints it with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from waywiser.catalog.catalog import Catalog, blended_usd
from waywiser.core.models import Ability, Model

PICOS_PER_USD_MTOK = 1_000_000


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """Which models to list. `words` must all occur in the name; abilities and regions must all be there.

    `max_usd` limits the blended price (three parts input, one part output, USD per million tokens).
    """

    words: tuple[str, ...] = ()
    provider: str = ""
    abilities: frozenset[Ability] = frozenset()
    regions: frozenset[str] = frozenset()
    min_context: int = 0
    max_usd: float | None = None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of the listing. Prices in USD per million tokens, of the shortest prompts; None when unknown.

    `dearer_above` is the prompt length in tokens from which a call costs more; None when there is no such length.
    """

    name: str
    input_usd: float | None
    cached_usd: float | None
    output_usd: float | None
    dearer_above: int | None
    context_tokens: int
    max_output_tokens: int
    abilities: tuple[str, ...]
    regions: tuple[str, ...]
    quality: float
    key_env: str


def rows(catalog: Catalog, query: ModelQuery) -> list[ModelRow]:
    """List the models of a catalogue that a query asks for, by name."""
    return [_row(model) for model in sorted(_matching(catalog, query), key=attrgetter("name"))]


def _matching(catalog: Catalog, query: ModelQuery) -> Iterable[Model]:
    words = [word.lower() for word in query.words]
    for model in catalog:
        if query.provider and model.provider != query.provider:
            continue
        if not (query.abilities <= model.abilities and query.regions <= model.regions):
            continue
        if model.context_tokens < query.min_context or not all(word in model.name.lower() for word in words):
            continue
        # A price that is not known is not below any limit.
        if query.max_usd is not None and (not model.prices or blended_usd(model.prices) > query.max_usd):
            continue
        yield model


def _row(model: Model) -> ModelRow:
    first = model.prices[0] if model.prices else None
    return ModelRow(
        name=model.name,
        input_usd=first.input_picos / PICOS_PER_USD_MTOK if first else None,
        cached_usd=first.cached_picos / PICOS_PER_USD_MTOK if first else None,
        output_usd=first.output_picos / PICOS_PER_USD_MTOK if first else None,
        dearer_above=model.prices[1].above_tokens if len(model.prices) > 1 else None,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        abilities=tuple(sorted(model.abilities)),
        regions=tuple(sorted(model.regions)),
        quality=model.quality,
        key_env=model.key_env,
    )
