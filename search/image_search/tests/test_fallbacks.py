"""Stages that fail: what the answer is then, and who is told; through the real app."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from handmade import encoded
from starlette.testclient import TestClient
from test_serving_api import IMAGES, by_picture, client_of, reason
from tiny_search import make_test_searcher

from image_search.fallbacks import BatchStages
from image_search.searcher import Ask, RetrievalError, Searcher
from ml_platform.serving.stages import StageError, StageMonitor


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(tmp_path, wait_ms=200.0) as made:
        yield made


def searcher_of(client: TestClient) -> Searcher:
    return client.app.state.engine.searcher


def count(client: TestClient, name: str, **labels: str) -> float:
    return client.app.state.engine.metrics.registry.get_sample_value(name, labels)


class Backwards:
    """A ranker that prefers what is least similar; its one feature is the similarity."""

    name = "backwards"

    def __init__(self, error: Exception | None = None, worst: float | None = None) -> None:
        self.error, self.worst = error, worst

    def score(self, features: np.ndarray, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        if self.error is not None:
            raise self.error
        scores = -features[..., 0]
        if self.worst is not None:
            scores[:, -1] = self.worst
        return scores

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Backwards:
        return cls()


def features(asks: Sequence[Ask], rows: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    return np.where(rows >= 0, similarity, 0)[..., None]


def no_features(asks: Sequence[Ask], rows: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    raise KeyError("counters")


def similarities(answer: dict) -> list[float]:
    return [hit["similarity"] for hit in answer["results"]]


@pytest.mark.parametrize(
    ("ranker", "made_of", "logged"),
    [
        (Backwards(RuntimeError("no trees")), features, "RuntimeError: no trees"),
        (Backwards(StageError("the store is down")), features, "the store is down"),
        (Backwards(), no_features, "KeyError: 'counters'"),
        (Backwards(worst=np.nan), features, "not finite for 1 of 1 asks"),
        (Backwards(worst=np.inf), features, "not finite for 1 of 1 asks"),
    ],
)
def test_without_its_ranker_an_answer_is_ordered_by_similarity(
    client, caplog, ranker, made_of, logged
):
    data = encoded(IMAGES.images[3])
    plain = by_picture(client, data).json()
    searcher = searcher_of(client)
    searcher.ranker, searcher.features = Backwards(), features
    ranked = by_picture(client, data).json()
    assert [ranked["degradations"], plain["degradations"]] == [[], []]
    assert similarities(ranked) == sorted(similarities(ranked))
    searcher.ranker, searcher.features = ranker, made_of
    with caplog.at_level(logging.WARNING):
        answer = by_picture(client, data)
    assert answer.status_code == 200
    assert answer.json()["degradations"] == ["rank:error"]
    assert answer.json()["results"] == plain["results"]
    assert "degraded: stage=rank" in caplog.text
    assert logged in caplog.text
    assert count(client, "degraded_total", stage="rank", reason="error") == 1
    assert 'degraded_total{reason="error",stage="rank"} 1.0' in client.get("/metrics").text
    page = client.post("/search", files={"image": ("x.png", data)}).text
    assert "ordered by looks alone (rank:error)" in page
    assert count(client, "degraded_total", stage="rank", reason="error") == 2
    searcher.ranker, searcher.features = Backwards(), features
    assert by_picture(client, data).json()["results"] == ranked["results"]  # and back


def test_one_asks_nan_is_not_its_neighbours_and_an_error_is_everybodys(client):
    searcher = searcher_of(client)
    searcher.features = features
    rows = (3, 40, 77)

    def together() -> list[dict]:
        with ThreadPoolExecutor(len(rows)) as pool:
            data = [encoded(IMAGES.images[row]) for row in rows]
            return [r.json() for r in pool.map(lambda one: by_picture(client, one), data)]

    class OfRowThree(Backwards):
        def score(self, features: np.ndarray, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
            scores = super().score(features, queries, items)
            scores[queries @ searcher.spaces["image"].vectors[3] > 0.9999, 0] = np.nan
            return scores

    searcher.ranker = OfRowThree()
    found = together()
    assert [one["batch_size"] for one in found] == [3, 3, 3]
    assert [one["degradations"] for one in found] == [["rank:error"], [], []]
    assert found[0]["results"][0]["item_id"] == 3
    assert similarities(found[1]) == sorted(similarities(found[1]))
    assert count(client, "degraded_total", stage="rank", reason="error") == 1
    searcher.ranker = Backwards(RuntimeError("no trees"))
    found = together()
    assert [one["degradations"] for one in found] == [["rank:error"]] * 3
    assert count(client, "degraded_total", stage="rank", reason="error") == 4  # by answer


def test_without_personalisation_an_answer_is_as_ranked_and_only_that_persons_says_so(client):
    data = encoded(IMAGES.images[3])
    plain = by_picture(client, data).json()

    def personalise(
        asks: Sequence[Ask], rows: np.ndarray, score: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray:
        raise RuntimeError("no styles")

    searcher_of(client).personalise = personalise
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(by_picture, client, data, user_id="5")
        two = pool.submit(by_picture, client, data)
    assert [one.result().json()["degradations"], two.result().json()["degradations"]] == [
        ["personalise:error"], [],
    ]  # fmt: skip
    assert one.result().json()["batch_size"] == 2
    assert one.result().json()["results"] == two.result().json()["results"] == plain["results"]
    assert count(client, "degraded_total", stage="personalise", reason="error") == 1
    assert count(client, "degraded_total", stage="rank", reason="error") == 0
    page = client.post("/search", files={"image": ("x", data)}, data={"user_id": "5"}).text
    assert "not ordered by your taste (personalise:error)" in page


@pytest.mark.parametrize("kept", [None, np.array([10_000])])
def test_without_its_page_an_answer_is_the_first_k(client, kept):
    data = encoded(IMAGES.images[3])
    plain = by_picture(client, data, k="7").json()

    def rerank(
        ask: Ask, rows: np.ndarray, score: np.ndarray, vectors: np.ndarray
    ) -> tuple[np.ndarray, int]:
        if kept is None:
            raise RuntimeError("no hashes")
        return kept, 4  # a place that there is not

    searcher_of(client).rerank = rerank
    answer = by_picture(client, data, k="7").json()
    assert answer["degradations"] == ["rerank:error"]
    assert answer["near_duplicates_hidden"] == 0
    assert [len(answer["results"]), answer["results"]] == [7, plain["results"]]
    words = client.post("/v1/search", json={"text": "ring"}).json()
    assert words["degradations"] == ["rerank:error"]
    assert count(client, "degraded_total", stage="rerank", reason="error") == 2


def test_without_its_index_a_search_is_refused_and_the_next_one_is_not(client, monkeypatch):
    data = encoded(IMAGES.images[3])
    index = searcher_of(client).spaces["image"].index

    def search(*asked: object, **rest: object) -> None:
        raise RuntimeError("Error in faiss::search")

    monkeypatch.setattr(index, "search", search)
    answer = by_picture(client, data)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert reason(answer) == "the index of the space image failed; retry later"
    page = client.post("/search", files={"image": ("x", data)})
    assert page.status_code == 503
    assert "the index of the space image failed" in page.text
    assert count(client, "search_refused_total", reason="retrieval") == 2
    monkeypatch.undo()
    assert by_picture(client, data).json()["degradations"] == []


def test_outside_a_service_nothing_stands_in():
    """Or an evaluation would measure the fallback."""
    searcher = make_test_searcher(IMAGES)
    ask = Ask(searcher.spaces["image"].vectors[3])
    searcher.ranker, searcher.features = Backwards(RuntimeError("no trees")), features
    with pytest.raises(RuntimeError, match="no trees"):
        searcher.search([ask])
    searcher.ranker = Backwards(worst=np.nan)
    with pytest.raises(StageError, match="rank: scores that are not finite for 1 of 1 asks"):
        searcher.search([ask])
    searcher.monitor = StageMonitor()
    assert searcher.search([ask])[0].degradations == ("rank:error",)
    searcher.spaces["image"].index = None
    with pytest.raises(RetrievalError, match="space image"):
        searcher.search([ask])


def test_scores_by_hand():
    rows = np.array([[0, 1], [2, -1], [3, 4]])
    before = np.array([[0.9, 0.8], [0.7, -np.inf], [0.6, 0.5]])
    made = np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, 4.0]])
    stages = BatchStages(StageMonitor(), 3)
    found = stages.scores("rank", range(3), rows, before, lambda: made)
    np.testing.assert_array_equal(found, [[1, 2], [3, np.nan], [0.6, 0.5]])  # padding may be so
    assert [stages.degradations(n) for n in range(3)] == [(), (), ("rank:error",)]
    np.testing.assert_array_equal(
        stages.scores("again", [1], rows, before, lambda: made[:, :1]), before
    )
    assert [stages.degradations(n) for n in range(3)] == [
        (), ("again:error",), ("rank:error",),
    ]  # fmt: skip
