"""Practice on a question bank in the terminal: quiz, flash cards, the script of a mock interview.

    python -m ml_platform.docs.practice interview.yaml quiz [--doc 07_evaluation] [-n 10] [--seed 1]
    python -m ml_platform.docs.practice interview.yaml cards [--doc ...] [-n 10] [--seed 1]
    python -m ml_platform.docs.practice interview.yaml mock

In: ``interview.yaml`` (schema: `interview`) and what is typed. Out: feedback on each choice, a
score, and the sections to read again. A wrong key is asked for again; end of input or Ctrl-C ends
the session with the score so far.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.panel import Panel

from ml_platform.docs.interview import LEVELS, InterviewBank, Mock, Question, QuizItem, read_bank
from ml_platform.docs.markers import MarkerError


class _Ended(Exception):
    """Nobody answers any more."""


class Practice:
    """A session over some questions.

    Args:
        console: Where it is shown.
        rng: Order of questions and of options.
    """

    def __init__(self, console: Console, rng: random.Random) -> None:
        self._console, self._rng = console, rng

    def quiz(self, items: Sequence[QuizItem], n: int) -> tuple[int, int]:
        """Multiple choice with feedback on what was chosen; right answers and answers."""
        chosen = self._rng.sample(list(items), min(n, len(items)))
        right, again = 0, []
        answered = 0
        try:
            for number, item in enumerate(chosen, 1):
                correct = self._ask_item(f"{number} of {len(chosen)}", item)
                answered += 1
                right += correct
                again += [] if correct else [item.doc]
        except _Ended:
            self._console.print()
        self._console.print(f"{right} of {answered} right.", style="bold")
        for doc in sorted(set(again)):
            self._console.print(f"  read again: {doc}", highlight=False)
        return right, answered

    def cards(self, questions: Sequence[Question], n: int) -> int:
        """Question, a pause to answer aloud, then the answers by level; how many were shown."""
        chosen = self._rng.sample(list(questions), min(n, len(questions)))
        shown = 0
        try:
            for number, question in enumerate(chosen, 1):
                title = f"{number} of {len(chosen)}: {question.doc}, {question.bucket}"
                self._console.print(Panel(Markdown(question.question), title=title))
                self._read("Say your answer, then press Enter: ")
                self._console.print(Markdown(_answer(question)))
                shown += 1
        except _Ended:
            self._console.print()
        return shown

    def mock(self, mock: Mock) -> None:
        """The interviewer's script: when to ask what, and what to listen for."""
        self._console.print(Panel(Markdown(mock.prompt), title=f"{mock.minutes} minutes"))
        for part in mock.parts:
            lines = [f"### Minute {part.begin} to {part.end}: {part.topic}", "**Probes**", ""]
            lines += [f"- {probe}" for probe in part.probes]
            lines += ["", "**Listen for**", "", *(f"- {sign}" for sign in part.listen_for)]
            if part.follow_ups:
                lines += ["", "**Then**", "", *(f"- {more}" for more in part.follow_ups)]
            self._console.print(Markdown("\n".join(lines)))

    def _ask_item(self, title: str, item: QuizItem) -> bool:
        shuffled = self._rng.sample(item.options, len(item.options))
        options = dict(zip(string.ascii_lowercase, shuffled, strict=False))
        lines = [f"- **{key}** {option.text}" for key, option in options.items()]
        text = "\n".join([item.question, "", *lines])
        self._console.print(Panel(Markdown(text), title=f"{title}: {item.doc}"))
        typed = ""
        while typed not in options:
            typed = self._read(f"{', '.join(options)}: ").strip().lower()
        picked = options[typed]
        style = "green" if picked.right else "red"
        self._console.print(f"[{style}]{'Right' if picked.right else 'Wrong'}.[/] ", end="")
        self._console.print(Markdown(picked.feedback))
        if not picked.right:
            key, best = next((key, option) for key, option in options.items() if option.right)
            self._console.print(Markdown(f"It is **{key}**: {best.feedback}"))
        return picked.right

    def _read(self, prompt: str) -> str:
        try:
            return self._console.input(prompt)
        except (EOFError, KeyboardInterrupt):
            raise _Ended from None


def _answer(question: Question) -> str:
    parts = []
    for level in (*LEVELS, "all"):
        if level in question.answers:
            label = "" if level == "all" else f"*{level.capitalize()}.* "
            parts.append(label + question.answers[level].strip())  # type: ignore[index]
    must = "\n".join(f"- {point}" for point in question.must_say)
    return "\n\n".join([*parts, f"*Must be said:*\n\n{must}"])


def _of_doc(bank: InterviewBank, doc: str | None) -> tuple[list[Question], list[QuizItem]]:
    questions = [question for question in bank.questions if doc in (None, question.doc)]
    quiz = [item for item in bank.quiz if doc in (None, item.doc)]
    if doc is not None and not (questions or quiz):
        known = ", ".join(sorted({question.doc for question in bank.questions}))
        raise MarkerError(f"no questions of {doc!r}; there are: {known}")
    return questions, quiz


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m ml_platform.docs.practice")
    parser.add_argument("bank", type=Path)
    parser.add_argument("what", choices=("quiz", "cards", "mock"))
    parser.add_argument("--doc", help="only the questions of one page, for example 07_evaluation")
    parser.add_argument("-n", type=int, default=10, help="how many")
    parser.add_argument("--seed", type=int, help="the same order again")
    options = parser.parse_args(arguments)
    console = Console(width=min(Console().width, 100))
    try:
        bank = read_bank(options.bank)
        questions, quiz = _of_doc(bank, options.doc)
        if options.what == "mock" and bank.mock is None:
            raise MarkerError(f"{options.bank} has no mock interview")
    except MarkerError as error:
        print(error, file=sys.stderr)
        return 1
    practice = Practice(console, random.Random(options.seed))
    if options.what == "quiz":
        practice.quiz(quiz, options.n)
    elif options.what == "cards":
        practice.cards(questions, options.n)
    elif bank.mock is not None:
        practice.mock(bank.mock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
