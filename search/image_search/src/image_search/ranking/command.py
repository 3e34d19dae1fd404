"""``rankers``: what ranking is worth on the simulated log, and what each part of it. SYNTHETIC.

In: a ``Run``. Out: ``results/rankers.json``, plots, tables. Keys:

    rankers/<order>/ndcg@10, expected_clicks              on test queries, by the truth
    rankers/<ranker>/<metric>_gain                        paired difference to similarity
    rankers/<ranker>/click_auc, click_auc_first, ece      on logged pages of the test days
    rankers/<ranker>/ms                                   features and scores of one search
    choice/<ranker>.<correction>/expected_clicks, loss    on the validation days
    corrections/<ranker>.<correction>/<metric>            on test queries
    ablation/trees.without_<group>/<metric>(_difference)  on test queries
    log/all/...                                           what is in the log

Trees or net, and which correction, are chosen on the validation days. The loss of their clicks
needs no truth, but compares only corrections that predict the attraction; the truth of the
validation pictures stands beside it, which only a simulation has.

Legend: n searches, K places.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from image_search.catalogue import gallery_catalogue
from image_search.clicks.simulate import simulate_clicks
from image_search.config import Config
from image_search.images.image_set import ImageSet, owner_rows
from image_search.ranking.base import Ranker
from image_search.ranking.features import FEATURES, GROUPS
from image_search.ranking.fitting import Ground, fit_ranker, lay_ground, served_neighbours
from image_search.ranking.judging import (
    METRICS,
    Searches,
    baseline_scores,
    click_auc,
    first_place_auc,
    logged_scores,
    predicted_clicks,
    searches_of,
)
from image_search.ranking.learning import Lessons, lessons
from image_search.ranking.plots import (
    ablation_figure,
    corrections_figure,
    rankers_figure,
    reliability_figure,
)
from image_search.ranking.positions import CORRECTIONS, ClickLoss, Correction
from image_search.retrieval.index import build_index
from image_search.searcher import Ask
from image_search.served import served
from ml_platform.evaluation.classification_metrics import (
    expected_calibration_error,
    reliability_curve,
)
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from image_search.commands import Run

RANKERS = ("trees", "cross_mlp")
ORDERS = ("random", "popularity", "similarity", *RANKERS, "oracle_anyone", "oracle")
RAW = "none_raw"
"""No correction, and click rates that count every impression as a look."""
SCORED = ("examination", "ips")
"""Corrections whose logit is of the attraction, so that looks come on top."""
TIMED = 200


def run(run: Run) -> None:
    """Simulates, fits, judges, prints, writes."""
    study = _Study.of(run)
    fitted = study.fit_all()
    results = run.start_results(study.images)
    study.record_log(results)
    study.record_choice(results, fitted)
    orders = study.record_rankers(results, fitted)
    study.record_corrections(results, fitted)
    study.record_ablation(results, orders["trees"])
    study.record_logged(results, fitted)
    study.record_latency(results, fitted)
    study.write(results, fitted)


@dataclass
class _Study:
    """What every part of the command reads."""

    run: Run
    images: ImageSet
    embedding: str
    ground: Ground
    raw: Ground
    test: Searches
    validation: Searches
    logged: Lessons

    # --- making ---

    @classmethod
    def of(cls, run: Run) -> _Study:
        """Simulates the log; computes features with corrected and with raw click rates."""
        images, config = run.load(), run.config
        run.console.print("  [yellow]SYNTHETIC[/yellow] click log and truth", highlight=False)
        embedder, vectors = served(run, images)
        catalogue = gallery_catalogue(images, owner_rows(images).gallery, config.seed)
        clicks = simulate_clicks(images, catalogue, config.clicks, config.seed, run.progress)
        index = build_index("flat", vectors, np.arange(len(vectors)))
        around = served_neighbours(
            images,
            catalogue,
            clicks,
            embedder,
            index,
            vectors,
            config.index.candidates,
            run.progress,
        )
        ground, raw = (
            lay_ground(
                clicks,
                catalogue,
                around,
                config.ranking,
                corrected=corrected,
                progress=run.progress,
            )
            for corrected in (True, False)
        )
        log = clicks.log
        pages = log.test[: config.ranking.judged_pages]
        logged = lessons(clicks, pages, around, ground.serving, ground.daily)
        test = _searches(ground, log.test, log.windows.validation_end_s, config)
        held = _searches(ground, log.validation, log.windows.train_end_s, config)
        return cls(run, images, embedder.name, ground, raw, test, held, logged)

    def fit_all(self) -> dict[tuple[str, str], Ranker]:
        """(ranker, correction) -> fitted; ``RAW`` reads the uncorrected click rates."""
        found: dict[tuple[str, str], Ranker] = {}
        for kind in RANKERS:
            for correction in CORRECTIONS:
                found[kind, correction] = self.fit(kind, self.ground, correction)
            found[kind, RAW] = self.fit(kind, self.raw, "none")
        return found

    def fit(
        self, kind: str, ground: Ground, correction: Correction, without: str | None = None
    ) -> Ranker:
        """One fit with the run's settings."""
        return fit_ranker(
            kind,
            ground,
            self.run.config.ranking,
            seed=self.run.config.seed,
            correction=correction,
            without=without,
            progress=self.run.progress,
        )

    # --- judging ---

    def scores(self, ranker: Ranker, correction: str, searches: Searches) -> np.ndarray:
        """f32[n, C]; a ranker that learnt from raw click rates reads raw ones."""
        if correction != RAW:
            return searches.scores(ranker)
        log, judged = self.raw.clicks.log, searches is self.test
        until = log.windows.validation_end_s if judged else log.windows.train_end_s
        pages = log.test if judged else log.validation
        return _searches(self.raw, pages, until, self.run.config).scores(ranker)

    def estimate(self, results: Results, prefix: str, values: dict[str, np.ndarray]) -> None:
        """Writes the means of every metric on the test searches."""
        for metric in METRICS:
            settings = self.run.config.evaluation.resamples, self.run.config.seed
            mean = self.test.estimate(values[metric], *settings)
            results.add(f"{prefix}/{metric}", mean, protocol=self.words("test"))

    def difference(
        self, results: Results, key: str, a: dict[str, np.ndarray], b: dict[str, np.ndarray]
    ) -> None:
        """Writes paired differences under ``key`` with the metric in place of {}."""
        for metric in METRICS:
            settings = self.run.config.evaluation.resamples, self.run.config.seed
            mean = self.test.difference(a[metric], b[metric], *settings)
            words = f"{self.words('test')}, paired by search"
            results.add(key.format(metric), mean, protocol=words)

    def words(self, part: str) -> str:
        """The protocol of what the truth judges."""
        searches = self.test if part == "test" else self.validation
        return (
            f"SYNTHETIC log and truth on {self.images.name}, {self.embedding}, {len(searches):,} "
            f"searches with {part} pictures, {searches.rows.shape[1]} candidates, learnt from "
            f"{self.ground.learn.clicked.size:,} impressions before, 1 seed, 95% bootstrap by query"
        )

    # --- recording ---

    def record_log(self, results: Results) -> None:
        """What is in the log."""
        log, truth = self.ground.clicks.log, self.ground.clicks.truth
        words = f"SYNTHETIC log on {self.images.name}, seed {self.run.config.seed}"
        for name, value in (
            ("users", len(truth.audience)),
            ("pages", len(log)),
            ("impressions", log.shown.size),
            ("clicks", log.clicked.sum()),
            ("purchases", log.purchased.sum()),
            ("click_rate", log.clicked.mean()),
            ("click_rate_first", log.clicked[:, 0].mean()),
            ("click_rate_last", log.clicked[:, -1].mean()),
        ):
            results.add(f"log/all/{name}", float(value), protocol=words)

    def record_choice(self, results: Results, fitted: dict[tuple[str, str], Ranker]) -> None:
        """On the validation days: the loss of the clicks, and the truth beside it."""
        check, settings = self.ground.check, self.run.config.evaluation
        for (kind, correction), ranker in fitted.items():
            values = self.validation.measure(self.scores(ranker, correction, self.validation))
            mean = self.validation.estimate(
                values["expected_clicks"], settings.resamples, self.run.config.seed
            )
            name = f"choice/{kind}.{correction}"
            results.add(f"{name}/expected_clicks", mean, protocol=self.words("validation"))
            if correction in SCORED:
                loss = ClickLoss(
                    "examination", check.clicked.ravel().astype(float), check.theta.ravel()
                )
                value = loss.value(logged_scores(ranker, check).ravel().astype(float))
                words = f"mean loss of {check.clicked.size:,} logged impressions, SYNTHETIC"
                results.add(f"{name}/loss", value, protocol=words)

    def record_rankers(
        self, results: Results, fitted: dict[tuple[str, str], Ranker]
    ) -> dict[str, dict[str, np.ndarray]]:
        """The table that everything else explains; returns metrics by order."""
        config = self.run.config
        scores = baseline_scores(self.test, self.ground.serving, config.seed)
        for kind in RANKERS:
            scores[kind] = self.test.scores(fitted[kind, config.ranking.correction])
        orders = {name: self.test.measure(scores[name]) for name in ORDERS}
        for name, values in orders.items():
            self.estimate(results, f"rankers/{name}", values)
        for kind in RANKERS:
            self.difference(
                results, f"rankers/{kind}/{{}}_gain", orders[kind], orders["similarity"]
            )
        self.difference(
            results, "rankers/trees/{}_over_cross_mlp", orders["trees"], orders["cross_mlp"]
        )
        return orders

    def record_corrections(self, results: Results, fitted: dict[tuple[str, str], Ranker]) -> None:
        """Every treatment of the places on the test queries, and what it gains over none."""
        for kind in RANKERS:
            values = {
                name: self.test.measure(self.scores(fitted[kind, name], name, self.test))
                for name in (*CORRECTIONS, RAW)
            }
            for name, metrics in values.items():
                self.estimate(results, f"corrections/{kind}.{name}", metrics)
                if name != RAW:
                    key = f"corrections/{kind}.{name}/{{}}_over_raw"
                    self.difference(results, key, metrics, values[RAW])

    def record_ablation(self, results: Results, whole: dict[str, np.ndarray]) -> None:
        """The trees fitted anew without each group of features."""
        for group in GROUPS:
            ranker = self.fit("trees", self.ground, self.run.config.ranking.correction, group)
            values = self.test.measure(self.test.scores(ranker))
            prefix = f"ablation/trees.without_{group}"
            self.estimate(results, prefix, values)
            self.difference(results, f"{prefix}/{{}}_difference", values, whole)

    def record_logged(self, results: Results, fitted: dict[tuple[str, str], Ranker]) -> None:
        """What one has without a truth: clicks of the test days."""
        words = (
            f"SYNTHETIC log on {self.images.name}, {self.logged.clicked.size:,} logged impressions "
            "of the test days"
        )
        for kind in RANKERS:
            ranker = fitted[kind, self.run.config.ranking.correction]
            scores = logged_scores(ranker, self.logged)
            results.add(f"rankers/{kind}/click_auc", click_auc(scores, self.logged), protocol=words)
            first = first_place_auc(scores, self.logged)
            results.add(
                f"rankers/{kind}/click_auc_first", first, protocol=f"{words}, first places only"
            )
            chance = self.chance(ranker)
            error = expected_calibration_error(self.logged.clicked.ravel(), chance)
            results.add(f"rankers/{kind}/ece", error, protocol=f"{words}, 10 bins of equal mass")
        place = FEATURES.index("similarity")
        similar = self.logged.features[..., place]
        auc = click_auc(similar, self.logged)
        results.add("rankers/similarity/click_auc", auc, protocol=words)
        first = first_place_auc(similar, self.logged)
        results.add(
            "rankers/similarity/click_auc_first", first, protocol=f"{words}, first places only"
        )

    def chance(self, ranker: Ranker) -> np.ndarray:
        """f64[R]: predicted chance of a click of the logged impressions."""
        looks = self.run.config.ranking.correction in SCORED
        return predicted_clicks(ranker, self.logged, looks=looks).ravel()

    def record_latency(self, results: Results, fitted: dict[tuple[str, str], Ranker]) -> None:
        """Features and scores of one search, one after the other, one thread."""
        test, serving = self.test, self.ground.serving
        turns = np.arange(min(TIMED, len(test)))
        for kind in RANKERS:
            ranker, spent = fitted[kind, self.run.config.ranking.correction], []
            for n in turns:
                started = time.perf_counter()
                one = slice(n, n + 1)
                ask = [Ask(test.vectors[n])]
                table = serving(ask, test.rows[one], test.similarity[one])
                items = test.items[np.maximum(test.rows[one], 0)]
                ranker.score(table, test.vectors[one], items)
                spent.append(1000 * (time.perf_counter() - started))
            words = (
                f"features and scores of {test.rows.shape[1]} candidates, median of {len(turns)} "
                "searches one after the other, no other load asked for, no errors"
            )
            results.add(f"rankers/{kind}/ms", float(np.median(spent)), protocol=words, n=len(turns))

    def write(self, results: Results, fitted: dict[tuple[str, str], Ranker]) -> None:
        """Files, plots, tables."""
        folder, dataset = self.run.results_folder(), self.run.config.images.dataset
        suffix = "" if dataset == "fashion-mnist" else f"_{dataset.replace('-', '_')}"
        curves = {
            kind: reliability_curve(
                self.logged.clicked.ravel(),
                self.chance(fitted[kind, self.run.config.ranking.correction]),
            )
            for kind in RANKERS
        }
        figures = {
            "rankers": rankers_figure(results, ORDERS),
            "rankers_places": corrections_figure(results, (RAW, *CORRECTIONS)),
            "rankers_features": ablation_figure(results, tuple(GROUPS)),
            "rankers_calibration": reliability_figure(curves),
        }
        for name, figure in figures.items():
            write_atomic(folder / "plots" / f"{name}{suffix}.png", png(figure))
        results.write(folder / f"rankers{suffix}.json")
        self.run.console.print(_orders_table(results))
        self.run.console.print(_corrections_table(results))
        self.run.console.print(f"numbers: {folder / f'rankers{suffix}.json'}", highlight=False)


