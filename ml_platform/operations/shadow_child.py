"""The child's side of shadowing: read a line, answer a line, until the input ends.

In: a function from a record to an answer. Out: the loop of the child program, with the protocol of
`shadow.py`. The candidate may raise (the answer then says so), and libraries may print: stdout is
kept for answers alone, and what anybody else writes to it goes to stderr.

A child must not outlive its server. It ends when its input ends; one that hangs in a computation
at that moment is ended by a thread that watches for a new parent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

WATCH_S = 2.0


def answer_lines(
    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    about: Mapping[str, Any],
    *,
    source: int | None = None,
    sink: int | None = None,
) -> None:
    """Say that the child is ready, then answer until the input ends.

    Args:
        answer: From a record to ``{"items": [...], "scores": [...], ...}``; "request_id" and
            "elapsed_ms" (wall) and "cpu_ms" (of this thread) are added here.
        about: Fields of the ready line, for instance the version.
        source: File descriptor of the records; stdin by default.
        sink: Of the answers; stdout by default.
    """
    out = own_stdout() if sink is None else sink
    _write_line(out, {"ready": True, **about})
    with os.fdopen(0 if source is None else source, "rb") as lines:
        for line in lines:
            record = orjson.loads(line)
            _write_line(out, _timed(answer, record))


def own_stdout() -> int:
    """A private copy of stdout; from here on stdout itself leads to stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return private


def end_with_parent() -> None:
    """Start the thread that ends this process when its parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _timed(
    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]], record: Mapping[str, Any]
) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        given = dict(answer(record))
    except Exception as error:  # noqa: BLE001 - the candidate may raise anything; the lane counts it
        given = {"error": f"{type(error).__name__}: {error}"}
    return {
        **given,
        "request_id": record["request_id"],
        "elapsed_ms": (time.perf_counter() - wall) * 1e3,
        "cpu_ms": (time.thread_time() - cpu) * 1e3,
    }


def _write_line(sink: int, content: Mapping[str, Any]) -> None:
    line = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
    left = memoryview(line)
    try:
        while left:
            left = left[os.write(sink, left) :]
    except BrokenPipeError:  # the server is gone; nobody reads
        sys.exit(0)
