"""Loading: the cache returns what was made, notices damage, and knows what decides the content."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shorts_recommendation.config import Config, DataConfig, WorldConfig
from shorts_recommendation.data import ShortsData, load_data, windows_of, world_key
from shorts_recommendation.log import DAY_S
from shorts_recommendation.world import generate_log, make_world
from shorts_recommendation.world.scale import measure_scale, peak_memory_bytes, stream_and_measure
from shorts_recommendation.world.storage import DamagedWorldError, content_sha256, read_world

CONFIG = Config(
    world=WorldConfig(n_users=60, n_videos=400, impressions_per_user=20, days=4, n_tags=10),
    data=DataConfig(train_days=2, validation_days=1),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(cache: Path) -> ShortsData:
    return load_data(CONFIG, cache_dir=cache)


def test_what_is_loaded_is_what_the_generator_makes(data: ShortsData, cache: Path) -> None:
    world = make_world(CONFIG.world, CONFIG.seed)
    log = generate_log(world, CONFIG.seed)
    for again in (data, load_data(CONFIG, cache_dir=cache)):
        for f in fields(log):
            assert np.array_equal(getattr(again.log, f.name), getattr(log, f.name)), f.name
            assert getattr(again.log, f.name).dtype == getattr(log, f.name).dtype, f.name
        for table, made in (
            (again.catalogue, world.catalogue),
            (again.users, world.users),
            (again.world.video_truth, world.video_truth),
            (again.world.user_truth, world.user_truth),
            (again.world.shocks, world.shocks),
        ):
            for f in fields(made):
                assert np.array_equal(getattr(table, f.name), getattr(made, f.name)), f.name
                assert getattr(table, f.name).dtype == getattr(made, f.name).dtype, f.name
        assert again.world.config == world.config
        assert again.world.behaviour == world.behaviour
        assert again.sha256 == content_sha256(world.catalogue, log)
        assert again.synthetic
        assert "60 users x 400 videos" in again.name


def test_windows_are_cut_at_midnights(data: ShortsData) -> None:
    start = data.world.start_s
    got = data.windows
    assert (got.start, got.train_end, got.validation_end, got.end) == (
        start,
        start + 2 * DAY_S,
        start + 3 * DAY_S,
        data.world.end_s,
    )
    assert got == windows_of(CONFIG, start)
    assert got.start <= data.log.timestamp.min()
    assert data.log.timestamp.max() < got.end


def test_the_second_load_does_not_generate(
    data: ShortsData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shorts_recommendation.data.make_world", None)
    assert load_data(CONFIG, cache_dir=cache).sha256 == data.sha256


def test_the_key_knows_what_decides_the_content() -> None:
    def changed(**world: object) -> str:
        return world_key(CONFIG.model_copy(update={"world": CONFIG.world.model_copy(update=world)}))

    assert world_key(CONFIG) == changed()
    assert world_key(CONFIG) != changed(taste_drift=0.31)
    assert world_key(CONFIG) != world_key(CONFIG.model_copy(update={"seed": 1}))
    later = DataConfig(train_days=1, validation_days=1)
    assert world_key(CONFIG) == world_key(CONFIG.model_copy(update={"data": later}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("content.npy", lambda path: path.write_bytes(path.read_bytes()[:-5] + b"12345")),
        ("log-00000.parquet", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("users.parquet", lambda path: path.unlink()),
        ("world.json", lambda path: path.write_text("{")),
    ],
)
def test_damage_is_named_removed_and_made_again(
    name: str, damage, data: ShortsData, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cache / "shorts_world" / world_key(CONFIG)
    damage(folder / name)
    with pytest.raises(DamagedWorldError, match=name):
        read_world(folder)
    with caplog.at_level(logging.WARNING):
        assert load_data(CONFIG, cache_dir=cache).sha256 == data.sha256
    assert name in caplog.text
    assert "made again" in caplog.text
    read_world(folder)  # whole again


def test_a_killed_process_leaves_nothing_that_counts(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CONFIG.model_copy(update={"seed": 9})
    monkeypatch.setattr("shorts_recommendation.data.write_world", _fail)
    with pytest.raises(OSError, match="disk full"):
        load_data(other, cache_dir=cache)
    assert not (cache / "shorts_world" / world_key(other)).exists()
    monkeypatch.undo()
    assert len(load_data(other, cache_dir=cache).log) > 0


def _fail(*_: object) -> None:
    raise OSError("disk full")


def test_parquet_is_readable_by_anyone(data: ShortsData, cache: Path) -> None:
    folder = cache / "shorts_world" / world_key(CONFIG)
    table = pq.read_table(folder / "catalogue.parquet")
    assert table.num_rows == 400
    assert "content" not in table.column_names
    assert np.array_equal(table["tag_0"].to_numpy(), data.catalogue.tags[:, 0])
    assert np.load(folder / "content.npy", mmap_mode="r").shape == (400, 768)
    record = json.loads((folder / "world.json").read_text())
    rows = sum(pq.read_metadata(folder / part).num_rows for part in record["parts"])
    assert rows == len(data.log)


def test_the_log_streams_in_memory_that_does_not_grow_with_it() -> None:
    """Five times the impressions over five times the days, by the same users: the same peak."""
    shape = {"n_users": 1500, "n_videos": 2000, "impressions_per_user": 60}
    short, long = measure_scale(
        [
            WorldConfig(**shape, days=2),
            WorldConfig(**{**shape, "impressions_per_user": 300}, days=10),
        ]
    )
    assert long.impressions > 4 * short.impressions
    grown = long.peak_bytes - short.peak_bytes
    in_memory = 43 * (long.impressions - short.impressions)  # bytes of a row of ImpressionLog
    assert in_memory > 12e6, "large enough to be seen"
    assert grown < in_memory / 2
    assert short.start_bytes < short.world_bytes <= short.peak_bytes
    assert long.log_bytes > 4 * short.log_bytes


def test_measuring_in_this_process_counts_what_was_written(tmp_path: Path) -> None:
    row = stream_and_measure(CONFIG.world, 0, tmp_path)
    assert row.impressions == len(generate_log(make_world(CONFIG.world, 0), 0))
    assert row.log_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.parquet"))
    assert 0 < row.peak_bytes <= peak_memory_bytes()


def test_a_failed_measurement_says_why() -> None:
    with pytest.raises(RuntimeError, match="no video exists"):
        measure_scale([CONFIG.world.model_copy(update={"backlog_share": 0.0})])
