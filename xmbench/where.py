"""The filter of rows that users write, `--where`, and what of it can be decided before all columns are read."""

import ast

import pandas as pd

from xmbench.registry import closest

_QUERY_NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.BinOp, ast.BitAnd, ast.BitOr,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant,
    ast.List, ast.Tuple,
)  # fmt: skip

_LONGEST = 10_000  # characters: what is nested by the hundred brings Python's parser to its limits


def where_rows(rows: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The rows for which `where` holds: pandas query syntax over columns and constants, without function calls.

    Raises:
        ValueError: another syntax, or a name that is no column.
    """
    if where is None:
        return rows
    for node in ast.walk(_parsed(where)):
        if not isinstance(node, _QUERY_NODES):
            raise ValueError(f"--where may compare columns with constants, nothing else, got {_written(node)!r:.200}")
        if isinstance(node, ast.Name) and node.id not in rows.columns:
            raise closest("column", node.id, rows.columns)
    try:
        chosen = rows.eval(where, engine="python")
    except Exception as error:  # pandas has many kinds for what it cannot evaluate
        raise ValueError(f"--where {where!r:.200} cannot be evaluated: {error}") from None
    if not (isinstance(chosen, pd.Series) and pd.api.types.is_bool_dtype(chosen)):
        raise ValueError(f"--where must be true or false for every row, such as 'noise_rate >= 0.4', got {where!r}")
    return rows[chosen]


def _parsed(where: str) -> ast.Expression:
    try:
        if len(where) > _LONGEST:
            raise ValueError(f"more than {_LONGEST} characters")
        return ast.parse(where, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        example = "an expression such as 'method == \"mrl\" and noise_rate >= 0.4'"
        raise ValueError(f"--where must be {example}, got {where!r:.200} ({reason})") from None


def _written(node: ast.AST) -> str:
    try:
        return ast.unparse(node)
    except RecursionError:
        return type(node).__name__


def columns_in(where: str | None) -> list[str]:
    """The columns that a filter reads."""
    nodes = ast.walk(_parsed(where)) if where is not None else ()
    return sorted({node.id for node in nodes if isinstance(node, ast.Name)})


def about(where: str | None, columns: list[str]) -> str | None:
    """The part of a filter that these columns decide: rows for which it does not hold cannot be chosen; None for all rows."""
    parts = [part for part in _conjuncts(where) if 0 < len(names := _names(part)) == len(names & set(columns))]
    return " and ".join(f"({ast.unparse(part)})" for part in parts) or None


def push_down(where: str | None, columns: list[str]) -> dict[str, list[str | None]]:
    """Column -> the only values, texts, that a filter can choose; as far as that is plain to see, of these columns."""
    found: dict[str, list[str | None]] = {}
    for part in _conjuncts(where):
        if isinstance(part, ast.Compare) and len(part.ops) == 1 and isinstance(part.left, ast.Name) and part.left.id in columns:
            values = _texts(part.comparators[0])
            listed = isinstance(part.ops[0], ast.In) and not isinstance(part.comparators[0], ast.Constant)
            if values and (listed or isinstance(part.ops[0], ast.Eq)):
                found[part.left.id] = [*values]
    return found


def _conjuncts(where: str | None) -> list[ast.expr]:
    """What must hold, each, for the filter to hold; none where & or | is in it, which bind less tightly in pandas."""
    if where is None or any(isinstance(node, ast.BitAnd | ast.BitOr) for node in ast.walk(_parsed(where))):
        return []
    body = _parsed(where).body
    return body.values if isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And) else [body]


def _names(part: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}


def _texts(node: ast.expr) -> list[str]:
    """The constants of text that a column is compared with; empty where there are others."""
    parts = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    values = [part.value for part in parts if isinstance(part, ast.Constant)]
    texts = [value for value in values if isinstance(value, str)]
    return texts if len(texts) == len(parts) else []
