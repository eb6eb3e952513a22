"""One structured event a step, for logs. Silent unless asked for."""
