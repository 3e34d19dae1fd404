"""The request path as a user meets it, over all users of the tiny system."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ml_platform.serving.stages import RequestStages
from video_recommendation.pipeline import with_live_counter
from video_recommendation.recommender import Ranked, Recommender
from video_recommendation.requests import single_request
from video_recommendation.serving.protocol import UserState

NOBODY = 10**9
NONE = np.zeros(0, dtype=np.int32)


@pytest.fixture(scope="module")
def recommender(tiny_system) -> Recommender:
    return tiny_system.trained.recommender


def ask(recommender, user_id, *, k=20, exclude=NONE, state=None, now=None, stages=None):
    return recommender.recommend(
        user_id=user_id,
        state=recommender.history(user_id) if state is None else state,
        now=recommender.data_end + 1 if now is None else now,
        k=k,
        exclude=exclude,
        counter=recommender.proposer.retriever.counter,
        stages=stages or RequestStages(),
        surface="home",
    )


def items_of(answer):
    return [item.item_idx for item in answer]


@pytest.fixture(scope="module")
def answers(recommender):
    return {int(user): ask(recommender, int(user)) for user in recommender.users.user_ids}


def test_no_list_has_a_seen_item_or_one_twice(recommender, answers):
    assert len(answers) == 200
    for user_id, answer in answers.items():
        items = items_of(answer)
        assert len(items) == 20
        assert len(set(items)) == 20
        assert not set(items) & set(recommender.history(user_id).item_idx.tolist())


def test_no_list_has_an_excluded_item(recommender, answers):
    for user_id in list(answers)[::10]:
        exclude = np.array(items_of(answers[user_id])[:15], dtype=np.int32)
        again = items_of(ask(recommender, user_id, exclude=exclude))
        assert not set(again) & set(exclude.tolist())
        assert len(again) == 20


def test_excluding_everything_gives_an_empty_list(recommender):
    everything = np.arange(len(recommender.catalogue), dtype=np.int32)
    stages = RequestStages()
    assert list(ask(recommender, NOBODY, exclude=everything, stages=stages)) == []
    assert not stages.degradations


def test_excluding_all_but_a_few_gives_those(recommender):
    user_id = int(recommender.users.user_ids[0])
    pool = items_of(ask(recommender, user_id))[:3]
    exclude = np.setdiff1d(np.arange(len(recommender.catalogue)), pool).astype(np.int32)
    assert sorted(items_of(ask(recommender, user_id, exclude=exclude))) == sorted(pool)


def test_the_same_request_is_the_same_answer(recommender, answers):
    for user_id in list(answers)[:10]:
        assert ask(recommender, user_id) == answers[user_id]


def test_people_get_lists_of_their_own(answers):
    lists = {tuple(items_of(answer)) for answer in answers.values()}
    assert len(lists) > 150


@pytest.mark.parametrize("k", [1, 5, 20, 60])
def test_an_unknown_user_gets_k_items(recommender, k):
    answer = ask(recommender, NOBODY, k=k)
    assert len(set(items_of(answer))) == len(answer) == k
    assert all(item.reason for item in answer)
    assert not any("Because you watched" in item.reason for item in answer)


def test_more_items_than_there_are(recommender):
    user_id = int(recommender.users.user_ids[0])
    answer = items_of(ask(recommender, user_id, k=10_000))
    assert len(set(answer)) == len(answer)
    assert 20 < len(answer) <= recommender.config.ranking.prerank_keep
    assert not set(answer) & set(recommender.history(user_id).item_idx.tolist())


def test_one_exploration_item_with_its_propensity(recommender, answers):
    slot = recommender.config.reranking.exploration_slot
    for answer in answers.values():
        assert [item.exploration for item in answer] == [place == slot for place in range(20)]
        chance = answer[slot].propensity
        assert 1 / recommender.config.reranking.exploration_pool <= chance <= 1
        assert all(item.propensity is None for item in answer if not item.exploration)


def test_another_second_may_draw_another_item(recommender):
    user_id = int(recommender.users.user_ids[3])
    slot = recommender.config.reranking.exploration_slot
    drawn = {
        ask(recommender, user_id, now=recommender.data_end + 1 + second)[slot].item_idx
        for second in range(12)
    }
    assert len(drawn) > 3


def test_scores_are_probabilities_and_sources_are_named(answers):
    for answer in answers.values():
        assert all(0 <= item.score <= 1 for item in answer)
        assert all(item.sources for item in answer)


def test_reasons_name_what_the_user_watched(recommender, answers):
    because = "Because you watched "
    titles_named = 0
    for user_id, answer in answers.items():
        own = {recommender.catalogue.titles[i] for i in recommender.history(user_id).item_idx}
        for item in answer:
            assert item.reason
            if item.reason.startswith(because):
                assert item.reason.removeprefix(because) in own
                titles_named += 1
            if item.exploration:
                assert item.reason == "Something different"
    assert titles_named > 20


def test_genre_reasons_name_a_genre_of_the_item(recommender, answers):
    named = 0
    for answer in answers.values():
        for item in answer:
            if item.reason.startswith("You often watch ") and "films like" not in item.reason:
                genre = item.reason.removeprefix("You often watch ")
                assert genre in recommender.catalogue.genres[item.item_idx]
                named += 1
    assert named > 0


def test_a_new_event_changes_the_list_and_is_not_offered_again(recommender):
    user_id = int(recommender.users.user_ids[7])
    before = items_of(ask(recommender, user_id))
    state = recommender.history(user_id)
    more = UserState(
        np.append(state.item_idx, before[0]).astype(np.int32),
        np.append(state.rating, 5.0).astype(np.float32),
        np.append(state.timestamp, recommender.data_end + 10),
    )
    after = items_of(ask(recommender, user_id, state=more, now=recommender.data_end + 20))
    assert before[0] not in after
    assert after != before


def test_an_event_of_this_very_second_counts(recommender):
    """The event arrived first: the request behaves as if it were a second later."""
    now = recommender.data_end + 50
    state = UserState(np.array([5], np.int32), np.array([5.0], np.float32), np.array([now]))
    first = ask(recommender, NOBODY, state=state, now=now)
    assert 5 not in items_of(first)
    assert first == ask(recommender, NOBODY, state=state, now=now + 1)


@pytest.mark.parametrize("item_idx", [0, 17, 299])
def test_similar_items_are_the_nearest_without_the_item(recommender, item_idx):
    answer = recommender.similar(item_idx, 10)
    vectors = recommender.proposer.retriever.item_vectors
    cosine = vectors @ vectors[item_idx]
    cosine[item_idx] = -np.inf
    assert item_idx not in items_of(answer)
    assert items_of(answer) == np.argsort(-cosine)[:10].tolist()
    assert all(recommender.catalogue.titles[item_idx] in item.reason for item in answer)


def test_similar_to_more_than_there_are(recommender):
    n_items = len(recommender.catalogue)
    assert sorted(items_of(recommender.similar(4, 5 * n_items))) == [
        i for i in range(n_items) if i != 4
    ]


def test_histories(recommender):
    user_id = int(recommender.users.user_ids[2])
    state, log = recommender.history(user_id), recommender.log
    assert state.item_idx.tolist() == log.item_idx[log.user_idx == 2].tolist()
    assert len(recommender.history(NOBODY)) == len(recommender.history(-1)) == 0
    item, time = recommender.training_events()
    assert len(item) == len(log)
    assert (np.diff(time) >= 0).all()
    assert recommender.data_end == time[-1]


def test_the_live_path_is_the_batch_path(recommender, tiny_system):
    """One user through ``recommend`` and through the methods that the replay uses."""
    user_id = int(recommender.users.user_ids[11])
    state = recommender.history(user_id)
    batch = single_request(
        11, recommender.data_end + 1, state.item_idx, state.rating, state.timestamp
    )
    candidates = recommender.prerank(batch, recommender.proposer.retrieve(batch))[1]
    ranked = recommender.rank(batch, candidates)
    rows = recommender.rerank(
        ranked, 0, len(ranked.score), k=20, user_idx=11, now=int(batch.now[0])
    ).rows
    assert ranked.candidates.item_idx[rows].tolist() == items_of(ask(recommender, user_id))


def test_the_request_path_ranks_by_the_features_that_training_saw(recommender):
    """Training builds features before the pre-ranker's cut, the request path after it."""
    states = [recommender.history(int(user_id)) for user_id in recommender.users.user_ids[:8]]
    cut = 0
    for user_idx, state in enumerate(states):
        batch = single_request(
            user_idx, recommender.data_end + 1, state.item_idx, state.rating, state.timestamp
        )
        candidates, features, _ = recommender.proposer.propose(batch)
        survivors = recommender.prerank(batch, candidates)[1]
        trained_on = features[np.isin(candidates.item_idx, survivors.item_idx)]
        np.testing.assert_array_equal(recommender.rank(batch, survivors).features, trained_on)
        cut += len(candidates.item_idx) - len(survivors.item_idx)
    assert cut > 0


