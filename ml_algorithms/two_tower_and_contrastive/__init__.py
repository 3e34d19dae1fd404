"""Softmax over a catalogue too large to sum: sampled negatives, logQ, streaming frequency."""
