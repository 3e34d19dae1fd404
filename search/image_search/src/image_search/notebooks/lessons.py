"""What the notebooks compute and the system itself has no use for.

Legend: K classes, N items, n pictures, Q queries.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import uvicorn
from matplotlib.figure import Figure
from PIL import Image

from image_search.bundle import load_searcher
from image_search.clicks.simulate import Clicks, simulate_clicks
from image_search.config import CnnConfig, ServingConfig
from image_search.evaluation.retrieval import RetrievalScores
from image_search.evaluation.run import score
from image_search.images.decoding import ImageError, Limits, decode
from image_search.images.image_set import ImageSet, restrict, unseen_classes
from image_search.images.preparing import squares
from image_search.notebooks.desk import Desk
from image_search.pipeline import fit_embedder
from image_search.ranking.fitting import Ground, lay_ground, served_neighbours
from image_search.ranking.judging import Searches, searches_of
from image_search.reranking.trade_off import Retrieved
from image_search.retrieval.index import build_index
from image_search.serving.app import create_app
from image_search.serving.hostile import png_of
from image_search.serving.server import clicks_of, warm_up
from image_search.serving.settings import ServingSettings
from image_search.serving.traffic import BOUNDARY, encoded, form_body
from image_search.text.dual_encoder import DualEncoder
from image_search.text.evaluation import Searched
from ml_platform.evaluation.plot_style import new_figure
from ml_platform.evaluation.progress import Silent
from ml_platform.serving.server_process import ServerProcess, free_port

SHEET_SIDE, GAP = 40, 3
"""Pixels of a picture on a sheet, and between two."""
EXIF_TURNED = b"Exif\x00\x00" + struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
"""Exif data with nothing but the orientation tag, 6: the camera was held upright."""


# --- pictures -----------------------------------------------------------------------------------


def picture_sheet(
    title: str,
    lines: Mapping[str, Sequence[np.ndarray]],
    words: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Pictures in lines, each line with its name.

    Args:
        title: Of the figure.
        lines: Name -> pictures u8[H, W, C] of any size.
        words: Name -> a word below each picture of that line.
    """
    step = SHEET_SIDE + (9 if words else 0) + GAP, SHEET_SIDE + GAP
    columns = max(len(pictures) for pictures in lines.values())
    canvas = np.full((step[0] * len(lines), step[1] * columns, 3), 255, dtype=np.uint8)
    figure, (axes,) = new_figure(title, height=0.6 + 6.0 * canvas.shape[0] / canvas.shape[1])
    for row, (name, pictures) in enumerate(lines.items()):
        for column, picture in enumerate(squares(list(pictures), SHEET_SIDE, 3)):
            top, left = row * step[0], column * step[1]
            canvas[top : top + SHEET_SIDE, left : left + SHEET_SIDE] = picture
            if words:
                middle = (left + SHEET_SIDE / 2, top + SHEET_SIDE + 5)
                axes.text(*middle, words[name][column], fontsize=6, ha="center", va="center")
    axes.imshow(canvas, interpolation="nearest")
    axes.set_yticks([row * step[0] + SHEET_SIDE / 2 for row in range(len(lines))], list(lines))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def class_likeness(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """f64[K, K]: correlation of the classes' mean grey pictures, of the pictures at i64[n]."""
    grey = squares([images.images[int(row)] for row in rows], 28, 1).reshape(len(rows), -1)
    means = [grey[images.label[rows] == k].mean(axis=0) for k in range(len(images.label_names))]
    return np.asarray(np.corrcoef(np.stack(means)))


def files_of_a_stranger(folder: Path, picture: np.ndarray) -> None:
    """Writes what people really upload into a new folder: good files, odd ones, hostile ones."""
    folder.mkdir(parents=True)
    large = np.kron(squares([picture], 28, 3)[0], np.ones((8, 8, 1), dtype=np.uint8))
    image, jpeg = Image.fromarray(large), encoded(large, "JPEG")
    image.save(folder / "plain.webp")
    image.save(folder / "turned.jpg", exif=EXIF_TURNED)
    image.convert("RGBA").save(folder / "transparent.png")
    grey = np.asarray(image.convert("L"), dtype=np.uint16) * 257
    Image.fromarray(grey).save(folder / "grey_of_16_bits.png")
    contents = {
        "plain.jpg": jpeg,
        "really_a_jpeg.png": jpeg,
        "cut_off.jpg": jpeg[: len(jpeg) // 2],
        "empty.png": b"",
        "page.jpg": b"<html>not found</html>",
        "line.png": encoded(np.zeros((2, 900, 3), dtype=np.uint8), "PNG"),
        "bomb.png": announced(30_000),
        "notes.txt": b"no picture, and not named like one",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def announced(side: int) -> bytes:
    """A PNG of some bytes whose header announces side x side pixels, and whose data end early."""
    return png_of(side, side, zlib.compress(bytes(5_000)))


def refusal_of(data: bytes, limits: Limits) -> tuple[str, float]:
    """Why ``decode`` refuses these bytes ("" where it does not), and milliseconds until it said."""
    begin, reason = time.perf_counter(), ""
    try:
        decode(data, limits)
    except ImageError as error:
        reason = error.reason
    return reason, 1e3 * (time.perf_counter() - begin)


# --- embeddings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generalised:
    """One embedding that was fitted without some classes.

    Attributes:
        seen: Scores among the classes that it was fitted on.
        unseen: Among the others.
    """

    seen: RetrievalScores
    unseen: RetrievalScores


def without_some_classes(
    desk: Desk, names: Sequence[str], cnn: CnnConfig | None = None
) -> dict[str, Generalised]:
    """Fits embeddings on every second class and judges them on both halves, test queries.

    Args:
        desk: Pictures and configuration.
        names: Of the registry.
        cnn: Of the networks; None: as configured.
    """
    images, config = desk.images, desk.config
    if cnn is not None:
        chosen = config.embeddings.model_copy(update={"cnn": cnn})
        config = config.model_copy(update={"embeddings": chosen})
    unseen = unseen_classes(len(images.label_names), config.evaluation.unseen_share)
    seen = np.setdiff1d(np.arange(len(images.label_names)), unseen)
    known = restrict(desk.rows, images, seen, "seen classes")
    strange = restrict(desk.rows, images, unseen, "unseen classes")
    found = {}
    for name in names:
        embedder = fit_embedder(name, images, known.gallery, config, Silent())
        scores = (score(embedder, images, rows, config, Silent()) for rows in (known, strange))
        found[name] = Generalised(*scores)
    return found


# --- the page -----------------------------------------------------------------------------------


def retrieved(desk: Desk) -> Retrieved:
    """Candidates of the desk's first queries by similarity, without gaps."""
    asked = slice(0, desk.config.reranking.judged)
    index = build_index("flat", desk.gallery, np.arange(len(desk.gallery)))
    most = min(desk.config.index.candidates, len(desk.gallery))
    rows, similarity = index.search(desk.queries[asked], most)
    label = desk.images.label[desk.rows.queries[asked]]
    return Retrieved(desk.queries[asked], label, rows, similarity)


# --- ranking ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogLesson:
    """A click log with its truth, what is learnt from it, and what judges. SYNTHETIC.

    Attributes:
        clicks: Log and truth.
        ground: What rankers are fitted on.
        test: Searches of the test days with their candidates.
    """

    clicks: Clicks
    ground: Ground
    test: Searches


def log_lesson(desk: Desk) -> LogLesson:
    """The log that the desk's ranker learnt from (the same seed draws the same log)."""
    images, config, searcher = desk.images, desk.config, desk.searcher
    catalogue, vectors = searcher.catalogue, desk.gallery
    clicks = simulate_clicks(images, catalogue, config.clicks, config.seed)
    around = served_neighbours(
        images,
        catalogue,
        clicks,
        searcher.embedder,
        build_index("flat", vectors, np.arange(len(vectors))),
        vectors,
        min(config.index.candidates, len(vectors) - 1),
        Silent(),
    )
    ground = lay_ground(clicks, catalogue, around, config.ranking)
    log = clicks.log
    pages = log.test[: config.ranking.judged_pages]
    test = searches_of(
        log.user_idx[pages],
        log.query_row[pages],
        ground.neighbours,
        ground.features_before(log.windows.validation_end_s),
        clicks.truth,
    )
    return LogLesson(clicks, ground, test)


def rates_of_items(lesson: LogLesson, least: int) -> dict[str, np.ndarray]:
    """Items shown at least so often: raw click rate, clicks a look, true attraction; f64[n] each.

    Attraction is the mean of the item's own impressions, so that all three are of one traffic.
    """
    log, truth = lesson.clicks.log, lesson.clicks.truth
    n = len(truth.item_class)
    item = log.shown.ravel()
    looks = np.broadcast_to(log.examination, log.shown.shape).ravel()
    wanted = truth.attraction(log.user_idx, log.query_row, log.shown, log.time_s).ravel()
    shown = np.bincount(item, minlength=n)
    kept = shown >= least
    clicks = np.bincount(item, log.clicked.ravel(), minlength=n)[kept]
    return {
        "clicks an impression": clicks / shown[kept],
        "clicks a look": clicks / np.bincount(item, looks, minlength=n)[kept],
        "attraction": np.bincount(item, wanted, minlength=n)[kept] / shown[kept],
    }


# --- text ---------------------------------------------------------------------------------------


def reading_of(
    encoder: DualEncoder, text: str, searched: Searched, names: Sequence[str], most: int = 10
) -> dict[str, str]:
    """How a text is read, why it is refused, and the commonest name of its best pictures.

    Args:
        encoder: Fitted.
        text: As typed.
        searched: G pictures.
        names: Of their classes, G of them.
        most: Pictures that are looked at.
    """
    _, refused = encoder.readable([text])
    read, common = "", ""
    if not refused:
        read = " ".join(f"{said}>{word}" for said, word in encoder.lexicon.understood(text))
        best = np.argsort(-(searched.vectors @ encoder.embed_texts([text])[0]), kind="stable")
        common = Counter(names[int(place)] for place in best[:most]).most_common(1)[0][0]
    columns = {"text": text, "read as": read, "refused": refused.get(0, "")}
    return columns | {f"most of its {most}": common}


# --- serving ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What a service answered: status, parsed body, milliseconds as the client saw them."""

    status: int
    body: Any
    ms: float


@contextmanager
def service_of(
    desk: Desk, config: ServingConfig | None = None, *, token: str | None = None
) -> Iterator[ServerProcess]:
    """Serves the desk's bundle from a thread of this process, on a free port; stops it afterwards.

    A thread ends with its kernel, whatever becomes of a cell. The bundle is loaded anew, so that
    what is added or deleted there stays there.

    Args:
        desk: Whose bundle.
        config: Limits and lanes; None: as configured.
        token: Of the admin routes; None: they are closed.
    """
    begin, port = time.perf_counter(), free_port()
    searcher = load_searcher(desk.bundle)
    settings = ServingSettings(
        config or desk.config.serving,
        desk.scratch / f"state-{port}",
        side=desk.config.images.side,
        admin_token=token,
        on_click=clicks_of(searcher),
    )
    warm_up(searcher)
    app = create_app(searcher, settings)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False)
    )
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while thread.is_alive() and not server.started:
            time.sleep(0.01)
        if not server.started:
            raise RuntimeError(f"the service on port {port} did not start")
        yield ServerProcess(f"http://127.0.0.1:{port}", os.getpid(), time.perf_counter() - begin)
    finally:
        server.should_exit = True
        thread.join()


def ask_json(server: ServerProcess, path: str, fields: Mapping[str, object] | None = None) -> Reply:
    """GET, or POST of a JSON body where there are fields."""
    if fields is None:
        return _sent(server, "GET", path)
    body = json.dumps(fields).encode()
    return _sent(server, "POST", path, body, {"Content-Type": "application/json"})


def ask_picture(
    server: ServerProcess,
    data: bytes,
    fields: Mapping[str, str] | None = None,
    *,
    path: str = "/v1/search",
    token: str = "",
) -> Reply:
    """POST of a form with one encoded picture, whatever its bytes are."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **_admin(token)}
    return _sent(server, "POST", path, form_body(dict(fields or {}), data), headers)


def ask_delete(server: ServerProcess, path: str, token: str) -> Reply:
    """DELETE, as an admin."""
    return _sent(server, "DELETE", path, headers=_admin(token))


def _admin(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _sent(
    server: ServerProcess,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30.0)
    begin = time.perf_counter()
    try:
        # Too large a body is refused while it is being sent; the answer is there already.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        status, raw = response.status, response.read()
    finally:
        connection.close()
    return Reply(status, json.loads(raw), 1e3 * (time.perf_counter() - begin))


def pictures_of_hits(desk: Desk, reply: Reply) -> list[np.ndarray]:
    """The pictures of an answer's results, best first."""
    row_of = {int(item): row for row, item in enumerate(desk.images.item_id)}
    return [desk.images.images[row_of[int(hit["item_id"])]] for hit in reply.body["results"]]
