"""The off-policy command: the slot's truth, its logs, the study, what it writes."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from tiny_system import TINY

from ml_platform.evaluation.results import Results
from video_recommendation.commands import Run
from video_recommendation.feedback_loop.off_policy_demo import QUICK, run_off_policy
from video_recommendation.feedback_loop.off_policy_study import (
    ESTIMATORS,
    PAGE,
    PLACE,
    POOL,
    Slot,
    build_slot,
    draw,
    logged_for,
    narrowed,
    reward_models,
    study,
)
from video_recommendation.simulation.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(QUICK.world)


@pytest.fixture(scope="module")
def slot(world: World) -> Slot:
    return build_slot(world)


def handmade() -> Slot:
    """Two users, three items, one column that says nothing but 1."""
    return Slot(
        activity=np.array([0.75, 0.25]),
        reward=np.array([[0.2, 0.4, 0.8], [0.0, 1.0, 0.0]]),
        columns=np.ones((2, 3, 1)),
        logging=np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]),
        targets={"last": np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])},
    )


def test_truth_by_hand() -> None:
    slot = handmade()
    assert slot.truth(slot.targets["last"]) == pytest.approx(0.6)
    assert slot.truth(slot.logging) == pytest.approx(0.75 * 0.38 + 0.25 * 0.2)
    cut = replace(slot, logging=np.array([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]))
    assert cut.unsupported(slot.targets["last"]) == pytest.approx(0.75)


def test_the_log_is_drawn_as_it_says() -> None:
    slot = handmade()
    rows = draw(slot, 20_000, np.random.default_rng(0))
    assert (rows.propensity == slot.logging[rows.user, rows.action]).all()
    for user in (0, 1):
        own = rows.user == user
        counts = np.bincount(rows.action[own], minlength=3)
        assert stats.chisquare(counts, own.sum() * slot.logging[user]).pvalue > 0.001
        shown = own & (rows.action == 1)
        assert rows.reward[shown].mean() == pytest.approx(slot.reward[user, 1], abs=0.03)


def test_no_row_corrects_a_model_that_has_seen_it() -> None:
    slot = handmade()
    rows = draw(slot, 10, np.random.default_rng(1))
    models = reward_models(slot, rows)
    # A ridge on a constant: the shrunken mean of the OTHER fold, the sum over 5 + 1.
    expected = [rows.reward[1::2].sum() / 6, rows.reward[0::2].sum() / 6]
    assert models[:, 0] == pytest.approx(expected)
    logged = logged_for(slot, rows, slot.targets["last"], models)
    assert logged.predicted == pytest.approx(np.tile(expected, 5))


def test_the_slot_is_what_the_world_says(world: World, slot: Slot) -> None:
    assert slot.reward.shape == (80, POOL)
    assert slot.activity.sum() == pytest.approx(1)
    assert slot.logging.sum(axis=1) == pytest.approx(np.ones(80))
    assert (slot.logging > 0).all()
    assert slot.reward.max() <= world.examine_probability(PAGE)[PLACE]
    best = slot.truth(slot.targets["oracle"])
    assert best == pytest.approx(float(slot.activity @ slot.reward.max(axis=1)))
    assert all(slot.truth(policy) <= best for policy in slot.targets.values())


def test_estimates_of_good_logs_are_centred_and_cover(slot: Slot) -> None:
    found = study(slot, 3_000, 60, seed=3)
    assert set(found) == {(t, e) for t in slot.targets for e in ESTIMATORS}
    for name in ("ips", "snips", "doubly_robust"):
        record = found["greedy", name]
        assert abs(record.bias) < 4 * record.value.std() / 60**0.5
        assert record.covered >= 50  # of 60; 57 expected
    clipped = found["oracle", "ips_clipped"]
    assert clipped.bias < -0.3 * clipped.truth
    assert found["oracle", "direct"].covered < 10
    assert found["greedy", "ips"].plausible.mean() > 0.9


def test_faulty_logs_are_biased_and_the_weights_tell(slot: Slot) -> None:
    unlogged = study(slot, 2_000, 20, seed=4, uniform=True)["greedy", "ips"]
    assert unlogged.bias > unlogged.truth
    assert unlogged.plausible.mean() < 0.1
    narrow = narrowed(slot, 5)
    assert narrow.logging.sum(axis=1) == pytest.approx(np.ones(80))
    missing = narrow.unsupported(narrow.targets["oracle"])
    assert missing > 0.3
    blind = study(narrow, 2_000, 20, seed=5)["oracle", "ips"]
    assert blind.bias < -0.2 * blind.truth
    assert blind.plausible.mean() < 0.1


@pytest.mark.slow
def test_the_quick_command_writes_numbers_and_a_picture(tmp_path) -> None:
    out = io.StringIO()
    run_off_policy(Run(TINY, tmp_path, Console(file=out, width=100)), quick=True)
    folder = tmp_path / "demonstrations"
    results = Results.read(folder / "off_policy.json")
    assert results.run.dataset.synthetic
    for key in (
        "off_policy/greedy/truth",
        "off_policy/greedy.doubly_robust/relative_error_at_800",
        "off_policy/oracle.ips/coverage_at_200",
        "no_propensities/greedy/weights_pass",
        "no_exploration/oracle/unsupported",
        "no_exploration/oracle.snips/relative_bias",
    ):
        assert key in results
    assert (folder / "plots" / "off_policy_error.png").stat().st_size > 10_000
    assert out.getvalue().count("QUICK RUN, not a result. SYNTHETIC data, truth known.") == 4
