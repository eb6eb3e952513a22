"""Where sessions live: in memory, in one SQLite file, or in Redis. One conformance suite runs against all of them."""
