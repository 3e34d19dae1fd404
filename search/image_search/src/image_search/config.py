"""Every knob of the system, with its default and the reason for it.

One frozen model per stage; unknown keys are refused. A YAML file under ``configs/`` holds only what
differs from these defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from ml_platform.evaluation.configuration import Stage, read_config

DatasetName = Literal["fashion-mnist", "clothing", "shapes", "folder"]
IndexKind = Literal["flat", "ivf_flat", "ivf_pq", "hnsw", "int8", "binary"]
Reduction = Literal["none", "prefix", "pca"]
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
    "open_clip",
    "dinov2",
]


class ImagesConfig(Stage):
    """Which pictures, and what is accepted of them (images/)."""

    dataset: DatasetName = "fashion-mnist"
    """70,000 small pictures: large enough that an index matters, small enough for two cores."""
    folder: Path | None = None
    """A user's own pictures; with dataset ``folder`` only (``--images DIR`` sets both)."""
    side: PositiveInt = 256
    """Photographs are shrunk to this on the longer side when they are decoded: what the networks
    here read is smaller, and a full photograph takes fifty times the memory."""
    max_bytes: PositiveInt = 20 << 20
    """Of one encoded picture; photographs of telephones take 2 to 12 MiB."""
    max_pixels: PositiveInt = 40_000_000
    """Of one picture; 120 MB once it is decoded, which is what one request may cost."""
    max_files: PositiveInt = 1_000_000
    """Of a folder: more is taken for a mistake."""
    validation_queries: PositiveInt = 5_000
    """Held out of the gallery for choices, where the data set has no validation split."""
    shapes_per_class: PositiveInt = 40
    """Generated pictures of each class in the gallery; a quarter as many to validate and query."""

    @model_validator(mode="after")
    def _folder_goes_with_its_name(self) -> ImagesConfig:
        if (self.folder is not None) != (self.dataset == "folder"):
            raise ValueError(
                f"dataset {self.dataset!r} with folder {self.folder}: name a folder with dataset "
                "'folder' and with no other (--images DIR does both)"
            )
        return self


class HeadConfig(Stage):
    """A head trained on frozen features of photographs (embeddings/heads.py).

    Chosen on the validation split of the clothing photographs; see docs/03.
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
    frozen_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of a similarity that the frozen features decide, the head the rest."""
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
    """The small network that is trained here (embeddings/cnn_training.py)."""

    side: PositiveInt = 28
    """The side of Fashion-MNIST; photographs need more, and time grows with its square."""
    width: PositiveInt = 48
    """Channels of the first stage, twice as many in the second."""
    pool: PositiveInt = 1
    """The last mean is taken over pool x pool parts of the picture."""
    dims: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    """Lengths at which a vector works; the last is D."""
    epochs: PositiveInt = 12
    view_epochs: PositiveInt = 8
    """Of cnn_simclr and cnn_joint, whose epochs see every picture twice."""
    plain_epochs: int = Field(default=2, ge=0)
    """Last epochs without shifts and blanks."""
    hard_share: float = Field(default=1.0, gt=0, le=1)
    """Of the pictures, those that an epoch sees after ``warm_epochs``: mostly of high loss."""
    warm_epochs: int = Field(default=3, ge=0)
    batch: int = Field(default=256, ge=2)
    learning_rate: float = Field(default=0.4, gt=0)
    """The highest."""
    weight_decay: float = Field(default=5e-4, ge=0)
    average: float = Field(default=0.0, ge=0, lt=1)
    """Of the weights over the second half of the steps: what a step keeps; 0: the last weights."""
    temperature: float = Field(default=0.1, gt=0)
    """Of supcon, as in the paper."""
    scale: float = Field(default=16.0, gt=0)
    """Of proxy: 1 over its temperature."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of proxy."""
    views_temperature: float = Field(default=0.2, gt=0)
    views_weight: float = Field(default=1.0, ge=0)
    """Of the views in cnn_joint, beside 1 for the classes."""
    projection: bool = True
    """Whether the views are compared behind two more layers, which are thrown away."""
    shift: int = Field(default=2, ge=0)
    cutout: int = Field(default=8, ge=0)
    """Side of the square that is blanked."""
    smallest_part: float = Field(default=0.5, gt=0, le=1)
    """Of a picture's area that a view keeps."""
    light: float = Field(default=0.4, ge=0, lt=1)
    """By how much a view's contrast changes."""
    flip_average: bool = True
    """Whether a vector is the mean of a picture's and its mirror image's."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the convolutions in training; auto: bf16 where the processor has it, 1.8 times as fast."""

    @model_validator(mode="after")
    def _lengths_rise(self) -> CnnConfig:
        if not self.dims or sorted(set(self.dims)) != list(self.dims):
            raise ValueError(f"dims must rise, got {self.dims}")
        if self.plain_epochs > min(self.epochs, self.view_epochs):
            raise ValueError(f"plain_epochs {self.plain_epochs} of {self.epochs} epochs")
        return self


