"""Shorts recommendation: one video at a time, on a world whose truth is known."""
