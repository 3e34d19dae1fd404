"""The simulated world: videos, people, what they do, and the log that a platform kept of it."""

from shorts_recommendation.world.audience import Audience
from shorts_recommendation.world.generate import generate_log, stream_log
from shorts_recommendation.world.response import Behaviour, Expected, Outcomes
from shorts_recommendation.world.world import World, make_world

__all__ = [
    "Audience",
    "Behaviour",
    "Expected",
    "Outcomes",
    "World",
    "generate_log",
    "make_world",
    "stream_log",
]
