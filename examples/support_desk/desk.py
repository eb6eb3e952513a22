"""What the shop allows: every look-up and every change an agent may make, with the rules of the handbook enforced here.

Rules do not live in a prompt. Each change runs in one transaction that starts by taking the write lock, so it is done
whole or not at all, and two agents cannot both cancel the same order. A connection is opened per call: a `Desk` may be
shared by any number of threads.

A change needs a verification code, which only `find_customer` gives out, for a matching e-mail (or name) and zip code.
The code is a keyed digest of the customer's id: nothing is remembered between calls, so a repeated step does no harm,
and a model cannot make one up.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TypeAlias

from .documents import search_documents, words

Record: TypeAlias = dict[str, object]
WINDOW_DAYS = 30
ITEMS = """
SELECT items.id, products.id AS product, products.name, variants.id AS variant, variants.options,
       items.quantity, items.paid_cents, items.status, products.category
FROM items JOIN variants ON variants.id = items.variant_id
JOIN products ON products.id = variants.product_id WHERE items.order_id = ? ORDER BY items.id"""


class ShopError(Exception):
    """The shop says no, or knows no such thing. The text is for the agent: what is wrong and what to do instead."""


class Desk:
    """The shop behind one database file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def find_customer(self, zip_code: str, email: str = "", name: str = "") -> Record:
        """Match a customer by zip code and e-mail or full name; the answer carries the code for changes."""
        if not email.strip() and not name.strip():
            raise ShopError("Give the customer's e-mail address or full name together with the zip code.")
        with self._open() as db:
            rows = db.execute("SELECT * FROM customers WHERE zip = ?", (zip_code.strip(),)).fetchall()
            for row in rows:
                full = f"{row['first_name']} {row['last_name']}"
                if email.strip().lower() == row["email"] or (not email and _plain(name) == _plain(full)):
                    code = _code(db, row["id"])
                    return {"customer_id": row["id"], "name": full, "email": row["email"], "verification": code}
        raise ShopError("No customer matches these details. Ask for the e-mail or full name and the zip code again.")

    def list_orders(self, customer_id: str) -> Record:
        """All orders of a customer, newest first."""
        with self._open() as db:
            if not db.execute("SELECT 1 FROM customers WHERE id = ?", (customer_id.strip(),)).fetchone():
                raise ShopError(f"Customer {customer_id!r} was not found. Use find_customer first.")
            rows = db.execute(
                "SELECT id, status, placed_on FROM orders WHERE customer_id = ? ORDER BY placed_on DESC, id DESC",
                (customer_id.strip(),),
            ).fetchall()
            orders = [
                {"order_id": row["id"], "status": row["status"], "placed_on": row["placed_on"],
                 "items": ", ".join(f"{item['name']} ({item['options']})" for item in db.execute(ITEMS, (row["id"],)))}
                for row in rows
            ]  # fmt: skip
        return {"customer_id": customer_id.strip(), "orders": orders}

    def get_order(self, order_id: str) -> Record:
        """One order with its items; nothing in it tells who the customer is."""
        with self._open() as db:
            order = _order(db, order_id)
            items = [
                {"item_id": row["id"], "product": row["name"], "variant_id": row["variant"], "options": row["options"],
                 "quantity": row["quantity"], "paid": _money(row["paid_cents"]), "status": row["status"]}
                for row in db.execute(ITEMS, (order["id"],))
            ]  # fmt: skip
            arrived = _delivered_on(db, order["id"])
            paid = db.execute("SELECT sum(cents) FROM payments WHERE order_id = ?", (order["id"],)).fetchone()[0]
        found: Record = {"order_id": order["id"], "status": order["status"], "placed_on": order["placed_on"]}
        if arrived:
            found |= {"delivered_on": arrived, "refund_until": str(_last_day(arrived))}
        return found | {"payment": order["payment"], "balance_paid": _money(paid), "items": items}

    def track_shipment(self, order_id: str) -> Record:
        """Where the parcel of an order is."""
        with self._open() as db:
            order = _order(db, order_id)
            row = db.execute("SELECT * FROM shipments WHERE order_id = ?", (order["id"],)).fetchone()
        if row is None:
            return {"order_id": order["id"], "status": order["status"], "shipment": "nothing has been shipped"}
        found: Record = {"order_id": order["id"], "status": order["status"], "carrier": row["carrier"]}
        found |= {"tracking": row["tracking"], "shipped_on": row["shipped_on"]}
        last = {"delivered_on": row["delivered_on"]} if row["delivered_on"] else {"expected_on": row["expected_on"]}
        return found | last

    def search_products(self, query: str, limit: int = 4) -> Record:
        """Products whose name, category or description share a word with the query, with variants, price and stock."""
        wanted = set(words(query))
        with self._open() as db:
            scored = []
            for row in db.execute("SELECT * FROM products ORDER BY id"):
                shared = len(wanted & set(words(f"{row['name']} {row['category']} {row['description']}")))
                shared += len(wanted & set(words(row["name"])))
                if shared:
                    scored.append((-shared, row["id"], row))
            products = [
                {"product_id": row["id"], "name": row["name"], "description": row["description"],
                 "variants": _variants(db, row["id"])}
                for _, _, row in sorted(scored, key=lambda entry: entry[:2])[:limit]
            ]  # fmt: skip
        if not products:
            raise ShopError(f"No product matches {query!r}.")
        return {"products": products}

    def search_policies(self, query: str) -> Record:
        """Return the two sections of the handbook nearest to the query."""
        passages = search_documents(self.path, query, limit=2)
        if not passages:
            raise ShopError(f"The handbook says nothing about {query!r}.")
        return {"policies": [{"title": passage.title, "text": passage.text} for passage in passages]}

    def cancel_order(self, order_id: str, verification: str, reason: str) -> Record:
        """Cancel a pending order, put its items back on the shelf and pay everything back."""
        with self._change() as db:
            order = _order(db, order_id)
            _check_code(db, order, verification)
            if order["status"] != "pending":
                raise ShopError(f"Order {order['id']} is {order['status']}; only a pending order can be cancelled.")
            for item in db.execute(ITEMS, (order["id"],)).fetchall():
                _restock(db, item["variant"], item["quantity"])
            db.execute("UPDATE items SET status = 'cancelled' WHERE order_id = ?", (order["id"],))
            db.execute("UPDATE orders SET status = 'cancelled', cancel_reason = ? WHERE id = ?", (reason, order["id"]))
            paid = db.execute("SELECT sum(cents) FROM payments WHERE order_id = ?", (order["id"],)).fetchone()[0]
            _pay(db, order, -paid, "order cancelled")
        return {
            "order_id": order["id"],
            "status": "cancelled",
            "refunded": _money(paid),
            "refunded_to": order["payment"],
        }

    def refund_item(self, order_id: str, item_id: str, verification: str) -> Record:
        """Refund one delivered item to the original payment method, within the return window."""
        with self._change() as db:
            order = _order(db, order_id)
            _check_code(db, order, verification)
            item = _open_item(db, order, item_id)
            if order["status"] != "delivered":
                raise ShopError(f"Order {order['id']} is {order['status']}; only delivered items are refunded.")
            _check_window(db, order)
            db.execute("UPDATE items SET status = 'refunded' WHERE id = ?", (item["id"],))
            _restock(db, item["variant"], item["quantity"])
            _pay(db, order, -item["paid_cents"], f"refund of {item['id']}")
        money = _money(item["paid_cents"])
        return {"order_id": order["id"], "item_id": item["id"], "refunded": money, "refunded_to": order["payment"]}

    def exchange_item(self, order_id: str, item_id: str, new_variant_id: str, verification: str) -> Record:
        """Swap an item for another variant of the same product that is in stock, and settle the difference."""
        with self._change() as db:
            order = _order(db, order_id)
            _check_code(db, order, verification)
            item = _open_item(db, order, item_id)
            new = db.execute("SELECT * FROM variants WHERE id = ?", (new_variant_id.strip(),)).fetchone()
            if new is None or new["product_id"] != item["product"] or new["id"] == item["variant"]:
                raise ShopError(f"{new_variant_id!r} is not another variant of {item['name']}. Use search_products.")
            if new["stock"] < item["quantity"]:
                raise ShopError(f"{item['name']} ({new['options']}) is not in stock.")
            if order["status"] == "delivered":
                _check_window(db, order)
            elif order["status"] != "pending":
                raise ShopError(f"Order {order['id']} is {order['status']}; wait until it has been delivered.")
            price = new["price_cents"] * item["quantity"]
            _restock(db, item["variant"], item["quantity"])
            _restock(db, new["id"], -item["quantity"])
            status = "exchanged" if order["status"] == "delivered" else "ordered"
            db.execute(
                "UPDATE items SET variant_id = ?, paid_cents = ?, status = ? WHERE id = ?",
                (new["id"], price, status, item["id"]),
            )
            _pay(db, order, price - item["paid_cents"], f"exchange of {item['id']}")
        difference = _money(price - item["paid_cents"])
        return {"order_id": order["id"], "item_id": item["id"], "product": item["name"], "new_options": new["options"],
                "difference": difference, "settled_with": order["payment"]}  # fmt: skip

    def change_address(
        self, order_id: str, verification: str, *, street: str, city: str, state: str, zip_code: str
    ) -> Record:
        """Send a pending order somewhere else."""
        if len(zip_code) != 5 or not zip_code.isdigit() or len(state) != 2 or not street.strip() or not city.strip():
            raise ShopError("An address needs a street, a city, a two-letter state and a five-digit zip code.")
        with self._change() as db:
            order = _order(db, order_id)
            _check_code(db, order, verification)
            if order["status"] != "pending":
                raise ShopError(f"Order {order['id']} is {order['status']}; only a pending order can be redirected.")
            place = (street.strip(), city.strip(), state.upper(), zip_code)
            db.execute("UPDATE orders SET street=?, city=?, state=?, zip=? WHERE id=?", (*place, order["id"]))
        return {"order_id": order["id"], "delivers_to": f"{place[0]}, {place[1]}, {place[2]} {place[3]}"}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # uri mode, so that a wrong path is an error and not a new empty shop
        db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=rw", uri=True, timeout=10, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            yield db
        finally:
            db.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _order(db: sqlite3.Connection, order_id: str) -> sqlite3.Row:
    wanted = "#" + order_id.strip().lstrip("#").upper()
    row: sqlite3.Row | None = db.execute("SELECT * FROM orders WHERE id = ?", (wanted,)).fetchone()
    if row is None:
        raise ShopError(f"Order {order_id!r} was not found. Check the number, or use list_orders.")
    return row


