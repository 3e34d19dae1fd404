"""Ranking: the sequence transformer, the trees, the pre-ranker, the value that orders a list."""
