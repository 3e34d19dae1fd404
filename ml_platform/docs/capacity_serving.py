"""Capacity of the request path: traffic, the vector index, processors and accelerators, network.

In: the inputs of a system's capacity.yaml. Out: requests a second, memory of four kinds of index,
cores by stage, calls and bytes between machines. Each formula is one function; see
`capacity_quantities` for how they are found and ordered.

Index memory follows the libraries' layout: vectors in float32; IVF adds an 8-byte id a vector and
4 sqrt(N) centroids; HNSW adds 2M neighbours of 4 bytes at level 0 and some 16 bytes of bookkeeping
(Malkov & Yashunin, TPAMI 2020, section 4.2.3); PQ keeps a code and an id instead of the vector.
`tests/ml_platform/docs/test_capacity.py` holds them against bytes that were measured.
"""

import math

from ml_platform.docs.capacity_quantities import DAY_S, Formulas

FLOAT_BYTES = 4
ID_BYTES = 8
HNSW_BOOKKEEPING_BYTES = 16
RESULT_BYTES = 12  # an id and a score
KINDS = ("flat", "ivf", "hnsw", "pq")
# Stage -> the quantity or input that holds its milliseconds of one core a request.
STAGES = {
    "around": "around_ms",
    "towers": "retrieve_ms",
    "search": "search_ms",
    "prerank": "scaled_prerank_ms",
    "rank": "scaled_rank_ms",
    "rerank": "rerank_ms",
    "explain": "explain_ms",
}

traffic = Formulas("traffic")
index = Formulas("index")
serving = Formulas("serving")
network = Formulas("network")


@traffic("users")
def daily_users(monthly_users: float, daily_share: float) -> float:
    """Monthly users x share of them that comes on a day."""
    return monthly_users * daily_share


@traffic("requests/day")
def requests_per_day(daily_users: float, requests_per_user: float) -> float:
    """Daily users x feed requests of each."""
    return daily_users * requests_per_user


@traffic("requests/s")
def mean_requests_per_second(requests_per_day: float) -> float:
    """Requests a day / 86,400 s."""
    return requests_per_day / DAY_S


@traffic("requests/s")
def peak_requests_per_second(mean_requests_per_second: float, peak_to_mean: float) -> float:
    """Mean rate x peak to mean."""
    return mean_requests_per_second * peak_to_mean


@traffic("impressions/day")
def impressions_per_day(requests_per_day: float, list_items: float) -> float:
    """Requests a day x items of a list."""
    return requests_per_day * list_items


@traffic("events/day")
def feedback_per_day(daily_users: float, events_per_user: float) -> float:
    """Daily users x clicks, watches and likes of each."""
    return daily_users * events_per_user


@traffic("events/s")
def peak_feedback_per_second(feedback_per_day: float, peak_to_mean: float) -> float:
    """Feedback a day / 86,400 s x peak to mean."""
    return feedback_per_day / DAY_S * peak_to_mean


@index("items")
def index_items(catalogue_items: float, eligible_share: float) -> float:
    """Catalogue x share that may be shown."""
    return catalogue_items * eligible_share


@index("GB")
def flat_gb(index_items: float, embedding_dim: float) -> float:
    """Items x dimension x 4 bytes."""
    return index_items * embedding_dim * FLOAT_BYTES / 1e9


@index("GB")
def ivf_gb(index_items: float, embedding_dim: float) -> float:
    """Items x (dimension x 4 + 8) bytes + 4 sqrt(items) centroids."""
    return (index_items * ID_BYTES) / 1e9 + _with_centroids_gb(index_items, embedding_dim)


@index("GB")
def hnsw_gb(index_items: float, embedding_dim: float, hnsw_m: float) -> float:
    """Items x (dimension x 4 + 2M x 4 + 16) bytes."""
    per_item = embedding_dim * FLOAT_BYTES + 2 * hnsw_m * 4 + HNSW_BOOKKEEPING_BYTES
    return index_items * per_item / 1e9


@index("GB")
def pq_gb(index_items: float, embedding_dim: float, pq_code_bytes: float) -> float:
    """Items x (code + 8) bytes + 4 sqrt(items) centroids."""
    centroids = 4 * math.sqrt(index_items) * embedding_dim * FLOAT_BYTES
    return (index_items * (pq_code_bytes + ID_BYTES) + centroids) / 1e9


@index("GB")
def item_item_gb(catalogue_items: float) -> float:
    """Items x items x 4 bytes: a dense item-item matrix such as EASE's."""
    return catalogue_items**2 * FLOAT_BYTES / 1e9


@index("shards")
def shards(index_items: float, shard_items: float) -> float:
    """Items / most items that one shard may hold, rounded up."""
    return math.ceil(index_items / shard_items)


@index("GB")
def shard_gb(ivf_gb: float, shards: float) -> float:
    """IVF memory / shards."""
    return ivf_gb / shards


def _search_ms(
    index_items: float,
    shards: float,
    embedding_dim: float,
    measured_dim: float,
    at_1m_ms: float,
    at_100k_ms: float,
) -> float:
    """Core time over all shards: one shard's, extended by the measured power of its size."""
    power = math.log10(at_1m_ms / at_100k_ms)
    one_shard_ms = at_1m_ms * (index_items / shards / 1e6) ** power
    return shards * one_shard_ms * embedding_dim / measured_dim


