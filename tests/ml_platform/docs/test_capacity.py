"""Capacity arithmetic: numbers worked out by hand, properties, units, and every way to be wrong."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given as for_all
from hypothesis import strategies as st

from ml_platform.docs import capacity, capacity_costs, capacity_serving
from ml_platform.docs.capacity_quantities import CapacityError, Formulas, convert, evaluate
from ml_platform.docs.capacity_scenario import DERIVED, INPUTS, QUANTITIES, read_scenario
from ml_platform.evaluation.results import Results

SYSTEM = Path(__file__).resolve().parents[3] / "recommendation" / "video_recommendation"
SCENARIO, GIVEN = read_scenario(SYSTEM / "capacity.yaml")
VALUES = capacity.values_of(SCENARIO, GIVEN)


def content_without_measured() -> dict:
    """The committed file with its measured inputs typed in, so that it stands alone."""
    content = yaml.safe_load((SYSTEM / "capacity.yaml").read_text(encoding="utf-8"))
    for name, part in content["inputs"].items():
        if "measured" in part:
            content["inputs"][name] = {
                "value": GIVEN[name],
                "unit": part["unit"],
                "assumed": "typed in by a test",
            }
    return content


@pytest.fixture
def content() -> dict:
    return content_without_measured()


def save(folder: Path, content: dict) -> Path:
    path = folder / "capacity.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


# --- by hand ------------------------------------------------------------------------------------


def test_traffic() -> None:
    assert capacity_serving.daily_users(2e9, 0.5) == 1e9
    assert capacity_serving.requests_per_day(1e9, 10) == 1e10
    assert capacity_serving.mean_requests_per_second(86_400_000) == 1000
    assert capacity_serving.peak_requests_per_second(1000, 2.5) == 2500
    assert capacity_serving.impressions_per_day(1000, 20) == 20_000
    assert capacity_serving.feedback_per_day(1000, 3) == 3000
    assert capacity_serving.peak_feedback_per_second(86_400, 2.5) == 2.5


def test_cores_and_servers() -> None:
    # 1000 requests x 10 ms are 10 busy cores; at half load 20; one region of five lost, 25.
    assert capacity_serving._cores(10, 1000, 0.5, 1.25) == pytest.approx(25)
    assert capacity_serving.spare_factor(5) == 1.25
    assert capacity_serving.spare_factor(2) == 2
    assert capacity_serving.servers(65, 64) == 2
    assert capacity_serving.workers_like_ours(1000, 125) == 8
    assert capacity_serving.around_ms(10, 1, 7) == 2
    assert capacity_serving.worker_busy(100, 7, 1) == pytest.approx(0.6)


def test_ranker_on_accelerators() -> None:
    assert capacity_serving.ranker_gflop(50e6, 500) == 50
    # 10,000 x 50 GFLOP = 5e14 a second; 1e15 x 20% reached: 2.5, with a spare quarter 3.125.
    assert capacity_serving.ranker_accelerators(10_000, 50, 1e15, 0.2, 1.25) == 4


def test_search_time_goes_through_the_measured_points_and_adds_over_shards() -> None:
    search = capacity_serving._search_ms
    assert search(1e6, 1, 64, 64, 0.8, 0.1) == pytest.approx(0.8)
    assert search(1e5, 1, 64, 64, 0.8, 0.1) == pytest.approx(0.1)
    assert search(1e7, 1, 64, 64, 0.8, 0.1) == pytest.approx(6.4)  # another factor of 8
    assert search(4e6, 4, 64, 64, 0.8, 0.1) == pytest.approx(3.2)  # four shards of a million
    assert search(1e6, 1, 128, 64, 0.8, 0.1) == pytest.approx(1.6)
    assert capacity_serving.shards(100, 30) == 4
    assert capacity_serving.item_item_gb(100_000) == 40
    assert capacity_serving.search_ms(10, 0.6) == pytest.approx(4)


@pytest.mark.parametrize("kind", capacity_serving.KINDS)
def test_index_memory_agrees_with_bytes_measured(kind: str) -> None:
    measured = Results.read(SYSTEM / "results" / "bench.json")
    values = evaluate(QUANTITIES, {**converted(GIVEN), "catalogue_items": 1e6, "eligible_share": 1})
    predicted = values[f"{kind}_gb"] * 1e9 / 1e6
    found = measured[f"index/{kind}_1000000/bytes_per_vector"].value
    assert predicted == pytest.approx(found, rel=0.03)


def test_network() -> None:
    assert capacity_serving.shard_calls_per_second(1000, 5, 0.5) == 2500
    assert capacity_serving.slow_request_share(100, 0.01) == pytest.approx(0.634, abs=5e-4)
    # 64 floats out, 500 results of 12 bytes back: 6,256 bytes a call.
    assert capacity_serving.search_gbit_per_second(1e6, 64, 500) == pytest.approx(50.048)
    assert capacity_serving.remote_features_gbit_per_second(1000, 500, 500) == pytest.approx(2)


def test_log_and_store() -> None:
    assert capacity_costs.impression_tb_per_day(2e11, 100) == 20
    assert capacity_costs.feedback_tb_per_day(5e10, 50) == 2.5
    assert capacity_costs.examples_per_day(2e11, 0.1) == 2e10
    assert capacity_costs.feature_tb_per_day(2e10, 1000) == 20
    assert capacity_costs.stored_tb_per_day(20, 2, 18, 4) == 10
    assert capacity_costs.log_pb(10, 90, 1.5) == pytest.approx(1.35)
    assert capacity_costs.user_state_kb(200, 50, 1000) == 11
    assert capacity_costs.store_tb(1e9, 11, 1e9, 1000, 3) == pytest.approx(36)
    assert capacity_costs.store_servers(36, 256e9, 0.75) == 188
    assert capacity_costs.item_reads_per_second(1000, 500) == 500_000


def test_embedding_tables() -> None:
    assert capacity_costs.user_table_gb(2e9, 1, 64) == 512
    assert capacity_costs.user_table_gb(2e9, 0, 64) == 0
    assert capacity_costs.item_table_gb(1e9, 64) == 256
    assert capacity_costs.optimizer_gb(512, 256, 2) == 1536
    assert capacity_costs.training_tables_gb(512, 256, 768) == 1536
    assert capacity_costs.serving_tables_gb(512, 256, 1) == 192
    assert capacity_costs.memory_accelerators(1536, 80e9, 0.7) == 28  # 27.4


def test_training_is_bound_by_the_larger_of_memory_and_arithmetic() -> None:
    assert capacity_costs.training_flop_per_day(1e10, 50e6) == 3e18
    # 8.64e18 FLOP at 1e15 x 10% are 86,400 s: one accelerator for a day.
    assert capacity_costs.flop_accelerators(8.64e18, 1e15, 0.1) == pytest.approx(1)
    assert capacity_costs.training_accelerators(0.5, 28, 10) == 280
    assert capacity_costs.training_accelerators(28.5, 4, 2) == 57
    assert capacity_costs.input_gb_per_second(86.4, 2) == pytest.approx(2)


def test_the_bill() -> None:
    assert capacity_costs.processor_usd(100, 0.04) == pytest.approx(2920)
    assert capacity_costs.ranker_usd(10, 3) == capacity_costs.training_usd(10, 3) == 21_900
    assert capacity_costs.memory_usd(1, 100, 5, 2) == 3000
    assert capacity_costs.log_usd(1, 0.02) == 20_000
    # 1 GB out and 1 GB of log a day, 365 / 12 days.
    assert capacity_costs.network_usd(1e5, 1e4, 0.001, 0.6) == pytest.approx(36.5)
    assert capacity_costs.usd_per_1k_requests(365_000, 12e6) == pytest.approx(1)
    assert capacity_costs.usd_per_user_year(100, 1200) == 1
    fractions = [VALUES[f"{part}_cost_fraction"] for part in capacity_costs.PARTS]
    assert sum(fractions) == pytest.approx(1)
    assert VALUES["usd_per_month"] == pytest.approx(
        sum(VALUES[f"{part}_usd"] for part in capacity_costs.PARTS)
    )


def test_stages_add_up_to_the_whole() -> None:
    cores = sum(VALUES[f"cores_{stage}"] for stage in capacity_serving.STAGES)
    assert VALUES["cores"] == pytest.approx(cores)
    rate, busy = VALUES["peak_requests_per_second"], VALUES["processor_utilisation_share"]
    expected = rate * VALUES["processor_ms"] / 1000 / busy * VALUES["spare_factor"]
    assert cores == pytest.approx(expected)


# --- properties ---------------------------------------------------------------------------------


def converted(given: dict[str, float]) -> dict[str, float]:
    return {name: convert(name, v, SCENARIO.inputs[name].unit) for name, v in given.items()}


GROWING = (
    "monthly_users", "requests_per_user", "peak_to_mean", "catalogue_items", "ranked_items",
    "ranker_parameters", "embedding_dim", "retention_days", "model_variants", "core_usd_hour",
    "rerank_ms", "optimizer_slots", "response_bytes",
)  # fmt: skip
SHRINKING = ("cores_per_server", "compression", "accelerator_memory_bytes", "regions")


@for_all(name=st.sampled_from(GROWING), factor=st.floats(1.0, 1000.0))
def test_more_of_it_never_costs_less(name: str, factor: float) -> None:
    more = capacity.values_of(SCENARIO, {**GIVEN, name: GIVEN[name] * factor})
    assert more["usd_per_month"] >= VALUES["usd_per_month"] * (1 - 1e-12)
    assert more["cores"] >= VALUES["cores"] * (1 - 1e-12)


@for_all(name=st.sampled_from(SHRINKING), factor=st.floats(1.0, 1000.0))
def test_a_better_machine_never_needs_more_of_them(name: str, factor: float) -> None:
    better = capacity.values_of(SCENARIO, {**GIVEN, name: GIVEN[name] * factor})
    for count in ("servers", "training_accelerators", "ranker_accelerators"):
        assert better[count] <= VALUES[count]


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_no_input_is_a_dead_knob(name: str) -> None:
    inputs = converted(GIVEN)
    factor = 1.01 if name.endswith("_ms") else 0.5  # half a total would leave less than a part
    moved = evaluate(QUANTITIES, {**inputs, name: inputs[name] * factor or 0.5})
    before = evaluate(QUANTITIES, inputs)
    assert any(moved[quantity] != before[quantity] for quantity in DERIVED)


def test_sensitivity_by_hand() -> None:
    up = capacity.sensitivity(SCENARIO, GIVEN, 2.0)
    # The price of a core is in one part only: doubling it adds that part once more.
    assert up["core_usd_hour"] == pytest.approx(VALUES["processor_cost_fraction"], rel=1e-6)
    assert up["user_rows_share"] == 0  # 100% stays 100%
    assert "regions" not in capacity.sensitivity(SCENARIO, {**GIVEN, "regions": 2}, 0.5)


# --- units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "unit", "expected"),
    [
        ("server_memory_bytes", 256, "GiB", 256 * 2**30),
        ("server_memory_bytes", 256, "GB", 256e9),
        ("item_feature_bytes", 0.5, "KB", 500),
        ("rank_ms", 1.5, "s", 1500),
        ("retention_days", 2, "weeks", 14),
        ("daily_share", 50, "%", 0.5),
        ("daily_share", 0.5, "share", 0.5),
        ("accelerator_flops", 989, "TFLOP/s", 989e12),
        ("accelerator_usd_hour", 72, "USD/day", 3),
        ("disk_usd_gb_month", 20, "USD/TB/month", 0.02),
        ("traffic_usd_gb", 10, "USD/TB", 0.01),
        ("monthly_users", 7, "users", 7),
    ],
)
def test_units_convert(name: str, value: float, unit: str, expected: float) -> None:
    assert convert(name, value, unit) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "value", "unit", "message"),
    [
        ("server_memory_bytes", 1, "ms", "server_memory_bytes: unit 'ms' is none of bytes, KB"),
        ("rank_ms", 1, "milliseconds", "unit 'milliseconds' is none of ms, us, s"),
        ("daily_share", 150, "%", "daily_share = 150 % is more than the whole"),
        ("monthly_users", 1, "GB", "monthly_users is a count, but its unit 'GB' measures bytes"),
    ],
)
def test_units_that_do_not_fit(name: str, value: float, unit: str, message: str) -> None:
    with pytest.raises(CapacityError, match=message):
        convert(name, value, unit)


# --- files that are wrong -----------------------------------------------------------------------


def changed(content: dict, *path: str, to: object) -> dict:
    """A copy with one entry replaced, or removed where `to` is None."""
    copied = copy.deepcopy(content)
    place = copied
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return copied


USERS = {"value": 5, "unit": "users", "assumed": "for a test"}


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("inputs", "monthly_user"), USERS, "the input 'monthly_user'; near it: monthly_users"),
        (("inputs", "monthly_users"), None, "inputs are missing: monthly_users"),
        (("inputs", "monthly_users", "value"), -1, "inputs.monthly_users.value: Input should be"),
        (("inputs", "monthly_users", "value"), "many", "inputs.monthly_users.value: Input should"),
        (("inputs", "monthly_users", "sorce"), "x", "inputs.monthly_users.sorce: Extra inputs"),
        (("inputs", "monthly_users", "cited"), "somewhere", "one of assumed, cited or measured"),
        (("inputs", "monthly_users", "assumed"), None, "one of assumed, cited or measured"),
        (("inputs", "monthly_users", "value"), None, "a value stands here, or is taken from"),
        (("inputs", "monthly_users", "unit"), "GB", "monthly_users is a count"),
        (("inputs", "daily_share", "value"), 200, "daily_share = 200.0 % is more than the whole"),
        (("inputs", "regions", "value"), 1, "serving/spare_factor .* division by zero"),
        (("inputs", "total_ms", "value"), 0, "serving/around_ms .* it gives -"),
        (("report",), ["server"], "knows the quantity 'server'; near it: servers"),
        (("total",), "dollars", "no formula knows the quantity 'dollars'"),
        (("cases", "x1", "set"), {"users": 1}, "no formula knows the input 'users'"),
        (("cases", "scenario"), {"note": "its own name", "set": {"regions": 3}}, "may be called"),
        (("seed",), 1, "seed: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_is_wrong_says_where(
    tmp_path: Path, content: dict, capsys: pytest.CaptureFixture[str], path, to, message
) -> None:
    file = save(tmp_path, changed(content, *path, to=to))
    with pytest.raises(CapacityError, match=message):
        capacity.compute(file)
    with pytest.raises(SystemExit) as stop:
        capacity.main([str(file), "--out", str(tmp_path / "out.json")])
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("results/none.json#a/b/c", "rank_ms: no results file results/none.json"),
        ("results/bench.json#index/flatt/p50_ms", "rank_ms: results/bench.json: no metric"),
        ("results/bench.json", "should match pattern"),
    ],
)
def test_a_measured_input_that_is_not_there(
    tmp_path: Path, content: dict, reference: str, message: str
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "bench.json").write_bytes(
        (SYSTEM / "results" / "bench.json").read_bytes()
    )
    measured = {"measured": reference, "unit": "ms"}
    file = save(tmp_path, changed(content, "inputs", "rank_ms", to=measured))
    with pytest.raises(CapacityError, match=message):
        capacity.compute(file)


def test_a_file_that_is_no_yaml_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("inputs: [")
    with pytest.raises(CapacityError, match=r"broken\.yaml is not valid YAML"):
        capacity.compute(tmp_path / "broken.yaml")
    with pytest.raises(CapacityError, match="no such file"):
        capacity.compute(tmp_path / "absent.yaml")


# --- the command --------------------------------------------------------------------------------


def test_a_second_run_leaves_the_file_alone(tmp_path: Path, content: dict, capsys) -> None:
    inputs, out = save(tmp_path, content), tmp_path / "results" / "capacity.json"
    assert capacity.main([str(inputs), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "written" in printed
    assert "usd_per_month" in printed
    first = out.read_bytes()
    inputs.write_text("# a comment\n" + inputs.read_text(encoding="utf-8"), encoding="utf-8")
    assert capacity.main([str(inputs), "--out", str(out)]) == 0
    assert "left alone" in capsys.readouterr().out
    assert out.read_bytes() == first
    save(tmp_path, changed(content, "inputs", "monthly_users", "value", to=1e9))
    assert capacity.main([str(inputs), "--out", str(out)]) == 0
    assert Results.read(out)["capacity/monthly_users/value"].value == 1e9


def test_what_is_written(tmp_path: Path, content: dict) -> None:
    results = capacity.compute(save(tmp_path, content))
    assert results.run.dataset.name == "capacity.yaml"
    users = results["capacity/monthly_users/value"]
    assert (users.value, users.protocol) == (2e9, "users; assumed: the scenario's given number")
    requests = results["capacity/traffic/requests_per_day"]
    assert (requests.value, requests.protocol) == (
        1e10,
        "requests/day; Daily users x feed requests of each",
    )
    whole = results["capacity/cost/usd_per_month"].value
    assert results["capacity/scenario/usd_per_month"].value == whole
    assert results["capacity/two_regions/usd_per_month"].value > whole
    assert results["capacity/core_usd_hour/halved"].value < 0


def test_a_formula_uses_only_what_stands_before_it() -> None:
    known = set(INPUTS)
    for quantity in QUANTITIES:
        assert quantity.words, f"{quantity.name} has no formula in words"
        assert set(quantity.needs) <= known, quantity.name
        assert quantity.name not in known, f"{quantity.name} is defined twice"
        known.add(quantity.name)
    assert len(QUANTITIES) > 50


def test_a_formula_that_overflows_is_named() -> None:
    formulas = Formulas("made_up")

    @formulas("things")
    def too_many(things: float) -> float:
        """Things to the power of things."""
        return things**things

    with pytest.raises(CapacityError, match=r"made_up/too_many \(Things to the power of things"):
        evaluate(formulas.quantities, {"things": 1e9})


def test_the_committed_file_is_what_the_inputs_give() -> None:
    """If this fails: make capacity (an input changed, or a benchmark that it refers to)."""
    committed = json.loads((SYSTEM / "results" / "capacity.json").read_text(encoding="utf-8"))
    fresh = json.loads(capacity.compute(SYSTEM / "capacity.yaml").to_json())
    assert fresh["metrics"] == committed["metrics"]
    assert fresh["run"]["config"] == committed["run"]["config"]
