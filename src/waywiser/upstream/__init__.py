"""Upstreams: the wire dialects, one taxonomy of failures, and the client that speaks HTTP."""
