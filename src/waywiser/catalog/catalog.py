"""The catalogue: every model a policy may name, as rows of `core.models.Model`. Overrides win.

Where `quality` and `latency_ms` come from
    Both are priors, there so that a first call can be scored; feedback corrects them. Within a generation price is the
    one public figure that orders models by strength as their own makers see it. With `p` the blended price (three parts
    input, one part output, USD per million tokens) and `y` the generation in years,
    `quality = 1 / (1 + exp(-(0.5 + log10(p) + 0.6 (y - 2025))))`:
    it rises with the price, and the same money buys more each year. `latency_ms = 800 · sqrt(1 + p)`, doubled for
    models that think and a third of it at providers built for speed: dearer models are larger, and larger ones slower.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import cached_property
from typing import Final

from waywiser.catalog import snapshot
from waywiser.catalog.abilities import Family, family
from waywiser.catalog.providers import PROVIDERS
from waywiser.core.models import Ability, Model, Price

FAST_PROVIDERS: Final = frozenset({"groq", "cerebras"})
FREE_QUALITY_PRICE: Final = 0.05  # USD per million tokens that a free model is taken for when its quality is guessed

# What may follow the beginning of a name that stands for dated releases of the same model: nothing, a date, a number.
_RELEASE: Final = re.compile(r"([-@]?(\d{4}-\d{2}-\d{2}|\d{8}|\d{3,4}|latest|preview))*")


class Catalog:
    """Models by name, `provider/name`. Immutable; `with_overrides` returns another one.

    `on` is the day whose prices count (some prices are announced ahead); today, by default.
    """

    def __init__(self, overrides: Iterable[Model] = (), *, on: date | None = None) -> None:
        self._on = on or datetime.now(UTC).date()
        self._own: dict[str, Model] = {model.name: model for model in (*SIMULATED, *overrides)}
        self._built: dict[str, Model] = {}

    def get(self, name: str) -> Model:
        """Look a model up by name, or by the name of a dated release (`openai/gpt-5-mini-2025-08-07`).

        Raises `KeyError` for a name that is not known; `closest` then says what was probably meant.
        """
        known = self._own.get(name) or self._built.get(name)
        if known is not None:
            return known
        row = self._rows.get(name)
        if row is not None:
            # Two threads may both build the same row; the second assignment changes nothing.
            self._built[name] = built = build(name, row, self._on)
            return built
        row = self._aliased(name)
        if row is None:
            raise KeyError(name)
        # Not kept: names of releases come from outside and there is no end of them.
        return build(name, row, self._on)

    def __contains__(self, name: str) -> bool:
        """Whether `get` would find a model."""
        return name in self._own or name in self._rows or self._aliased(name) is not None

    def __iter__(self) -> Iterator[Model]:
        """Every model, in the order of names."""
        return (self.get(name) for name in self.names())

    def names(self) -> tuple[str, ...]:
        """Names of all models, sorted; the names of dated releases are left out."""
        return tuple(sorted(self._own.keys() | self._rows.keys()))

    def closest(self, name: str) -> str:
        """What was probably meant by a name that is not known; empty when nothing comes near.

        A name without its provider (`gpt-5-mini`) finds the provider that made the model.
        """
        if "/" not in name:
            for provider in ("openai", "anthropic", "google", *PROVIDERS):
                if (full := f"{provider}/{name}") in self:
                    return full
        names = self.names()
        provider = name.partition("/")[0]
        same = [candidate for candidate in names if candidate.startswith(f"{provider}/")]
        found = get_close_matches(name, same or names, n=1, cutoff=0.6) or get_close_matches(
            name, names, n=1, cutoff=0.8
        )
        return found[0] if found else ""

    def with_overrides(self, models: Iterable[Model]) -> Catalog:
        """Return a catalogue in which these models win over those of the same name."""
        return Catalog((*self._own.values(), *models), on=self._on)

    @cached_property
    def _rows(self) -> Mapping[str, snapshot.Row]:
        return {f"{provider}/{row[0]}": row for provider, rows in snapshot.load().rows.items() for row in rows}

    @cached_property
    def _names(self) -> Mapping[str, snapshot.Row]:
        return {
            f"{provider}/{other}": row
            for provider, rows in snapshot.load().rows.items()
            for row in rows
            for other in row[2]
        }

    def _aliased(self, name: str) -> snapshot.Row | None:
        """Find the row of another name of a model, or of a dated release of it. A typing error is not a release."""
        exact = self._names.get(name)
        if exact is not None:
            return exact
        provider, _, remote = name.partition("/")
        best: tuple[int, snapshot.Row] | None = None
        for row in snapshot.load().rows.get(provider, ()):
            if row[0] in {f"{remote}-preview", f"{remote}-latest"}:
                return row
            for stem in (row[0], *row[3]):
                if (
                    remote.startswith(stem)
                    and _RELEASE.fullmatch(remote, len(stem))
                    and (not best or len(stem) > best[0])
                ):
                    best = (len(stem), row)
        return best[1] if best else None


def build(name: str, row: snapshot.Row, on: date) -> Model:
    """Make a model of a row of the snapshot, its provider and its family. Prices are those in force on a day."""
    provider_name, _, remote = name.partition("/")
    if row[0].startswith(f"{remote}-"):
        remote = row[0]  # a name without the provider's `-preview` or `-latest` is understood, but has to be sent whole
    provider, kin, prices = PROVIDERS[provider_name], family(row[0]), snapshot.prices(row, on)
    if not remote.startswith(provider.remote_prefix):
        remote = provider.remote_prefix + remote
    abilities = kin.abilities - provider.never
    context = row[1] or kin.context_tokens
    # A tier that begins beyond the window can never be reached.
    prices = tuple(price for price in prices if price.above_tokens < context)
    return Model(
        name=name,
        api=provider.api,
        remote=remote,
        base_url=provider.base_url,
        key_env=provider.key_env,
        context_tokens=context,
        max_output_tokens=min(kin.max_output_tokens, context),
        abilities=abilities,
        prices=prices,
        regions=provider.regions,
        encoding=kin.encoding,
        quality=quality_prior(prices, kin),
        latency_ms=latency_prior(prices, provider_name, thinking=Ability.THINKING in abilities),
        # Without a price for cached tokens a warm prefix saves no money, whatever the provider keeps.
        cache_ttl_s=provider.cache_ttl_s if prices and prices[0].cached_picos < prices[0].input_picos else 0.0,
        cache_min_tokens=kin.cache_min_tokens or provider.cache_min_tokens,
    )


def blended_usd(prices: tuple[Price, ...]) -> float:
    """Price of a typical mix, three parts input and one part output, in USD per million tokens; 0 when unknown."""
    return (3 * prices[0].input_picos + prices[0].output_picos) / 4e6 if prices else 0.0


def quality_prior(prices: tuple[Price, ...], kin: Family) -> float:
    """Guess a model's quality from price and generation (formula at the top of this module)."""
    price = max(blended_usd(prices), FREE_QUALITY_PRICE)
    return round(1 / (1 + math.exp(-(0.5 + math.log10(price) + 0.6 * (kin.year - 2025)))), 3)


