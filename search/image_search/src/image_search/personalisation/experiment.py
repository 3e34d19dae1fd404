"""The parts of ``personalisation``: what is compared with what, on whom. SYNTHETIC clicks.

In: a ``Run`` and its pictures. Out: estimates by setting and measure. Searches of the days of test
have the history that their users really had at that moment, replayed click by click; the study by
clicks known takes heavy users and forgets all but the last n of their clicks, so that the same
people and searches stand behind every n.

Legend: n searches, U users, R rounds, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from image_search.catalogue import gallery_catalogue
from image_search.clicks.log import ClickLog
from image_search.clicks.simulate import simulate_clicks
from image_search.embeddings.vectors import embed_rows
from image_search.images.image_set import ImageSet, owner_rows
from image_search.personalisation.learned import fit_weights
from image_search.personalisation.loop import Looped, loop
from image_search.personalisation.replay import Histories, Replayed, replay, shuffled_others
from image_search.personalisation.study import (
    MEASURES,
    Base,
    Searches,
    Setting,
    World,
    measure,
)
from image_search.personalisation.styles import Directions
from image_search.retrieval.index import build_index
from image_search.served import served
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean

if TYPE_CHECKING:
    from image_search.commands import Run

BLEND_GRID = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
SHIFT_GRID = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
KNOWN = (0, 1, 3, 10, 30)
BASES: tuple[Base, ...] = ("similarity", "impersonal")
LEARNT_PAGES = 10_000
ROUNDS, LOOP_USERS = 20, 200


@dataclass
class Experiment:
    """Everything that the parts share."""

    run: Run
    log: ClickLog
    world: World
    vector_of: np.ndarray
    vectors: np.ndarray
    name: str
    replayed: Replayed

    @classmethod
    def of(cls, run: Run, images: ImageSet) -> Experiment:
        """Simulates the log and replays it."""
        config, rows = run.config, owner_rows(images)
        embedder, gallery = served(run, images)
        catalogue = gallery_catalogue(images, rows.gallery, config.seed)
        clicks = simulate_clicks(images, catalogue, config.clicks, config.seed, run.progress)
        asked = np.unique(clicks.log.query_row)
        vector_of = np.full(len(images), -1, dtype=np.int64)
        vector_of[asked] = np.arange(len(asked))
        own = np.full(len(images), -1, dtype=np.int64)
        own[rows.gallery] = np.arange(len(rows.gallery))
        directions = Directions.of(gallery, catalogue.label, len(images.label_names))
        world = World(
            clicks.truth,
            build_index("flat", gallery, np.arange(len(gallery))),
            gallery,
            directions(np.arange(len(gallery)), gallery),
            own,
            min(config.index.candidates, len(gallery)),
            config.clicks.page,
        )
        with run.progress.stage("personalisation: replay", 1) as advance:
            replayed = replay(clicks.log, world.directions, config.personalisation)
            advance(1)
        vectors = embed_rows(embedder, images, asked, progress=run.progress, what="queries")
        name = f"{images.name}, {embedder.name} {gallery.shape[1]}-d"
        return cls(run, clicks.log, world, vector_of, vectors, name, replayed)

    # --- protocols ---

    @property
    def words(self) -> str:
        """Of searches on test days."""
        return (
            f"SYNTHETIC clicks and truth, {self.name}, {len(self._test):,} searches of "
            f"{len(np.unique(self.log.user_idx[self._test])):,} users on test days, "
            f"{self.world.candidates} candidates, weights from validation days, 95% bootstrap by "
            "user"
        )

    @property
    def chosen_words(self) -> str:
        """Of the weights."""
        return (
            f"SYNTHETIC, {self.name}, {len(self._validation):,} searches of validation days, most "
            "expected clicks; feature: maximum likelihood on clicks of training days"
        )

    @property
    def known_words(self) -> str:
        """Of the study by clicks known."""
        return (
            f"SYNTHETIC clicks and truth, {self.name}, {len(self._heavy[1]):,} test searches of "
            f"{len(self._heavy[0].users):,} users with {max(KNOWN)} clicks or more before, all but "
            "the last n forgotten, gain over no personalisation, 95% bootstrap by user"
        )

    @property
    def loop_words(self) -> str:
        """Of the feedback loop."""
        return (
            f"SYNTHETIC clicks and truth, {self.name}, {LOOP_USERS} users, {ROUNDS} rounds from no "
            "click, clicks and distance of the last five rounds, commonest over all, 95% bootstrap "
            "by user"
        )

    # --- parts ---

    def chosen_weights(self) -> dict[str, float]:
        """``<base>.<option>`` -> weight, from validation (and training, for feature)."""
        found = {}
        styles = self.replayed.styles[self._validation]
        searches = self._searches(self._validation)
        with self.run.progress.stage("personalisation: weights", len(BASES) + 1) as advance:
            for base in BASES:
                found[f"{base}.blend"] = self._best(
                    searches, styles, [Setting("blend", base, w) for w in BLEND_GRID]
                )
                found[f"{base}.feature"] = self._learned(base, self.world, self.replayed)
                advance(1)
            found["similarity.shift"] = self._best(
                searches, styles, [Setting("shift", "similarity", w) for w in SHIFT_GRID]
            )
            advance(1)
        return found

    def options(
        self, weights: dict[str, float]
    ) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
        """Levels and gains of every setting on test days; keys as in ``command``."""
        searches, styles = self._searches(self._test), self.replayed.styles[self._test]
        levels, gains = {}, {}
        with self.run.progress.stage("personalisation: test days", len(BASES)) as advance:
            for base in BASES:
                nothing = self._measured(searches, styles, Setting("none", base))
                levels[f"{base}.none"] = self._means(nothing, searches.user)
                for name, style, setting in self._compared(base, weights, styles):
                    measured = self._measured(searches, style, setting)
                    gains[name] = self._gains(measured, nothing, searches.user)
                    levels[name] = self._means(measured, searches.user)
                world, known, weight = self._told
                told = Setting("feature", base, weight[base])
                measured = measure(world, searches, known.styles[self._test], told)
                gains[f"{base}.feature_told"] = self._gains(measured, nothing, searches.user)
                levels[f"{base}.feature_told"] = self._means(measured, searches.user)
                advance(1)
        return levels, gains

    def harm(self, weights: dict[str, float]) -> dict[str, Estimate]:
        """Share of users with clicks known whose expected clicks fall, per base."""
        found = {}
        pages = self._test[self.replayed.clicks[self._test] > 0]
        searches, styles = self._searches(pages), self.replayed.styles[pages]
        for base in BASES:
            setting = Setting("blend", base, weights[f"{base}.blend"])
            with_it = self._measured(searches, styles, setting)["clicks"]
            without = self._measured(searches, styles, Setting("none", base))["clicks"]
            _, of = np.unique(searches.user, return_inverse=True)
            mean = np.bincount(of, with_it - without) / np.bincount(of)
            found[f"{base}.blend"] = self._mean((mean < 0).astype(np.float64), None)
        return found

    def by_clicks_known(self, weights: dict[str, float]) -> dict[str, dict[str, Estimate]]:
        """Gains of heavy users after n clicks, and of accounts that two share; {} without any."""
        histories, pages, of = self._heavy
        if len(histories.users) < 2 or not len(pages):
            return {}  # a small log; nobody clicked often enough
        searches, found = self._searches(pages), {}
        now_s = self.world.truth.now_s
        shared = histories.mixed(max(KNOWN), self.run.config.seed)
        cases = [(str(n), histories, n) for n in KNOWN] + [("shared", shared, max(KNOWN))]
        config = self.run.config.personalisation
        with self.run.progress.stage("personalisation: clicks known", len(cases)) as advance:
            for name, clicks, most in cases:
                styles = clicks.styles(self.world.directions, most, config, now_s)[of]
                for key, weight in weights.items():
                    base, option = key.split(".")
                    setting = Setting(option, base, weight)  # type: ignore[arg-type]
                    nothing = self._nothing(base, searches)
                    measured = self._measured(searches, styles, setting)
                    found[f"{key}_{name}"] = self._gains(measured, nothing, searches.user)
                world, _, told = self._told
                styles = clicks.styles(world.directions, most, config, now_s)[of]
                setting = Setting("feature", "impersonal", told["impersonal"])
                measured = measure(world, searches, styles, setting)
                nothing = self._nothing("impersonal", searches)
                key = f"impersonal.feature_told_{name}"
                found[key] = self._gains(measured, nothing, searches.user)
                advance(1)
        return found

    def loops(self, weights: dict[str, float]) -> dict[str, LoopedWithIntervals]:
        """The feedback loop without and with personalisation, from similarity."""
        seed, truth = self.run.config.seed, self.world.truth
        rng = np.random.default_rng(seed)
        users = np.sort(
            rng.choice(len(truth.audience), min(LOOP_USERS, len(truth.audience)), replace=False)
        )
        asked = rng.choice(np.unique(self.log.query_row[self._test]), (ROUNDS, len(users)))
        vectors = self.vectors[self.vector_of[asked]]
        settings = {
            "none": Setting("none"),
            "blend": Setting("blend", "similarity", weights["similarity.blend"]),
        }
        found = {}
        with self.run.progress.stage("personalisation: feedback", len(settings)) as advance:
            for name, setting in settings.items():
                config = self.run.config.personalisation
                one = loop(self.world, users, asked, vectors, setting, config, seed)
                found[name] = LoopedWithIntervals(one, self.run.config.evaluation.resamples, seed)
                advance(1)
        return found

    # --- what they are made of ---

    @cached_property
    def _validation(self) -> np.ndarray:
        return self._drawn(self.log.validation, self.run.config.personalisation.judged // 2)

    @cached_property
    def _test(self) -> np.ndarray:
        return self._drawn(self.log.test, self.run.config.personalisation.judged)

    @cached_property
    def _heavy(self) -> tuple[Histories, np.ndarray, np.ndarray]:
        """Histories before test of heavy users, their test pages, each page's user among them."""
        least = max(KNOWN)
        before = self.log.before(self.log.windows.validation_end_s)
        histories = Histories.of(before, least)
        pages = self.log.test[np.isin(self.log.user_idx[self.log.test], histories.users)]
        pages = self._drawn(pages, self.run.config.personalisation.judged // 2)
        return histories, pages, np.searchsorted(histories.users, self.log.user_idx[pages])

    def _drawn(self, pages: np.ndarray, most: int) -> np.ndarray:
        if len(pages) <= most:
            return pages
        rng = np.random.default_rng(self.run.config.seed)
        return np.sort(rng.choice(pages, most, replace=False))

    def _searches(self, pages: np.ndarray) -> Searches:
        query = self.log.query_row[pages]
        plain = Searches(self.log.user_idx[pages], query, self.vectors[self.vector_of[query]])
        return replace(plain, found=self.world.retrieve(plain))

    def _compared(
        self, base: Base, weights: dict[str, float], styles: np.ndarray
    ) -> list[tuple[str, np.ndarray, Setting]]:
        """(key, styles, setting) of everything that is compared with "none"."""
        blend = Setting("blend", base, weights[f"{base}.blend"])
        feature = Setting("feature", base, weights[f"{base}.feature"])
        found = [(f"{base}.blend", styles, blend), (f"{base}.feature", styles, feature)]
        if base == "similarity":
            shift = Setting("shift", base, weights["similarity.shift"])
            found.append((f"{base}.shift", styles, shift))
        found.append((f"{base}.blend_placebo", self._strangers(styles), blend))
        for name, share in (("session", 1.0), ("long", 0.0)):
            found.append((f"{base}.blend_{name}", self._with_share(share), blend))
        return [*found, (f"{base}.oracle", styles, Setting("oracle", base))]

    def _strangers(self, styles: np.ndarray) -> np.ndarray:
        """Every search with the style that another user has, the same one for all of a user's."""
        users, first, of = np.unique(
            self.log.user_idx[self._test], return_index=True, return_inverse=True
        )
        return styles[first[shuffled_others(len(users), self.run.config.seed)]][of]

    def _with_share(self, share: float) -> np.ndarray:
        """Styles of the test searches with another share of the session."""
        config = self.run.config.personalisation.model_copy(update={"session_share": share})
        return replay(self.log, self.world.directions, config).styles[self._test]

    def _best(self, searches: Searches, styles: np.ndarray, settings: list[Setting]) -> float:
        clicks = [self._measured(searches, styles, s)["clicks"].mean() for s in settings]
        return settings[int(np.argmax(clicks))].weight

    @cached_property
    def _told(self) -> tuple[World, Replayed, dict[str, float]]:
        """The positive control: the same code in the space of the truth's own styles.

        What it gains and the pictures' vectors do not is lost in the vectors, not in the method.
        """
        told = replace(self.world, directions=self.world.truth.item_style)
        known = replay(self.log, told.directions, self.run.config.personalisation)
        return told, known, {base: self._learned(base, told, known) for base in BASES}

    def _learned(self, base: Base, world: World, replayed: Replayed) -> float:
        """Style's weight in units of the base's score, from the clicks of training days."""
        log, truth = self.log, self.world.truth
        pages = self._drawn(log.train, LEARNT_PAGES)
        shown, query = log.shown[pages], log.query_row[pages]
        if base == "impersonal":
            nobody = np.full(len(pages), -1)
            score = truth.utility(nobody, query, shown, log.time_s[pages])
        else:
            asked = self.vectors[self.vector_of[query]]
            score = np.einsum("nd,nkd->nk", asked, world.vectors[shown])
        liking = np.einsum("nd,nkd->nk", replayed.styles[pages], world.directions[shown])
        _, of_score, of_liking = fit_weights(score, liking, log.clicked[pages], log.examination)
        if of_score <= 0:  # clicks do not rise with the score: no unit to express a weight in
            return 0.0
        return float(of_liking / of_score)

    def _nothing(self, base: str, searches: Searches) -> dict[str, np.ndarray]:
        if base not in self._kept:
            none = Setting("none", base)  # type: ignore[arg-type]
            self._kept[base] = self._measured(searches, np.zeros_like(searches.vectors), none)
        return self._kept[base]

    @cached_property
    def _kept(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    def _measured(
        self, searches: Searches, styles: np.ndarray, setting: Setting
    ) -> dict[str, np.ndarray]:
        return measure(self.world, searches, styles, setting)

    def _mean(self, values: np.ndarray, users: np.ndarray | None) -> Estimate:
        config = self.run.config
        return bootstrap_mean(
            values, users, resamples=config.evaluation.resamples, seed=config.seed
        )

    def _means(self, measured: dict[str, np.ndarray], users: np.ndarray) -> dict[str, Estimate]:
        return {name: self._mean(measured[name], users) for name in MEASURES}

    def _gains(
        self, measured: dict[str, np.ndarray], nothing: dict[str, np.ndarray], users: np.ndarray
    ) -> dict[str, Estimate]:
        config = self.run.config
        return {
            name: bootstrap_difference(
                measured[name],
                nothing[name],
                users,
                resamples=config.evaluation.resamples,
                seed=config.seed,
            )
            for name in MEASURES
        }


@dataclass(frozen=True)
class LoopedWithIntervals:
    """A loop and how to resample it."""

    looped: Looped
    resamples: int
    seed: int

    def by_round(self, values: np.ndarray) -> list[Estimate]:
        """The mean over users of each round."""
        return [self._mean(one) for one in values]

    def summary(self) -> dict[str, Estimate]:
        """The last five rounds, and the commonest style over all."""
        return {name: self._mean(values) for name, values in self._by_user().items()}

    def less(self, other: LoopedWithIntervals) -> dict[str, Estimate]:
        """The same less the other's, user by user."""
        theirs = other._by_user()
        return {name: self._mean(mine - theirs[name]) for name, mine in self._by_user().items()}

    def _by_user(self) -> dict[str, np.ndarray]:
        return {
            "clicks": self.looped.clicks[-5:].mean(axis=0),
            "distance": self.looped.distance[-5:].mean(axis=0),
            "commonest": self.looped.commonest,
        }

    def _mean(self, values: np.ndarray) -> Estimate:
        return bootstrap_mean(values, resamples=self.resamples, seed=self.seed)
