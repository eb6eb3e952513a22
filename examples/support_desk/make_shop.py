"""Build the shop's database: customers, products with variants, orders, items, shipments and the handbook.

    python examples/support_desk/make_shop.py shop.sqlite

The same file comes out every time: names, orders and dates are drawn from a seeded generator, and "today" is a row of
the table `shop`, so that a return window means the same tomorrow as it does now. Money is in cents.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import date, timedelta
from functools import cache
from pathlib import Path

HANDBOOK = Path(__file__).parent / "handbook"
TODAY = date(2026, 3, 16)
SEED = 20260316
CUSTOMERS = 40
ORDERS = 120

SCHEMA = """
CREATE TABLE shop (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE documents (id TEXT PRIMARY KEY, title TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE customers (
  id TEXT PRIMARY KEY, first_name TEXT NOT NULL, last_name TEXT NOT NULL, email TEXT NOT NULL UNIQUE,
  street TEXT NOT NULL, city TEXT NOT NULL, state TEXT NOT NULL, zip TEXT NOT NULL);
CREATE TABLE products (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL, description TEXT NOT NULL,
  warranty_months INTEGER NOT NULL);
CREATE TABLE variants (
  id TEXT PRIMARY KEY, product_id TEXT NOT NULL REFERENCES products, options TEXT NOT NULL,
  price_cents INTEGER NOT NULL, stock INTEGER NOT NULL CHECK (stock >= 0));
CREATE TABLE orders (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers,
  status TEXT NOT NULL CHECK (status IN ('pending', 'shipped', 'delivered', 'cancelled')),
  placed_on TEXT NOT NULL, payment TEXT NOT NULL, street TEXT NOT NULL, city TEXT NOT NULL, state TEXT NOT NULL,
  zip TEXT NOT NULL, cancel_reason TEXT NOT NULL DEFAULT '');
CREATE TABLE items (
  id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, variant_id TEXT NOT NULL REFERENCES variants,
  quantity INTEGER NOT NULL, paid_cents INTEGER NOT NULL,
  status TEXT NOT NULL DEFAULT 'ordered' CHECK (status IN ('ordered', 'refunded', 'exchanged', 'cancelled')));
CREATE TABLE shipments (
  id TEXT PRIMARY KEY, order_id TEXT NOT NULL UNIQUE REFERENCES orders, carrier TEXT NOT NULL, tracking TEXT NOT NULL,
  shipped_on TEXT NOT NULL, expected_on TEXT NOT NULL, delivered_on TEXT);
CREATE TABLE payments (
  id INTEGER PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, made_on TEXT NOT NULL, method TEXT NOT NULL,
  cents INTEGER NOT NULL, note TEXT NOT NULL);
CREATE INDEX orders_by_customer ON orders (customer_id);
CREATE INDEX items_by_order ON items (order_id);
"""

# name, category, what it is, months of warranty, lowest price in cents, its options
PRODUCTS = (
    ("Ridgeline Tent", "tents", "A three-season tent for two with a full rain fly.", 36, 21900, ("green", "orange")),
    ("Basecamp Tent", "tents", "A roomy four-person tent to stand up in.", 36, 38900, ("grey", "green")),
    ("Trail Boot", "shoes", "A waterproof leather hiking boot.", 24, 15900, ("size 8", "size 9", "size 10", "size 11")),
    ("Creek Sandal", "shoes", "A light sandal for water and camp.", 12, 5900, ("size 8", "size 9", "size 10")),
    ("Summit Jacket", "clothing", "A three-layer rain jacket with a helmet hood.", 24, 18900, ("S", "M", "L", "XL")),
    ("Merino Shirt", "clothing", "A long-sleeved base layer of fine wool.", 12, 6900, ("S", "M", "L")),
    ("Fleece Pullover", "clothing", "A warm mid layer with a chest pocket.", 12, 7900, ("blue M", "blue L", "red M")),
    ("Feather Sleeping Bag", "sleeping", "Down, comfortable to minus five.", 36, 24900, ("regular", "long")),
    ("Camp Mat", "sleeping", "An insulated mat that inflates by itself.", 24, 8900, ("regular", "wide")),
    ("Day Pack", "packs", "A 22-litre pack with a laptop sleeve.", 24, 7900, ("black", "blue", "yellow")),
    ("Trek Pack", "packs", "A 55-litre pack with an adjustable back.", 36, 17900, ("S/M", "M/L")),
    ("Spirit Stove", "cooking", "A gas stove that boils a litre in three minutes.", 24, 5400, ("standard",)),
    ("Steel Bottle", "cooking", "Keeps tea hot for twelve hours.", 12, 2900, ("0.5 l", "1 l")),
    ("Head Torch", "lights", "400 lumens, charges by USB.", 24, 4900, ("black", "white")),
    ("Gift Card", "gift cards", "Sent by e-mail, good for two years.", 0, 5000, ("50 dollars", "100 dollars")),
)
FIRST_NAMES = [
    "Alma",
    "Bruno",
    "Carla",
    "Dennis",
    "Elif",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kenji",
    "Leila",
    "Marco",
    "Nadia",
    "Oscar",
    "Paula",
    "Quentin",
    "Rosa",
    "Samir",
    "Tessa",
]
LAST_NAMES = [
    "Abbott",
    "Berger",
    "Castillo",
    "Dahl",
    "Eriksen",
    "Fontaine",
    "Grant",
    "Hoffman",
    "Iyer",
    "Jensen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Novak",
    "Okafor",
    "Pereira",
]
STREETS = ("Oak Street", "Mill Road", "Harbour Lane", "Station Avenue", "Chestnut Drive", "Hill Street")
CITIES = (
    ("Portland", "OR", 97201), ("Denver", "CO", 80202), ("Austin", "TX", 78701), ("Boston", "MA", 2108),
    ("Madison", "WI", 53703), ("Tucson", "AZ", 85701), ("Albany", "NY", 12207), ("Boise", "ID", 83702),
)  # fmt: skip
PAYMENTS = ("credit card", "debit card", "bank transfer", "gift card")


def make_shop(path: Path, *, seed: int = SEED) -> None:
    """Write a new shop to `path`. Raises `FileExistsError` rather than touch a file that is there."""
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another path or remove it first")
    draw = random.Random(seed)
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA)
        secret = f"{draw.getrandbits(128):032x}"
        db.executemany("INSERT INTO shop VALUES (?, ?)", [("today", TODAY.isoformat()), ("secret", secret)])
        _add_handbook(db)
        _add_products(db, draw)
        _add_customers(db, draw)
        for number in range(ORDERS):
            _add_order(db, draw, number)


@cache
def demo_shop() -> Path:
    """Make a fresh shop in a temporary file, once a process: every demonstration starts from the same state."""
    path = Path(tempfile.mkdtemp(prefix="support_desk_")) / "shop.sqlite"
    make_shop(path)
    return path


def _add_handbook(db: sqlite3.Connection) -> None:
    for file in sorted(HANDBOOK.glob("*.md")):
        heading, _, body = file.read_text(encoding="utf-8").partition("\n")
        db.execute("INSERT INTO documents VALUES (?, ?, ?)", (file.stem, heading.lstrip("# ").strip(), body.strip()))


def _add_products(db: sqlite3.Connection, draw: random.Random) -> None:
    for number, (name, category, description, warranty, price, options) in enumerate(PRODUCTS, start=1):
        product = f"P-{number:02d}"
        db.execute("INSERT INTO products VALUES (?, ?, ?, ?, ?)", (product, name, category, description, warranty))
        for place, option in enumerate(options, start=1):
            cents = price * place if category == "gift cards" else price + 500 * (place // 2)
            stock = 999 if category == "gift cards" else draw.choice((0, 3, 5, 8, 12, 20))
            db.execute(
                "INSERT INTO variants VALUES (?, ?, ?, ?, ?)", (f"V-{number:02d}{place}", product, option, cents, stock)
            )


def _add_customers(db: sqlite3.Connection, draw: random.Random) -> None:
    names = [(first, last) for first in FIRST_NAMES for last in LAST_NAMES]
    for number, (first, last) in enumerate(draw.sample(names, CUSTOMERS), start=1001):
        city, state, code = draw.choice(CITIES)
        street = f"{draw.randint(1, 240)} {draw.choice(STREETS)}"
        email = f"{first}.{last}@example.com".lower()
        row = (f"C-{number}", first, last, email, street, city, state, f"{code + draw.randint(0, 8):05d}")
        db.execute("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _add_order(db: sqlite3.Connection, draw: random.Random, number: int) -> None:
    """Add one order. Every customer has three; the newest third of all orders is still open."""
    customer = f"C-{1001 + number % CUSTOMERS}"
    age = draw.randint(0, 4) if number >= 2 * CUSTOMERS else draw.randint(6, 90)
    placed = TODAY - timedelta(days=age)
    status = draw.choice(("pending", "pending", "shipped")) if age < 5 else "delivered"
    order, payment = f"#W{10001 + number * 7}", draw.choice(PAYMENTS)
    address = db.execute("SELECT street, city, state, zip FROM customers WHERE id = ?", (customer,)).fetchone()
    row = (order, customer, status, placed.isoformat(), payment, *address)
    db.execute(
        "INSERT INTO orders (id, customer_id, status, placed_on, payment, street, city, state, zip)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    variants = db.execute("SELECT id, price_cents FROM variants ORDER BY id").fetchall()
    total = 0
    for place, (variant, cents) in enumerate(draw.sample(variants, draw.randint(1, 3)), start=1):
        quantity = draw.choice((1, 1, 1, 2))
        total += cents * quantity
        item = (f"I-{10001 + number * 7}-{place}", order, variant, quantity, cents * quantity)
        db.execute("INSERT INTO items (id, order_id, variant_id, quantity, paid_cents) VALUES (?, ?, ?, ?, ?)", item)
    db.execute(
        "INSERT INTO payments (order_id, made_on, method, cents, note) VALUES (?, ?, ?, ?, 'order placed')",
        (order, placed.isoformat(), payment, total),
    )
    if status != "pending":
        shipped = placed + timedelta(days=1)
        arrived = (shipped + timedelta(days=draw.randint(2, 4))).isoformat() if status == "delivered" else None
        tracking = f"TRK{draw.randint(10**8, 10**9 - 1)}"
        expected = (shipped + timedelta(days=4)).isoformat()
        shipment = (f"S-{10001 + number * 7}", order, draw.choice(("Northbound", "Parcel Express")), tracking)
        db.execute(
            "INSERT INTO shipments VALUES (?, ?, ?, ?, ?, ?, ?)", (*shipment, shipped.isoformat(), expected, arrived)
        )


def main() -> int:
    """Make a shop at the path given on the command line."""
    if len(sys.argv) != 2:
        print("usage: make_shop.py PATH", file=sys.stderr)
        return 2
    try:
        make_shop(Path(sys.argv[1]))
    except (OSError, sqlite3.Error) as error:
        print(f"no shop was made: {error}", file=sys.stderr)
        return 2
    print(f"{sys.argv[1]}: {CUSTOMERS} customers, {ORDERS} orders, today is {TODAY}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
