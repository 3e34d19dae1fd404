"""Ranking: counters point in time, features by hand, parity, losses, both rankers, judging."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from image_search.catalogue import Catalogue, gallery_catalogue
from image_search.clicks.log import DAY_S, ClickLog, Windows
from image_search.clicks.simulate import Clicks, simulate_clicks
from image_search.config import ClicksConfig, RankingConfig
from image_search.embeddings.base import unit_rows
from image_search.images.image_set import ImageSet, owner_rows
from image_search.ranking.base import Ranker
from image_search.ranking.counters import Counters, coec, count_daily
from image_search.ranking.features import FEATURES, GROUPS, CandidateFeatures
from image_search.ranking.fitting import (
    Ground,
    columns_without,
    fit_ranker,
    lay_ground,
    load_ranker,
    save_ranker,
)
from image_search.ranking.judging import baseline_scores, click_auc, searches_of
from image_search.ranking.learning import Neighbourhood, find_neighbours, shown_similarity
from image_search.ranking.positions import CORRECTIONS, ClickLoss, Correction
from image_search.retrieval.index import build_index
from image_search.searcher import Ask

CLICKS = ClicksConfig(users=60, pages=1500, page=5, pool=30, queries=25, test_queries=25)
RANKING = RankingConfig(trees=30, neighbours=5, epochs=2, batch=512, hidden=(8,), width=4)


def noisy_vectors(images: ImageSet, seed: int = 0) -> np.ndarray:
    """f32[N, 16]: a made embedding that knows the class and little else."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(images.label_names), 16))
    return unit_rows(centres[images.label] + rng.standard_normal((len(images), 16)))


@dataclass
class World:
    catalogue: Catalogue
    clicks: Clicks
    around: Neighbourhood
    ground: Ground


@pytest.fixture(scope="module")
def world(tiny: ImageSet) -> World:
    gallery = owner_rows(tiny).gallery
    catalogue = gallery_catalogue(tiny, gallery, 0)
    clicks = simulate_clicks(tiny, catalogue, CLICKS, seed=7)
    vectors = noisy_vectors(tiny)
    asked = np.unique(clicks.log.query_row)
    index = build_index("flat", vectors[gallery], np.arange(len(gallery)))
    own = np.full(len(asked), -1)
    around = find_neighbours(index, vectors[gallery], asked, vectors[asked], own, 40)
    return World(catalogue, clicks, around, lay_ground(clicks, catalogue, around, RANKING))


def small_log() -> ClickLog:
    """Three pages of two places on three days, over three items."""
    return ClickLog(
        query_row=np.array([0, 0, 0]),
        user_idx=np.array([0, 1, 0]),
        session=np.array([0, 1, 2]),
        time_s=np.array([0.5, 1.5, 2.5]) * DAY_S,
        shown=np.array([[0, 1], [1, 0], [2, 0]]),
        clicked=np.array([[True, False], [True, True], [False, True]]),
        purchased=np.zeros((3, 2), dtype=bool),
        examination=np.array([1.0, 0.5]),
        windows=Windows(DAY_S, 2 * DAY_S, 3 * DAY_S),
    )


class TestCounters:
    def test_looks_are_weighted_and_a_day_reads_the_days_before(self) -> None:
        daily = count_daily(small_log(), 3)
        assert daily.clicks.tolist() == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 0]]
        assert daily.looks.tolist() == [[0, 0, 0], [1, 0.5, 0], [1.5, 1.5, 0], [2, 1.5, 1]]
        assert daily.rate == pytest.approx([0, 1 / 1.5, 3 / 3, 4 / 4.5])
        assert daily.at(1.9 * DAY_S).clicks.tolist() == [1, 0, 0]
        assert daily.at(99 * DAY_S).clicks.tolist() == [3, 1, 0]

    def test_uncorrected_counters_take_every_impression_for_a_look(self) -> None:
        daily = count_daily(small_log(), 3, corrected=False)
        assert daily.looks[-1].tolist() == [3, 2, 1]

    def test_no_click_of_a_day_is_read_on_that_day(self, world: World) -> None:
        log = world.clicks.log
        changed = log.clicked.copy()
        last = log.time_s // DAY_S == 20
        changed[last] = ~changed[last]
        n = len(world.catalogue)
        one, other = count_daily(log, n), count_daily(replace(log, clicked=changed), n)
        assert np.array_equal(one.clicks[:21], other.clicks[:21])
        assert not np.array_equal(one.clicks[21], other.clicks[21])

    def test_coec_is_one_without_looks_and_the_ratio_with_many(self) -> None:
        found = coec(np.float32([0, 30, 3e6]), np.float32([0, 100, 1e7]), 0.1, 20)
        assert found == pytest.approx([1, (300 + 20) / 120, 3], rel=1e-4)
        assert coec(np.float32([0]), np.float32([0]), 0.0, 20).tolist() == [1]

    def test_they_are_kept(self, tmp_path: Path) -> None:
        Counters(np.float32([1, 2]), np.float32([3, 4]), 0.25).save(tmp_path)
        kept = Counters.load(tmp_path)
        assert (kept.clicks.tolist(), kept.looks.tolist(), kept.rate) == ([1, 2], [3, 4], 0.25)


