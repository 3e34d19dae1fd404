"""Published figures on this split, each as it stands in the table of its source.

All from the table of the MMSSL repository (github.com/HKUDS/MMSSL, README, columns "Tiktok"; W.
Wei, C. Huang, L. Xia, C. Zhang, "Multi-Modal Self-Supervised Learning for Recommendation", WWW
2023): recall, precision and NDCG at 20, one run each as far as the table says, without intervals.
Their models also read text features (768-d), which the files that we use do not hold.

That table counts 9,319 users, the files hold 9,308 (pairs and videos agree: 59,541 and 6,710).

The table ends with models of 2023. Later ones on this split (DiffMM and those after it) publish
theirs as pictures or in papers that we could not read as text: nothing here says how we stand
beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

CITATION = "cited: W. Wei and others, MMSSL, WWW 2023, table of github.com/HKUDS/MMSSL; not ours"


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    recall: float
    ndcg: float
    precision: float
    reads_content: bool


PUBLISHED: dict[str, Figure] = {
    "mf_bpr": Figure("MF-BPR", 0.0346, 0.0130, 0.0017, False),
    "ngcf": Figure("NGCF", 0.0604, 0.0238, 0.0030, False),
    "lightgcn": Figure("LightGCN", 0.0653, 0.0282, 0.0033, False),
    "vbpr": Figure("VBPR", 0.0380, 0.0134, 0.0018, True),
    "mmgcn": Figure("MMGCN", 0.0730, 0.0307, 0.0036, True),
    "grcn": Figure("GRCN", 0.0804, 0.0350, 0.0036, True),
    "lattice": Figure("LATTICE", 0.0843, 0.0367, 0.0042, True),
    "slmrec": Figure("SLMRec", 0.0845, 0.0353, 0.0042, True),
    "mmssl": Figure("MMSSL", 0.0921, 0.0392, 0.0046, True),
}


def published_for(synthetic: bool) -> dict[str, Figure]:
    """The table, or nothing beside a generated set, which no paper has measured."""
    return {} if synthetic else PUBLISHED
