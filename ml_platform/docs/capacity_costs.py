"""Capacity of what lies still, and the bill: logs, feature store, tables, training, dollars.

In: the inputs of a system's capacity.yaml and the quantities of `capacity_serving`. Out: bytes and
machines for event log, feature store and embedding tables, accelerators for training, and dollars
a month, by part and per 1,000 requests.

Training counts 6 FLOP a parameter and example (2 forward, 4 backward); embedding look-ups count
none, which is why a table's memory and not its arithmetic decides how many accelerators it takes.
"""

import math

from ml_platform.docs.capacity_quantities import DAY_S, MONTH_DAYS, MONTH_H, Formulas

WEIGHT_BYTES = 4  # training keeps float32

log = Formulas("log")
store = Formulas("store")
tables = Formulas("tables")
training = Formulas("training")
cost = Formulas("cost")


@log("TB/day")
def impression_tb_per_day(impressions_per_day: float, impression_bytes: float) -> float:
    """Impressions a day x bytes of one."""
    return impressions_per_day * impression_bytes / 1e12


@log("TB/day")
def feedback_tb_per_day(feedback_per_day: float, event_bytes: float) -> float:
    """Feedback events a day x bytes of one."""
    return feedback_per_day * event_bytes / 1e12


@log("examples/day")
def examples_per_day(impressions_per_day: float, kept_share: float) -> float:
    """Impressions a day x share kept with its features for training."""
    return impressions_per_day * kept_share


@log("TB/day")
def feature_tb_per_day(examples_per_day: float, feature_row_bytes: float) -> float:
    """Examples a day x bytes of a feature row as it was served."""
    return examples_per_day * feature_row_bytes / 1e12


@log("TB/day")
def stored_tb_per_day(
    impression_tb_per_day: float,
    feedback_tb_per_day: float,
    feature_tb_per_day: float,
    compression: float,
) -> float:
    """(Impressions + feedback + feature rows) / compression."""
    return (impression_tb_per_day + feedback_tb_per_day + feature_tb_per_day) / compression


@log("PB")
def log_pb(stored_tb_per_day: float, retention_days: float, log_copies: float) -> float:
    """Stored a day x days kept x copies."""
    return stored_tb_per_day * retention_days * log_copies / 1000


@store("KB")
def user_state_kb(history_events: float, event_bytes: float, user_feature_bytes: float) -> float:
    """Events of the history x bytes of one + bytes of the user's features."""
    return (history_events * event_bytes + user_feature_bytes) / 1e3


@store("TB")
def store_tb(
    monthly_users: float,
    user_state_kb: float,
    catalogue_items: float,
    item_feature_bytes: float,
    store_copies: float,
) -> float:
    """(Users x state + items x features) x copies."""
    one_copy = monthly_users * user_state_kb * 1e3 + catalogue_items * item_feature_bytes
    return one_copy * store_copies / 1e12


@store("servers")
def store_servers(store_tb: float, server_memory_bytes: float, memory_fill_share: float) -> float:
    """Store / (memory of a server x share filled), rounded up."""
    return math.ceil(store_tb * 1e12 / (server_memory_bytes * memory_fill_share))


@store("reads/s")
def user_reads_per_second(peak_requests_per_second: float) -> float:
    """One read of the user's state a request, at peak."""
    return peak_requests_per_second


@store("reads/s")
def item_reads_per_second(peak_requests_per_second: float, ranked_items: float) -> float:
    """Peak rate x ranked items."""
    return peak_requests_per_second * ranked_items


@store("writes/s")
def store_writes_per_second(peak_feedback_per_second: float) -> float:
    """One write a feedback event, at peak."""
    return peak_feedback_per_second


@tables("GB")
def user_table_gb(monthly_users: float, user_rows_share: float, embedding_dim: float) -> float:
    """Users x share with a row of their own x dimension x 4 bytes."""
    return monthly_users * user_rows_share * embedding_dim * WEIGHT_BYTES / 1e9


@tables("GB")
def item_table_gb(catalogue_items: float, embedding_dim: float) -> float:
    """Items x dimension x 4 bytes."""
    return catalogue_items * embedding_dim * WEIGHT_BYTES / 1e9


@tables("GB")
def optimizer_gb(user_table_gb: float, item_table_gb: float, optimizer_slots: float) -> float:
    """Tables x numbers that the optimizer keeps for each weight."""
    return (user_table_gb + item_table_gb) * optimizer_slots