class TestFeatures:
    def values(self, world: World, rows: list[int], similarity: list[float]) -> dict[str, list]:
        table = world.ground.serving([Ask(np.zeros(1))], np.array([rows]), np.float32([similarity]))
        return {name: table[0, :, n].tolist() for n, name in enumerate(FEATURES)}

    def test_similarity_gap_and_rank(self, world: World) -> None:
        found = self.values(world, [3, 8, 1], [0.5, 0.9, 0.7])
        assert found["similarity_gap"] == pytest.approx([0.4, 0, 0.2])
        assert found["similarity_rank"] == pytest.approx(np.log1p([2, 0, 1]))
        assert found["best_similarity"] == pytest.approx([0.9] * 3)

    def test_class_share_counts_the_nearest(self, world: World) -> None:
        label = world.catalogue.label
        two = np.flatnonzero(label == 0)[:2].tolist()
        one = int(np.flatnonzero(label == 1)[0])
        found = self.values(world, [*two, one, -1], [0.9, 0.8, 0.7, -np.inf])
        assert found["class_share"][:3] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
        assert found["class_certainty"] == pytest.approx([2 / 3] * 4)

    def test_prices_against_neighbours_and_class(self, world: World) -> None:
        rows = [0, 1, 2]
        logs = np.log(world.catalogue.attributes.price[rows])
        found = self.values(world, rows, [0.9, 0.8, 0.7])
        assert found["log_price"] == pytest.approx(logs, abs=1e-6)
        assert found["price_gap"] == pytest.approx(logs - np.median(logs), abs=1e-6)

    def test_everything_is_finite_for_what_is_not_there(self, world: World) -> None:
        found = world.ground.serving(
            [Ask(np.zeros(1))], np.array([[-1, -1]]), np.float32([[-np.inf, -np.inf]])
        )
        assert np.isfinite(found).all()

    def test_an_item_added_later_has_no_clicks(self, world: World, tiny: ImageSet) -> None:
        catalogue = gallery_catalogue(tiny, owner_rows(tiny).gallery, 0)
        serving = world.ground.serving
        features = CandidateFeatures(catalogue, serving.counters, 5, 20)
        row = catalogue.append(10**6, 2, 9.0)
        found = features([Ask(np.zeros(1))], np.array([[row]]), np.float32([[0.4]]))[0, 0]
        assert found[FEATURES.index("coec")] == 0
        assert found[FEATURES.index("log_looks")] == 0
        assert found[FEATURES.index("freshness")] == 1

    def test_training_and_serving_agree_to_the_bit(self, world: World) -> None:
        """What a page's row held is what serving would compute at that moment, one by one."""
        ground, log = world.ground, world.clicks.log
        pages = log.train[-RANKING.rows // CLICKS.page :]
        for n in range(len(pages) - 40, len(pages)):
            page = pages[n]
            day_began = log.time_s[page]
            past = ground.features_before(day_began)
            query = ground.learn.query[n : n + 1]
            shown = log.shown[page : page + 1]
            similarity = shown_similarity(world.around, query, shown)
            context = past.context(world.around.rows[query], world.around.similarity[query])
            moment = past.now(shown)
            age = world.clicks.truth.age_at(shown, log.time_s[page : page + 1])
            table = past.table(context, shown, similarity, replace(moment, age_days=age))
            assert np.array_equal(table[0], ground.learn.features[n])

    def test_a_batch_is_its_queries_one_by_one(self, world: World) -> None:
        rows, similarity = world.around.rows[:6], world.around.similarity[:6]
        asks = [Ask(np.zeros(1))] * 6
        whole = world.ground.serving(asks, rows, similarity)
        for n in range(6):
            one = slice(n, n + 1)
            alone = world.ground.serving(asks[one], rows[one], similarity[one])
            assert np.array_equal(alone[0], whole[n])

    def test_they_are_kept_and_other_ones_refused(self, world: World, tmp_path: Path) -> None:
        serving = world.ground.serving
        serving.save(tmp_path)
        kept = CandidateFeatures.load(tmp_path, world.catalogue)
        rows, similarity = world.around.rows[:2], world.around.similarity[:2]
        asks = [Ask(np.zeros(1))] * 2
        assert np.array_equal(kept(asks, rows, similarity), serving(asks, rows, similarity))
        text = (tmp_path / "features.json").read_text()
        (tmp_path / "features.json").write_text(text.replace("quality", "beauty"))
        with pytest.raises(ValueError, match="beauty"):
            CandidateFeatures.load(tmp_path, world.catalogue)


class TestLosses:
    @pytest.mark.parametrize("correction", CORRECTIONS)
    def test_the_gradient_is_the_slope(self, correction: Correction) -> None:
        rng = np.random.default_rng(0)
        clicked = (rng.random(40) < 0.4).astype(float)
        loss = ClickLoss(correction, clicked, rng.uniform(0.1, 1, 40))
        logits, step = rng.normal(size=40), 1e-5
        gradient, curvature = loss.gradient(logits)
        for n in range(40):
            moved = np.zeros(40)
            moved[n] = step
            slope = (loss.value(logits + moved) - loss.value(logits - moved)) / (2 * step)
            assert 40 * slope == pytest.approx(gradient[n], abs=1e-4)
        assert (curvature > 0).all()

    def test_without_correction_it_is_the_log_loss(self) -> None:
        rng = np.random.default_rng(1)
        clicked, logits = (rng.random(50) < 0.5).astype(float), rng.normal(size=50)
        loss = ClickLoss("none", clicked, np.full(50, 0.3))
        assert loss.value(logits) == pytest.approx(log_loss(clicked, expit(logits)))

    @pytest.mark.parametrize("correction", ["ips", "examination"])
    def test_the_truth_has_the_least_loss_in_the_mean(self, correction: Correction) -> None:
        """Over all outcomes of a look and a click, the true logit is where the slope is 0."""
        truth, theta = 0.7, 0.25
        chance = theta * expit(truth)
        loss = ClickLoss(correction, np.array([1.0, 0.0]), np.array([theta, theta]))
        first, _ = loss.gradient(np.array([truth, truth]))
        assert chance * first[0] + (1 - chance) * first[1] == pytest.approx(0, abs=1e-12)

    def test_ignoring_the_place_is_wrong_in_the_mean(self) -> None:
        truth, theta = 0.7, 0.25
        chance = theta * expit(truth)
        loss = ClickLoss("none", np.array([1.0, 0.0]), np.array([theta, theta]))
        first, _ = loss.gradient(np.array([truth, truth]))
        assert chance * first[0] + (1 - chance) * first[1] > 0.3

    def test_impossible_looks_and_names_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"0\.0\.\.1\.0"):
            ClickLoss("ips", np.zeros(2), np.array([0.0, 1.0]))
        with pytest.raises(ValueError, match="correction 'hope'"):
            ClickLoss("hope", np.zeros(1), np.ones(1))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(world: World) -> dict[str, Ranker]:
    return {
        kind: fit_ranker(kind, world.ground, RANKING, seed=0, threads=1)
        for kind in ("trees", "cross_mlp")
    }