class ChoicesConfig(Stage):
    """What `embedding-choices` measures again, on validation queries (embeddings/command.py)."""

    pictures: PositiveInt = 20_000
    """Trained on and searched: a third of the gallery, so that eight networks take ten minutes."""
    epochs: PositiveInt = 6


class EmbeddingsConfig(Stage):
    """How pictures become vectors (embeddings/)."""

    served: EmbeddingName | None = None
    """What the service searches with; None: the best that this data set allows (``served_name``)."""
    names: tuple[EmbeddingName, ...] | None = None
    """What ``evaluate`` fits and measures, side by side; None: all that suit the data set."""
    pixels_side: PositiveInt = 28
    """The side of Fashion-MNIST, whose pictures so stay as they are."""
    hog_side: PositiveInt = 28
    hog_cell: PositiveInt = 4
    """Pixels of a cell's side: seven by seven cells of a small picture. Not tuned yet."""
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


class IndexStudyConfig(Stage):
    """What `indexes`, `index-changes` and `compatible` measure."""

    kinds: tuple[IndexKind, ...] = ("flat", "ivf_flat", "ivf_pq", "hnsw", "int8", "binary")
    """Measured; flat must be among them."""
    queries: PositiveInt = 2_000
    """Of recall; 10,000 change its third digit and take five times as long."""
    timed_queries: PositiveInt = 300
    """One by one, after a warm-up of a tenth; a 99th percentile then rests on three."""
    target_recall: float = Field(default=0.95, gt=0, le=1)
    """Recall@10 on validation queries that a kind must reach to be carried to the test."""
    budget_ms: float = Field(default=10.0, gt=0)
    """Of the 100 ms of a request, that the index may take at the 99th percentile."""
    scale_sizes: tuple[PositiveInt, ...] = (30_000, 100_000, 300_000, 1_000_000)
    """Vectors of the scaling part; SYNTHETIC, real ones with noise."""
    scale_graph_most: PositiveInt = 300_000
    """No graph is built beyond: a million nodes take more minutes than all else together."""
    scale_queries: PositiveInt = 200
    jitter: float = Field(default=0.5, gt=0)
    """Length of the noise, in units of the median distance to the nearest neighbour."""
    selectivities: tuple[float, ...] = (0.5, 0.1, 0.01, 0.001)
    over_fetch: PositiveInt = 10
    """A post-filtered search asks for so many times the page; right where a tenth passes."""
    filter_queries: PositiveInt = 300
    dead_shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5)
    """Of a graph's nodes, deleted at random."""
    update_images: PositiveInt = 10_000
    """The new model's training pictures; the old one's are the first ``update_old_share``."""
    update_old_share: float = Field(default=0.3, gt=0, lt=1)
    update_gallery: PositiveInt = 15_000
    """Pictures that are searched, drawn out of the gallery."""
    update_epochs: PositiveInt = 3
    update_batch: int = Field(default=128, ge=2)
    update_seeds: PositiveInt = 3
    """Trainings of all three models: one pair may be lucky."""
    influence: float = Field(default=1.0, gt=0)
    """Weight of the old classifier's loss; 1 as in the paper."""


