"""What the paper claims, as data: each claim with the rows or curves that decide it, and how it is to be read.

Names of rows are those of the recipes. A claim "in passing" is one that the authors mention or build on without
measuring it; its rows are in no table of the paper.
"""

from dataclasses import dataclass
from typing import Final, Literal

Reading = Literal["better", "equivalent", "no worse"]
Figure = Literal["figure2a", "figure2b"]
Partner = Literal["own", "empty", "random"]

# Of PR-AUC, for "adds nothing" and "no worse": just below the smallest difference that the paper calls an improvement
# (Table 2, MAM instead of naive masking: 0.884 against 0.873).
MARGIN: Final = 0.01


@dataclass(frozen=True)
class Rows:
    """PR-AUC of row `first` minus that of row `second`, on the same test pairs."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first} minus {self.second}"


@dataclass(frozen=True)
class Curves:
    """One of the probe's figures: the loss beside partner `more` minus that beside `less`, at every probability."""

    figure: Figure
    more: Partner
    less: Partner

    def __str__(self) -> str:
        return f"{self.figure}, {self.more} minus {self.less}"


@dataclass(frozen=True)
class Harm:
    """How much a random text raises RECON minus how much a random picture raises MLM, as shares of the own loss."""

    def __str__(self) -> str:
        return "harm of a random text to RECON minus harm of a random picture to MLM"


Part = Rows | Curves | Harm


@dataclass(frozen=True)
class Claim:
    """One claim: all its `parts` have to be as `reading` says.

    `better`: above 0. `equivalent`: within the margin of 0. `no worse`: above minus the margin. `short` is for plots.
    """

    key: str
    short: str
    sentence: str
    source: str
    parts: tuple[Part, ...]
    reading: Reading = "better"
    in_passing: bool = False


MAIN: Final = "recon-mlm-mam"
TABLES: Final[tuple[Claim, ...]] = (
    Claim(
        "recon-mam",
        "RECON - ITM, MAM",
        "RECON is better than ITM, with MAM",
        "Table 2",
        (Rows(MAIN, "itm-mlm-mam"),),
    ),
    Claim(
        "recon-naive",
        "RECON - ITM, naive",
        "RECON is better than ITM, with naive masking",
        "Table 2",
        (Rows("recon-mlm-naive", "itm-mlm-naive"),),
    ),
    Claim(
        "mam-recon",
        "MAM - naive, RECON",
        "MAM is better than naive masking, with RECON",
        "Table 2",
        (Rows(MAIN, "recon-mlm-naive"),),
    ),
    Claim(
        "mam-itm",
        "MAM - naive, ITM",
        "MAM is better than naive masking, with ITM",
        "Table 2",
        (Rows("itm-mlm-mam", "itm-mlm-naive"),),
    ),
    Claim(
        "itm-added",
        "ITM added to RECON",
        "ITM adds nothing to RECON",
        "Table 2",
        (Rows("recon-itm-mlm-mam", MAIN),),
        "equivalent",
    ),
    Claim("mdo", "MDO", "Modality dropout (MDO) helps", "Table 1", (Rows(MAIN, "no-mdo"),)),
    Claim("pretraining", "Pre-training", "Pre-training helps", "the whole paper", (Rows(MAIN, "no-pretraining"),)),
)
PROBES: Final[tuple[Claim, ...]] = (
    Claim(
        "image-for-text",
        "Own picture, text loss",
        "The item's own picture lowers the text loss, against a gray and a random one, at every masking probability",
        "Figure 2a",
        (Curves("figure2a", "empty", "own"), Curves("figure2a", "random", "own")),
    ),
    Claim(
        "gray-below-random",
        "Random - gray picture",
        "A random picture costs the text more than a gray one, at every masking probability",
        "Figure 2a",
        (Curves("figure2a", "random", "empty"),),
    ),
    Claim(
        "text-for-image",
        "Own text, picture loss",
        "The item's own text lowers the picture loss, against an empty and a random one, at every masking probability",
        "Figure 2b",
        (Curves("figure2b", "empty", "own"), Curves("figure2b", "random", "own")),
    ),
    Claim(
        "harm",
        "Harm to RECON - to MLM",
        "A random text hurts RECON more than a random picture hurts MLM",
        "Figure 2",
        (Harm(),),
    ),
)


def _against(
    key: str, short: str, sentence: str, source: str, alternatives: tuple[str, ...], reading: Reading = "better"
) -> Claim:
    """A claim made in passing: the main model against each alternative."""
    parts = tuple(Rows(MAIN, other) for other in alternatives)
    return Claim(key, short, sentence, source, parts, reading, in_passing=True)


IN_PASSING: Final[tuple[Claim, ...]] = (
    _against(
        "shared-mask",
        "One [MASK] vector",
        "One [MASK] vector for both modalities is better than one for each",
        "section 3.1",
        ("separate-masks",),
    ),
    _against(
        "no-segments",
        "No segments",
        "No segment embedding is no worse than one for each modality",
        "section 3.1",
        ("segments",),
        "no worse",
    ),
    _against(
        "kernel-is-stride",
        "Kernel = stride",
        "Kernel = stride is better than overlapping kernels",
        "section 3.1",
        ("overlapping-kernels",),
    ),
    _against(
        "light-encoder",
        "Light encoder",
        "A light image encoder with a heavy decoder is better than the reverse",
        "section 3.1",
        ("heavy-encoder",),
    ),
    _against(
        "mam-probabilities",
        "MAM probabilities",
        "The recipe's probabilities of MAM are no worse than lower and higher ones",
        "not published",
        ("mam-lower", "mam-higher"),
        "no worse",
    ),
    _against(
        "mdo-shares",
        "MDO shares",
        "The recipe's shares of MDO are no worse than lower and higher ones",
        "not published",
        ("mdo-lower", "mdo-higher"),
        "no worse",
    ),
)
CLAIMS: Final = (*TABLES, *PROBES, *IN_PASSING)
