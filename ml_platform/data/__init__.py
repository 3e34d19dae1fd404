"""Datasets and splits: where interactions come from and how they are cut into past and future.

``datasets`` (the registry and ``load_dataset``), ``download`` (sources, cache, checksums),
``movielens`` (parsers), ``synthetic`` (generator with an oracle), ``schema`` (what a valid table
is), ``interactions`` (the array form), ``splits`` (queries without leaks).
"""
