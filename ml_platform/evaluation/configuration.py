"""Reading a run's configuration: a YAML file of differences, then ``stage.key=value`` overrides.

In: a frozen pydantic model with defaults, a file, overrides. Out: the model, or an error that names
what was wrong. One frozen model per stage; unknown keys are refused, so a typing error in a file
cannot pass silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict


class Stage(BaseModel):
    """Base of all stage configurations: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Stage)


def read_config(model: type[C], path: Path | None = None, overrides: tuple[str, ...] = ()) -> C:
    """Reads a YAML file of differences and applies ``stage.key=value`` overrides on top.

    Args:
        model: The configuration of a whole system; its fields are the stages.
        path: The file; None for the defaults.
        overrides: As ``ranking.epochs=2``; the value is read as YAML.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: For an override that is not ``key=value``, an unknown key or a bad value
            (pydantic's ValidationError is one).
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise FileNotFoundError(
                f"no configuration file {path}; see configs/ for those there are"
            )
        values = _parsed(path.read_text(), str(path)) or {}
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a {type(values).__name__}, not keys with values")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r} is not of the form stage.key=value")
        _set(values, key.strip().split("."), _parsed(text, f"override {override!r}"))
    return model.model_validate(values)


def _parsed(text: str, origin: str) -> Any:
    import yaml  # here, so that a service that never reads a file does not need it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{origin} is not YAML: {error}") from error


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Sets ``values[a][b] = value`` for the path [a, b], making the stages on the way."""
    *parents, leaf = path
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ValueError(f"override of {'.'.join(path)!r}: {parent} is a value, not a stage")
    values[leaf] = value
