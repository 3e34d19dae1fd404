import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from ml_platform.operations.assignment import bucket, buckets, in_share

IDS = np.arange(20_000)


def test_a_bucket_is_the_digest_and_nothing_else() -> None:
    digest = hashlib.blake2b(b"ranker-7:42", digest_size=8).hexdigest()
    assert bucket(42, "ranker-7") == int(digest, 16) % 10_000
    assert bucket("42", "ranker-7") == bucket(42, "ranker-7")


def test_another_process_agrees() -> None:
    code = "from ml_platform.operations.assignment import bucket; print(bucket('u1', 's', 97))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == bucket("u1", "s", 97)


def test_buckets_are_the_same_values() -> None:
    assert buckets(IDS[:50], "s").tolist() == [bucket(i, "s") for i in range(50)]
    assert buckets(np.array(["a", "b"]), "s").tolist() == [bucket("a", "s"), bucket("b", "s")]
    assert buckets(np.array([], dtype=np.int64), "s").shape == (0,)


def test_buckets_are_uniform_though_ids_are_consecutive() -> None:
    counts = np.bincount(buckets(IDS, "uniform", 100), minlength=100)
    assert stats.chisquare(counts).pvalue > 0.001


def test_two_salts_are_independent() -> None:
    first, second = buckets(IDS, "layer-a", 10), buckets(IDS, "layer-b", 10)
    table = np.zeros((10, 10))
    np.add.at(table, (first, second), 1)
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_growing_share_never_takes_a_unit_back() -> None:
    shares = (0.0, 0.01, 0.05, 0.25, 0.5, 1.0)
    members = [{i for i in range(2_000) if in_share(i, "roll", share)} for share in shares]
    assert members[0] == set()
    assert members[-1] == set(range(2_000))
    assert all(small <= large for small, large in zip(members, members[1:], strict=False))
    # 25% of 2,000 is 500; three standard deviations are 58.
    assert abs(len(members[3]) - 500) < 58


def test_a_share_holds_its_buckets_exactly() -> None:
    inside = [i for i in range(5_000) if in_share(i, "x", 0.07)]
    assert inside == [i for i in range(5_000) if bucket(i, "x") < 700]


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        in_share(1, "s", share)


def test_an_empty_salt_and_no_buckets_are_refused() -> None:
    with pytest.raises(ValueError, match="empty salt"):
        bucket(1, "")
    with pytest.raises(ValueError, match="n_buckets"):
        bucket(1, "s", 0)
