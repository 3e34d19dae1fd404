"""A canary on a running engine: routes users, counts both arms, decides, acts, writes down why.

In: a candidate, a plan, and what the engine's observers are told. Out: the engine's router, a
smaller or larger share, in the end a promotion or a removal; every decision as a line of
``rollout.jsonl`` and of the log.

    router            may be called from any thread: a hash and a comparison
    request_served    on the event loop: one append to a queue
    look              once a second, in the canary's thread: feeds the controller, decides, acts

*The click proxy.* A user's event on an item of the last list that the user was shown, within
``attribution_s`` of it, each item once. It is a proxy: it misses what the user would have done
without the list, and counts a watch as much as a film loved.

*The arm of a request* is the one that the user was assigned to. When the candidate fails,
production answers, and the request still counts for the candidate, as a failure: otherwise a
candidate would look better the more often it breaks.

*Ends.* Roll back: the candidate leaves the engine at once and the registry's candidate alias is
taken away, with the reason in its history. Promote: the registry's production alias moves, and the
version that has served all users for the last step becomes production without being loaded again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from ml_platform.operations.canary import CanaryController, CanaryPlan, Decision
from ml_platform.operations.canary_counts import Arm
from ml_platform.operations.registry import ModelRegistry, RegistryError
from video_recommendation.serving.attachments import Attach
from video_recommendation.serving.engine import ServingEngine, Slot
from video_recommendation.serving.observers import AcceptedEvent, ServedRequest
from video_recommendation.serving.protocol import Recommender

logger = logging.getLogger(__name__)

JOURNAL = "rollout.jsonl"
HOLD_EVERY_S = 60.0  # a hold is written when its turn comes; a change of state always


@dataclass(frozen=True)
class CanarySettings:
    """How a canary runs.

    Attributes:
        plan: Steps and guards.
        attribution_s: How long after a list an event on one of its items counts as a click.
        look_every_s: Pause between looks; None: nobody looks but the caller of `Canary.look`.
        journal: Where decisions are written; ``rollout.jsonl`` beside the event log by default.
    """

    plan: CanaryPlan = field(default_factory=CanaryPlan)
    attribution_s: float = 3600.0
    look_every_s: float | None = 1.0
    journal: Path | None = None


@dataclass
class _LastList:
    shown_at: int
    waiting: set[int]  # item ids shown and not clicked yet


class Canary:
    """One rollout. An ``Attachment`` and a ``RequestObserver``.

    Args:
        engine: Whose candidate slot and router it takes.
        candidate: Loaded and warmed up.
        settings: Plan, attribution, pace.
        registry: Is told how it ended; None: nobody is.
    """

    name = "canary"

    def __init__(
        self,
        engine: ServingEngine,
        candidate: Recommender,
        settings: CanarySettings,
        registry: ModelRegistry | None = None,
    ) -> None:
        self._engine, self._candidate, self._registry = engine, candidate, registry
        self._settings = settings
        self._journal = settings.journal or engine.settings.data_dir / JOURNAL
        self._told: deque[ServedRequest | AcceptedEvent] = deque()
        self._lists: dict[int, _LastList] = {}
        self._look_lock = threading.Lock()
        self._written_s = 0.0
        self._failed: str | None = None
        engine.install(candidate, "candidate")
        self.controller = CanaryController(
            settings.plan, candidate.version, float(engine.clock.now())
        )
        engine.observers.append(self)
        engine.router = self.route
        engine.metrics.canary_share.set(self.controller.share)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="canary", daemon=True)
        if settings.look_every_s is not None:
            self._thread.start()

    def route(self, user_id: int) -> Slot:
        """The engine's router."""
        return self.controller.arm(user_id)

    def request_served(self, served: ServedRequest) -> None:
        """See ``RequestObserver``."""
        self._told.append(served)

    def event_accepted(self, event: AcceptedEvent) -> None:
        """See ``RequestObserver``."""
        self._told.append(event)

    def look(self) -> Decision:
        """Count what was told since the last look, decide, act."""
        with self._look_lock:
            while self._told:
                told = self._told.popleft()
                if isinstance(told, ServedRequest):
                    self._count_request(told)
                else:
                    self._count_event(told)
            finished = self.controller.finished
            decision = self.controller.decide(float(self._engine.clock.now()))
            if not finished:
                self._act(decision)
                self._write(decision)
            return decision

    def describe(self) -> dict[str, Any]:
        """See ``Attachment``."""
        decisions = [asdict(decision) for decision in self.controller.decisions]
        about = {"candidate": self._candidate.version, "share": self.controller.share}
        state = {"finished": self.controller.finished, "failed": self._failed}
        return {**about, **state, "decisions": decisions}

    def close(self) -> None:
        """See ``Attachment``. An unfinished rollout ends without a verdict: production answers."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._leave()

    # --- counting ------------------------------------------------------------------------------

    def _count_request(self, served: ServedRequest) -> None:
        arm: Arm = "candidate" if served.candidate_failed else _arm(served.slot)
        if arm != self.controller.arm(served.user_id):
            return  # it was routed before the share changed
        self.controller.request_served(
            arm,
            served.user_id,
            served.total_ms,
            failed=served.degraded or served.candidate_failed,
            now=float(served.now),
        )
        ids = self._item_ids(served)
        if ids is not None:
            self._lists[served.user_id] = _LastList(served.now, ids)

    def _count_event(self, event: AcceptedEvent) -> None:
        last = self._lists.get(event.user_id)
        if last is None or event.item_id not in last.waiting:
            return
        if event.timestamp - last.shown_at <= self._settings.attribution_s:
            last.waiting.discard(event.item_id)
            self.controller.clicked(event.user_id, float(event.timestamp))

    def _item_ids(self, served: ServedRequest) -> set[int] | None:
        """External ids of the list; None when its version has just left the engine."""
        for model in (self._engine.production, self._engine.candidate):
            if model is not None and model.version == served.version:
                ids = model.recommender.catalogue.item_ids
                return {int(ids[item.item_idx]) for item in served.items}
        return None

    # --- acting --------------------------------------------------------------------------------

    def _act(self, decision: Decision) -> None:
        version = self._candidate.version
        if decision.action == "roll back":
            self._leave()
            if self._registry is not None:
                self._registry.set_candidate(None, note=f"{version} refused: {decision.reason}")
        elif decision.action == "promote":
            if self._registry is not None:
                try:
                    self._registry.promote(version, note=f"canary: {decision.reason}")
                except RegistryError as error:
                    logger.error("canary: %s is not promoted: %s", version, error)
                    self._leave()
                    return
            self._engine.install(self._candidate)
            self._leave()
        self._engine.metrics.canary_share.set(self.controller.share)

    def _leave(self) -> None:
        """Give back the router, the observer's place and the candidate's slot."""
        if self._engine.router == self.route:
            self._engine.router = None
        if self in self._engine.observers:
            self._engine.observers.remove(self)
        candidate = self._engine.candidate
        if candidate is not None and candidate.version == self._candidate.version:
            self._engine.remove_candidate()

    def _write(self, decision: Decision) -> None:
        quiet = decision.action == "hold" and not decision.final
        if quiet and time.monotonic() - self._written_s < HOLD_EVERY_S:
            return
        self._written_s = time.monotonic()
        line = {
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "candidate": self._candidate.version,
            "production": self._engine.production.version,
            **asdict(decision),
        }
        with self._journal.open("ab") as file:
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        logger.info(
            "canary %s at %.0f%%: %s after %d requests: %s",
            *(self._candidate.version, 100 * decision.share, decision.action),
            *(decision.requests, decision.reason),
        )

    def _keep_looking(self) -> None:
        while not self._stop.wait(self._settings.look_every_s):
            try:
                if self.look().final:
                    return
            except Exception as error:
                # A canary that cannot look must not go on: production answers everybody.
                self._failed = f"{type(error).__name__}: {error}"
                logger.exception("canary %s failed and is taken out", self._candidate.version)
                self._leave()
                return


def canary(
    candidate: Recommender, settings: CanarySettings, registry: ModelRegistry | None = None
) -> Attach:
    """Attaches a `Canary` to the app's engine."""
    return lambda engine: Canary(engine, candidate, settings, registry)


def _arm(slot: str) -> Arm:
    return "candidate" if slot == "candidate" else "production"