def _searches(ground: Ground, pages: np.ndarray, until_s: float, config: Config) -> Searches:
    """Searches of the log's users with its pictures, counters ending with the day before."""
    log = ground.clicks.log
    drawn = pages[: config.ranking.judged_pages]
    return searches_of(
        log.user_idx[drawn],
        log.query_row[drawn],
        ground.neighbours,
        ground.features_before(until_s),
        ground.clicks.truth,
    )


def _orders_table(results: Results) -> Table:
    """One row an order."""
    table = Table("order", "NDCG@10", "clicks a page", "click AUC", "ms")
    table.title = "Orders of the candidates, SYNTHETIC"
    for name in ORDERS:
        cells = [_cell(results, f"rankers/{name}/{metric}") for metric in METRICS]
        cells += [_cell(results, f"rankers/{name}/{metric}") for metric in ("click_auc", "ms")]
        table.add_row(name, *cells)
    return table


def _corrections_table(results: Results) -> Table:
    """One row a treatment of the places."""
    table = Table("places", *RANKERS, *(f"{kind}, validation" for kind in RANKERS))
    table.title = "Clicks expected on a page, by what is done about the place, SYNTHETIC"
    for name in (RAW, *CORRECTIONS):
        keys = [f"{stage}/{kind}.{name}" for stage in ("corrections", "choice") for kind in RANKERS]
        table.add_row(name, *(_cell(results, f"{key}/expected_clicks") for key in keys))
    return table


def _cell(results: Results, key: str) -> str:
    if key not in results:
        return ""
    metric = results[key]
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
