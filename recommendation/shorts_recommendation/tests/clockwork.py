"""Simulated people without chance."""

from __future__ import annotations

import numpy as np

from shorts_recommendation.world.response import Outcomes


class Clockwork:
    """People whose answers follow from user, video and place alone, so that order cannot matter."""

    def __init__(self, n: int) -> None:
        self.place = np.zeros(n, dtype=np.int64)

    def open_sessions(self, user_idx, now_s):
        self.place[user_idx] = 0

    def watch(self, user_idx, video_idx, now_s):
        mixed = (user_idx.astype(np.int64) * 31 + video_idx * 17 + self.place[user_idx] * 7) % 40
        self.place[user_idx] += 1
        watch_s = mixed.astype(np.float32) + 0.5
        no = np.zeros(len(user_idx), dtype=bool)
        return Outcomes(
            watch_s, watch_s > 18, watch_s < 3, watch_s > 35, no, no,
            (mixed / 40).astype(np.float32), (mixed % 6 == 0) | (self.place[user_idx] > 30),
        )  # fmt: skip

    def next_visit_s(self, user_idx, now_s):
        return now_s + 1_000 + user_idx.astype(np.int64) * 97 % 20_000