@tables("GB")
def training_tables_gb(user_table_gb: float, item_table_gb: float, optimizer_gb: float) -> float:
    """User table + item table + optimizer state."""
    return user_table_gb + item_table_gb + optimizer_gb


@tables("GB")
def serving_tables_gb(
    user_table_gb: float, item_table_gb: float, serving_weight_bytes: float
) -> float:
    """Tables x bytes of a served weight / 4, no optimizer state."""
    return (user_table_gb + item_table_gb) * serving_weight_bytes / WEIGHT_BYTES


@tables("accelerators")
def memory_accelerators(
    training_tables_gb: float, accelerator_memory_bytes: float, memory_fill_share: float
) -> float:
    """Tables in training / (memory of an accelerator x share filled), rounded up."""
    return math.ceil(training_tables_gb * 1e9 / (accelerator_memory_bytes * memory_fill_share))


@training("FLOP/day")
def training_flop_per_day(examples_per_day: float, ranker_parameters: float) -> float:
    """6 x parameters x examples a day."""
    return 6 * ranker_parameters * examples_per_day


@training("accelerators")
def flop_accelerators(
    training_flop_per_day: float, accelerator_flops: float, training_flops_share: float
) -> float:
    """FLOP a day / (FLOP/s x share reached x 86,400 s)."""
    return training_flop_per_day / (accelerator_flops * training_flops_share * DAY_S)


@training("accelerators")
def training_accelerators(
    flop_accelerators: float, memory_accelerators: float, model_variants: float
) -> float:
    """The larger of what arithmetic and what memory asks for x models in training at a time."""
    return math.ceil(max(flop_accelerators, memory_accelerators) * model_variants)


@training("GB/s")
def input_gb_per_second(feature_tb_per_day: float, model_variants: float) -> float:
    """Feature rows a day / 86,400 s x models in training at a time."""
    return feature_tb_per_day * 1e3 / DAY_S * model_variants


@cost("USD/month")
def processor_usd(cores: float, core_usd_hour: float) -> float:
    """Cores x price x 730 h."""
    return cores * core_usd_hour * MONTH_H


@cost("USD/month")
def ranker_usd(ranker_accelerators: float, accelerator_usd_hour: float) -> float:
    """Accelerators of the ranker x price x 730 h."""
    return ranker_accelerators * accelerator_usd_hour * MONTH_H


@cost("USD/month")
def training_usd(training_accelerators: float, accelerator_usd_hour: float) -> float:
    """Accelerators in training x price x 730 h."""
    return training_accelerators * accelerator_usd_hour * MONTH_H


@cost("USD/month")
def memory_usd(
    store_tb: float, serving_tables_gb: float, regions: float, memory_usd_gb_month: float
) -> float:
    """(Feature store + served tables in each region) x price of memory."""
    return (store_tb * 1e3 + serving_tables_gb * regions) * memory_usd_gb_month


@cost("USD/month")
def log_usd(log_pb: float, disk_usd_gb_month: float) -> float:
    """Log kept x price of object storage."""
    return log_pb * 1e6 * disk_usd_gb_month


@cost("USD/month")
def network_usd(
    requests_per_day: float, response_bytes: float, stored_tb_per_day: float, traffic_usd_gb: float
) -> float:
    """(Responses out + log between zones) x price of a GB."""
    gb_per_day = requests_per_day * response_bytes / 1e9 + stored_tb_per_day * 1e3
    return gb_per_day * MONTH_DAYS * traffic_usd_gb


def _ratio(part: float, whole: float) -> float:
    return part / whole


PARTS = ("processor", "ranker", "training", "memory", "log", "network")
cost.add(
    "usd_per_month",
    "USD/month",
    "sum of the parts",
    tuple(f"{part}_usd" for part in PARTS),
    lambda *parts: sum(parts),
)
for part in PARTS:
    cost.add(
        f"{part}_cost_fraction",
        "share",
        "part / sum of the parts",
        (f"{part}_usd", "usd_per_month"),
        _ratio,
    )


@cost("USD/1,000 requests")
def usd_per_1k_requests(usd_per_month: float, requests_per_day: float) -> float:
    """Cost a month / requests a month x 1,000."""
    return usd_per_month / (requests_per_day * MONTH_DAYS) * 1000


@cost("USD/user/year")
def usd_per_user_year(usd_per_month: float, monthly_users: float) -> float:
    """Cost a month x 12 / monthly users."""
    return usd_per_month * 12 / monthly_users