def latency_prior(prices: tuple[Price, ...], provider: str, *, thinking: bool) -> float:
    """Guess how long a call takes, in milliseconds (formula at the top of this module)."""
    speed = (2.0 if thinking else 1.0) * (1 / 3 if provider in FAST_PROVIDERS else 1.0)
    return round(800 * math.sqrt(1 + blended_usd(prices)) * speed, 0)


def _simulated(name: str, quality: float, latency_ms: float, context: int, usd: tuple[float, float]) -> Model:
    fresh, out = (round(price * 1_000_000) for price in usd)
    return Model(
        name=f"simulated/{name}",
        api="simulated",
        remote=name,
        context_tokens=context,
        max_output_tokens=8_192,
        abilities=frozenset(Ability),
        prices=(Price(fresh, out, fresh // 10, fresh),),
        quality=quality,
        latency_ms=latency_ms,
        cache_ttl_s=300.0,
    )


# Made-up models that answer in process; the prices are made up too, and of the size that real tiers have.
SIMULATED: Final = (
    _simulated("economy", 0.45, 400.0, 128_000, (0.10, 0.40)),
    _simulated("standard", 0.70, 900.0, 200_000, (1.00, 5.00)),
    _simulated("premium", 0.90, 2000.0, 200_000, (5.00, 25.00)),
)
