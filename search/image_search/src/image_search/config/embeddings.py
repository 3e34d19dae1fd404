"""How pictures become vectors (embeddings/)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ml_platform.evaluation.configuration import Stage

EmbeddingName = Literal[
    "pixels_cosine",
    "pixels_l2",
    "hog",
    "efficientnet_lite0",
    "efficientnet_head",
    "cnn_supcon",
    "cnn_proxy",
    "cnn_simclr",
    "cnn_joint",
    "cnn_proxy_hog",
    "cnn_joint_hog",
    "open_clip",
    "dinov2",
]


class HeadConfig(Stage):
    """A head trained on frozen features of photographs (embeddings/heads.py).

    Chosen on the validation split of the clothing photographs.
    """

    kind: Literal["supcon", "lda"] = "supcon"
    views: tuple[Literal["crop", "whole"], ...] = ("whole", "crop")
    """Both: what is whole and what is near tell more together than two of one kind."""
    width: PositiveInt = 64
    """Numbers of the head's output (supcon; LDA has one less than there are classes)."""
    epochs: PositiveInt = 30
    batch: PositiveInt = 256
    rate: float = Field(default=1e-3, gt=0)
    decay: float = Field(default=1e-2, ge=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Of the features: 2,560 of them on 3,068 pictures are learnt by heart without."""
    temperature: float = Field(default=0.1, gt=0)
    shrinkage: float = Field(default=0.4, gt=0, le=1)
    """Of the covariance within classes, for LDA."""
    frozen_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of a similarity that the frozen features decide, the head the rest. It costs R@1 less
    than chance does on classes that the head knows (.897 without, .892 with) and gives back what
    the head forgot of others (.792 to .884; frozen features alone .902)."""
    frozen_width: PositiveInt = 64
    """Principal components of the frozen features that are kept for that."""

    @model_validator(mode="after")
    def _views_are_named_once(self) -> HeadConfig:
        if not self.views or len(set(self.views)) != len(self.views):
            raise ValueError(f"views must be one or more, each once; got {self.views}")
        return self


class WeightFilesConfig(Stage):
    """Published weights that a user has (embeddings/weight_files.py); nothing is fetched."""

    open_clip: Path | None = None
    """A file of github.com/mlfoundations/open_clip: .pt, .pth or .bin."""
    open_clip_model: Literal[
        "ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14"
    ] = "ViT-B-32"
    """The smallest and fastest; the name says the activation, which the file does not."""
    dinov2: Path | None = None
    """A ``dinov2_vit..._pretrain.pth`` of github.com/facebookresearch/dinov2."""
    dinov2_model: Literal["vits14", "vitb14", "vitl14"] = "vits14"
    """The smallest."""


class CnnConfig(Stage):
    """The small network that is trained here (embeddings/cnn_training.py).

    What says "measured" was compared on validation queries: see `embedding-choices`.
    """

    side: PositiveInt = 28
    """The side of Fashion-MNIST; photographs need more, and time grows with its square."""
    width: PositiveInt = 48
    """Channels of the first stage, twice as many in the second: 444,000 weights, two milliseconds
    of one core for a picture and its mirror image."""
    dims: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    """Lengths at which a vector works; the last is D."""
    epochs: PositiveInt = 13
    """Of 60,000 pictures they see 480,000: some five and a half minutes of two cores, which the ten
    minutes of ``e2e`` leave. With eighteen R@1 was .929 on the test queries."""
    view_epochs: PositiveInt = 5
    """Of cnn_simclr and cnn_joint, whose epochs see every picture twice."""
    warm_epochs: int = Field(default=2, ge=0)
    """First epochs, which see all pictures."""
    hard_share: float = Field(default=0.45, gt=0, le=1)
    """Of the pictures, those that an epoch sees between the first and the last. At equal time nine
    epochs so were a little better than six of all pictures; `embedding-choices` is too short to
    show it."""
    plain_epochs: int = Field(default=2, ge=0)
    """Last epochs, all pictures without shifts and blanks: the gallery is then seen as it is."""
    batch: int = Field(default=256, ge=2)
    """Not tuned."""
    learning_rate: float = Field(default=0.4, gt=0)
    """The highest, at a full batch; in proportion for smaller ones. Not tuned."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """A usual value; not tuned."""
    temperature: float = Field(default=0.1, gt=0)
    """Of supcon, as in the paper."""
    scale: float = Field(default=16.0, gt=0)
    """Of proxy: 1 over its temperature. Measured: 30 was worse."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of proxy. `embedding-choices` measures .1 beside it."""
    views_temperature: float = Field(default=0.2, gt=0)
    """Of the two views; not tuned."""
    views_weight: float = Field(default=1.0, ge=0)
    """Of the views in cnn_joint, beside 1 for the classes."""
    projection: bool = True
    """Whether views are compared behind two more layers, which are thrown away, as in SimCLR."""
    shift: int = Field(default=2, ge=0)
    """Pixels, in both directions."""
    cutout: int = Field(default=8, ge=0)
    """Side of the square that is blanked."""
    smallest_part: float = Field(default=0.5, gt=0, le=1)
    """Of a picture's area that a view keeps; SimCLR's .08 of 28 pixels would be 8 of them."""
    light: float = Field(default=0.4, ge=0, lt=1)
    """By how much a view's contrast changes."""
    flip_average: bool = True
    """Whether a vector is the mean of a picture's and its mirror image's: twice the time."""
    hog_dim: PositiveInt = 128
    """Principal components of the gradients in cnn_proxy_hog; cnn_joint_hog has all."""
    hog_weight: float = Field(default=0.5, gt=0)
    """Their weight beside the network's 1. Measured on validation queries, beside a network of 18
    epochs: recall@1 .928 without, .932 at .25, .937 at .5, .934 at 1 (one run of each)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the convolutions in training. auto: bf16 where the processor multiplies it in hardware,
    1.8 times as fast when it was measured; then weights differ from a machine without it."""

    @model_validator(mode="after")
    def _lengths_rise(self) -> CnnConfig:
        if not self.dims or sorted(set(self.dims)) != list(self.dims):
            raise ValueError(f"dims must rise, got {self.dims}")
        return self


class ChoicesConfig(Stage):
    """What `embedding-choices` measures again, on validation queries (embeddings/command.py)."""

    pictures: PositiveInt = 20_000
    """Trained on and searched: a third of the gallery, so that eight networks take ten minutes."""
    epochs: PositiveInt = 6


class EmbeddingsConfig(Stage):
    """How pictures become vectors (embeddings/)."""

    served: EmbeddingName | None = None
    """What the service searches with; None: what suits the data set (``pipeline.served_name``)."""
    names: tuple[EmbeddingName, ...] | None = None
    """What ``evaluate`` fits and measures, side by side; None: all that suit the data set."""
    pixels_side: PositiveInt = 28
    """The side of Fashion-MNIST, whose pictures so stay as they are."""
    hog_side: PositiveInt = 28
    hog_cell: PositiveInt = 4
    """Pixels of a cell's side: seven by seven cells of a small picture. Of Fashion-MNIST's
    validation pictures (1,000 queries in 10,000) R@1 was .833; with 3 pixels .845 at twice the
    numbers, with 7 pixels .807, with 2 pixels .824. What is better is so by less than the interval
    of .023 either way."""
    hog_block: PositiveInt = 2
    """Cells of a block's side, as in the paper."""
    hog_orientations: PositiveInt = 9
    """Over 180 degrees, as in the paper."""
    pretrained_batch: PositiveInt = 4
    """Pictures that the pretrained network embeds at once. On a processor more are slower: the
    first layers' outputs of 64 pictures outgrow the caches and cost page faults (one run on a
    shared machine: 23 ms of processor a picture in batches of 4, 93 ms in batches of 64)."""
    cnn: CnnConfig = CnnConfig()
    choices: ChoicesConfig = ChoicesConfig()
    head: HeadConfig = HeadConfig()
    weight_files: WeightFilesConfig = WeightFilesConfig()

    @model_validator(mode="after")
    def _cells_fit(self) -> EmbeddingsConfig:
        if self.hog_side // self.hog_cell < self.hog_block:
            raise ValueError(
                f"hog_side {self.hog_side} holds {self.hog_side // self.hog_cell} cells of "
                f"{self.hog_cell}: fewer than a block of {self.hog_block}"
            )
        if self.names is not None and (len(set(self.names)) != len(self.names) or not self.names):
            raise ValueError(f"names must be one or more, each once; got {self.names}")
        return self
