"""A support desk for a small outdoor shop: a SQLite database, the rules of the shop, and tools for an agent."""
