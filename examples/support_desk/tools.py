"""The support desk as LangChain tools: what an agent sees of the shop.

A tool answers in JSON. When the shop refuses, the tool message has the status `error` and says why in a sentence.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from .desk import Desk, Record, ShopError
from .make_shop import demo_shop

Reason = Literal["no longer needed", "ordered by mistake", "found cheaper", "takes too long"]


def demo_tools() -> list[BaseTool]:
    """Tools on the shop named by `SUPPORT_DESK_DB`, or on a fresh shop that lives as long as the process."""
    return support_tools(os.environ.get("SUPPORT_DESK_DB") or demo_shop())


def support_tools(path: Path | str) -> list[BaseTool]:  # noqa: C901 - ten small functions, no branches
    """Ten tools over the shop at `path`; they hold no connection and may be used from any thread.

    Raises `FileNotFoundError` when there is no shop at `path`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no shop at {path}; make one with make_shop.py")
    desk = Desk(path)

    def find_customer(zip: str, email: str = "", name: str = "") -> str:  # noqa: A002 - the word a customer uses
        """Find and verify a customer by zip code and e-mail address, or by zip code and full name.

        Args:
            zip: Five-digit zip code of the customer's account.
            email: E-mail address of the account.
            name: First and last name of the customer.
        """
        return _answer(lambda: desk.find_customer(zip, email, name))

    def list_orders(customer_id: str) -> str:
        """List all orders of a customer with their status, newest first.

        Args:
            customer_id: Customer id such as C-1001, from find_customer.
        """
        return _answer(lambda: desk.list_orders(customer_id))

    def get_order(order_id: str) -> str:
        """Look up the details of an order: status, dates, payment, and its items with their ids.

        Args:
            order_id: Order number such as #W10001.
        """
        return _answer(lambda: desk.get_order(order_id))

    def track_shipment(order_id: str) -> str:
        """Track the parcel of an order: where it is, carrier, and when it arrives or was delivered.

        Args:
            order_id: Order number such as #W10001.
        """
        return _answer(lambda: desk.track_shipment(order_id))

    def search_products(query: str) -> str:
        """Search the products of the shop: variants such as size and colour, prices and stock.

        Args:
            query: Words that name the product, such as "rain jacket".
        """
        return _answer(lambda: desk.search_products(query))

    def search_policies(query: str) -> str:
        """Search the shop's policies and rules: returns, refunds, shipping, warranty, gift cards, sizes, care.

        Args:
            query: What to know, in a few words.
        """
        return _answer(lambda: desk.search_policies(query))

    def cancel_order(order_id: str, verification: str, reason: Reason) -> str:
        """Cancel a whole pending order and pay it back.

        Args:
            order_id: Order number such as #W10001.
            verification: Code such as K-0123456789, from find_customer.
            reason: Why the customer cancels.
        """
        return _answer(lambda: desk.cancel_order(order_id, verification, reason))

    def refund_item(order_id: str, item_id: str, verification: str) -> str:
        """Return a delivered item for a refund to the original payment method, within 30 days of delivery.

        Args:
            order_id: Order number such as #W10001.
            item_id: Item id such as I-10001-1, from get_order.
            verification: Code such as K-0123456789, from find_customer.
        """
        return _answer(lambda: desk.refund_item(order_id, item_id, verification))

    def exchange_item(order_id: str, item_id: str, new_variant_id: str, verification: str) -> str:
        """Exchange an item for another size or colour of the same product.

        Args:
            order_id: Order number such as #W10001.
            item_id: Item id such as I-10001-1, from get_order.
            new_variant_id: Variant id such as V-031 of the wanted size or colour, from search_products.
            verification: Code such as K-0123456789, from find_customer.
        """
        return _answer(lambda: desk.exchange_item(order_id, item_id, new_variant_id, verification))

    def change_address(order_id: str, verification: str, street: str, city: str, state: str, zip: str) -> str:  # noqa: A002 - called by name
        """Change the delivery address of a pending order.

        Args:
            order_id: Order number such as #W10001.
            verification: Code such as K-0123456789, from find_customer.
            street: House number and street.
            city: City.
            state: Two-letter state.
            zip: Five-digit zip code.
        """
        place = {"street": street, "city": city, "state": state, "zip_code": zip}
        return _answer(lambda: desk.change_address(order_id, verification, **place))

    functions = (find_customer, list_orders, get_order, track_shipment, search_products, search_policies)
    changes = (cancel_order, refund_item, exchange_item, change_address)
    return [
        StructuredTool.from_function(function, parse_docstring=True, handle_tool_error=True)
        for function in (*functions, *changes)
    ]


def _answer(ask: Callable[[], Record]) -> str:
    try:
        return json.dumps(ask(), ensure_ascii=False)
    except ShopError as refused:
        raise ToolException(str(refused)) from None
    except sqlite3.OperationalError as error:  # locked or out of reach: the agent may go on without it
        raise ToolException(
            f"The shop's records cannot be reached right now ({error}); nothing was changed."
        ) from error