def _open_item(db: sqlite3.Connection, order: sqlite3.Row, item_id: str) -> sqlite3.Row:
    for item in db.execute(ITEMS, (order["id"],)):
        if item["id"] == item_id.strip().upper():
            if item["status"] != "ordered":
                raise ShopError(f"Item {item['id']} is {item['status']} already.")
            if item["category"] == "gift cards":
                raise ShopError("Gift cards are neither refunded nor exchanged.")
            found: sqlite3.Row = item
            return found
    raise ShopError(f"Item {item_id!r} was not found in order {order['id']}. Use get_order to see its items.")


def _check_code(db: sqlite3.Connection, order: sqlite3.Row, verification: str) -> None:
    if not hmac.compare_digest(verification.strip(), _code(db, order["customer_id"])):
        raise ShopError(
            f"This verification code does not open order {order['id']}. Use find_customer for its owner first."
        )


def _code(db: sqlite3.Connection, customer_id: str) -> str:
    secret = db.execute("SELECT value FROM shop WHERE key = 'secret'").fetchone()[0]
    number = int.from_bytes(hmac.digest(bytes.fromhex(secret), customer_id.encode(), "sha256")[:8], "big")
    return f"K-{number % 10**10:010d}"


def _delivered_on(db: sqlite3.Connection, order_id: str) -> str:
    row = db.execute("SELECT delivered_on FROM shipments WHERE order_id = ?", (order_id,)).fetchone()
    return str(row[0]) if row and row[0] else ""


