"""What all pages share: every colour exists for light and for dark pages and can be told from what it lies on."""

import re
from pathlib import Path

import pytest

from mlim.report.kit.colours import INK, PLOT
from mlim.report.kit.svg import inline_svg
from tests.unit.test_figures import draw_pr_curves

REPORT = Path(__file__).resolve().parents[2] / "mlim" / "report"
STYLE = REPORT / "kit" / "style.css"
SHEETS = sorted(REPORT.rglob("*.css"))
TEXT, DRAWING = 4.5, 3.0  # least contrast (WCAG 2, 1.4.3 and 1.4.11)


def colours() -> tuple[dict[str, str], dict[str, str]]:
    """The variables of light and of dark pages."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)
    return tuple(dict(re.findall(r"--([\w-]+):\s*([^;]+);", block)) for block in (light, dark))


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_is_defined_for_light_and_for_dark_pages():
    light, dark = colours()
    assert light.keys() == dark.keys()
    used = {name for sheet in SHEETS for name in re.findall(r"var\(--([\w-]+)\)", sheet.read_text(encoding="utf-8"))}
    assert used <= light.keys()
    assert {f"plot-{name}" for name in PLOT} <= light.keys()


@pytest.mark.parametrize("scheme", [0, 1])
def test_texts_and_drawings_can_be_told_from_the_card(scheme):
    named = colours()[scheme]
    for name in ("ink", "soft", "accent", "good", "bad", "open"):
        for ground in ("card", "paper"):
            assert contrast(named[name], named[ground]) >= TEXT, (name, ground)
    assert contrast(named["mark-ink"], named["mark"]) >= TEXT
    light_only = {"purple", "orange", "sky"} if scheme == 0 else set()  # Okabe and Ito's own; told apart by dashes too
    for name in PLOT.keys() - light_only:
        assert contrast(named[f"plot-{name}"], named["card"]) >= DRAWING, name


def test_light_pages_have_the_colours_of_the_figures():
    assert {name: colours()[0][f"plot-{name}"] for name in PLOT} == dict(PLOT)


def test_a_figure_inside_a_page_takes_the_page_s_colours(tmp_path):
    draw_pr_curves(tmp_path / "curves.svg")
    document = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert PLOT["blue"] in document
    drawn = inline_svg(document, "curves")
    assert "var(--plot-blue)" in drawn
    assert "var(--plot-vermilion)" in drawn
    assert not [colour for colour in (INK, *PLOT.values()) if colour in drawn]
