"""A YouTube-style home feed on MovieLens: retrieve, rank, re-rank, evaluate and serve."""