class IndexConfig(Stage):
    """How vectors are searched (retrieval/)."""

    kind: IndexKind = "flat"
    """Exact: tens of thousands of vectors take about a millisecond on one core (`indexes`)."""
    candidates: PositiveInt = 200
    """Of one query, that go on to ranking."""
    reduce: Reduction = "none"
    """Fewer numbers a vector before it is indexed: "prefix" keeps the first ones (right for an
    embedding whose prefixes were trained), "pca" the directions of most energy (for any)."""
    reduce_to: PositiveInt = 64
    """Numbers left; half of the served embedding's."""
    rescore: bool = True
    """Order the shortlist of a lossy index again by the full vectors, which costs their memory."""
    shortlist: PositiveInt = 200
    """Candidates that are ordered again, at least; twice as many as are asked for otherwise."""
    lists: PositiveInt | None = None
    """Cells of the inverted file; None: four times the square root of the number of vectors, the
    lower end of what the FAISS wiki's guidelines advise below a million."""
    probes: PositiveInt = 16
    """Cells read for a query."""
    pq_bytes: PositiveInt = 32
    """Of a product-quantised vector: four numbers a byte at 128 dimensions. Must divide them."""
    hnsw_m: int = Field(default=16, ge=2)
    """Links of a node in the upper layers, twice as many in the lowest; the range of the paper
    is 5 to 48."""
    hnsw_build_width: PositiveInt = 64
    hnsw_search_width: PositiveInt = 64
    """Of the walk; never below the number of results asked for."""
    rebuild_share: float = Field(default=0.2, gt=0, lt=1)
    """Of dead nodes in a graph, at which it is built anew: a fifth of memory and of every walk is
    then for nothing. `index-changes` measures the walk at other shares."""
    rotation: Literal["learned", "random"] = "learned"
    """Before the signs of binary codes are taken."""
    exact_below: PositiveInt = 3_000
    """Where a filter lets fewer rows through, all of them are compared: a graph or an inverted
    file would look long for the few that pass."""
    study: IndexStudyConfig = IndexStudyConfig()


class ClicksConfig(Stage):
    """The simulated click log (clicks/). SYNTHETIC."""

    users: PositiveInt = 3_000
    pages: PositiveInt = 50_000
    """Of ``page`` items: a million impressions, some seventeen an item of Fashion-MNIST."""
    page: PositiveInt = 20
    """Items of a page, as the service answers."""
    days: PositiveInt = 28
    """Four weeks; popularity and age change little in them."""
    validation_days: PositiveInt = 3
    test_days: PositiveInt = 4
    queries: PositiveInt = 5_000
    """Pictures that the days of training and validation ask with."""
    test_queries: PositiveInt = 2_000
    """Pictures that the days of test ask with; no other day does."""
    pool: PositiveInt = 200
    """The most similar items by the old embedding, out of which a page is drawn."""
    policy_noise: float = Field(default=0.5, ge=0)
    """Of the old order: standard deviations of the pool's similarities."""
    explore: float = Field(default=0.1, ge=0, le=1)
    """Share of the places that hold any item at all: without them the log says nothing of items
    that the old embedding never found."""
    position_bias: float = Field(default=1.0, ge=0)
    """A person looks at place k with probability k to the power of minus this: at place 20 one
    in twenty. 0: everybody looks at everything."""
    style_dim: PositiveInt = 8
    """Directions of taste."""

    @model_validator(mode="after")
    def _days_and_places_suffice(self) -> ClicksConfig:
        if self.validation_days + self.test_days >= self.days:
            raise ValueError(
                f"{self.days} days with {self.validation_days} to validate and {self.test_days} "
                "to test: none is left to train"
            )
        if self.page > self.pool:
            raise ValueError(f"a page of {self.page} out of a pool of {self.pool}")
        return self


class RankingConfig(Stage):
    """How candidates are ordered (ranking/)."""

    served: Literal["trees", "cross_mlp", "none"] = "trees"
    """Chosen on the validation days (`rankers`); none: by similarity."""
    correction: Literal["none", "feature", "ips", "examination"] = "examination"
    """What is done about the place that an item was shown at; see ``ranking.positions``."""
    neighbours: PositiveInt = 20
    """Of the query's candidates, those whose classes and prices describe the query."""
    prior_looks: float = Field(default=20.0, gt=0)
    """Looks at nobody in particular that an item's click rate starts with: about what an item of
    the log has after four weeks."""
    rows: PositiveInt = 400_000
    """Impressions that a ranker learns from, at most: the latest pages."""
    trees: PositiveInt = 200
    leaves: int = Field(default=31, ge=2)
    learning_rate: float = Field(default=0.08, gt=0)
    patience: PositiveInt = 20
    """Trees without a better loss on the validation days, after which no more are added."""
    width: PositiveInt = 16
    """Numbers that query and item vector are projected to, before product and difference."""
    cross_layers: PositiveInt = 2
    hidden: tuple[PositiveInt, ...] = (64, 32)
    epochs: PositiveInt = 3
    batch: PositiveInt = 4_096
    network_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    judged_pages: PositiveInt = 2_000
    """Searches of users with test pictures, whose candidates the truth judges."""


