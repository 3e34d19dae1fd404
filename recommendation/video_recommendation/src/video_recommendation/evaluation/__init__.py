"""Offline evaluation: the replay of the test window, baselines, slices, sweeps."""
