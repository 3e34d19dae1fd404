"""What watches the served feed: its own metrics, and whether models are given what they know.

Reading order: ``reference`` (what training leaves behind), ``monitor`` (what is compared, and
when), ``metrics`` (what Prometheus reads). The rules and the dashboard stand in ``monitoring/`` at
the root.
"""
