"""The bibliography: citations rendered from it, and works that it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_platform.docs.links import dead_links
from ml_platform.docs.markers import MarkerError, find_regions
from ml_platform.docs.references import (
    Reference,
    citation_problems,
    read_references,
    render_citation,
)
from ml_platform.docs.website_pages import repository_pages

ROOT = Path(__file__).resolve().parents[3]
YI = """
yi2019:
  authors: [X. Yi, J. Yang, D. Z. Cheng, others]
  title: "Sampling-Bias-Corrected Neural Modeling: A Study"
  venue: RecSys
  year: 2019
"""


@pytest.fixture
def known(site):
    file = site.root / "references.yaml"
    file.write_text(YI)
    return read_references(file)


def problems(text, known):
    return [problem.message for problem in citation_problems(text, find_regions(text)[0], known)]


@pytest.mark.parametrize(
    ("authors", "who"),
    [
        (["Netflix"], "Netflix"),
        (["H. Steck"], "Steck"),
        (["J. Carbonell", "J.-S. Goldstein"], "Carbonell and Goldstein"),
        (["P. Covington", "J. Adams", "E. Sargin"], "Covington, Adams and Sargin"),
        (["A. One", "B. Two", "C. Three", "D. Four"], "One et al."),
        (["A. B. One", "others"], "One et al."),
    ],
)
def test_authors_as_they_stand_in_a_sentence(authors, who):
    reference = Reference(authors=authors, title="Title", venue="KDD", year=2020)
    assert reference.text() == f'{who}, "Title", KDD 2020'


def test_a_citation_is_rendered_and_checked(site, known):
    text = site.render("As in <!-- cite:yi2019 section 3 --><!-- /cite -->.\n")
    expected = (
        'Yi et al., "Sampling-Bias-Corrected Neural Modeling: A Study", RecSys 2019, section 3'
    )
    assert expected in text
    site.write(text.replace("2019, section", "2018, section"))
    assert site.run("--check") == 1


def test_an_unknown_key_says_what_to_do(known):
    with pytest.raises(MarkerError, match=r"no entry nobody2000 in references\.yaml"):
        render_citation("nobody2000", known)


@pytest.mark.parametrize("missing", ["title", "venue", "year", "authors"])
def test_an_entry_lacks_nothing(tmp_path, missing):
    file = tmp_path / "references.yaml"
    lines = [line for line in YI.splitlines() if not line.strip().startswith(f"{missing}:")]
    file.write_text("\n".join(lines))
    with pytest.raises(MarkerError, match=rf"yi2019: {missing}"):
        read_references(file)


def test_a_typed_work_must_be_known_with_its_year(known):
    title = "Sampling-bias-corrected neural modeling"
    assert problems(f'(Yi et al., "{title}", RecSys 2019)', known) == []
    assert "is of 2019, not of 2018" in problems(f'("{title}", RecSys 2018)', known)[0]
    assert "is not in references.yaml" in problems('("Another Work", RecSys 2019)', known)[0]


def test_et_al_needs_a_citation_of_the_same_page(known):
    assert "the page does not cite" in problems("Yi et al. say so.", known)[0]
    assert problems("<!-- cite:yi2019 -->x<!-- /cite -->, and Yi et al. say so.", known) == []
    assert "Wang et al" in problems("<!-- cite:yi2019 -->x<!-- /cite --> Wang et al.", known)[0]
    assert problems('`"Another Work", RecSys 2019`', known) == []


def test_the_check_command_finds_an_unknown_work(site, known, capsys):
    site.write("<!-- n:results/full.json#data/train/interactions:.0f -->80000<!-- /n -->\n")
    assert site.run("--check") == 0
    site.write(site.read() + '\n("Unheard Of", KDD 2020)\n')
    assert site.run("--check") == 1
    assert "07_evaluation.md:3" in capsys.readouterr().err


def test_the_repository_cites_every_entry():
    """An entry that no page needs is a leftover."""
    text = "\n".join(page.read_text() for page in repository_pages(ROOT))
    plain = " ".join(text.split()).lower()
    for key, reference in read_references(ROOT / "references.yaml").items():
        head = reference.title.partition(":")[0].lower()
        assert f"cite:{key}" in text or head in plain, key


def test_links_with_anchors_still_work(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title: `code` here\n\n[a](#a-title-code-here) [b](#gone)\n")
    assert [p.message for p in dead_links(page, page.read_text())] == [
        "dead link #gone: page.md has no heading #gone"
    ]
