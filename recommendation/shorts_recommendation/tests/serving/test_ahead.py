from __future__ import annotations

from shorts_recommendation.config import ServingConfig
from shorts_recommendation.serving import ahead
from shorts_recommendation.serving.ahead import FIRST_BATCH, STALE_BATCH, Ahead

CONFIG = ServingConfig().model_copy(update={"ahead_after": 2})


def test_a_slate_is_worth_making_from_the_nth_event_after_an_answer(monkeypatch):
    monkeypatch.setattr(ahead, "STALE_WAIT_S", 0.0)
    line = Ahead(CONFIG, 10)
    assert not line.watched(3)
    assert line.take() == []
    assert line.watched(3)
    assert line.take() == [3]
    line.answered(3)
    assert not line.watched(3)
    assert len(line) == 0


def test_few_wait_for_company_and_a_full_batch_does_not(monkeypatch):
    line = Ahead(CONFIG, 20)
    for _ in range(2):
        told = [line.watched(row) for row in range(STALE_BATCH - 1)]
    assert told == [True] + [False] * (STALE_BATCH - 2)
    assert line.take() == []
    line.watched(19)
    assert line.watched(19)
    assert line.take() == [*range(STALE_BATCH - 1), 19]
    assert len(line) == 0
    monkeypatch.setattr(ahead, "STALE_WAIT_S", 0.0)
    line.watched(5)
    assert line.take() == [5]


def test_the_last_event_counts_and_a_row_that_changed_hands_is_out(monkeypatch):
    monkeypatch.setattr(ahead, "STALE_WAIT_S", 0.0)
    line = Ahead(CONFIG, 10)
    for row in (1, 1, 2, 2, 4, 4, 1):
        line.watched(row)
    line.forget(2)
    assert line.take() == [4, 1]
    assert not line.watched(2)


def test_the_start_is_done_in_its_order_when_nothing_is_stale(monkeypatch):
    monkeypatch.setattr(ahead, "STALE_WAIT_S", 0.0)
    line = Ahead(CONFIG, 100)
    line.start(range(50, 50 + FIRST_BATCH + 3))
    line.watched(7), line.watched(7)
    assert line.take() == [7]
    assert line.take() == list(range(50, 50 + FIRST_BATCH))
    assert line.to_start == 3
    assert len(line.take()) == 3
    assert line.take() == []


def test_off_is_off():
    line = Ahead(ServingConfig().model_copy(update={"compute_ahead": False}), 4)
    assert not any(line.watched(1) for _ in range(50))
    assert len(line) == 0
