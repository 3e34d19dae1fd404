"""The pipeline on a real micro-video set with its published split, beside published figures."""
