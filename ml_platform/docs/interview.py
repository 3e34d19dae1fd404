"""The question bank of a system (``interview.yaml``): its schema, and questions as Markdown.

In: the file. Out: `InterviewBank`, and the text of a `questions` marker: the questions of one
document in their three buckets, answers folded away and marked by level.

    questions:
      - id: why-two-stages
        doc: 06_model_development         # the page that shows it, by its file's name
        section: why-a-cascade            # the heading there that answers it (checked)
        bucket: commonly_asked            # or tricky, answered_wrong
        question: Why retrieve and then rank, instead of ranking everything?
        answers: {mid: ..., senior: ..., staff: ...}      # or {all: ...}
        must_say: [cost per candidate, recall of the first stage bounds the rest]
        follow_ups: [What do you do when ...?]             # optional
    quiz:
      - id: ...
        doc: ...
        question: ...
        options: [{text: ..., right: true, feedback: ...}, ...]
    mock:
      minutes: 45
      prompt: Design ...
      parts:
        - {begin: 0, end: 5, topic: scope, probes: [...], listen_for: [...], follow_ups: [...]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ml_platform.docs.markers import MarkerError

FILE = "interview.yaml"
BUCKETS = {
    "commonly_asked": "Commonly asked",
    "tricky": "Tricky follow-ups",
    "answered_wrong": "Commonly answered wrong",
}
LEVELS = ("mid", "senior", "staff")

Identifier = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
Text = Field(min_length=8)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Question(_Part):
    """One question with answers by level; ``all`` where the levels do not differ."""

    id: str = Identifier
    doc: str
    section: str
    bucket: Literal["commonly_asked", "tricky", "answered_wrong"]
    question: str = Text
    answers: dict[Literal["mid", "senior", "staff", "all"], str] = Field(min_length=1)
    must_say: list[str] = Field(min_length=1)
    follow_ups: list[str] = []

    @model_validator(mode="after")
    def _levels_or_all(self) -> Self:
        if "all" in self.answers and len(self.answers) > 1:
            raise ValueError("answers has levels or `all`, not both")
        return self


class Option(_Part):
    """One option of a quiz item, with what to say to whoever chose it."""

    text: str = Field(min_length=1)
    right: bool = False
    feedback: str = Text


class QuizItem(_Part):
    """A multiple-choice item with exactly one right option."""

    id: str = Identifier
    doc: str
    question: str = Text
    options: list[Option] = Field(min_length=3, max_length=5)

    @model_validator(mode="after")
    def _one_is_right(self) -> Self:
        right = sum(option.right for option in self.options)
        if right != 1:
            raise ValueError(f"{self.id}: exactly one option is right, here {right}")
        return self


class MockPart(_Part):
    """Some minutes of the mock interview."""

    begin: int = Field(ge=0)
    end: int
    topic: str
    probes: list[str] = Field(min_length=1)
    listen_for: list[str] = Field(min_length=1)
    follow_ups: list[str] = []


class Mock(_Part):
    """A whole mock interview; its parts follow each other without a gap."""

    minutes: int
    prompt: str = Text
    parts: list[MockPart] = Field(min_length=3)

    @model_validator(mode="after")
    def _parts_fill_the_time(self) -> Self:
        ends = [0, *(part.end for part in self.parts)]
        begins = [*(part.begin for part in self.parts), self.minutes]
        if begins != ends:
            raise ValueError(
                f"parts begin at {begins[:-1]} and end at {ends[1:]} of {self.minutes}"
            )
        return self


class InterviewBank(_Part):
    """The whole file."""

    questions: list[Question]
    quiz: list[QuizItem] = []
    mock: Mock | None = None

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [*(item.id for item in self.questions), *(item.id for item in self.quiz)]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"ids used twice: {repeated}")
        return self


def read_bank(path: Path) -> InterviewBank:
    """The question bank.

    Raises:
        MarkerError: if the file is not valid; it says where and why.
    """
    try:
        return InterviewBank.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise MarkerError(f"{path.name} is not valid YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MarkerError(f"{path.name}: {place}: {first['msg']}") from None


def render_questions(arguments: str, bank: InterviewBank, anchors: frozenset[str]) -> str:
    """The text of a `questions` marker.

    Args:
        arguments: The document's name in the bank.
        bank: All questions.
        anchors: Anchors of the page's headings; a question's section must be one of them.
    """
    chosen = [question for question in bank.questions if question.doc == arguments]
    if not chosen:
        raise MarkerError(f"{FILE} has no question for {arguments!r}")
    for question in chosen:
        if question.section not in anchors:
            raise MarkerError(f"{FILE}: {question.id}: the page has no heading #{question.section}")
    parts = []
    for bucket, title in BUCKETS.items():
        questions = [question for question in chosen if question.bucket == bucket]
        if questions:
            parts += [f"**{title}**", *(_folded(question) for question in questions)]
    return "\n\n" + "\n\n".join(parts) + "\n\n"


def _folded(question: Question) -> str:
    levels = [level for level in (*LEVELS, "all") if level in question.answers]
    lines = [f"<details><summary>{question.question}</summary>"]
    for level in levels:
        label = "" if level == "all" else f"*{level.capitalize()}.* "
        lines.append(label + question.answers[level].strip())  # type: ignore[index]
    lines.append("*Must be said:* " + "; ".join(question.must_say) + ".")
    if question.follow_ups:
        lines.append("*Then:* " + " ".join(question.follow_ups))
    lines.append(f"[Answered above](#{question.section}).")
    return "\n\n".join(lines) + "\n\n</details>"
