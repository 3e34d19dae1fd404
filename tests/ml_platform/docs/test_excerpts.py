"""Code excerpts by symbol: what is shown, and every way it can fail."""

import pytest

from ml_platform.docs.excerpts import extract
from ml_platform.docs.markers import MarkerError


def page(arguments):
    return f"Before.\n<!-- code:{arguments} -->\n<!-- /code -->\nAfter.\n"


def test_function_without_its_docstring_and_with_a_link(site):
    assert site.render(page("package/code.py::plain")) == (
        "Before.\n<!-- code:package/code.py::plain -->\n"
        "```python\n"
        "def plain(x):\n"
        "    return x + 1  # why\n"
        "```\n"
        "[`plain` in code.py](../../package/code.py)\n"
        "<!-- /code -->\nAfter.\n"
    )


def test_docstring_on_request(site):
    assert '"""Say what it does.' in site.render(page("package/code.py::plain docstring"))


def test_method_is_dedented_and_a_constant_can_be_shown(site):
    assert "\ndef method(self) -> int:\n    return" in site.render(
        page("package/code.py::Thing.method")
    )
    assert "\nLIMIT = 25\n" in site.render(page("package/code.py::LIMIT"))
    assert "\nsize: int = 3\n" in site.render(page("package/code.py::Thing.size"))


def test_class_and_decorator(site):
    assert "\nclass Thing:\n    size: int" in site.render(page("package/code.py::Thing"))
    rendered = site.render(page("package/code.py::decorated"))
    # The code holds a fence of three, so it stands in one of four.
    assert '````python\n@property\ndef decorated():\n    return "```"\n````\n' in rendered


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("package/code.py::absent", "no symbol absent"),
        ("package/code.py::Thing.absent", "no symbol Thing.absent"),
        ("package/none.py::plain", "no file package/none.py"),
        ("package/code.py::long", "has 31 lines, more than 25"),
        ("package/code.py", "expected PATH::SYMBOL"),
    ],
)
def test_excerpt_that_cannot_be_shown(site, capsys, arguments, message):
    site.write(page(arguments))
    assert site.run("--check") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "07_evaluation.md:2:" in error


def test_changed_code_is_drift(site, capsys):
    site.render(page("package/code.py::plain"))
    source = site.root / "package" / "code.py"
    source.write_text(source.read_text().replace("x + 1", "x + 2"))
    assert site.run("--check") == 1
    assert "expected return x + 2" in capsys.readouterr().err


def test_source_that_does_not_parse():
    with pytest.raises(MarkerError, match="does not parse"):
        extract("def (:", "x")


def test_body_that_is_only_a_docstring_is_kept():
    assert extract('def f():\n    """Only this."""\n', "f") == 'def f():\n    """Only this."""'
