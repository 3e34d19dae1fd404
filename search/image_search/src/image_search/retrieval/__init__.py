"""Vectors to candidates: indexes, filters, changes."""
