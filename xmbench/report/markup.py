"""Text for LaTeX and Markdown: escaping, and the templates in `templates/`."""

import unicodedata
from functools import cache
from html import escape
from typing import Any

import jinja2

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "→": r"$\rightarrow$", "±": r"$\pm$", "×": r"$\times$", "†": r"$\dagger$", "‡": r"$\ddagger$",
    "–": "--", "∅": r"$\emptyset$", "§": r"\S{}",
    "Ψ": r"$\Psi$", "≥": r"$\geq$", "≤": r"$\leq$", "«": r"$\ll$", "»": r"$\gg$", "−": "$-$", "—": "---", "‘": "`", "’": "'",
    "“": "``", "”": "''", "…": r"\ldots{}", "Ð": "D", "ð": "d", "Þ": "Th", "þ": "th", "Đ": "D", "đ": "d", "Ħ": "H", "ħ": "h",
    "Ŧ": "T", "ŧ": "t", "∞": r"$\infty$",
}  # fmt: skip
_NOT_IN_OT1 = set("ĄąĘęĮįĸĿŀŉŊŋŲųſ")  # those below U+0180 that stop pdflatex in the encoding that documents have by default
_MARKDOWN = {character: f"\\{character}" for character in "\\|*_<>`[]"}
_INLINE = {character: f"\\{character}" for character in "<`["}
_CODE = {"`": "'", "|": "\\|"}
# delimiters that LaTeX does not use
_LATEX_DELIMITERS: dict[str, Any] = {
    "block_start_string": "<%",
    "block_end_string": "%>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
}


def latex(text: str) -> str:
    """Text with what LaTeX would read as a command escaped.

    Characters that pdflatex has no glyph for become their base letter, or `?` where they have none. A row of a table may begin
    with any text: after a line break LaTeX reads `[` and `*` as its options.

    >>> latex("mrl_rc → 50%"), latex("Dąbrowa 图")
    ('mrl\\\\_rc $\\\\rightarrow$ 50\\\\%', 'Dabrowa ?')
    """
    escaped = "".join(_LATEX.get(c) or _glyph(c) for c in unicodedata.normalize("NFC", _line(text)))
    return "{}" + escaped if escaped.lstrip().startswith(("[", "*")) else escaped


def _glyph(character: str) -> str:
    """The character, or what is left of it without accents, where fonts of seven bits have it."""
    if _printable(character):
        return character
    base = [c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)]
    return "".join(_LATEX.get(c, c) for c in base) if all(map(_printable, base)) else "?"


def _printable(character: str) -> bool:
    return ord(character) < 0x180 and character not in _NOT_IN_OT1


def markdown(text: str) -> str:
    """Text with what Markdown would read as markup escaped.

    >>> markdown("mrl_rc")
    'mrl\\\\_rc'
    """
    return "".join(_MARKDOWN.get(c, c) for c in _line(text))


def inline(text: str) -> str:
    """Text for a list in Markdown, in which a name starts no HTML, link or code.

    >>> inline("mrl_rc <b>")
    'mrl_rc \\\\<b>'
    """
    return "".join(_INLINE.get(c, c) for c in _line(text))


def code(text: str) -> str:
    """Text for between two backticks in a table in Markdown.

    >>> code("a`|b")
    "a'\\\\|b"
    """
    return "".join(_CODE.get(c, c) for c in _line(text))


def html(text: str) -> str:
    """Text with what HTML would read as markup escaped.

    >>> html("<b> & it")
    '&lt;b&gt; &amp; it'
    """
    return escape(_line(text))


def _line(text: str) -> str:
    """The text in one line: names come from stores that may have been made by others."""
    return "".join(c if c.isprintable() else " " for c in text)


@cache
def template(name: str) -> jinja2.Template:
    """The template of a name such as `map.tex.j2`; in those of LaTeX, `<% %>` and `<< >>` are what `{% %}` and `{{ }}` are."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xmbench.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **(_LATEX_DELIMITERS if ".tex" in name else {}),
    )
    environment.filters.update(latex=latex, markdown=markdown, inline=inline, code=code, html=html)
    return environment.get_template(name)
