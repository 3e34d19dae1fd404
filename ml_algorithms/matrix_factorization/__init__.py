"""Matrix factorisation: SVD, ALS for ratings and clicks, BPR, EASE; the same ALS on Spark."""
