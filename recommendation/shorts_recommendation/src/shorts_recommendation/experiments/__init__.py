"""A/B tests on the simulated people: what an arm gains today, and what it costs later.

Reading order: ``simulation`` (how days pass), ``policies`` (what an arm may be), ``measures`` (what
is counted of a person), ``market`` (of an arm), ``reading`` (the statistics), ``false_alarms``
(A/A), ``studies`` (the experiments), ``ground`` (where they start), ``command``.
"""
