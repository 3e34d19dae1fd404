from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ml_platform.evaluation.configuration import Stage, read_config


class Training(Stage):
    epochs: int = 3
    rate: float = 0.1


class Whole(Stage):
    seed: int = 0
    training: Training = Training()


def test_defaults_then_the_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 4\ntraining: {epochs: 5}\n")
    config = read_config(Whole, path, ("training.rate=0.5", "seed=7"))
    assert config == Whole(seed=7, training=Training(epochs=5, rate=0.5))
    assert read_config(Whole) == Whole()


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing differs\n")
    assert read_config(Whole, path) == Whole()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs", "not of the form stage.key=value"),
        ("training.epoch=2", "Extra inputs are not permitted"),
        ("training.epochs=many", "valid integer"),
        ("seed.deep=1", "seed is a value, not a stage"),
        ("seed=[1", "is not YAML"),
    ],
)
def test_a_mistake_in_an_override_is_named(override: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(ValueError, match=said):
        read_config(Whole, path, (override,))


def test_a_file_that_is_missing_or_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        read_config(Whole, tmp_path / "nowhere.yaml")
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match="holds a list"):
        read_config(Whole, path)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Whole().seed = 3  # type: ignore[misc]
