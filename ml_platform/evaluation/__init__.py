"""Room `evaluation`: metrics, their confidence intervals, and the file that keeps them.

- `ranking_metrics`: hit rate, recall, precision, NDCG, average precision, reciprocal rank.
- `top_k`: exact top-k lists from score blocks, with seen items masked and ties broken fairly.
- `classification_metrics`: AUC, log loss, calibration error, reliability curve.
- `diversity_metrics`: intra-list distance, coverage, novelty, entropy, Gini.
- `intervals`: 95% bootstrap intervals with users resampled whole.
- `lab`: break-it labs: healthy, broken and fixed in one table, its numbers and picture written.
- `results`: the one results schema of the repository, read and written atomically.

Every metric returns one value per query, so that the mean, its interval and every slice come
from the same array. Import the module you need; this package imports nothing by itself.
"""
