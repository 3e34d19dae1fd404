"""A loop that goes on after an error, and threads that did not."""

from __future__ import annotations

import threading

from ml_platform.serving.looping import dead_threads, keep_going


def test_a_turn_that_raises_is_counted_logged_and_followed_by_the_next(caplog):
    stop, turns, failed = threading.Event(), [], []

    def turn() -> None:
        turns.append(len(turns))
        if len(turns) == 2:
            raise KeyError("row 17")
        if len(turns) == 4:
            stop.set()

    keep_going(turn, name="publisher", stop=stop, failed=failed.append, pause_s=0.0)
    assert turns == [0, 1, 2, 3]
    assert failed == ["publisher"]
    assert "row 17" in caplog.text


def test_the_pause_ends_when_told_to_stop():
    stop = threading.Event()

    def turn() -> None:
        stop.set()
        raise ValueError("late")

    thread = threading.Thread(
        target=keep_going, args=(turn,), kwargs={"name": "x", "stop": stop, "pause_s": 60.0}
    )
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_only_threads_that_ended_are_dead():
    stop = threading.Event()
    runs = threading.Thread(target=stop.wait, name="runs")
    ended = threading.Thread(target=lambda: None, name="ended")
    waits = threading.Thread(target=lambda: None, name="not started")
    runs.start()
    ended.start()
    ended.join()
    assert dead_threads([runs, ended, waits]) == ["ended"]
    stop.set()
    runs.join()
