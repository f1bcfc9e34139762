"""MLIM: masked language and image modeling for product catalogs.

    import mlim

    model = mlim.load("models:/mlim-matcher@champion")
    model.predict([({"title": "Red shirt", "image": "a.jpg"}, {"title": "Red shirt, striped", "image": "b.jpg"})])

Importing this loads nothing else; the first call does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlim.errors import DataError, InputError, MlimError
    from mlim.loading import load, load_pretrained
    from mlim.matching.explain import Explanation
    from mlim.matching.items import Item
    from mlim.matching.model import MatchingModel, Predictions

__version__ = "0.1.0"
__all__ = [
    "DataError",
    "Explanation",
    "InputError",
    "Item",
    "MatchingModel",
    "MlimError",
    "Predictions",
    "__version__",
    "load",
    "load_pretrained",
]
_HOMES = {
    "DataError": "errors",
    "Explanation": "matching.explain",
    "InputError": "errors",
    "Item": "matching.items",
    "MatchingModel": "matching.model",
    "MlimError": "errors",
    "Predictions": "matching.model",
    "load": "loading",
    "load_pretrained": "loading",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
