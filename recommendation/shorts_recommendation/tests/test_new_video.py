"""Rows behind arrays without a copy each time; what may come in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shorts_recommendation.log import Catalogue
from shorts_recommendation.new_video import NewVideo, SpareRows, check_new, extended

V, DIM = 6, 4


def catalogue() -> Catalogue:
    return Catalogue(
        video_ids=np.arange(V, dtype=np.int64) + 10,
        creator_idx=np.array([0, 1, 2, 0, 1, 2], dtype=np.int32),
        tags=np.zeros((V, 3), dtype=np.int16),
        language=np.zeros(V, dtype=np.int16),
        duration_s=np.full(V, 20, dtype=np.float32),
        upload_s=np.zeros(V, dtype=np.int64),
        content=np.eye(V, DIM, dtype=np.float16),
    )


def video(video_id: int, creator: int = 0) -> NewVideo:
    content = np.array([3.0, 4.0, 0.0, 0.0], dtype=np.float32)
    return NewVideo(video_id, creator, np.array([1, -1, -1], dtype=np.int16), 0, 9.0, content, 77)


def test_growing_row_by_row_copies_a_handful_of_times():
    spare, array = SpareRows(), np.arange(4)
    for i in range(4, 1004):
        array = spare.append("a", array, np.array([i]))
    np.testing.assert_array_equal(array, np.arange(1004))
    assert spare.copies <= 9  # room for 10, 22, 46, ... instead of a thousand copies


def test_what_was_handed_out_never_changes():
    spare = SpareRows()
    first = spare.append("a", np.zeros(3), np.ones(1))
    second = spare.append("a", first, np.full(1, 2.0))
    other = spare.append("a", first, np.full(1, 9.0))  # a second future of the first
    assert first.tolist() == [0, 0, 0, 1]
    assert second.tolist() == [0, 0, 0, 1, 2]
    assert other.tolist() == [0, 0, 0, 1, 9]
    assert second.base is first.base


def test_a_catalogue_with_two_more_and_its_types():
    old = catalogue()
    new = extended(old, [video(90), video(91, creator=3)], SpareRows())
    assert new.video_ids.tolist() == [10, 11, 12, 13, 14, 15, 90, 91]
    assert new.creator_idx[-2:].tolist() == [0, 3]
    np.testing.assert_allclose(new.content[-1], [0.6, 0.8, 0, 0], atol=1e-3)  # unit length, f16
    for name in ("video_ids", "creator_idx", "tags", "content", "upload_s"):
        assert getattr(new, name).dtype == getattr(old, name).dtype
    assert len(old) == V


@pytest.mark.parametrize(
    ("videos", "said"),
    [
        ([video(10)], "video 10 exists"),
        ([video(90), video(90)], "video 90 exists"),
        ([video(90, creator=4)], "the next new one is 3"),
        ([video(90, creator=-1)], "creator -1"),
        ([replace(video(90), content=np.zeros(DIM, np.float32))], "no direction"),
        ([replace(video(90), content=np.ones(5, np.float32))], r"must be \[4\]"),
        ([replace(video(90), content=np.full(DIM, np.nan, np.float32))], "no direction"),
    ],
)
def test_what_the_arrays_cannot_take_is_refused(videos, said):
    with pytest.raises(ValueError, match=said):
        check_new(catalogue(), videos)


def test_each_of_a_batch_may_bring_the_next_creator():
    check_new(catalogue(), [video(90, creator=3), video(91, creator=4)])
