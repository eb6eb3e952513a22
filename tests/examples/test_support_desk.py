"""The shop keeps its rules whatever is asked of it: refused changes leave no trace, done ones are whole."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from langchain_core.messages import ToolMessage
from support_desk.desk import Desk, ShopError
from support_desk.documents import search_documents
from support_desk.tools import demo_tools, support_tools

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "support_desk"


def code(desk: Desk, name: str, zip_code: str) -> str:
    return str(desk.find_customer(zip_code, name=name)["verification"])


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def test_the_script_makes_the_same_shop_every_time_and_overwrites_nothing(tmp_path: Path, shop: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "make_shop.py"), str(tmp_path / "other.sqlite")]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert dump(tmp_path / "other.sqlite") == dump(shop)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_the_shop_is_large_enough_to_be_one(ask: Callable[[str], object]) -> None:
    assert ask("SELECT count(*) FROM customers") == 40
    assert ask("SELECT count(*) FROM orders") == 120
    assert ask("SELECT count(*) FROM documents") == 12
    assert ask("SELECT count(DISTINCT status) FROM orders") == 3
    # every order was paid what its items cost
    assert not ask("""SELECT count(*) FROM orders o WHERE (SELECT sum(cents) FROM payments WHERE order_id = o.id)
                      != (SELECT sum(paid_cents) FROM items WHERE order_id = o.id)""")


def test_a_customer_is_known_by_zip_and_email_or_name_and_by_nothing_less(shop: Path) -> None:
    desk = Desk(shop)
    found = desk.find_customer("53707", email="Farid.Fontaine@example.com")
    assert found["customer_id"] == desk.find_customer("53707", name="farid  fontaine")["customer_id"] == "C-1001"
    for details in (
        ("53707", "", ""),
        ("53708", "farid.fontaine@example.com", ""),
        ("53707", "x@y.z", "Farid Fontaine"),
    ):
        with pytest.raises(ShopError):
            desk.find_customer(*details)


def test_a_code_opens_the_orders_of_its_customer_only(shop: Path) -> None:
    desk = Desk(shop)
    before = dump(shop)
    for wrong in (code(desk, "Ines Dahl", "80205"), "", "K-0000000000"):
        with pytest.raises(ShopError, match="does not open"):
            desk.cancel_order("#W10561", wrong, "no longer needed")
    assert dump(shop) == before


def test_cancelling_pays_back_restocks_and_works_once(shop: Path, ask: Callable[[str], object]) -> None:
    desk, stock = Desk(shop), "SELECT stock FROM variants WHERE id = 'V-121'"
    before = ask(stock)
    opened = code(desk, "Farid Fontaine", "53707")
    done = desk.cancel_order("w10561", opened, "found cheaper")
    assert done == {"order_id": "#W10561", "status": "cancelled", "refunded": "54.00 USD", "refunded_to": "credit card"}
    assert ask(stock) == before + 1  # type: ignore[operator]
    assert ask("SELECT sum(cents) FROM payments WHERE order_id = '#W10561'") == 0
    with pytest.raises(ShopError, match="only a pending order"):
        desk.cancel_order("#W10561", opened, "found cheaper")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda desk, key: desk.cancel_order("#W10281", key, "found cheaper"), "only a pending order"),
        (lambda desk, key: desk.refund_item("#W10001", "I-10001-1", key), "more than 30 days ago"),
        (lambda desk, key: desk.refund_item("#W10561", "I-10561-1", key), "only delivered items"),
        (lambda desk, key: desk.refund_item("#W10281", "I-10001-1", key), "not found in order"),
        (lambda desk, key: desk.exchange_item("#W10281", "I-10281-2", "V-042", key), "not in stock"),
        (lambda desk, key: desk.exchange_item("#W10281", "I-10281-2", "V-031", key), "not another variant"),
        (lambda desk, key: desk.exchange_item("#W10281", "I-10281-2", "V-043", key), "not another variant"),
        (lambda desk, key: desk.cancel_order("#W7654321", key, "found cheaper"), "was not found"),
        (
            lambda desk, key: desk.change_address(
                "#W10281", key, street="1 A St", city="X", state="OR", zip_code="97201"
            ),
            "only a pending order",
        ),
        (
            lambda desk, key: desk.change_address(
                "#W10561", key, street="1 A St", city="X", state="OR", zip_code="9720"
            ),
            "five-digit zip",
        ),
    ],
)
def test_a_refused_change_says_why_and_leaves_no_trace(
    shop: Path, change: Callable[[Desk, str], object], message: str
) -> None:
    desk = Desk(shop)
    key, before = code(desk, "Farid Fontaine", "53707"), dump(shop)
    with pytest.raises(ShopError, match=message):
        change(desk, key)
    assert dump(shop) == before


def test_gift_cards_stay_sold(shop: Path) -> None:
    desk = Desk(shop)
    with pytest.raises(ShopError, match="Gift cards"):
        desk.refund_item("#W10428", "I-10428-2", code(desk, "Elif Castillo", "12208"))


def test_an_exchange_settles_the_difference_and_happens_once(shop: Path, ask: Callable[[str], object]) -> None:
    desk = Desk(shop)
    key = code(desk, "Greta Okafor", "53710")
    done = desk.exchange_item("#W10386", "I-10386-1", "V-032", key)
    assert done["difference"] == "5.00 USD"
    assert ask("SELECT sum(cents) FROM payments WHERE order_id = '#W10386'") == 16400
    with pytest.raises(ShopError, match="exchanged already"):
        desk.exchange_item("#W10386", "I-10386-1", "V-033", key)


def test_of_twenty_threads_that_cancel_one_order_one_succeeds(shop: Path, ask: Callable[[str], object]) -> None:
    desk = Desk(shop)
    key = code(desk, "Farid Fontaine", "53707")

    def cancel(_: int) -> bool:
        try:
            return bool(desk.cancel_order("#W10561", key, "found cheaper"))
        except ShopError:
            return False

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(cancel, range(20))) == 1
    assert ask("SELECT count(*) FROM payments WHERE order_id = '#W10561'") == 2


def test_the_tools_speak_json_and_their_refusals_are_errors(shop: Path) -> None:
    tools = {tool.name: tool for tool in support_tools(shop)}
    assert len(tools) == 10
    assert all(tool.description for tool in tools.values())
    assert json.loads(tools["get_order"].invoke({"order_id": "#W10561"}))["status"] == "pending"
    call = {"type": "tool_call", "id": "1", "name": "get_order", "args": {"order_id": "#W4316152"}}
    refused = tools["get_order"].invoke(call)
    assert isinstance(refused, ToolMessage)
    assert refused.status == "error"
    assert "was not found" in str(refused.content)


def test_a_locked_or_missing_shop_is_a_sentence_not_a_traceback(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"make_shop\.py"):
        support_tools(tmp_path / "nowhere.sqlite")
    find = {tool.name: tool for tool in support_tools(shop)}["list_orders"]
    shop.unlink()
    assert "cannot be reached" in find.invoke({"customer_id": "C-1001"})
    assert not shop.exists()


def test_the_demo_shop_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPPORT_DESK_DB", raising=False)
    first, second = demo_tools(), demo_tools()
    order = {"order_id": "#W10561"}
    assert first[2].invoke(order) == second[2].invoke(order)


@pytest.mark.parametrize(
    ("question", "document"),
    [
        ("How many days do I have to return something?", "returns"),
        ("Can I get my refund on another card?", "refunds"),
        ("What does express delivery cost?", "shipping"),
        ("The zip of my tent broke after two years, is that covered?", "warranty"),
        ("Are gift cards refundable?", "gift_cards"),
        ("How do I wash down?", "repairs"),
        ("Do boots run small?", "sizes"),
    ],
)
def test_the_handbook_is_found_by_what_is_asked(shop: Path, question: str, document: str) -> None:
    assert document in [passage.document for passage in search_documents(shop, question, limit=2)]
    assert search_documents(shop, "zebra xylophone") == []
