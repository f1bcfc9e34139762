"""The views that great_expectations.yml names: the library's, with the templates of this folder in front of its own."""

from pathlib import Path
from typing import Any

from great_expectations.render.view import DefaultJinjaIndexPageView, DefaultJinjaPageView
from jinja2 import BaseLoader, ChoiceLoader, FileSystemLoader

TEMPLATES = Path(__file__).parent


def _ours_first(loader: BaseLoader) -> ChoiceLoader:
    return ChoiceLoader([FileSystemLoader(TEMPLATES), loader])


class OfflinePageView(DefaultJinjaPageView):  # type: ignore[misc]
    """A page of a suite or of a validation's results."""

    def __init__(self, **options: Any) -> None:
        """As the library's view."""
        super().__init__(**options)
        self.env.loader = _ours_first(self.env.loader)


class OfflineIndexPageView(DefaultJinjaIndexPageView):  # type: ignore[misc]
    """The page that lists all others."""

    def __init__(self, **options: Any) -> None:
        """As the library's view."""
        super().__init__(**options)
        self.env.loader = _ours_first(self.env.loader)
