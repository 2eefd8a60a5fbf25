"""Tables as LaTeX, Markdown and HTML: pandas' Styler lays out the grid, the templates add what stands around it."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from xmbench.report.markup import code, html, latex, markdown, template
from xmbench.report.tables import CHANCE, Cell, Head, Row, Table

COLUMNS = 24  # so many columns at most stand side by side, whole column groups of them; more continue below
LONG = 100  # rows from which a table in LaTeX goes over several pages
CHARACTER, GAP = 1.55, 2.4  # mm in LaTeX's \scriptsize


def render_table(table: Table, suffix: str) -> str:
    """The table as text, `suffix` tex, md or html."""
    return {"tex": to_latex, "md": to_markdown, "html": to_html}[suffix](table)


# ---- LaTeX --------------------------------------------------------------------------------------------------


def to_latex(table: Table) -> str:
    """A document of its own with the table, by booktabs; a longtable where it is long."""
    long = len(table.rows) > LONG
    parts = list(_parts(table))
    caption = f"{table.caption} {table.source}"
    return template("table.tex.j2").render(
        table=table,
        tabulars=[_tabular(table, part, latex(caption if part.start == 0 else "Continued.") if long else "") for part in parts],
        long=long,
        width=max(297, *(_width(table, part) for part in parts)) if long else 297,
        height=210 if long else max(210, 80 + len(parts) * (4 * len(table.rows) + 14) + 6 * len(table.notes)),
    )


def _parts(table: Table) -> Iterator[range]:
    """The columns that stand side by side: whole column groups, and a group of more than COLUMNS alone."""
    start = end = 0
    for _, group in groupby(range(len(table.cols)), key=lambda i: table.cols[i][0]):
        last = list(group)[-1] + 1
        if last - start > COLUMNS and end > start:
            yield range(start, end)
            start = end
        end = last
    yield range(start, end)


def _tabular(table: Table, part: range, caption: str) -> str:
    """The tabular of some columns, with rules under its column groups and between its blocks of rows.

    Args:
        table: the table.
        part: which columns.
        caption: of a longtable, in LaTeX; "" for a tabular.
    """
    levels = len(table.cols[0])
    heads = [(*[""] * (levels - 1), title) for title in table.titles]
    heads += [tuple(_latex_head(head) for head in table.cols[i]) for i in part]
    body = [
        [*(_latex_head(head) for head in heads_of), *(_latex_cell(row.cells[i]) for i in part)]
        for row, heads_of in zip(table.rows, _sparse(table.rows), strict=True)
    ]
    frame = pd.DataFrame(body, columns=pd.MultiIndex.from_tuples(heads) if levels > 1 else [head[0] for head in heads])
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        multicol_align="c",
        column_format="l" * len(table.titles) + "c" * len(part),
        environment="longtable" if caption else None,
        caption=caption or None,
    )
    return _ruled(text.splitlines(), heads, [row.rule for row in table.rows], len(table.titles))


def _ruled(lines: list[str], heads: list[tuple[str, ...]], rules: Sequence[int | None], n_titles: int) -> str:
    """Lines of a tabular with rules: under the groups of columns, and above those rows that have one."""
    levels, width = len(heads[0]), len(heads)
    tops = [i for i, line in enumerate(lines) if line == r"\toprule"]
    starts = [i for i, line in enumerate(lines) if line in (r"\midrule", r"\endlastfoot")]
    first = starts[-1] if len(tops) > 1 else starts[0]
    ends = {first + number: rule for number, rule in enumerate(rules) if rule is not None}
    under = {top + level + 1: level for top in tops for level in range(levels - 1)}
    ruled = []
    for i, line in enumerate(lines):
        ruled.append(line)
        if i in under:
            spans = _spans([head[: under[i] + 1] for head in heads])
            ruled.append("".join(rf"\cmidrule(lr){{{a + 1}-{b}}}" for a, b in spans if a >= n_titles and heads[a][under[i]]))
        elif i in ends:
            ruled.append(r"\midrule" if ends[i] == 0 else rf"\cmidrule(l){{{ends[i] + 1}-{width}}}")
    return "\n".join(ruled)


def _spans(keys: Sequence[tuple[str, ...]]) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of equal neighbours."""
    for _, run in groupby(range(len(keys)), key=lambda i: keys[i]):
        numbers = list(run)
        yield numbers[0], numbers[-1] + 1


def _sparse(rows: Sequence[Row]) -> Iterator[tuple[Head, ...]]:
    """The heads of each row; those of outer levels only where they change."""
    before: tuple[Head, ...] = ()
    for row in rows:
        same = next((i for i, (a, b) in enumerate(zip(row.heads, before, strict=False)) if a != b), len(before))
        same = min(same, len(row.heads) - 1)
        yield (*[Head("")] * same, *row.heads[same:])
        before = row.heads


def _latex_head(head: Head) -> str:
    text = rf"\texttt{{{latex(head.text)}}}" if head.code else latex(head.text)
    return text + latex(head.after) + (rf"$^{{{head.letter}}}$" if head.letter else "")


