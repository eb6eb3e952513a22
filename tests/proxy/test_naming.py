"""What a client's `model` means, over several policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from waywiser.core.models import Model
from waywiser.core.policy import Policy, Tier
from waywiser.errors import ConfigError
from waywiser.proxy.naming import Names, Wanted
from waywiser.proxy.service import Options, open_service
from waywiser.proxy.troubles import Denied

if TYPE_CHECKING:
    from conftest import Proxy

FIRST = Policy("first", (Tier("low", (Model("a/small", remote="small-2"),)), Tier("high", (Model("a/big"),))))
SECOND = Policy("second", (Tier("low", (Model("b/small"),)), Tier("extra", (Model("b/extra"), Model("c/extra")))))
NAMES = Names({"first": FIRST, "second": SECOND})


@pytest.mark.parametrize(
    ("name", "allowed", "wanted"),
    [
        ("", (), Wanted("first")),
        ("auto", (), Wanted("first")),
        ("auto", ("second",), Wanted("second")),
        ("policy:second", (), Wanted("second")),
        ("tier:low", (), Wanted("first", tier="low")),
        ("tier:extra", (), Wanted("second", tier="extra")),
        ("tier:low", ("second",), Wanted("second", tier="low")),
        ("a/big", (), Wanted("first", model="a/big")),
        ("big", (), Wanted("first", model="a/big")),
        ("small-2", (), Wanted("first", model="a/small")),
        ("b/extra", (), Wanted("second", model="b/extra")),
    ],
)
def test_names_that_mean_something(name: str, allowed: tuple[str, ...], wanted: Wanted) -> None:
    assert NAMES.resolve(name, allowed) == wanted


@pytest.mark.parametrize(
    ("name", "allowed", "status"),
    [
        ("policy:second", ("first",), 403),
        ("auto", ("third",), 403),
        ("policy:third", (), 404),
        ("tier:none", (), 404),
        ("a/big", ("second",), 404),
        ("extra", (), 404),  # two models are called so
        ("x" * 10_000, (), 404),
    ],
)
def test_names_that_mean_nothing(name: str, allowed: tuple[str, ...], status: int) -> None:
    with pytest.raises(Denied) as caught:
        NAMES.resolve(name, allowed)
    assert caught.value.status == status
    assert len(str(caught.value)) < 500
    assert "second" not in str(caught.value) or allowed != ("first",) or status == 403


def test_every_name_that_is_listed_means_something() -> None:
    for allowed in ((), ("first",), ("second",)):
        for name in NAMES.listed(allowed):
            assert NAMES.resolve(name, allowed) is not None


def test_several_policies_share_a_store_and_what_is_down(start: Callable[..., Proxy], tmp_path: Path) -> None:
    text = "version: 1\nname: {name}\ntiers: {{only: [simulated/{model}]}}\nsteps: {{synthesis: {{tier: only}}}}\n"
    for name, model in (("one", "economy"), ("two", "premium")):
        (tmp_path / f"{name}.yaml").write_text(text.format(name=name, model=model))
    proxy = start(policies=(str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")))
    headers = {"x-waywiser-session": "both"}
    assert proxy.chat(headers=headers).headers["x-waywiser-model"] == "simulated/economy"
    assert proxy.chat("Again?", model="policy:two", headers=headers).headers["x-waywiser-model"] == "simulated/premium"
    assert [receipt.step for receipt in proxy.service.store.receipts("both")] == [1, 2]
    one, two = proxy.service.engines.values()
    assert one.health is two.health
    with pytest.raises(ConfigError, match="two policies are called 'one'"):
        open_service(Options((str(tmp_path / "one.yaml"),) * 2, ":memory:"))
