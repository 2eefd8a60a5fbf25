"""What the shell completes: names, lists of names, and run ids. Fast, so without torch, pandas, or a method's module.

To switch it on, in ~/.bashrc, ~/.zshrc, or ~/.config/fish/config.fish:

    eval "$(_XMBENCH_COMPLETE=bash_source xmbench)"
    eval "$(_XMBENCH_COMPLETE=zsh_source xmbench)"
    _XMBENCH_COMPLETE=fish_source xmbench | source
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, FishComplete, add_completion_class

_Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]
_RUN_ID = re.compile(r"[0-9a-f]{16}")


@add_completion_class
class Fish(FishComplete):
    """click's script for fish, which cuts a value off at its first comma."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')


def one(*kinds: str, files: bool = False) -> _Complete:
    """Completes one name of these kinds, keys of `_NAMES`; with `files`, a path where no name begins so."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> "list[CompletionItem[str]]":
        found = [CompletionItem(name) for name in _names(kinds, context) if name.startswith(begun)]
        return found or ([CompletionItem(begun, type="file")] if files else [])

    return complete


def several(*kinds: str) -> _Complete:
    """Completes the last of several names separated by commas, or by + as noise schemes may be; none a second time."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> "list[CompletionItem[str]]":
        before = begun[: len(begun) - len(re.split("[,+]", begun)[-1])]
        chosen = set(re.split("[,+]", before))
        names = (before + name for name in _names(kinds, context) if name not in chosen)
        return [CompletionItem(text) for text in names if text.startswith(begun)]

    return complete


def _names(kinds: Iterable[str], context: click.Context) -> list[str]:
    """All names of these kinds; none of a kind that cannot be read, since a shell has no place for an error."""
    names: dict[str, None] = {}
    for kind in kinds:
        try:
            names |= dict.fromkeys(sorted(_NAMES[kind](context)))
        except Exception:
            continue
    return list(names)


def _methods(_: click.Context) -> Iterable[str]:
    from xmbench.registry import method_names

    return method_names()


def _datasets(_: click.Context) -> Iterable[str]:
    from xmbench.datasets import dataset_names

    return dataset_names()


def _imported(_: click.Context) -> Iterable[str]:
    from xmbench.importing.care import listed

    return [row["name"] for row in listed()]


def _schemes(_: click.Context) -> Iterable[str]:
    from xmbench.noise import SCHEMES

    return SCHEMES


def _metrics(_: click.Context) -> Iterable[str]:
    from xmbench.metrics import METRICS

    return METRICS


def _papers(_: click.Context) -> Iterable[str]:
    from xmbench.published import PAPERS

    return PAPERS


def _cited(_: click.Context) -> Iterable[str]:
    from xmbench.published.citations import cited

    return cited()


def _shipped(folder: str, wanted: Callable[[str], bool] = bool) -> Callable[[click.Context], list[str]]:
    """What lists the TOML files of a folder of the package, those with a `wanted` content."""

    def names(_: click.Context) -> list[str]:
        paths = Path(__file__).with_name(folder).glob("*.toml")
        return [path.stem for path in paths if wanted(path.read_text("utf-8"))]

    return names


def _runs(context: click.Context) -> set[str]:
    """Ids of the runs in the store of --store: of results and logs the names of their files, of others what files hold."""
    store = Path(context.params.get("store") or "results")
    if store.is_file():
        import pyarrow.parquet as pq

        return set(pq.read_table(store, columns=["run_id"])["run_id"].to_pylist())
    found = {path.stem for folder in (store, store / "logs") for path in folder.glob("*.*")}
    if any(store.glob("compact/*.runs.parquet")):
        from xmbench.generations import generations

        for generation in generations(store / "compact"):
            found.update(generation.run_ids)
    return set(filter(_RUN_ID.fullmatch, found))


_NAMES: dict[str, Callable[[click.Context], Iterable[str]]] = {
    "methods": _methods,
    "imported": _imported,
    "datasets": _datasets,
    "noise": _schemes,
    "metrics": _metrics,
    "specs": _shipped("specs", lambda content: re.search("^methods *=", content, re.MULTILINE) is not None),
    "profiles": _shipped("specs", lambda content: re.search("^methods *=", content, re.MULTILINE) is None),
    "protocols": _shipped("protocols"),
    "layouts": _shipped("layouts"),
    "papers": _papers,
    "cited": _cited,
    "runs": _runs,
}
