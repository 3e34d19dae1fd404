"""Reporting: the results of a run, for people."""
