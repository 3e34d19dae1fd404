"""What breaks when things break: swaps, kills and a bad store under load, counted."""
