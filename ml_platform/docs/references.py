"""The bibliography of the repository, and the citations of a page that it does not know.

In: ``references.yaml`` at the repository's root. Out: the text of a `cite` marker, and problems:
a work quoted in a page that stands in no bibliography, under another year, or without its title.

One entry, checked by a person at its source before it is printed anywhere:

    covington2016:
      authors: [P. Covington, J. Adams, E. Sargin]    # "others" as the last of a long list
      title: Deep Neural Networks for YouTube Recommendations
      venue: RecSys
      year: 2016
      url: https://...        # where it was checked; optional
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_platform.docs.markers import MarkerError, Problem, Region, line_of, without_code

FILE = "references.yaml"

_ARGUMENTS = re.compile(r"(?P<key>[a-z0-9_]+)(?:\s+(?P<place>\S.*))?")
_ET_AL = re.compile(r"\b(?P<surname>[A-Z][\w'\u2019-]+) et al\b")
# "Title in quotes", Venue 2016
_TITLED = re.compile(
    r"[\"\u201c](?P<title>[^\"\u201c\u201d]{8,250})[\"\u201d][,.]? ?\(?"
    r"[A-Za-z@][\w&.:/'@, -]{1,60}?[ ,](?P<year>(?:19|20)\d\d)\b"
)
_INITIALS = re.compile(r"(?:[A-Z]\w?\.-?)+")


class Reference(BaseModel):
    """One publication. Nothing may be missing but the address."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    authors: list[str] = Field(min_length=1)
    title: str = Field(min_length=3)
    venue: str = Field(min_length=2)
    year: int = Field(ge=1900, le=2100)
    url: str | None = None

    @property
    def surnames(self) -> list[str]:
        """The authors without initials: "D. Z. Cheng" is "Cheng", "Netflix" stays."""
        parts = [name.split() for name in self.authors]
        return [
            " ".join(word for word in words if not _INITIALS.fullmatch(word)) or words[0]
            for words in parts
        ]

    def text(self) -> str:
        """As it stands in a sentence: authors, title, venue and year."""
        names = self.surnames
        if len(names) > 3 or names[-1] == "others":
            who = f"{names[0]} et al."
        else:
            who = " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
        return f'{who}, "{self.title}", {self.venue} {self.year}'


@lru_cache(maxsize=8)
def read_references(path: Path, _stamp: int = 0) -> dict[str, Reference]:
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


def citation_problems(
    text: str, regions: Sequence[Region], references: dict[str, Reference]
) -> list[Problem]:
    """Works that a page names and the bibliography does not know.

    Two forms are found: ``"Title", Venue 2016``, whose title (or how it begins) and year must
    stand in the bibliography, and ``Somebody et al``, who must be the first author of a work that
    the same page cites with its title.
    """
    visible = list(without_code(text))
    for region in regions:
        visible[region.begin : region.end] = " " * (region.end - region.begin)
    plain = "".join(visible).replace("\n", " ")
    cited = {
        references[key].surnames[0]
        for key in (r.arguments.split(maxsplit=1)[0] for r in regions if r.kind == "cite")
        if key in references
    }
    problems = []
    for match in _TITLED.finditer(plain):
        known = [
            r for r in references.values() if _words(r.title).startswith(_words(match["title"]))
        ]
        line = line_of(text, match.start())
        if not known:
            problem = f"{match['title']!r} is not in {FILE}; check it at its source and add it"
            problems.append(Problem(line, problem))
        elif not any(str(reference.year) == match["year"] for reference in known):
            problem = f"{match['title']!r} is of {known[0].year}, not of {match['year']}"
            problems.append(Problem(line, problem))
        else:
            cited.update(reference.surnames[0] for reference in known)
    problems += [
        Problem(line_of(text, match.start()), f"{match[0]}: the page does not cite that work")
        for match in _ET_AL.finditer(plain)
        if match["surname"] not in cited
    ]
    return sorted(problems, key=lambda problem: problem.line)


def _words(title: str) -> str:
    """Letters and digits only, in lower case: titles are typed with other punctuation."""
    return re.sub(r"[^a-z0-9]+", " ", title.lower()).strip()
