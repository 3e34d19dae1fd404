"""Numbers and tables rendered into pages: what comes out, and every way it can fail."""

import pytest

PAGE = "<!-- results: results/full.json -->\n"


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("n:results/full.json#retrieval/ease/recall@100:.3f", "0.573"),
        ("n:retrieval/ease/recall@100", "0.573"),
        ("n: retrieval/ease/recall@100:.1% ", "57.3%"),
        ("n:retrieval/ease/recall@100:.3f[]", "0.573 [0.563, 0.585]"),
        ("n:retrieval/ease/recall@100:.3f+-", "0.573 ± 0.011"),
        ("n:retrieval/ease/recall@100.low:.2f", "0.56"),
        ("n:retrieval/ease/recall@100.n:,d", "9,800"),
        ("n:retrieval/ease/recall@100.protocol", "next-event, full catalogue, seen items masked"),
        ("n:data/train/interactions:,d", "80,000"),
        ("n:run.dataset.name", "movielens-100k"),
        ("n:run.hardware", "A CPU, 2 cores, 8 GiB"),
        ("n:run.config.nested.reg", "0.5"),
        ("n:run.date:%Y-%m-%d", "2025-01-02"),
        ("n:run.seconds:.0f", "12"),
    ],
)
def test_number(site, marker, expected):
    text = f"{PAGE}It is <!-- {marker} -->old<!-- /n -->, in a line.\n"
    assert site.render(text) == text.replace("old", expected)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("n:retrieval/eaze/recall@100", "no metric retrieval/eaze/recall@100; near it: retrieval/"),
        ("n:results/none.json#a/b/c", "no file results/none.json"),
        ("n:index/flat/p50_ms.low", "index/flat/p50_ms has no low"),
        ("n:index/flat/p50_ms:.1f[]", "the metric has no interval"),
        ("n:retrieval/ease/recall@100:.3q", "format '.3q' does not fit"),
        ("n:retrieval/ease/recall@100:d", "format 'd' does not fit"),
        ("n:run.colour", "the run has no run.colour"),
        ("n:run.config.absent", "the run has no run.config.absent"),
        ("n:two words", "cannot read 'two words'"),
    ],
)
def test_number_that_cannot_be_rendered(site, capsys, marker, message):
    text = f"{PAGE}\nIt is <!-- {marker} -->old<!-- /n -->.\n"
    site.write(text)
    for options in ([], ["--check"]):
        assert site.run(*options) == 1
        error = capsys.readouterr().err
        assert message in error
        assert "07_evaluation.md:3:" in error
        assert site.read() == text


def test_number_without_any_results_file(site, capsys):
    site.write("<!-- n:retrieval/ease/recall@100 --><!-- /n -->\n")
    assert site.run() == 1
    assert "no results file" in capsys.readouterr().err


def test_file_that_breaks_the_schema_is_named(site, capsys):
    (site.root / "system/results/bad.json").write_text('{"run": {}, "metrics": {}, "more": 1}')
    site.write("<!-- n:results/bad.json#a/b/c --><!-- /n -->\n")
    assert site.run("--check") == 1
    assert "results/bad.json is no results file" in capsys.readouterr().err


TABLE = """{page}
<!-- table:
stage: retrieval
rows: popularity = Popularity,
      ease = **EASE**
columns: recall@100 = Recall@100, ndcg@10 = NDCG@10 :.4f
{more}-->
<!-- /table -->
After.
"""


def test_table(site):
    rendered = site.render(TABLE.format(page=PAGE, more=""))
    expected = (
        "-->\n"
        "| | Recall@100 | NDCG@10 |\n"
        "|---|---:|---:|\n"
        "| Popularity | 0.310 [0.300, 0.322] | 0.0405 [0.0385, 0.0425] |\n"
        "| **EASE** | 0.573 [0.563, 0.585] | 0.0731 [0.0711, 0.0751] |\n"
        "\n"
        "*next-event, full catalogue, seen items masked; data movielens-100k; n = 9,800; "
        "95% intervals; seed 7, commit 0123456789ab.*\n"
        "<!-- /table -->\nAfter.\n"
    )
    assert rendered.endswith(expected)


def test_table_options(site):
    pm = site.render(TABLE.format(page=PAGE, more="interval: pm\nformat: .2f\n"))
    assert "| **EASE** | 0.57 ± 0.01 | 0.0731 ± 0.0020 |" in pm
    none = site.render(TABLE.format(page=PAGE, more="interval: none\n"))
    assert "| **EASE** | 0.573 | 0.0731 |" in none
    assert "95%" not in none


def test_table_of_all_variants_largest_first(site):
    text = f"{PAGE}<!-- table:\nstage: retrieval\nrows: *\ncolumns: ndcg@10\n-->\n<!-- /table -->\n"
    rendered = site.render(text)
    assert rendered.index("| ease |") < rendered.index("| popularity |")


def test_table_across_stages_names_each_protocol_and_the_machine(site):
    text = (
        f"{PAGE}<!-- table:\nrows: retrieval/ease = EASE, index/flat = Flat\n"
        "columns: ndcg@10 = NDCG@10, p50_ms = p50 (ms) :.1f\nmissing: –\n-->\n<!-- /table -->\n"
    )
    rendered = site.render(text)
    assert "| Flat | – | 1.2 |" in rendered
    assert "retrieval: next-event" in rendered
    assert "index: one thread, closed loop" in rendered
    assert "n = 1,000 to 9,800" in rendered
    assert "A CPU, 2 cores, 8 GiB" in rendered


def test_table_of_synthetic_data_says_so(site):
    page = PAGE.replace("full", "synthetic")
    rendered = site.render(TABLE.format(page=page, more=""))
    assert "**Synthetic data: no evidence of quality.**" in rendered


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("colour: red\n", "cannot read 'colour: red'"),
        ("stage: retrieval\n", "stage is given twice"),
        ("interval: wide\n", "interval is one of range, pm, none"),
        ("results: results/none.json\n", "no file results/none.json"),
    ],
)
def test_table_with_a_wrong_option(site, capsys, more, message):
    site.write(TABLE.format(page=PAGE, more=more))
    assert site.run("--check") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("stage: retrieval\ncolumns: ndcg@10", "a table needs a line 'rows'"),
        ("rows: ease\nstage: retrieval", "a table needs a line 'columns'"),
        ("rows: ease\ncolumns: ndcg@10", "row 'ease' needs its stage"),
        ("stage: retrieval\nrows: ease\ncolumns: map@10", "no metric retrieval/ease/map@10"),
        ("stage: retrieval\nrows: *\ncolumns: map@10", "no variant has retrieval/*/map@10"),
    ],
)
def test_table_that_cannot_be_rendered(site, capsys, body, message):
    site.write(f"{PAGE}<!-- table:\n{body}\n-->\n<!-- /table -->\n")
    assert site.run() == 1
    assert message in capsys.readouterr().err