def _last_day(delivered_on: str) -> date:
    return date.fromisoformat(delivered_on) + timedelta(days=WINDOW_DAYS)


def _check_window(db: sqlite3.Connection, order: sqlite3.Row) -> None:
    arrived = _delivered_on(db, order["id"])
    today = date.fromisoformat(db.execute("SELECT value FROM shop WHERE key = 'today'").fetchone()[0])
    if today > _last_day(arrived):
        raise ShopError(f"Order {order['id']} was delivered on {arrived}, more than {WINDOW_DAYS} days ago.")


def _variants(db: sqlite3.Connection, product: str) -> list[Record]:
    rows = db.execute("SELECT * FROM variants WHERE product_id = ? ORDER BY id", (product,))
    return [
        {"variant_id": row["id"], "options": row["options"], "price": _money(row["price_cents"]), "stock": row["stock"]}
        for row in rows
    ]


def _restock(db: sqlite3.Connection, variant: str, quantity: int) -> None:
    db.execute("UPDATE variants SET stock = stock + ? WHERE id = ?", (quantity, variant))


def _pay(db: sqlite3.Connection, order: sqlite3.Row, cents: int, note: str) -> None:
    if cents:
        today = db.execute("SELECT value FROM shop WHERE key = 'today'").fetchone()[0]
        db.execute(
            "INSERT INTO payments (order_id, made_on, method, cents, note) VALUES (?, ?, ?, ?, ?)",
            (order["id"], today, order["payment"], cents, note),
        )


def _money(cents: int) -> str:
    return f"{cents / 100:.2f} USD"


def _plain(name: str) -> str:
    return " ".join(name.lower().split())
