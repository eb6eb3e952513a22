"""The tools of the starter graph. Replace them with your own."""

from langchain_core.tools import tool

ORDERS = {"W1001": "shipped on Monday, arrives on Thursday", "W1002": "waiting for payment"}


@tool
def get_order_status(order_id: str) -> str:
    """Look up the status of an order by its id."""
    return f"order {order_id}: {ORDERS.get(order_id.strip('#'), 'there is no such order')}"
