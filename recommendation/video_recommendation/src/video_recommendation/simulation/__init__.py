"""A world whose truth is known: users who answer lists, and the value of the best list."""
