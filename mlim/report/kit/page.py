"""One HTML page that loads nothing and escapes every text that it is given.

It runs no script but one whose hash a template names in the block `script_policy`.

A page is a template of its own package that extends `base.html` and draws blocks with the macros of `macros.html`. Its
style is `style.css`, followed by its own.
"""

from importlib import resources
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mlim.report.kit import formats

KIT: Final = "mlim.report.kit"
BASE, MACROS, STYLE = "base.html", "macros.html", "style.css"


def render_page(package: str, template: str, values: dict[str, Any], style: str | None = None) -> str:
    """The page that a template of `package` makes of `values`; equal values give equal text.

    `style` names a style sheet of the package that comes after the common one.
    """
    environment = Environment(
        loader=FunctionLoader(lambda name: _read(KIT if name in (BASE, MACROS) else package, name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(base=BASE, macros=MACROS, formats=formats)
    styles = [(KIT, STYLE), *([] if style is None else [(package, style)])]
    css = Markup("".join(_read(place, name) for place, name in styles))  # noqa: S704 (files of ours)
    return environment.get_template(template).render(style=css, **values)


def _read(package: str, name: str) -> str:
    return (resources.files(package) / name).read_text("utf-8")
