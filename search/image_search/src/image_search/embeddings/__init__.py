"""Embeddings: pictures to vectors, by several ways side by side."""
