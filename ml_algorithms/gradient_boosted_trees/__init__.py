"""Gradient boosted trees: exact and histogram splits, leaf-wise trees, boosting, TreeSHAP."""
