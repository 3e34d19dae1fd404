"""Diagrams are drawn by Mermaid itself; what it refuses is a problem with its own words."""

from __future__ import annotations

import json

import pytest

from ml_platform.docs import diagrams
from ml_platform.docs.diagrams import DiagramError, diagram_problems, draw

GOOD = "flowchart LR\n  a[one] --> b[two]\n"
BAD = "flowchart LR\n  a[one --> b\n"


def page(*sources):
    return "# T\n\n" + "\n".join(f"```mermaid\n{source}```\n" for source in sources)


def test_a_diagram_is_drawn():
    svg = draw(GOOD)
    assert svg.startswith("<svg")
    assert "one" in svg


def test_what_mermaid_refuses_is_a_problem_at_its_line():
    with pytest.raises(DiagramError, match="Parse error"):
        draw(BAD)
    (problem,) = diagram_problems(page(GOOD, BAD))
    assert problem.line == 8
    assert "Mermaid does not draw this" in problem.message


def test_a_drawn_diagram_is_remembered_and_a_refused_one_is_not(tmp_path, monkeypatch):
    cache = tmp_path / "tools" / "diagrams.json"
    assert len(diagram_problems(page(GOOD, BAD), cache)) == 1
    assert len(json.loads(cache.read_text())) == 1
    drawn = []
    monkeypatch.setattr(diagrams, "draw", drawn.append)
    diagram_problems(page(GOOD, BAD), cache)
    assert drawn == [BAD]


def test_half_a_cache_is_no_cache(tmp_path):
    cache = tmp_path / "diagrams.json"
    cache.write_text('["abc')
    assert diagram_problems(page(GOOD), cache) == []
    assert len(json.loads(cache.read_text())) == 1


def test_the_check_command_finds_a_broken_diagram(site, capsys):
    number = "<!-- n:results/full.json#data/train/interactions:.0f -->80000<!-- /n -->\n"
    site.write(page(BAD) + number)
    assert site.run("--check") == 1
    assert "07_evaluation.md:3: Mermaid does not draw this" in capsys.readouterr().err