class TestRankers:
    @pytest.mark.parametrize("kind", ["trees", "cross_mlp"])
    def test_they_beat_random_and_popularity_for_users_they_do_not_know(
        self, world: World, fitted: dict[str, Ranker], kind: str
    ) -> None:
        log = world.clicks.log
        pages = log.test
        judged = searches_of(
            log.user_idx[pages],
            log.query_row[pages],
            world.around,
            world.ground.features_before(log.windows.validation_end_s),
            world.clicks.truth,
        )
        orders = baseline_scores(judged, world.ground.serving, 0)
        found = {name: judged.measure(one)["ndcg@10"].mean() for name, one in orders.items()}
        ours = judged.measure(judged.scores(fitted[kind]))["ndcg@10"].mean()
        assert ours > max(found["random"], found["popularity"]) + 0.1
        assert found["oracle"] == pytest.approx(1)
        assert ours < found["oracle_anyone"] < 1

    @pytest.mark.parametrize("kind", ["trees", "cross_mlp"])
    def test_a_saved_ranker_scores_the_same(
        self, world: World, fitted: dict[str, Ranker], kind: str, tmp_path: Path
    ) -> None:
        save_ranker(fitted[kind], world.ground.serving, tmp_path)
        kept, features = load_ranker(tmp_path, world.catalogue)
        around = world.around
        asks = [Ask(vector) for vector in around.vectors[:3]]
        table = features(asks, around.rows[:3], around.similarity[:3])
        arguments = (table, around.vectors[:3], around.items[around.rows[:3]])
        assert kept.name == kind
        assert kept.score(*arguments) == pytest.approx(fitted[kind].score(*arguments), abs=1e-6)
        assert kept.score(*arguments).shape == (3, 40)
        assert kept.score(*arguments).dtype == np.float32

    def test_an_unknown_ranker_is_refused(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "ranker.txt").write_text("oracle\n")
        with pytest.raises(ValueError, match="holds an unknown ranker, 'oracle'"):
            load_ranker(tmp_path, world.catalogue)
        with pytest.raises(ValueError, match="unknown ranker 'oracle'"):
            fit_ranker("oracle", world.ground, RANKING, seed=0)

    def test_numpy_scores_what_torch_does(self, world: World) -> None:
        import torch

        from image_search.ranking.cross_mlp import CrossRanker
        from image_search.ranking.cross_network import CrossNetwork

        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        spread = rng.uniform(0.5, 2, len(FEATURES)).astype(np.float32)
        net = CrossNetwork(
            rng.normal(size=len(FEATURES)).astype(np.float32), spread, 16, 5, RANKING
        )
        ranker = CrossRanker(net.arrays(), np.arange(len(FEATURES)))
        features = 5 * rng.normal(size=(2, 7, len(FEATURES))).astype(np.float32)
        queries = rng.normal(size=(2, 16)).astype(np.float32)
        items = rng.normal(size=(2, 7, 16)).astype(np.float32)
        found = ranker.score(features, queries, items)
        with torch.no_grad():
            expected = net(
                torch.from_numpy(features.reshape(14, -1)),
                torch.from_numpy(queries.repeat(7, axis=0)),
                torch.from_numpy(items.reshape(14, 16)),
            ).numpy()
        assert found.ravel() == pytest.approx(expected, abs=1e-4)

    def test_the_place_is_the_first_while_scoring(self, world: World) -> None:
        ranker = fit_ranker("trees", world.ground, RANKING, seed=0, threads=1, correction="feature")
        learn = world.ground.learn
        scores = ranker.score(learn.features[:50], learn.query[:50], learn.rows[:50])
        naive = fit_ranker("trees", world.ground, RANKING, seed=0, threads=1, correction="none")
        without = naive.score(learn.features[:50], learn.query[:50], learn.rows[:50])
        first, rest = world.ground.learn.clicked[:, 0].mean(), world.ground.learn.clicked.mean()
        assert first > 1.5 * rest
        assert scores.mean() > without.mean()  # as if everything stood first

    def test_a_ranker_does_not_read_a_group_that_was_left_out(self, world: World) -> None:
        ranker = fit_ranker("trees", world.ground, RANKING, seed=0, threads=1, without="quality")
        table = world.ground.learn.features[:20].copy()
        before = ranker.score(table, world.around.vectors, world.around.items)
        table[..., FEATURES.index("quality")] = 99
        assert np.array_equal(before, ranker.score(table, world.around.vectors, world.around.items))
        with pytest.raises(ValueError, match="unknown group of features 'luck'"):
            columns_without("luck")

    def test_every_feature_belongs_to_one_group(self) -> None:
        assert sorted(FEATURES) == sorted(name for group in GROUPS.values() for name in group)
        assert len(columns_without("clicks")) == len(FEATURES) - len(GROUPS["clicks"])


