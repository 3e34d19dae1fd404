"""What happens after a model is trained: versions, shadow traffic, canaries, experiments, drift.

Nothing here knows what is recommended or searched. Import the modules directly; this package
re-exports nothing.
"""
