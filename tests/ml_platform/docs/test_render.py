"""The command: drift, markers without partner, links, pages without markers, untouched bytes."""

import subprocess
import sys

import pytest

from ml_platform.docs import render
from ml_platform.docs.markers import find_regions

NUMBER = "<!-- n:results/full.json#retrieval/ease/recall@100 -->{}<!-- /n -->"


def check(site, text):
    site.write(text)
    return site.run("--check")


def test_drift_is_found_and_repaired(site, capsys):
    assert check(site, f"First line.\nIt is {NUMBER.format('0.999')}.\n") == 1
    error = capsys.readouterr().err
    assert "07_evaluation.md:2: out of date" in error
    assert "0.999" in error
    assert "0.573" in error
    assert site.run() == 0
    assert site.run("--check") == 0


def test_changed_results_are_drift(site):
    site.render(NUMBER.format(""))
    path = site.root / "system" / "results" / "full.json"
    path.write_text(path.read_text().replace("0.573", "0.574"))
    assert site.run("--check") == 1


def test_check_writes_nothing(site):
    text = NUMBER.format("0.999")
    check(site, text)
    assert site.read() == text


def test_everything_outside_the_markers_stays_byte_for_byte(site):
    odd = (
        "\ufeff# Tîtle \t\r\n\r\n\x0cTrailing   \r\n" + NUMBER.format("") + "\r\nno newline at end"
    )
    rendered = site.render(odd)
    assert rendered == odd.replace("--><!--", "-->0.573<!--")


def test_tables_take_the_line_ends_of_their_page(site):
    body = "stage: retrieval\nrows: ease\ncolumns: ndcg@10\nresults: results/full.json"
    text = f"<!-- table:\n{body}\n-->\n<!-- /table -->\n".replace("\n", "\r\n")
    rendered = site.render(text)
    assert rendered.count("\n") == rendered.count("\r\n")
    assert "| ease |" in rendered


def test_a_page_that_is_right_is_not_written_again(site):
    site.render(NUMBER.format(""))
    before = site.page.stat().st_mtime_ns
    assert site.run() == 0
    assert site.page.stat().st_mtime_ns == before


def test_pages_without_markers_do_not_pass_the_check(site, capsys):
    assert check(site, "# Title\nNo marker, <!-- only a comment -->.\n") == 1
    assert "no marker in 1 pages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n<!-- n:a/b/c -->1", ":2: <!-- n: --> has no <!-- /n -->"),
        ("1<!-- /n -->", ":1: <!-- /n --> closes nothing"),
        ("<!-- n:a/b/c -->1<!-- /table -->", ":1: <!-- /table --> closes nothing"),
        ("<!-- n:a/b/c -->1\n<!-- n:a/b/d -->2<!-- /n -->", ":1: <!-- n: --> has no <!-- /n -->"),
        ("Text.\n```\nopen fence\n", ":2: this code fence is never closed"),
    ],
)
def test_markers_without_partner(site, capsys, text, message):
    for options in ([], ["--check"]):
        site.write(NUMBER.format("0.573") + text)
        assert site.run(*options) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "```\n<!-- n:a/b/c -->\n```\n",
        "~~~md\n```\n<!-- /n -->\n~~~\n",
        "Write `<!-- n:a/b/c -->` here.\n",
        "````\n```\n<!-- n:a/b/c -->\n````\n",
    ],
)
def test_markers_in_code_are_examples(text):
    assert find_regions(text) == ([], [])


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("[x](none.md)", "dead link none.md: no such file"),
        ("![x](plots/none.png)", "dead link plots/none.png"),
        ("[x](../results/none.json 'title')", "no such file"),
        ("[x][ref]\n\n[ref]: none.md", "dead link none.md"),
        ("[x](#nowhere)", "has no heading #nowhere"),
        ("[x](other.md#missing)", "other.md has no heading #missing"),
        ("[x](/docs/other.md)", "starts at the root"),
    ],
)
def test_dead_links(site, capsys, link, fault):
    (site.page.parent / "other.md").write_text("# Other\n")
    assert check(site, f"{NUMBER.format('0.573')}\n{link}\n") == 1
    error = capsys.readouterr().err
    assert fault in error
    assert len(error.splitlines()) == 1


def test_live_links(site):
    (site.page.parent / "with space.md").write_text(
        "# Twice, `code` & more!\n## Twice, `code` & more!\n```\n# not a heading\n```\n"
    )
    text = (
        NUMBER.format("0.573")
        + "\n# Here: why\n[a](#here-why) [b](../results/full.json) [c](https://example.org/none)\n"
        "[d](with%20space.md#twice-code--more) [e](with%20space.md#twice-code--more-1)\n"
        "[f](mailto:a@example.org) [g](..) `[h](none.md)` note[^1]\n\n[^1]: Words, no link.\n\n"
        "```\n[i](none.md)\n```\n"
    )
    assert check(site, text) == 0
    assert check(site, text + "[j](with%20space.md#not-a-heading)\n") == 1


def test_folders_are_searched_and_work_folders_left_out(site):
    site.write(NUMBER.format("0.573"))
    for folder in ("artifacts/run", ".venv/lib", "node_modules/x"):
        hidden = site.root / "system" / folder
        hidden.mkdir(parents=True)
        (hidden / "page.md").write_text("<!-- /n -->")
    assert render.find_pages([site.root, site.page]) == [site.page]
    assert render.main(["--check", str(site.root)]) == 0


def test_path_that_does_not_exist(site):
    with pytest.raises(SystemExit):
        render.main(["--check", str(site.root / "nowhere")])


def test_results_beside_the_page_win_over_those_above(site):
    site.render(NUMBER.format(""))
    near = site.page.parent / "results"
    near.mkdir()
    text = (site.root / "system" / "results" / "full.json").read_text()
    (near / "full.json").write_text(text.replace("0.573", "0.111").replace("0.563", "0.1"))
    assert "0.111" in site.render(NUMBER.format(""))


def test_as_a_command(site):
    site.write(NUMBER.format("0.573"))
    command = [sys.executable, "-m", "ml_platform.docs.render", "--check", str(site.page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 pages, 1 markers, 0 problems\n"