def test_equal_scores_are_not_ordered_by_item_number(recommender):
    """A ranker that says nothing: the lists must not be the catalogue's order."""
    user_id = int(recommender.users.user_ids[11])
    state = recommender.history(user_id)
    early = state.item_idx[:5], state.rating[:5], state.timestamp[:5]
    batch = single_request(11, recommender.data_end, *early)
    candidates = recommender.prerank(batch, recommender.proposer.retrieve(batch))[1]
    features = recommender.proposer.matrix(batch, candidates)
    silent = Ranked(candidates, features, np.zeros(len(features)), np.zeros(len(features)))
    order = candidates.item_idx[recommender.pool(silent, 0, len(features)).rows]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.4


def test_both_rankers_serve(recommender, tiny_system):
    config = recommender.config
    ranking = config.ranking.model_copy(update={"ranker": "mmoe"})
    other = Recommender(
        version="other",
        config=config.model_copy(update={"ranking": ranking}),
        catalogue=recommender.catalogue,
        users=recommender.users,
        log=recommender.log,
        proposer=with_live_counter(recommender.proposer, tiny_system.data),
        preranker=recommender.preranker,
        rankers=recommender.rankers,
        calibrator=recommender.calibrator,
    )
    user_id = int(recommender.users.user_ids[0])
    stages = RequestStages()
    answer = ask(other, user_id, stages=stages)
    assert len(answer) == 20
    assert not stages.degradations
    assert items_of(answer) != items_of(ask(recommender, user_id))


def test_explanations_need_a_lambdarank(recommender):
    with pytest.raises(TypeError, match="is a MMoERanker"):
        Recommender(
            version="wrong",
            config=recommender.config,
            catalogue=recommender.catalogue,
            users=recommender.users,
            log=recommender.log,
            proposer=dataclasses.replace(recommender.proposer),
            preranker=recommender.preranker,
            rankers={"lambdarank": recommender.rankers["mmoe"]},
            calibrator=recommender.calibrator,
        )
