"""The bibliography of the repository, and citations that are rendered from it.

In: ``references.yaml`` at the repository's root. Out: the text of a `cite` marker, and the
citations of a page that were typed by hand instead.

One entry, checked by a person at its source before it is printed anywhere:

    covington2016:
      authors: [Covington, Adams, Sargin]
      title: Deep Neural Networks for YouTube Recommendations
      venue: RecSys
      year: 2016
      url: https://...        # where it was checked; optional
"""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_platform.docs.markers import MarkerError, Problem, Region, line_of, without_code

FILE = "references.yaml"

_ARGUMENTS = re.compile(r"(?P<key>[a-z0-9_]+)(?:\s+(?P<place>\S.*))?")
_ET_AL = re.compile(r"\b[A-Z][\w'’-]+ et al\b")
# "Title in quotes", Venue 2016: a citation that no file knows
_TITLED = re.compile(r"[\"”][,.]? \(?[A-Z][\w&.:/' -]{1,60}?,? (?:19|20)\d\d\b")


class Reference(BaseModel):
    """One publication. Nothing may be missing but the address."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    authors: list[str] = Field(min_length=1)
    title: str = Field(min_length=3)
    venue: str = Field(min_length=2)
    year: int = Field(ge=1900, le=2100)
    url: str | None = None

    def text(self) -> str:
        """As it stands in a sentence: authors, title, venue and year."""
        names = self.authors
        if len(names) > 2:
            who = f"{names[0]} et al."
        else:
            who = " and ".join(names)
        return f'{who}, "{self.title}", {self.venue} {self.year}'


def read_references(path: Path) -> dict[str, Reference]:
    """All entries by key.

    Raises:
        MarkerError: if the file cannot be read or an entry lacks something; it says which and what.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise MarkerError(f"{path.name} is not valid YAML: {error}") from None
    references = {}
    for key, entry in content.items():
        try:
            references[str(key)] = Reference.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "entry"
            raise MarkerError(f"{path.name}: {key}: {place}: {first['msg']}") from None
    return references


def render_citation(arguments: str, references: dict[str, Reference]) -> str:
    """The text of a `cite` marker: KEY, or KEY and a place such as "section 3.2"."""
    match = _ARGUMENTS.fullmatch(arguments)
    if not match:
        raise MarkerError(f"cannot read {arguments!r}: expected KEY [PLACE]")
    if match["key"] not in references:
        raise MarkerError(f"no entry {match['key']} in {FILE}; check it at its source and add it")
    place = f", {match['place']}" if match["place"] else ""
    return references[match["key"]].text() + place


def typed_citations(text: str, regions: Sequence[Region]) -> list[Problem]:
    """Citations that stand in a page without a marker, and so in no bibliography."""
    visible = list(without_code(text))
    for region in regions:
        visible[region.begin : region.end] = " " * (region.end - region.begin)
    plain = "".join(visible)
    found = [*_ET_AL.finditer(plain), *_TITLED.finditer(plain)]
    return [
        Problem(
            line_of(text, match.start()),
            f"typed citation {match[0].strip()!r}: check it, put it into {FILE}, cite it by key",
        )
        for match in sorted(found, key=lambda match: match.start())
    ]
