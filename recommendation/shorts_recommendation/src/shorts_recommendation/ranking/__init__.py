"""Ranking: the sequence transformer, the trees, the pre-ranker, and the value that orders a list."""
