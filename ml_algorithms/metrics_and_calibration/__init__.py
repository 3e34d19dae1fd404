"""What the metrics mean, where they mislead, and how scores become probabilities."""
