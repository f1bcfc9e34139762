"""The embedded catalog's ceilings in its document.

`python -m mlim.embedded.document --out docs/embedded-catalog.md` computes the figures and writes them there.
"""

import argparse
from pathlib import Path

from mlim.embedded.ceilings import Ceilings, measure_ceilings
from mlim.embedded.generate import plan_items
from mlim.errors import InputError
from mlim.files import atomic_file

DEMO_ITEMS, DEMO_SEED = 2400, 0
BEGIN, END = "<!-- ceilings: written by the command above, do not edit -->", "<!-- end of ceilings -->"


def ceilings_table(ceilings: Ceilings) -> str:
    """The ceilings as Markdown."""
    lines = (
        f"{DEMO_ITEMS} items, seed {DEMO_SEED}: {ceilings.pairs} pairs inside families.",
        "",
        "| what the best possible matcher may use | PR-AUC |",
        "|---|---|",
        f"| nothing (share of matching pairs) | {ceilings.prevalence:.3f} |",
        f"| texts only | {ceilings.text:.3f} |",
        f"| pictures only | {ceilings.image:.3f} |",
        f"| both | {ceilings.both:.3f} |",
    )
    return "\n".join(lines)


def demo_ceilings() -> Ceilings:
    """The ceilings of the catalog that the demo makes; no picture is drawn for them."""
    return measure_ceilings(item.row for item in plan_items(DEMO_ITEMS, DEMO_SEED))


def with_block(document: str, block: str) -> str:
    """The document with the text between its two marks replaced; `InputError` when a mark is missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the document lacks the line `{END if begin else BEGIN}`; put it where the figures belong")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> None:
    """Rewrite the ceilings in a document."""
    parser = argparse.ArgumentParser(description="Write the embedded catalog's ceilings into a document.")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file with the two marks")
    try:
        out: Path = parser.parse_args().out
        text = with_block(out.read_text(encoding="utf-8"), ceilings_table(demo_ceilings()))
        with atomic_file(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (InputError, OSError) as error:
        parser.exit(InputError.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
