"""Pictures from outside, decoded beside the event loop: few threads, a short line, a deadline.

In: encoded bytes. Out: u8[H, W, 3] of at most ``side`` pixels on the longer side, or the reason why
not. A decoder cannot be stopped in the middle of a picture, so what bounds it is the number of
pixels, checked in the header; the deadline only says when nobody waits any more. Pillow releases
the interpreter while it decodes.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from image_search.images.decoding import Limits, decode


class DecoderBusyError(RuntimeError):
    """The line before the decoders is full, or a picture's turn did not come in time."""


class Decoder:
    """A pool with a bounded line; use from one event loop.

    Args:
        threads: Pictures decoded at the same time.
        waiting: Most that may wait.
        limits: What is accepted.
        side: Of what comes out.
    """

    def __init__(self, threads: int, waiting: int, limits: Limits, side: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._most = threads + waiting
        self._limits, self._side = limits, side
        self.running = 0

    async def decode(self, data: bytes, within_s: float) -> np.ndarray:
        """Decodes one picture.

        Raises:
            DecoderBusyError: If too many wait, or the deadline passes.
            ImageError: If the picture is refused.
        """
        if self.running >= self._most:
            raise DecoderBusyError(f"{self.running} pictures wait to be decoded; retry later")
        self.running += 1
        work = self._pool.submit(decode, data, self._limits, side=self._side)
        # Counted until its thread is done with it, not until nobody waits for it.
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), max(within_s, 0.001))
        except TimeoutError:
            raise DecoderBusyError("the picture was not decoded in time; retry later") from None

    def close(self) -> None:
        """Ends the threads when their pictures are done; drops the line."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _done(self) -> None:
        self.running -= 1