class TestJudging:
    def test_ndcg_and_clicks_by_hand(self, world: World) -> None:
        log = world.clicks.log
        judged = searches_of(
            log.user_idx[:1], log.query_row[:1], world.around, world.ground.serving,
            world.clicks.truth,
        )  # fmt: skip
        known = replace(
            judged,
            rows=np.array([[4, 5, -1]]),
            attraction=np.float32([[0.2, 0.8, 0.0]]),
            examination=np.array([1.0, 0.5]),
        )
        found = known.measure(np.array([[2.0, 1.0, -np.inf]]))
        gain = 0.2 + 0.8 / np.log2(3)
        assert found["ndcg@10"][0] == pytest.approx(gain / (0.8 + 0.2 / np.log2(3)), abs=1e-6)
        assert found["expected_clicks"][0] == pytest.approx(0.2 + 0.4, abs=1e-6)

    def test_auc_of_the_clicks_themselves_is_one(self, world: World) -> None:
        learn = world.ground.learn
        assert click_auc(learn.clicked.astype(float), learn) == 1


def test_neighbours_leave_the_own_item_out_and_know_their_queries() -> None:
    items = unit_rows(np.array([[1.0, 0], [1, 0.5], [0, 1]]))
    index = build_index("flat", items, np.arange(3))
    around = find_neighbours(index, items, np.array([4, 7]), items[:2], np.array([0, -1]), 2)
    assert around.rows.tolist() == [[1, 2], [1, 0]]
    assert around.place(np.array([7, 4])).tolist() == [1, 0]
    with pytest.raises(ValueError, match="no vector for the query picture 5"):
        around.place(np.array([5]))


def test_a_log_without_validation_days_is_refused(world: World) -> None:
    log = world.clicks.log
    short = log.before(log.windows.train_end_s)
    with pytest.raises(ValueError, match="0 to check"):
        lay_ground(Clicks(short, world.clicks.truth), world.catalogue, world.around, RANKING)
