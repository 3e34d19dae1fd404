"""Nearest neighbours: exact, hashed, clustered, compressed and graph search, from scratch."""
