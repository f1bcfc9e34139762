"""Values of any kind as the text a person would type: nothing is guessed, ids keep their zeros, `NA` stays a value."""

import json
import math
from typing import Any

LIST_SEPARATOR = ", "


def as_text(value: Any) -> str:
    """A JSON or Parquet value as a person would type it: 12.0 is `12`, null is empty, a list is `a, b`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return LIST_SEPARATOR.join(filter(None, map(as_text, value)))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    # JSON can spell half of a surrogate pair, which no UTF-8 file can hold
    return str(value).encode("utf-8", errors="replace").decode("utf-8")
