"""Two-tower training: contrastive losses, negatives, logQ, temperature, one process and several."""
