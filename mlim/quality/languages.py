"""Which language a text is in: the only module that imports py3langid (a naive Bayes model over byte n-grams)."""

from collections.abc import Sequence
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from mlim.errors import InputError


def guess_languages(texts: Sequence[str]) -> list[str]:
    """The ISO 639-1 code of the most likely language of each text. Short texts are guessed badly."""
    return [str(_identifier().classify(text)[0]) for text in texts]


def check_languages(codes: Sequence[str]) -> None:
    """`InputError` for a code that `guess_languages` never gives."""
    if not codes:
        return
    known = sorted(_identifier().labels)
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise InputError(f"validation.languages: unknown {', '.join(unknown)}; known are {', '.join(known)}")


@cache  # reading the model takes longer than thousands of texts
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)