for kind in KINDS:
    index.add(
        f"{kind}_search_ms",
        "ms of one core",
        "shards x measured ms at 1M x (items a shard / 1M)^p x dimension / measured dimension, "
        "p = log10(ms at 1M / ms at 100K)",
        (
            *("index_items", "shards", "embedding_dim", "measured_dim"),
            *(f"{kind}_at_1m_ms", f"{kind}_at_100k_ms"),
        ),
        _search_ms,
    )


@index("ms")
def shard_search_ms(ivf_search_ms: float, shards: float) -> float:
    """IVF search time of all shards / shards."""
    return ivf_search_ms / shards


@index("ms of one core")
def search_ms(ivf_search_ms: float, candidate_cache_share: float) -> float:
    """IVF search time of all shards x share of requests that finds no cached candidates."""
    return ivf_search_ms * (1 - candidate_cache_share)


@serving("ms of one core")
def scaled_prerank_ms(prerank_ms: float, pool_items: float, measured_pool_items: float) -> float:
    """Measured ms x candidates here / candidates measured."""
    return prerank_ms * pool_items / measured_pool_items


@serving("ms of one core")
def scaled_rank_ms(rank_ms: float, ranked_items: float, measured_ranked_items: float) -> float:
    """Measured ms x ranked items here / ranked items measured."""
    return rank_ms * ranked_items / measured_ranked_items


@serving("ms of one core")
def around_ms(total_ms: float, queue_ms: float, recommend_ms: float) -> float:
    """Measured total - queue - recommender: reading state, HTTP, JSON, request log."""
    return total_ms - queue_ms - recommend_ms


@serving("factor")
def spare_factor(regions: float) -> float:
    """Regions / (regions - 1): the others carry the load of one that is lost."""
    return regions / (regions - 1)


def _cores(
    stage_ms: float, peak: float, processor_utilisation_share: float, spare_factor: float
) -> float:
    return peak * stage_ms / 1000 / processor_utilisation_share * spare_factor


for stage, milliseconds in STAGES.items():
    serving.add(
        f"cores_{stage}",
        "cores",
        "peak rate x ms / 1000 / utilisation x spare factor",
        (milliseconds, "peak_requests_per_second", "processor_utilisation_share", "spare_factor"),
        _cores,
    )


serving.add(
    "cores",
    "cores",
    "sum over the stages",
    tuple(f"cores_{stage}" for stage in STAGES),
    lambda *parts: sum(parts),
)
serving.add(
    "processor_ms",
    "ms of one core",
    "sum of the stages' ms of one request",
    tuple(STAGES.values()),
    lambda *parts: sum(parts),
)


@serving("servers")
def servers(cores: float, cores_per_server: float) -> float:
    """Cores / cores of a server, rounded up."""
    return math.ceil(cores / cores_per_server)


@serving("workers")
def workers_like_ours(peak_requests_per_second: float, worker_requests: float) -> float:
    """Peak rate / rate that one measured worker holds: the same figure without any model."""
    return peak_requests_per_second / worker_requests


@serving("share of a core")
def worker_busy(worker_requests: float, total_ms: float, queue_ms: float) -> float:
    """Rate that one worker holds x its work a request: how busy it is where its p99 gives way."""
    return worker_requests * (total_ms - queue_ms) / 1000


@serving("GFLOP/request")
def ranker_gflop(ranker_parameters: float, ranked_items: float) -> float:
    """2 x parameters x ranked items."""
    return 2 * ranker_parameters * ranked_items / 1e9


@serving("accelerators")
def ranker_accelerators(
    peak_requests_per_second: float,
    ranker_gflop: float,
    accelerator_flops: float,
    inference_flops_share: float,
    spare_factor: float,
) -> float:
    """Peak rate x FLOP a request / (FLOP/s x share reached) x spare factor, rounded up."""
    reached = accelerator_flops * inference_flops_share
    return math.ceil(peak_requests_per_second * ranker_gflop * 1e9 / reached * spare_factor)


@network("calls/s")
def shard_calls_per_second(
    peak_requests_per_second: float, shards: float, candidate_cache_share: float
) -> float:
    """Peak rate x shards x share without cached candidates."""
    return peak_requests_per_second * shards * (1 - candidate_cache_share)


@network("share")
def slow_request_share(shards: float, slow_call_share: float) -> float:
    """1 - (1 - share of slow calls)^shards: a request waits for its slowest shard."""
    return 1.0 - (1 - slow_call_share) ** shards


@network("Gbit/s")
def search_gbit_per_second(
    shard_calls_per_second: float, embedding_dim: float, shard_results: float
) -> float:
    """Calls x (query vector + results of 12 bytes)."""
    call = embedding_dim * FLOAT_BYTES + shard_results * RESULT_BYTES
    return shard_calls_per_second * call * 8 / 1e9


@network("Gbit/s")
def remote_features_gbit_per_second(
    peak_requests_per_second: float, ranked_items: float, item_feature_bytes: float
) -> float:
    """Peak rate x ranked items x bytes of an item's features, if they are not beside the ranker."""
    return peak_requests_per_second * ranked_items * item_feature_bytes * 8 / 1e9


def _with_centroids_gb(index_items: float, embedding_dim: float) -> float:
    return (index_items + 4 * math.sqrt(index_items)) * embedding_dim * FLOAT_BYTES / 1e9
