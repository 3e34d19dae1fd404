"""A simulated click log with known truth. SYNTHETIC."""
