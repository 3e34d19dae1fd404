"""``embedding-choices`` at the smallest size: every key, the table, the plot."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from image_search.commands import Run
from image_search.config import ChoicesConfig, CnnConfig, Config, EmbeddingsConfig, ImagesConfig
from image_search.embeddings.command import CHOICES, STAGE, UNSEEN, UNSEEN_CHOICES, run


def test_every_choice_is_measured(tmp_path: Path) -> None:
    cnn = CnnConfig(side=16, width=4, dims=(4, 8), cutout=4, warm_epochs=1, plain_epochs=1)
    config = Config(
        quick=True,
        images=ImagesConfig(dataset="shapes", shapes_per_class=8),
        embeddings=EmbeddingsConfig(
            cnn=cnn, choices=ChoicesConfig(pictures=30, epochs=2), hog_side=32
        ),
    )
    console = Console(width=120, record=True)
    run(Run(config=config, artifacts=tmp_path, console=console))
    (written,) = tmp_path.rglob("embedding_choices.json")
    found = json.loads(written.read_text())["metrics"]
    expected = {f"{STAGE}/{c.name}" for c in CHOICES} | {
        f"{UNSEEN}/{c.name}" for c in UNSEEN_CHOICES
    }
    expected |= {f"{UNSEEN}/{c.name}_with_{h}" for c in UNSEEN_CHOICES for h in ("hog", "all_hog")}
    expected |= {f"{STAGE}/proxy_with_hog", f"{STAGE}/proxy_with_all_hog"}
    expected |= {f"{STAGE}/proxy_prefix_4", f"{STAGE}/proxy_no_mirror"}
    expected |= {f"{UNSEEN}/pixels_cosine", f"{UNSEEN}/hog"}
    assert {key.rsplit("/", 1)[0] for key in found} == expected
    assert "validation" in found[f"{STAGE}/proxy/recall@1"]["protocol"]
    assert "synthetic" in found[f"{UNSEEN}/hog/recall@1"]["protocol"]
    assert "unseen" in found[f"{UNSEEN}/joint/map@r"]["protocol"]
    assert found[f"{UNSEEN}/joint/recall@1"]["n"] == 4  # two of the unseen classes, two each
    (plot,) = tmp_path.rglob("embedding_choices.png")
    assert plot.stat().st_size > 10_000
    text = console.export_text()
    assert "proxy_smoothing" in text
    assert "simclr_with_hog" in text
