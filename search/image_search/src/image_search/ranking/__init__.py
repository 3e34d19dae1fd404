"""Candidates to an order: features, trees, a network."""