class RerankingConfig(Stage):
    """Near-duplicates and diversity of the page (reranking/)."""

    hash_bits: int = Field(default=10, ge=-1, le=64)
    """Near-duplicates have perceptual hashes that differ in at most so many of 64 bits ...; -1:
    hashes are not compared."""
    thumbnail: float = Field(default=0.994, ge=-1)
    """... and thumbnails that correlate by at least this. On validation the hash alone finds plain
    shoes of one outline and another colour; the pair finds more at the same false alarms."""
    cosine: float = Field(default=2.0, ge=-1)
    """Or their vectors are at least this similar; 2: vectors are not compared."""
    diversity: float = Field(default=0.0, ge=0, le=1)
    """MMR's weight of difference, for a request that names none: 0 is the order of the scores."""
    false_alarms: float = Field(default=0.001, gt=0, lt=1)
    """Of a threshold, on validation: so many of a picture's ten nearest neighbours, which are other
    pictures, may be called its near-duplicates."""
    judged: PositiveInt = 1_000
    """Pictures that are altered (JPEG, crop, ...) to measure what a hash survives."""


class PersonalisationConfig(Stage):
    """What a user's clicks change (personalisation/)."""

    weight: float = Field(default=0.5, ge=0)
    """Of the style's cosine beside the score, in standard deviations of the candidates' scores."""
    shift: float = Field(default=0.3, ge=0)
    """Length of the style that is added to a query vector of length 1."""
    shrinkage: float = Field(default=5.0, ge=0)
    """Clicks of nobody in particular that a style starts with: at so many own clicks it counts
    half."""
    session_half_life_s: float = Field(default=1_800.0, gt=0)
    """After half an hour a click of the session counts half."""
    long_half_life_s: float = Field(default=30 * 86_400.0, gt=0)
    """After 30 days a click counts half in the long-term style."""
    session_share: float = Field(default=0.3, ge=0, le=1)
    """Of the session in the style; the rest is long-term."""
    max_users: PositiveInt = 100_000
    """Styles kept; the one idle the longest goes first."""
    judged: int = Field(default=2_000, ge=20)
    """Searches of test days that the study measures; half as many of validation days."""


class TextConfig(Stage):
    """The dual encoder of text queries (text/)."""

    dim: PositiveInt = 64
    """Of the joint space: ten classes and a dozen traits need no more."""
    tower: Literal["bag", "transformer"] = "bag"
    """Of the text; both are measured (`text-search`)."""
    side: PositiveInt = 28
    """Of the pictures that the image tower reads: Fashion-MNIST as it is."""
    width: PositiveInt = 32
    """Channels of the image tower's first stage."""
    pool: PositiveInt = 2
    """The image tower's last mean is over so many by so many parts."""
    text_width: PositiveInt = 64
    """Of a word's vector."""
    buckets: PositiveInt = 1 << 14
    """Of hashed words and n-grams: some ten times as many as the captions have."""
    shortest: PositiveInt = 2
    longest: PositiveInt = 3
    """Letters of an n-gram; see text/tokens.py for why they are short."""
    likeness: float = Field(default=0.5, gt=0, le=1)
    """From which an unknown word is read as like a known one. By eye, on a few dozen slips and
    a few dozen words of other things."""
    most_words: PositiveInt = 24
    """Of a text; the rest is not read."""
    word_dropout: float = Field(default=0.3, ge=0, lt=1)
    """Chance that training sees a word by its n-grams alone, as a misspelt one will be."""
    mask: Literal["none", "same", "true"] = "true"
    """What is no negative: nothing; the same sentence; a sentence that is true of the picture."""
    temperature: float = Field(default=0.07, gt=0)
    """To start from, as in CLIP; learned."""
    epochs: PositiveInt = 4
    batch: int = Field(default=256, ge=2)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    shift: int = Field(default=2, ge=0)
    """Pixels that a picture is moved by at random in training."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the image tower's training; "auto" takes bf16 where the processor multiplies it."""
    study_pictures: PositiveInt = 15_000
    """Training pictures of the variants that `text-search` compares on validation, and of the test
    with held-out pairs: a quarter of the gallery shows the differences in a quarter of the time."""
    least_relevant: PositiveInt = 10
    """Pictures that a judged prompt must be true of; with fewer, chance decides its precision."""


