"""``duplicates``: what finds near-duplicates, which there are, what they are worth to a score.

In: a ``Run``. Out: ``results/duplicates.json`` (``duplicates_<dataset>.json`` beside the default
data set), plots, a table. Keys:

    duplicates/<rule>/found, false_alarms, auc, least.<detector>    thresholds from validation;
                                                                    "served": those of the page
    duplicates_found/<rule>.<alteration>/share                      on test pictures
    gallery/near_duplicates/pairs, pictures, groups, largest        in the gallery
    leakage/queries/share, count                                    test queries that leak
    leakage/recall@1/all, without, leaking                          what they are worth
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.table import Table

from image_search.embeddings.base import Embedder
from image_search.embeddings.vectors import embed_rows
from image_search.images.image_set import (
    ImageSet,
    Rows,
    draw_queries,
    owner_rows,
    validation_rows,
)
from image_search.pipeline import pictures_at
from image_search.reranking.alterations import OTHER, SAME
from image_search.reranking.leakage import Leakage, groups, leakage
from image_search.reranking.near_duplicates import (
    DETECTORS,
    Looks,
    Rule,
    find,
    looks_of,
    served_rule,
)
from image_search.reranking.plots import pairs_figure, roc_figure, survival_figure
from image_search.reranking.robustness import (
    NEIGHBOURS,
    Judged,
    choose_rules,
    judge,
)
from image_search.served import served
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from image_search.commands import Run

SHOWN = 24
"""Pairs of a picture."""


def run(run: Run) -> None:
    """Judges the detectors, finds near-duplicates, measures what leaks, prints, writes."""
    images = run.load()
    results = run.start_results(images)
    study = _Study.of(run, images)
    rules = choose_rules(study.judged("validation"), run.config.reranking.false_alarms)
    # Not the rule that finds most altered copies: the neighbours of a thousand pictures are few
    # beside all pairs of a gallery, and what confirms by embedding, or by a low thumbnail, finds
    # other shirts on the same ground there (seen on the photographs).
    best = served_rule(run.config.reranking)
    rules.append(best)
    found = _record_rules(results, study, rules)
    pairs = _record_gallery(results, study, best)
    leaked = _record_leakage(results, study, best)
    folder = run.results_folder()
    suffix = "" if run.config.images.dataset == "fashion-mnist" else f"_{_dataset(run)}"
    for name, figure in _figures(study, found, pairs, leaked).items():
        write_atomic(folder / "plots" / f"{name}{suffix}.png", png(figure))
    results.write(folder / f"duplicates{suffix}.json")
    run.console.print(_table(results, rules, best, images))
    run.console.print(f"numbers: {folder / f'duplicates{suffix}.json'}", highlight=False)


@dataclass
class _Study:
    """What every part of the command reads."""

    run: Run
    images: ImageSet
    rows: Rows
    embedder: Embedder
    gallery: Looks
    _judged: dict[str, Judged] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, images: ImageSet) -> _Study:
        embedder, vectors = served(run, images)
        rows = owner_rows(images)
        with run.progress.stage("hashes and thumbnails", 1) as advance:
            gallery = looks_of(pictures_at(images, rows.gallery), vectors)
            advance(1)
        return cls(run, images, rows, embedder, gallery)

    @property
    def tested(self) -> bool:
        """Whether there are queries that are not in the gallery."""
        return bool((self.rows.self_match < 0).all())

    @property
    def note(self) -> str:
        """For titles."""
        return f" ({self.images.name}{', SYNTHETIC' if self.images.synthetic else ''})"

    def judged(self, part: Literal["validation", "test"]) -> Judged:
        """Detectors on validation or test pictures; each computed once."""
        if part not in self._judged:
            config = self.run.config
            if part == "validation":
                most = min(config.images.validation_queries, len(self.rows.gallery) // 2)
                rows = validation_rows(self.images, most, config.seed)
            else:
                rows = self.rows
            asked = draw_queries(rows, config.reranking.judged, config.seed).queries
            self._judged[part] = judge(
                pictures_at(self.images, asked),
                self.gallery,
                self.embedder.embed,
                own=Rows("", self.rows.gallery, asked).self_match,
                progress=self.run.progress,
                name=f"altered copies, {part}",
            )
        return self._judged[part]

    def words(self, judged: Judged) -> str:
        """The protocol of a share on test pictures."""
        n = len(next(iter(judged.copies.values()))["phash"])
        return (
            f"{self.images.name}, {self.rows.protocol}, {n:,} pictures, thresholds on validation "
            f"for {self.run.config.reranking.false_alarms:g} false alarms, a false alarm: one of a "
            f"picture's {NEIGHBOURS} nearest in the gallery by {self.embedder.name}, 95% bootstrap "
            "by picture" + (", synthetic" if self.images.synthetic else "")
        )


def _record_rules(
    results: Results, study: _Study, rules: list[Rule]
) -> dict[str, dict[str, Estimate]]:
    """Writes every rule's thresholds and shares on test; rule -> alteration -> share found."""
    judged, config = study.judged("test"), study.run.config
    options = {"resamples": config.evaluation.resamples, "seed": config.seed}
    words, found = study.words(judged), {}
    for rule in rules:
        key = f"duplicates/{rule.name}"
        for name, estimate in (
            ("found", judged.found_of_all(rule, **options)),
            ("false_alarms", judged.false_alarms(rule, **options)),
        ):
            results.add(f"{key}/{name}", estimate, protocol=words)
        for detector, least in rule.least.items():
            if np.isfinite(least):
                results.add(f"{key}/least.{detector}", least, protocol="threshold, on validation")
        found[rule.name] = {name: judged.found(rule, name, **options) for name in SAME | OTHER}
        for name, estimate in found[rule.name].items():
            results.add(f"duplicates_found/{rule.name}.{name}/share", estimate, protocol=words)
    for detector in DETECTORS:
        results.add(f"duplicates/{detector}/auc", judged.auc(detector), protocol=words)
    return found


