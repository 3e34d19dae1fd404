"""Candidate generation: the two-tower model, the item-item and popularity sources, their merge."""
