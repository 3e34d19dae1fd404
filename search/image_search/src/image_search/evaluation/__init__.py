"""Evaluation: retrieval judged by class."""