def _record_gallery(results: Results, study: _Study, rule: Rule) -> np.ndarray:
    """Writes how many near-duplicates the gallery holds; returns the pairs i64[P, 2]."""
    with study.run.progress.stage("near-duplicates of the gallery", 1) as advance:
        pairs = find(study.gallery, None, rule)
        advance(1)
    size = np.bincount(groups(pairs, len(study.gallery)))
    words = f"{study.images.name}, gallery {len(study.gallery):,}, rule {rule.name}"
    for name, value in (
        ("pairs", len(pairs)),
        ("pictures", int(size[size > 1].sum())),
        ("groups", int((size > 1).sum())),
        ("largest", int(size.max())),
    ):
        results.add(f"gallery/near_duplicates/{name}", value, protocol=words)
    return pairs


def _record_leakage(results: Results, study: _Study, rule: Rule) -> Leakage | None:
    """Writes what near-duplicates are worth to Recall@1; None without a test split or classes."""
    if not study.tested or not study.images.labelled:
        return None
    images, rows, config = study.images, study.rows, study.run.config
    vectors = embed_rows(
        study.embedder, images, rows.queries, progress=study.run.progress, what="queries"
    )
    queries = looks_of(pictures_at(images, rows.queries), vectors)
    label = images.label
    found = leakage(study.gallery, label[rows.gallery], queries, label[rows.queries], rule)
    resamples, seed = config.evaluation.resamples, config.seed
    words = (
        f"{images.name}, test split, {len(queries):,} queries, gallery {len(study.gallery):,}, "
        f"{study.embedder.name}, near-duplicate by {rule.name}, 95% bootstrap by query"
    )
    results.add("leakage/queries/count", int(found.leaks.sum()), protocol=words)
    share = bootstrap_mean(found.leaks.astype(np.float64), resamples=resamples, seed=seed)
    results.add("leakage/queries/share", share, protocol=words)
    for name, which in (("all", None), ("without", ~found.leaks), ("leaking", found.leaks)):
        if which is None or which.any():
            recall = found.recall(which, resamples=resamples, seed=seed)
            results.add(f"leakage/{name}/recall@1", recall, protocol=words)
    return found


def _figures(
    study: _Study,
    found: dict[str, dict[str, Estimate]],
    pairs: np.ndarray,
    leaked: Leakage | None,
) -> dict[str, Figure]:
    """Every plot by name."""
    whole, rows, gallery = study.images.images, study.rows, study.gallery
    drawn = _spread(pairs, study.run.config.seed)
    same = gallery.likeness("thumbnail", drawn[:, 0], gallery, drawn[:, 1])
    shown = [
        (whole[int(rows.gallery[a])], whole[int(rows.gallery[b])], f"{likeness:.3f}")
        for (a, b), likeness in zip(drawn, same, strict=True)
    ]
    figures = {
        "duplicates_roc": roc_figure(
            study.judged("test"), DETECTORS, study.run.config.reranking.false_alarms, study.note
        ),
        "duplicates_survive": survival_figure(found, study.note),
        "duplicates_gallery": pairs_figure(
            f"Called near-duplicates within the gallery{study.note}", shown
        ),
    }
    if leaked is not None:
        drawn = _spread(leaked.pairs, study.run.config.seed)
        names = study.images.label
        shown = [
            (
                whole[int(rows.queries[q])],
                whole[int(rows.gallery[g])],
                "same class" if names[rows.queries[q]] == names[rows.gallery[g]] else "other class",
            )
            for q, g in drawn
        ]
        figures["duplicates_leakage"] = pairs_figure(
            f"Query and its near-duplicate in the gallery{study.note}", shown
        )
    return figures


def _spread(pairs: np.ndarray, seed: int) -> np.ndarray:
    """At most SHOWN of the pairs i64[P, 2], drawn."""
    order = np.random.default_rng(seed).permutation(len(pairs))[:SHOWN]
    return pairs[np.sort(order)]


def _dataset(run: Run) -> str:
    return run.config.images.dataset.replace("-", "_")


def _table(results: Results, rules: list[Rule], best: Rule, images: ImageSet) -> Table:
    """One row a rule; the one that finds near-duplicates is marked."""
    note = ", SYNTHETIC" if images.synthetic else ""
    table = Table(title=f"near-duplicates, {images.name}{note}: altered copies found on test")
    for column in ("rule", "thresholds", "found", "false alarms", ""):
        table.add_column(column, justify="left" if column in ("rule", "") else "right")
    for rule in rules:
        least = ", ".join(f"{value:.4g}" for value in rule.least.values())
        found, false = (
            results[f"duplicates/{rule.name}/{name}"].value for name in ("found", "false_alarms")
        )
        mark = "finds those of the gallery" if rule is best else ""
        table.add_row(rule.name, least, f"{found:.3f}", f"{false:.4f}", mark)
    return table
