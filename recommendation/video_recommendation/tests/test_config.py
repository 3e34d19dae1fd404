"""Configuration: nothing unknown passes, and every committed file loads."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.config import Config, load_config
from video_recommendation.evaluation.ablations import read_ablations

FILES = sorted((SYSTEM_FOLDER / "configs").rglob("*.yaml"))


def test_there_are_configurations():
    assert len(FILES) >= 3
    assert {"smoke", "default"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_file_loads(path):
    assert isinstance(load_config(path), Config)


def test_the_default_file_is_the_code_and_smoke_is_quick():
    default = load_config(SYSTEM_FOLDER / "configs" / "default.yaml")
    assert default.two_tower == Config().two_tower
    assert not default.quick
    assert default.data.dataset == "movielens-100k"
    assert load_config(SYSTEM_FOLDER / "configs" / "smoke.yaml").quick


def test_every_ablation_changes_something():
    settings = read_ablations(SYSTEM_FOLDER / "configs" / "ablations", Config())
    assert len(settings) >= 5
    for name, setting in settings.items():
        assert (setting == settings["default"]) == (name == "default"), name


def test_an_ablation_changes_the_base_and_keeps_the_rest(tmp_path):
    base = Config.model_validate({"two_tower": {"embedding_dim": 8}})
    (tmp_path / "mean.yaml").write_text("two_tower: {pooling: mean}")
    got = read_ablations(tmp_path, base)["mean"]
    assert (got.embedding_dim, got.pooling) == (8, "mean")
    with pytest.raises(FileNotFoundError, match="no ablation configurations"):
        read_ablations(tmp_path / "empty", base)


def test_the_file_then_the_overrides(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\ntwo_tower: {max_epochs: 4, embedding_dim: 8}\nranking:\n")
    config = load_config(
        path, ("two_tower.max_epochs=5", "ranking.label_gain=[0, 1, 3]", "data.synthetic.seed=7")
    )
    assert config.seed == 3
    assert (config.two_tower.max_epochs, config.two_tower.embedding_dim) == (5, 8)
    assert config.ranking.label_gain == (0.0, 1.0, 3.0)
    assert config.data.synthetic == {"seed": 7}
    assert config.retrieval == Config().retrieval


def test_an_empty_file_is_the_default(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing differs\n")
    assert load_config(tmp_path / "empty.yaml") == Config()


@pytest.mark.parametrize(
    ("override", "place", "message"),
    [
        ("two_tower.embeding_dim=8", "two_tower.embeding_dim", "Extra inputs"),
        ("nonsense=1", "nonsense", "Extra inputs"),
        ("two_tower.pooling=max", "two_tower.pooling", "'mean', 'recency' or 'attention'"),
        ("ranking.max_trees=0", "ranking.max_trees", "greater than 0"),
        ("ranking.choose_fraction=1", "ranking.choose_fraction", "less than 1"),
        ("evaluation.resamples=50", "evaluation.resamples", "greater than or equal to 100"),
        ("data.dataset=nosuch", "data.dataset", "there are movielens-100k"),
        ("data.synthetic={n_user: 5}", "data.synthetic", "n_user"),
        ("data.synthetic={n_users: 0}", "data.synthetic", "n_users must be at least 1, got 0"),
        ("data.synthetic={n_users: many}", "data.synthetic", "not supported"),
        ("data.fractions=[0.8, 0.1, 0.2]", "data.fractions", "sum to 1"),
        ("data.fractions=[1.0, 0.0, 0.0]", "data.fractions", "positive"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_reason(override, place, message):
    with pytest.raises(ValidationError) as caught:
        load_config(None, (override,))
    (error,) = caught.value.errors()
    assert ".".join(str(part) for part in error["loc"]) == place
    assert message in error["msg"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("two_tower", "not of the form stage.key=value"),
        ("name.deep=1", "name is a value, not a stage"),
        ("seed=[1", "is not YAML"),
    ],
)
def test_a_malformed_override_is_refused(tmp_path, override, message):
    (tmp_path / "run.yaml").write_text("name: mine\n")
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "run.yaml", (override,))


def test_a_malformed_file_is_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match=r"list\.yaml holds a list"):
        load_config(tmp_path / "list.yaml")
    with pytest.raises(ValueError, match=r"broken\.yaml is not YAML"):
        load_config(tmp_path / "broken.yaml")
    with pytest.raises(FileNotFoundError, match="nosuch"):
        load_config(Path("nosuch.yaml"))


def test_a_configuration_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Config().two_tower.embedding_dim = 8
