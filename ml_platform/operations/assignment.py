"""Which unit (user, session, request) belongs to which variant: salted hash buckets, no table.

In: a unit's id and a salt, the name of the experiment or rollout. Out: a bucket 0..n_buckets-1.

Three properties are wanted of an assignment, and a hash of "salt:id" has them all without storing
anything. It is sticky: the same unit gets the same bucket on every server, every day. It is
uniform: each bucket holds its share of the units, whatever the ids look like. And two experiments
with different salts are independent: who is treated in one says nothing about the other, so that
many run at once over the same users (the overlapping layers of Tang, Agarwal, O'Brien and Meyer,
"Overlapping Experiment Infrastructure: More, Better, Faster Experimentation", KDD 2010).

Reuse a salt and the same users are treated again, with whatever the last experiment did to them
still in their habits (carry-over). A new experiment takes a new salt; a rollout that grows from
1% to 100% keeps its salt, because then nobody is moved back: the treated of 1% are among those
of 5%.

BLAKE2b stands behind the buckets, not Python's `hash` (it differs from process to process) and not
id modulo n (ids carry meaning: age of the account, the shard, the country).
"""

import hashlib

import numpy as np

N_BUCKETS = 10_000  # shares of 0.01% can be told apart


def bucket(unit_id: int | str, salt: str, n_buckets: int = N_BUCKETS) -> int:
    """The bucket of one unit, 0..n_buckets-1; the integer 7 and the text "7" are the same unit.

    The first 8 bytes of the digest modulo n_buckets: the bias of the modulo is below
    n_buckets / 2**64.

    Raises:
        ValueError: On an empty salt (two experiments would share their users' buckets), or fewer
            than one bucket.
    """
    if not salt:
        raise ValueError("an empty salt ties all experiments together; give the experiment's name")
    if n_buckets < 1:
        raise ValueError(f"n_buckets must be at least 1, got {n_buckets}")
    digest = hashlib.blake2b(f"{salt}:{unit_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % n_buckets


def buckets(unit_ids: np.ndarray, salt: str, n_buckets: int = N_BUCKETS) -> np.ndarray:
    """The buckets of many units, i64[N]: the same values as `bucket`, about 1 us each."""
    ids = np.asarray(unit_ids).tolist()
    return np.fromiter((bucket(i, salt, n_buckets) for i in ids), dtype=np.int64, count=len(ids))


def in_share(unit_id: int | str, salt: str, share: float) -> bool:
    """Whether the unit is among the first `share` (0 to 1) of the buckets.

    Monotone in the share: a unit that is in at 5% is in at 25%, so a growing rollout never takes
    a unit back.

    Raises:
        ValueError: On a share outside 0..1, NaN included; as `bucket`.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    # Rounded, because 0.07 * 10_000 is 700.0000000000001 and would let one bucket more in.
    return bucket(unit_id, salt) < round(share * N_BUCKETS)