class ServingConfig(Stage):
    """The HTTP service (serving/)."""

    page: PositiveInt = 20
    """Results of one answer, unless the request says otherwise."""
    most: PositiveInt = 100
    """The most that a request may ask for."""
    max_batch: PositiveInt = 16
    """Pictures of one call of the network: more make the first of them wait for the last."""
    wait_ms: float = Field(default=2.0, ge=0)
    """How long an idle network waits for a second picture; 0 turns the waiting off. Under load
    nobody waits: the line is there already."""
    max_waiting: PositiveInt = 64
    """Queries in one line. 64 of them take about half of the deadline; beyond it the answer is 503
    at once."""
    deadline_ms: float = Field(default=1000.0, gt=0)
    """After so long an answer is 503 and its work is dropped: people have gone."""
    upload_bytes: PositiveInt = 8 << 20
    """Of one request's body: photographs of telephones take 2 to 6 MiB."""
    upload_pixels: PositiveInt = 16_000_000
    """Of one picture: above the 12 megapixels of common telephones; 64 MB while it is decoded with
    transparency."""
    upload_timeout_s: float = Field(default=10.0, gt=0)
    """For a body to arrive: the largest one needs 7 Mbit a second, a usual one 3 Mbit."""
    uploads_held_bytes: PositiveInt = 64 << 20
    """Of all bodies that are arriving or waiting to be decoded: eight of the largest."""
    decoders: PositiveInt = 2
    """Threads that decode; Pillow releases the interpreter meanwhile. Each may hold the largest
    picture several times over."""
    url_images: bool = False
    """Whether {"image_url": ...} is fetched. Off: a service that fetches what strangers name can
    be sent to places that only it can reach."""
    url_timeout_s: float = Field(default=3.0, gt=0)
    """For the whole of a fetch."""
    most_added: PositiveInt = 20_000
    """Items that may be added before the index should be built anew."""
    bench_qps: float = Field(default=50.0, gt=0)
    """Image queries a second of ``bench``: what the system is to carry on two cores."""
    bench_text_qps: float = Field(default=300.0, gt=0)
    bench_seconds: float = Field(default=60.0, gt=0)
    """Of each measured load; 3,000 image queries, so that the 99th percentile has 30 above it."""
    fuzz_requests: PositiveInt = 2_000
    """Hostile requests of ``fuzz``."""


class EvaluationConfig(Stage):
    """Queries, classes and intervals (evaluation/)."""

    resamples: int = Field(default=1000, ge=100)
    block_bytes: int = Field(default=64 << 20, ge=1 << 10)
    """Of similarities held at once; the search as a whole takes some five times as much."""
    max_queries: PositiveInt | None = None
    """Take so many queries, drawn by the seed; None: all."""
    unseen_share: float = Field(default=0.5, gt=0, lt=1)
    """Of the classes, those that no training sees: .5 is every second one."""


class Config(Stage):
    """The whole system."""

    name: str = "default"
    quick: bool = False
    """A quick run says so in every table and never refreshes results/."""
    seed: int = 0
    images: ImagesConfig = ImagesConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    index: IndexConfig = IndexConfig()
    clicks: ClicksConfig = ClicksConfig()
    ranking: RankingConfig = RankingConfig()
    reranking: RerankingConfig = RerankingConfig()
    personalisation: PersonalisationConfig = PersonalisationConfig()
    text: TextConfig = TextConfig()
    serving: ServingConfig = ServingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_config(path: Path | None = None, overrides: tuple[str, ...] = ()) -> Config:
    """The configuration of this system; see ``read_config`` for the errors."""
    return read_config(Config, path, overrides)
