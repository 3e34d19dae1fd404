"""The question bank: its schema, its rendering, and that the committed one is complete."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from ml_platform.docs.interview import BUCKETS, InterviewBank, read_bank
from ml_platform.docs.markers import MarkerError

ROOT = Path(__file__).resolve().parents[3]
SYSTEM = ROOT / "recommendation" / "video_recommendation"
QUESTION = {
    "id": "why-two",
    "doc": "07_evaluation",
    "section": "why",
    "bucket": "tricky",
    "question": "Why two stages?",
    "answers": {"mid": "Because of cost.", "staff": "Because of cost, measured."},
    "must_say": ["cost per candidate"],
}
RIGHT = {"text": "this", "right": True, "feedback": "It is right."}
WRONG = {"text": "that", "feedback": "It is wrong."}
QUIZ = {
    "id": "quiz-two",
    "doc": "07_evaluation",
    "question": "Which one is it?",
    "options": [RIGHT, WRONG, WRONG],
}


def bank_file(root, **changes):
    file = root / "interview.yaml"
    file.write_text(yaml.safe_dump({"questions": [QUESTION], "quiz": [QUIZ], **changes}))
    return file


def test_questions_are_rendered_folded_by_bucket_and_level(site):
    bank_file(site.root / "system")
    text = site.render("# T\n\n## Why\n\n<!-- questions:07_evaluation -->\n<!-- /questions -->\n")
    assert "**Tricky follow-ups**" in text
    assert "<details><summary>Why two stages?</summary>" in text
    assert text.index("*Mid.* Because of cost.") < text.index("*Staff.* Because of cost, measured.")
    assert "*Must be said:* cost per candidate." in text
    assert "[Answered above](#why)" in text


def test_a_question_whose_section_is_gone_is_a_problem(site, capsys):
    bank_file(site.root / "system")
    site.write("# T\n\n<!-- questions:07_evaluation -->\n<!-- /questions -->\n")
    assert site.run() == 1
    assert "why-two: the page has no heading #why" in capsys.readouterr().err


def test_a_page_without_questions_is_a_problem(site, capsys):
    bank_file(site.root / "system")
    site.write("# T\n\n<!-- questions:01_other -->\n<!-- /questions -->\n")
    assert site.run() == 1
    assert "has no question for '01_other'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": [{**QUESTION, "bucket": "easy"}]}, r"questions\.0\.bucket"),
        ({"questions": [{**QUESTION, "answers": {"all": "x" * 9, "mid": "y" * 9}}]}, "not both"),
        ({"questions": [{**QUESTION, "must_say": []}]}, "must_say"),
        ({"questions": [QUESTION, QUESTION]}, "ids used twice"),
        ({"quiz": [{**QUIZ, "options": [RIGHT, RIGHT, WRONG]}]}, "exactly one option is right"),
        ({"quiz": [{**QUIZ, "options": [RIGHT, WRONG]}]}, r"quiz\.0\.options"),
        ({"quiz": [{**QUIZ, "id": "why-two"}]}, "ids used twice"),
    ],
)
def test_a_bank_that_is_wrong_says_where(tmp_path, changes, message):
    with pytest.raises(MarkerError, match=message):
        read_bank(bank_file(tmp_path, **changes))


def test_the_parts_of_a_mock_fill_its_time(tmp_path):
    part = {"topic": "scope", "probes": ["What is asked?"], "listen_for": ["numbers"]}
    ends = [(0, 5), (5, 30), (30, 45)]
    parts = [{**part, "begin": begin, "end": end} for begin, end in ends]
    mock = {"minutes": 45, "prompt": "Design a feed.", "parts": parts}
    bank = read_bank(bank_file(tmp_path, mock=mock))
    assert bank.mock is not None
    parts[1]["begin"] = 6
    with pytest.raises(MarkerError, match="parts begin at"):
        read_bank(bank_file(tmp_path, mock=mock))


@pytest.fixture(scope="module")
def bank() -> InterviewBank:
    return read_bank(SYSTEM / "interview.yaml")


def test_the_bank_of_video_recommendation_is_complete(bank):
    assert len(bank.questions) >= 60
    assert len(bank.quiz) >= 20
    assert bank.mock is not None
    assert bank.mock.minutes == 45
    assert set(Counter(question.bucket for question in bank.questions)) == set(BUCKETS)
    docs = {path.stem for path in (SYSTEM / "docs").glob("[01]*.md")}
    assert len(docs) == 12
    assert docs <= {question.doc for question in bank.questions}


def test_every_question_of_the_bank_is_shown_by_its_page(bank):
    for doc in {question.doc for question in bank.questions}:
        (page,) = (SYSTEM / "docs").rglob(f"{doc}.md")
        assert f"<!-- questions:{doc} -->" in page.read_text(), doc


def test_the_right_option_does_not_stand_in_one_place(bank):
    places = Counter([option.right for option in item.options].index(True) for item in bank.quiz)
    assert max(places.values()) < 0.6 * len(bank.quiz)
