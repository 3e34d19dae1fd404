"""Telling those who watch a service what it did, without letting them cost an answer.

In: observers and the call that tells one of them. Out: nothing; an observer that raises is logged
and counted, and the others still hear.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")


def tell(
    observers: Sequence[T], message: Callable[[T], None], failed: Callable[[str], None]
) -> None:
    """Calls every observer.

    Args:
        observers: Those who watch.
        message: Calls the right method on one of them.
        failed: Told the class name of an observer that raised.
    """
    for observer in observers:
        try:
            message(observer)
        except Exception:  # the boundary between watching and serving; it is counted
            failed(type(observer).__name__)
            logger.exception("observer %s failed", type(observer).__name__)
