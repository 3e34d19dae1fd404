"""Quiz, cards and mock in the terminal, on the committed bank and typed answers."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.docs import practice
from ml_platform.docs.interview import read_bank
from ml_platform.docs.practice import Practice, main

ROOT = Path(__file__).resolve().parents[3]
BANK = ROOT / "recommendation" / "video_recommendation" / "interview.yaml"


@pytest.fixture(scope="module")
def bank():
    return read_bank(BANK)


def session(typed, monkeypatch):
    """A session whose input is a list of lines; its console keeps what is shown."""
    console = Console(file=io.StringIO(), width=90)
    lines = iter(typed)

    def read(_prompt=""):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(console, "input", read)
    return Practice(console, random.Random(1)), console.file


def test_each_choice_gets_its_own_feedback(bank, monkeypatch):
    (item,) = bank.quiz[:1]
    for place, letter in enumerate("abc"):
        rng = random.Random(1)
        rng.sample([item], 1)  # the session draws the items first
        picked = rng.sample(item.options, len(item.options))[place]
        asked, shown = session([letter], monkeypatch)
        assert asked.quiz([item], 5) == (int(picked.right), 1)
        text = " ".join(shown.getvalue().split())
        assert ("Right." if picked.right else "Wrong.") in text
        assert picked.feedback.split()[0] in text


def test_a_wrong_key_is_asked_for_again_and_the_end_of_input_ends_it(bank, monkeypatch):
    asked, shown = session(["", "z", "ab", "a"], monkeypatch)
    assert asked.quiz(bank.quiz, 5)[1] == 1
    assert "of 1 right" in shown.getvalue()


def test_cards_show_answers_after_a_pause(bank, monkeypatch):
    asked, shown = session([""], monkeypatch)
    assert asked.cards(bank.questions, 3) == 1
    assert "Must be said" in shown.getvalue()


def test_the_mock_covers_its_time(capsys):
    assert main([str(BANK), "mock"]) == 0
    shown = capsys.readouterr().out
    assert "Minute 0 to" in shown
    assert "to 45" in shown


def test_bad_input_says_what_to_do(tmp_path, capsys):
    assert main([str(BANK), "quiz", "--doc", "nothing"]) == 1
    assert "08_model_hosting" in capsys.readouterr().err
    broken = tmp_path / "interview.yaml"
    broken.write_text("questions: [")
    assert main([str(broken), "cards"]) == 1
    assert "is not valid YAML" in capsys.readouterr().err


def test_there_is_something_to_practise_in_every_page(bank):
    for doc in {question.doc for question in bank.questions}:
        assert practice._of_doc(bank, doc)[0]
