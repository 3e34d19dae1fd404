"""The ranking models as files: transformer, trees and pre-ranker of one version in one folder.

    encoder.onnx         the history encoder
    transformer.npz      item weights, head, scales, label; the item tables are computed on loading
    prerank.npz          the student
    trees_<task>.txt     LightGBM's own text format
    calibration.json     maps of both rankers

Plain arrays and text, no pickles: a bundle may come from another machine.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import lightgbm as lgb
import numpy as np

from ml_algorithms.metrics_and_calibration.calibration import Calibrator, Steps
from shorts_recommendation.config import Config
from shorts_recommendation.log import Catalogue
from shorts_recommendation.ranking.calibration import Calibration, Line, Platt
from shorts_recommendation.ranking.duration import WatchLabel
from shorts_recommendation.ranking.heads import TASKS, Ranker
from shorts_recommendation.ranking.item_side import ItemWeights, item_tables
from shorts_recommendation.ranking.network import Scale
from shorts_recommendation.ranking.prerank import PreRanker
from shorts_recommendation.ranking.transformer import HeadWeights, TransformerRanker
from shorts_recommendation.ranking.trees import TreeRanker
from shorts_recommendation.ranking.window_batches import Scales

_MAPS: dict[str, type] = {"Line": Line, "Platt": Platt, "Steps": Steps}


@dataclass(frozen=True)
class Ranking:
    """The models of one version.

    Attributes:
        encoder: The transformer.
        rankers: "transformer" and, where trained, "lightgbm".
        preranker: The student.
    """

    encoder: TransformerRanker
    rankers: dict[str, Ranker]
    preranker: PreRanker


class HasRanking(Protocol):
    """Whoever holds the models: the recommender, or ``Ranking``."""

    encoder: Any
    rankers: dict[str, Any]
    preranker: PreRanker


def save_ranking(source: HasRanking, folder: Path) -> None:
    """Writes the models into a folder that exists."""
    transformer = source.encoder
    (folder / "encoder.onnx").write_bytes(transformer.encoder)
    label = transformer.label
    arrays = _flat("items", transformer.items) | _flat("weights", transformer.weights)
    for part in ("user", "context", "cross"):
        arrays |= _flat(f"scale.{part}", getattr(transformer.scales, part))
    arrays |= {"label.edges": label.edges, "label.knots": label.knots}
    np.savez(folder / "transformer.npz", allow_pickle=False, **arrays)
    student = source.preranker
    names = ("request", "request_bias", "item", "bias", "counter", "counters")
    columns = {name: getattr(student, name) for name in names}
    np.savez(folder / "prerank.npz", allow_pickle=False, **columns)
    calibrations = {"transformer": _as_json(transformer.calibration)}
    trees = source.rankers.get("lightgbm")
    if trees is not None:
        calibrations["lightgbm"] = _as_json(trees.calibration)
        for task, booster in trees.boosters.items():
            (folder / f"trees_{task}.txt").write_text(booster.model_to_string())
    rest = {"kind": label.kind, "most_s": label.most_s, "length": transformer.length}
    text = json.dumps({"label": rest, "calibration": calibrations}, indent=1)
    (folder / "calibration.json").write_text(text)


def load_ranking(folder: Path, catalogue: Catalogue, config: Config) -> Ranking:
    """Reads what ``save_ranking`` wrote.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If histories of the configuration have another length than the encoder reads.
    """
    text = json.loads((folder / "calibration.json").read_text())
    length = int(text["label"]["length"])
    if length != config.state.history_length:
        raise ValueError(
            f"the encoder in {folder} reads {length} events, state.history_length is "
            f"{config.state.history_length}: train again or set it back"
        )
    with np.load(folder / "transformer.npz") as arrays:
        held = dict(arrays)
    label = WatchLabel(
        text["label"]["kind"], held["label.edges"], held["label.knots"], text["label"]["most_s"]
    )
    items = _whole(ItemWeights, "items", held)
    transformer = TransformerRanker(
        encoder=(folder / "encoder.onnx").read_bytes(),
        items=items,
        tables=item_tables(items, catalogue, label),
        weights=_whole(HeadWeights, "weights", held),
        scales=Scales(*(_whole(Scale, f"scale.{p}", held) for p in ("user", "context", "cross"))),
        label=label,
        calibration=_of_json(text["calibration"]["transformer"]),
        length=length,
    )
    rankers: dict[str, Ranker] = {"transformer": transformer}
    if "lightgbm" in text["calibration"]:
        rankers["lightgbm"] = TreeRanker(
            {
                task: lgb.Booster(model_str=(folder / f"trees_{task}.txt").read_text())
                for task in TASKS
            },
            _of_json(text["calibration"]["lightgbm"]),
        )
    with np.load(folder / "prerank.npz") as arrays:
        student = PreRanker(**dict(arrays), teacher=transformer)
    return Ranking(transformer, rankers, student)


def _flat(prefix: str, whole: Any) -> dict[str, np.ndarray]:
    return {f"{prefix}.{f.name}": getattr(whole, f.name) for f in fields(whole)}


def _whole(kind: Any, prefix: str, arrays: dict[str, np.ndarray]) -> Any:
    return kind(**{f.name: arrays[f"{prefix}.{f.name}"] for f in fields(kind)})


def _as_json(calibration: Calibration) -> dict[str, Any]:
    maps = {}
    for task, map_ in calibration.maps.items():
        values = asdict(map_)  # type: ignore[call-overload]
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        maps[task] = {"map": type(map_).__name__, "values": plain}
    return {"maps": maps, "kinds": calibration.kinds}


def _of_json(content: dict[str, Any]) -> Calibration:
    maps: dict[str, Calibrator] = {}
    for task, held in content["maps"].items():
        values = {
            name: np.array(v) if isinstance(v, list) else v for name, v in held["values"].items()
        }
        maps[task] = _MAPS[held["map"]](**values)
    return Calibration(maps, dict(content["kinds"]))
