"""What ``serve --shadow`` and ``serve --canary`` hang onto the server for the registry's candidate.

In: a registry and what is wanted. Out: attachments. The candidate is taken once, at the start: a
rollout is of one version, and another one needs another start.
"""

from __future__ import annotations

from ml_platform.operations.registry import CANDIDATE, PRODUCTION, ModelRegistry, RegistryError
from video_recommendation.rollout.canary import CanarySettings, canary
from video_recommendation.rollout.shadow import shadow_traffic
from video_recommendation.serving.attachments import Attach
from video_recommendation.serving.run import load_warm


def candidate_attachments(
    registry: ModelRegistry, *, shadow_share: float | None, with_canary: bool
) -> list[Attach]:
    """Shadow traffic, a canary, both or nothing.

    Args:
        registry: Whose candidate is rolled out; a canary's end moves its aliases.
        shadow_share: Share of the requests that the candidate gets copies of, in (0, 1]; None: no
            shadow.
        with_canary: Route a growing share of the users to the candidate.

    Raises:
        RegistryError: There is no candidate beside production.
        BundleError: The candidate is damaged.
    """
    if shadow_share is None and not with_canary:
        return []
    aliases = registry.aliases()
    if PRODUCTION not in aliases or CANDIDATE not in aliases:
        missing = CANDIDATE if PRODUCTION in aliases else PRODUCTION
        raise RegistryError(
            f"no {missing} version in {registry.root}: `make train` registers one (the first is "
            "production, every later one the candidate); `make versions` lists them"
        )
    attach: list[Attach] = []
    if shadow_share is not None:
        attach.append(shadow_traffic(registry.path(CANDIDATE), share=shadow_share))
    if with_canary:
        attach.append(canary(load_warm(registry.path(CANDIDATE)), CanarySettings(), registry))
    return attach
