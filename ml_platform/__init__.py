"""Measurement and plumbing that every system shares and that no interviewer asks to design.

Five rooms: ``data`` (datasets, splits), ``evaluation`` (metrics, results), ``serving`` (service,
event log, load test), ``operations`` and ``docs``. No room needs another's insides, and nothing
here imports ``ml_algorithms``, ``feature_engineering`` or a system.
"""
