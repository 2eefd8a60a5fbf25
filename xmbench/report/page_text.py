"""Text and numbers for the page, from stores that may have been made by others."""

import html
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def embedded(value: Any) -> str:
    """JSON that may stand in a script element: no text in it can end the element or begin another.

    Raises:
        ValueError: a number that JSON has no word for.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT)


def plain(text: str) -> str:
    """Text for a plot, where some tags and all entities have a meaning otherwise.

    >>> plain("<b>mrl</b>")
    '&lt;b&gt;mrl&lt;/b&gt;'
    """
    return html.escape(text, quote=False)


def rounded(value: float, digits: int = 4) -> float | None:
    """The value with so many significant digits; None for what JSON has no number for.

    >>> rounded(0.123456), rounded(float("nan"))
    (0.1235, None)
    """
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def all_rounded(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """Each value with so many significant digits."""
    return [rounded(float(value), digits) for value in values]
