"""Mixtures of experts: conditional compute (sparse, expert choice) and shared tasks (MMoE, PLE)."""
