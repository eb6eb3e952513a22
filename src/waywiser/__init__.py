"""Waywiser."""
