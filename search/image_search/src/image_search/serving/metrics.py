"""Series of the search service beside those that every service has.

In: what routes, lanes and the catalogue report. Out: text of ``GET /metrics``. Labels are bounded:
kinds of query, reasons of a refusal, names of a lane.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from ml_platform.serving.metrics import ServiceMetrics

KINDS = ("image", "text", "item", "url")
"""What a query brings: a picture, words, a catalogue item, an address of a picture."""
REFUSALS = (
    "empty", "too_many_bytes", "kind", "too_many_pixels", "broken", "form", "overload", "deadline",
    "url", "slow", "gone", "words", "retrieval",
)  # fmt: skip
"""Why a query was not searched: those of ``images.decoding`` and the service's own. "words": a text
without a word that is known; "retrieval": the index failed."""
FALLBACKS = ("rank", "personalise", "rerank")
"""Stages that something stands in for when they fail."""
LANES = ("picture", "light")
_SIMILARITIES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)
_BATCHES = (1, 2, 4, 8, 16, 32)


class SearchMetrics(ServiceMetrics):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.queries = Counter(
            "search_queries_total", "Queries answered, by kind.", ("kind",), registry=registry
        )
        self.refused = Counter(
            "search_refused_total", "Queries not searched.", ("reason",), registry=registry
        )
        self.empty = Counter(
            "search_empty_total", "Answers without a result.", ("kind",), registry=registry
        )
        self.best = Histogram(
            "search_best_similarity",
            "Similarity of the best hit.",
            ("space",),
            buckets=_SIMILARITIES,
            registry=registry,
        )
        self.batch = Histogram(
            "search_batch_size",
            "Queries that shared a call of the models.",
            ("lane",),
            buckets=_BATCHES,
            registry=registry,
        )
        self.duplicates = Counter(
            "search_duplicates_hidden_total", "Near-duplicates left out.", registry=registry
        )
        self.ignored = Counter(
            "search_words_ignored_total",
            "Words of answered texts that were not understood.",
            registry=registry,
        )
        self.items = Gauge("search_items", "Items that a search may find.", registry=registry)
        self.changes = Counter(
            "search_changes_total", "Items added and deleted.", ("change",), registry=registry
        )
        self.held = Gauge(
            "search_uploads_held_bytes", "Bodies in memory, not decoded yet.", registry=registry
        )
        # A series that appears with its first count has no increase: alert rules need the zero.
        for kind in KINDS:
            self.queries.labels(kind)
            self.empty.labels(kind)
        for reason in REFUSALS:
            self.refused.labels(reason)
        for change in ("add", "delete"):
            self.changes.labels(change)
        for stage in FALLBACKS:
            self.degraded.labels(stage, "error")
        for lane in LANES:
            self.batch.labels(lane)