def _latex_cell(cell: Cell) -> str:
    if cell.published:
        return rf"\textit{{{latex(cell.text)}}}"
    text = {1: rf"\textbf{{{cell.text}}}", 2: rf"\underline{{{cell.text}}}"}.get(cell.rank, latex(cell.text))
    text += rf"$^{{{cell.letters}}}$" if cell.letters else ""
    text += rf"{{\tiny$\pm${cell.spread}}}" if cell.spread else ""
    text += "".join({"†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"\textsuperscript{\S}"}[sign] for sign in cell.marks)
    return text + (rf"{{\tiny\,({cell.count})}}" if cell.count else "")


def _width(table: Table, part: range) -> int:
    """About how many millimetres a long table needs."""
    heads = [
        max(len(row.heads[level].text + row.heads[level].after) for row in table.rows) for level in range(len(table.titles))
    ]
    cells = [
        max(
            len(table.cols[i][-1].text),
            *(len(c.text) + 0.6 * len(c.spread + c.count) + len(c.marks) for c in _column(table, i)),
        )
        for i in part
    ]
    return 24 + int(sum(CHARACTER * n + GAP for n in [*heads, *cells]))


def _column(table: Table, i: int) -> list[Cell]:
    return [row.cells[i] for row in table.rows]


# ---- Markdown -----------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """A table for each outermost head: of the rows, where they have several levels, else of the columns."""
    return template("table.md.j2").render(table=table, sections=list(_sections(table)), titles=table.titles[-1:])


def _sections(table: Table) -> Iterator[dict[str, Any]]:
    if len(table.titles) > 1:
        last = [row for row in table.rows[-1:] if row.heads[-1] == Head(CHANCE)]
        rows = table.rows[: len(table.rows) - len(last)]
        for outer, part in groupby(rows, key=lambda row: row.heads[:-1]):
            title = ", ".join(
                _markdown_head(head) + (" noise" if level == "Noise" else "")
                for level, head in zip(table.titles, outer, strict=False)
            )
            yield _section(title, [_joined(heads) for heads in table.cols], [*part, *last], range(len(table.cols)))
    elif len(table.cols[0]) > 1:
        for start, end in _spans([heads[:1] for heads in table.cols]):  # type: ignore[misc]
            columns = [_joined(heads[1:]) for heads in table.cols[start:end]]
            yield _section(_markdown_head(table.cols[start][0]), columns, table.rows, range(start, end))
    else:
        yield _section("", [_joined(heads) for heads in table.cols], table.rows, range(len(table.cols)))


def _section(title: str, columns: list[str], rows: Sequence[Row], part: range) -> dict[str, Any]:
    lines = [
        {"head": _markdown_head(row.heads[-1]) + (" (oracle)" if row.oracle else ""),
         "cells": [_markdown_cell(row.cells[i]) for i in part]}
        for row in rows
        if any(row.cells[i].text for i in part)
    ]  # fmt: skip
    return {"title": title, "columns": columns, "lines": lines}


def _joined(heads: Sequence[Head]) -> str:
    return " ".join(filter(None, map(_markdown_head, heads)))


def _markdown_head(head: Head) -> str:
    text = f"`{code(head.text)}`" if head.code else markdown(head.text)
    return text + markdown(head.after) + (f"<sup>{head.letter}</sup>" if head.letter else "")


def _markdown_cell(cell: Cell) -> str:
    if cell.published:
        return f"*{markdown(cell.text)}*"
    text = {1: f"**{cell.text}**", 2: f"<u>{cell.text}</u>"}.get(cell.rank, cell.text)
    text += f"<sup>{cell.letters}</sup>" if cell.letters else ""
    return text + (f"±{cell.spread}" if cell.spread else "") + cell.marks + (f" ({cell.count})" if cell.count else "")


# ---- HTML ---------------------------------------------------------------------------------------------------


def to_html(table: Table) -> str:
    """A page with the table, without scripts."""
    return template("table.html.j2").render(table=table, grid=html_table(table))


def html_table(table: Table) -> str:
    """The `table` element."""
    index = [(*map(_html_head, row.heads[:-1]), _oracle_head(row)) for row in table.rows]
    heads = [tuple(map(_html_head, heads)) for heads in table.cols]
    frame = pd.DataFrame(
        [[_html_cell(cell) for cell in row.cells] for row in table.rows],
        index=_labels(index, list(map(html, table.titles))),
        columns=_labels(heads, [None] * len(heads[0])),
    )
    styler = Styler(frame, uuid="xmbench", cell_ids=False, table_attributes='class="xmbench"')
    return styler.to_html(caption=html(table.caption), exclude_styles=True)


def _labels(labels: list[tuple[str, ...]], names: list[Any]) -> pd.Index:
    if len(names) == 1:
        return pd.Index([label[0] for label in labels], name=names[0])
    return pd.MultiIndex.from_tuples(labels, names=names)


def _oracle_head(row: Row) -> str:
    return _html_head(row.heads[-1]) + (" (oracle)" if row.oracle else "")


def _html_head(head: Head) -> str:
    text = f"<code>{html(head.text)}</code>" if head.code else html(head.text)
    return text + html(head.after) + (f"<sup>{head.letter}</sup>" if head.letter else "")


def _html_cell(cell: Cell) -> str:
    text = html(cell.text)
    if cell.published:
        return f"<i>{text}</i>"
    text = {1: f"<b>{text}</b>", 2: f"<u>{text}</u>"}.get(cell.rank, text)
    text += f"<sup>{cell.letters}</sup>" if cell.letters else ""
    text += f"<small>±{cell.spread}</small>" if cell.spread else ""
    return text + html(cell.marks) + (f" <small>({cell.count})</small>" if cell.count else "")
