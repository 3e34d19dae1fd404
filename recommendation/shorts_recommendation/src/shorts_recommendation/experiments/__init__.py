"""A/B tests on simulated people."""
