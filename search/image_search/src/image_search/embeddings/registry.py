"""The embeddings by name: made new, or read back from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from image_search.embeddings.base import SETTINGS_FILE, Embedder
from image_search.embeddings.cnn import Cnn
from image_search.embeddings.cnn_with_hog import CnnWithHog
from image_search.embeddings.efficientnet import EfficientNetLite0
from image_search.embeddings.heads import EfficientNetHead
from image_search.embeddings.hog import Hog
from image_search.embeddings.pixels import Pixels
from image_search.embeddings.weight_files import DinoV2, OpenClip

EMBEDDERS: dict[str, tuple[Callable[[], Embedder], Callable[[Path], Embedder]]] = {
    "pixels_cosine": (lambda: Pixels("cosine"), Pixels.load),
    "pixels_l2": (lambda: Pixels("l2"), Pixels.load),
    "hog": (Hog, Hog.load),
    "efficientnet_lite0": (EfficientNetLite0, EfficientNetLite0.load),
    "efficientnet_head": (EfficientNetHead, EfficientNetHead.load),
    "cnn_supcon": (partial(Cnn, "supcon"), Cnn.load),
    "cnn_proxy": (partial(Cnn, "proxy"), Cnn.load),
    "cnn_simclr": (partial(Cnn, "simclr"), Cnn.load),
    "cnn_joint": (partial(Cnn, "joint"), Cnn.load),
    "cnn_proxy_hog": (partial(CnnWithHog, "proxy"), CnnWithHog.load),
    "cnn_joint_hog": (partial(CnnWithHog, "joint"), CnnWithHog.load),
    "open_clip": (OpenClip, OpenClip.load),
    "dinov2": (DinoV2, DinoV2.load),
}
"""Name -> (a new one, one read from a folder)."""


def make_embedder(name: str) -> Embedder:
    """A new embedder, not fitted.

    Raises:
        ValueError: For a name that is not in the registry.
    """
    if name not in EMBEDDERS:
        raise ValueError(f"unknown embedding {name!r}; there are {', '.join(EMBEDDERS)}")
    return EMBEDDERS[name][0]()


def load_embedder(folder: Path) -> Embedder:
    """The embedder that was saved in ``folder``, whichever it is.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of a kind that is not in the registry.
    """
    name = json.loads((folder / SETTINGS_FILE).read_text()).get("name")
    if name not in EMBEDDERS:
        raise ValueError(f"{folder} holds an unknown embedder, {name!r}")
    return EMBEDDERS[name][1](folder)
