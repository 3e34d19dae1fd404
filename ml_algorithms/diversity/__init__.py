"""Choosing a list, not items: maximal marginal relevance, determinantal point processes."""
