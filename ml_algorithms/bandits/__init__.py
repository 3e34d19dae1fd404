"""Choosing while learning: epsilon-greedy, UCB, LinUCB, Thompson sampling, worlds to test in."""
