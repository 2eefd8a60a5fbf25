"""What of the site nobody writes, made out of the package when the site is built: a hook of mkdocs, named in mkdocs.yml.

A page for every method and every dataset, the numbers that papers print, and what stands in a written page in place of
`<!-- generated: NAME -->`.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import click
import site_pictures
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import xmbench
from xmbench import label_noise, metrics, pair_noise
from xmbench.catalogue import catalogue, describe
from xmbench.cli import cli
from xmbench.datasets import dataset_names
from xmbench.metrics import METRICS
from xmbench.noise import SCHEMES
from xmbench.published import PAPERS, provenance
from xmbench.published.citations import bibtex
from xmbench.registry import find_method, modules, parameters_of
from xmbench.spec import Protocol, shipped

ROOT = Path(__file__).resolve().parents[1]
METHODS = list(modules("baselines", "none"))  # neither plug-ins nor imported data of the machine that builds
DATASETS = [name for name in modules("xmbench.datasets", "none") if name != "synthetic"] + ["synthetic"]
TWIN = "synthetic_"

# Where files outside docs/, to which the documents link as they lie in the repository, stand in the site.
MOVED = {"](../xmbench/published/README.md)": "](published.md)", "](../reports/": "](reports/"}
_PICTURE = re.compile(r"\]\(\.\./(reports/[^)]+)\)")
_INSERT = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the sections Methods and Datasets of the navigation their pages."""
    for title, names in (("Methods", METHODS), ("Datasets", DATASETS)):
        (section,) = (entry[title] for entry in config.nav or [] if title in entry)
        section += [{name: f"{title.lower()}/{name}.md"} for name in names]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, the pictures of noise, and the committed figures that documents show."""
    pages = {f"methods/{name}.md": method_page(name) for name in METHODS}
    pages |= {f"datasets/{name}.md": dataset_page(name) for name in DATASETS}
    pages["published.md"] = published_page()
    for path, content in {**pages, **site_pictures.pictures()}.items():
        files.append(File.generated(config, path, content=content))
    shown = {path for page in Path(config.docs_dir).glob("*.md") for path in _PICTURE.findall(page.read_text("utf-8"))}
    for path in sorted(shown):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is generated, and turn links out of docs/ to where the files stand in the site."""
    for old, new in MOVED.items():
        markdown = markdown.replace(old, new)
    return _INSERT.sub(lambda found: INSERTS[found[1]](), markdown)


# ---- pages -----------------------------------------------------------------------------------------------


def method_page(name: str) -> str:
    """The page of a method: its docstring, what it declares, its parameters, published numbers, references and source."""
    cls, facts = find_method(name), describe(name)
    source = Path(str(inspect.getsourcefile(cls)))
    about = {
        "Reads": _reads(cls),
        "Modalities": facts["modalities"],
        "Labels": "several per item too" if cls.info.multi_label else "one per item, where it reads any",
        "Origin": facts["origin"],
        "Version": facts["version"],
        "File": f"`{source.relative_to(ROOT)}`",
    }
    parts = [f"# {name}", prose(facts["description"]), "## Facts", table(("what", "here"), about.items())]
    parts += ["## Parameters", f"Set by `--set {name}.PARAMETER=VALUE`.", _parameter_table(cls)]
    if numbers := facts["published numbers"]:
        parts += [
            "## Published numbers",
            "As the papers print them; [published numbers](../published.md) says how they were checked.",
        ]
        parts += [table(("where", "numbers"), [(escaped(key), escaped(text)) for key, text in numbers.items()])]
    if references := bibtex([name]):
        parts += ["## References", fenced(references, "bibtex")]
    parts += ["## Source { data-search-exclude }", fenced(source.read_text("utf-8"), "python")]
    return "\n\n".join(parts)


def dataset_page(name: str) -> str:
    """The page of a dataset: its card, whatever that says, its loader's docstring, its parameters and references."""
    card = describe(name)
    parameters, title = card.pop("parameters"), card.pop("title")
    loader = inspect.getmodule(inspect.unwrap(_loader(name)))
    parts = [f"# {name}", escaped(str(title)), prose(inspect.getdoc(loader) or ""), prose(inspect.getdoc(_loader(name)) or "")]
    plain = {key: value for key, value in card.items() if key not in ("name", "kind") and value not in (None, "", (), {}, [])}
    single = {key: value for key, value in plain.items() if not _is_group(value)}
    parts += ["## Card", table(("what", "here"), [(_title(key), shown(value)) for key, value in single.items()])]
    for key, value in plain.items():
        if _is_group(value):
            parts += [f"### {_title(key)}", group(value)]
    if parameters:
        parts += ["## Parameters", f"Set by `--set {name}.PARAMETER=VALUE`.", group(parameters)]
    if f"{TWIN}{name}" in dataset_names():
        parts += [
            "## Twin",
            f"`{TWIN}{name}` is drawn from a seed in the same shape: [synthetic twins](../data.md#synthetic-twins).",
        ]
    if references := bibtex([name]):
        parts += ["## References", fenced(references, "bibtex")]
    return "\n\n".join(parts)


def published_page() -> str:
    """Where the printed numbers are from, and what is odd about them, paper by paper."""
    parts = [provenance()]
    for name in PAPERS:
        facts = describe(name)
        counts = [(escaped(key), value) for key, value in facts["numbers by table"].items()]
        parts += [f"## {name}", escaped(facts["title"]), table(("table", "numbers"), counts), f"In doubt: {facts['in doubt']}."]
        if facts["odd"]:
            parts.append(table(("where", "what is odd"), [(escaped(key), escaped(text)) for key, text in facts["odd"].items()]))
    return "\n\n".join(parts)


# ---- parts of written pages ------------------------------------------------------------------------------


def methods() -> str:
    """A table of all methods, each with a link to its page."""
    lines = {row["name"]: row["description"] for row in catalogue("methods")}
    rows = [(f"[`{name}`]({name}.md)", escaped(lines[name]), _reads(find_method(name))) for name in METHODS]
    return table(("method", "what it is", "reads"), rows)


def datasets() -> str:
    """A table of all datasets, each with a link to its page."""
    cards = {name: describe(name) for name in DATASETS}
    rows = [(f"[`{name}`]({name}.md)", shown(card["title"]), _sizes(card["sizes"])) for name, card in cards.items()]
    return table(("dataset", "what it is", "items"), rows)


def schemes() -> str:
    """Every noise scheme with its options and picture, then where the schemes are from."""
    parts = []
    for name, scheme in SCHEMES.items():
        facts = describe(name)
        parts += [f"### {name}", f"{escaped(scheme.description)}. Corrupts: {scheme.kind}. Rates: {facts['rates']}."]
        if facts["options"]:
            rows = [(f"`noise.{key}`", escaped(text)) for key, text in facts["options"].items()]
            parts.append(table(("option", "what it chooses"), rows))
        if name in site_pictures.CAPTIONS:
            parts.append(picture(f"noise/{name}", site_pictures.CAPTIONS[name]))
    parts += ["## Where label noise is from", prose(label_noise.__doc__ or "")]
    parts += ["## Where noise of pairs is from", prose(pair_noise.__doc__ or "")]
    return "\n\n".join(parts)


def nested() -> str:
    """The picture of one draw at all rates."""
    return picture("noise/nested", site_pictures.CAPTIONS["nested"])


def protocols() -> str:
    """Every protocol as its file says it, and what its keys mean."""
    parts = [part for name in shipped("protocol") for part in _toml("protocols", name)]
    _, _, keys = (inspect.getdoc(Protocol) or "").partition("Attributes:\n")
    return "\n\n".join([*parts, "## Keys", prose(keys)])


def specs() -> str:
    """Every spec as its file says it."""
    return "\n\n".join(part for name in shipped("spec") for part in _toml("specs", name))


def layouts() -> str:
    """A table of the layouts, which are the tables of papers."""
    rows = [
        (f"`{row['name']}`", f"`{row['spec']}`" if row["spec"] else "", escaped(row["description"]))
        for row in catalogue("layouts")
    ]
    return table(("layout", "filled by the spec", "what it shows"), rows)


def all_metrics() -> str:
    """Every metric, and how ties count."""
    rows = [
        (f"`{m.name}`", escaped(m.description), m.relevance, "higher" if m.higher_is_better else "lower")
        for m in METRICS.values()
    ]
    parts = [table(("metric", "what it is", "relevance by", "better"), rows), "## How they are computed"]
    return "\n\n".join([*parts, prose(metrics.__doc__ or "")])


def commands() -> str:
    """The help text of every command, as the program prints it."""
    return "\n\n".join(_helps(cli, "xmbench", None))


def interface() -> str:
    """Directives that document every public name."""
    public = [(name, getattr(xmbench, name)) for name in xmbench.__all__]
    ours = {name: f"{thing.__module__}.{name}" for name, thing in public if thing.__module__.startswith("xmbench.")}
    return "\n\n".join(f"::: {ours.get(name, f'xmbench.{name}')}" for name, _ in public)  # xmbench.run is a module too


INSERTS: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (methods, datasets, schemes, nested, protocols, specs, layouts, all_metrics, commands, interface)
}


# ---- Markdown --------------------------------------------------------------------------------------------


def prose(docstring: str) -> str:
    """A docstring as Markdown: what is set apart stays as it is set, hanging paragraphs become lists, signs are signs."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = block.splitlines()
        if lines[0].startswith("    "):
            blocks.append(block)
            continue
        hanging = not any(line.startswith("- ") for line in lines) and any(line.startswith("    ") for line in lines[1:])
        written: list[str] = []
        for line in lines:
            starts = line.startswith("- ") or (hanging and not line.startswith(" "))
            if starts and written and not any(earlier.startswith("- ") for earlier in written):
                written.append("")
            text = escaped(line.removeprefix("- ").strip())
            written.append(f"- {text}" if starts else f"    {text}" if line.startswith(" ") else text)
        blocks.append("\n".join(written))
    return "\n\n".join(blocks)


def escaped(text: str) -> str:
    """A line of plain text whose signs mean nothing in Markdown; code between backticks is left alone."""
    pieces = text.replace("\n", " ").split("`")
    if len(pieces) % 2 == 0:
        pieces = [text.replace("\n", " ").replace("`", "'")]
    pieces[::2] = [re.sub(r"([\\*_{}\[\]#|])", r"\\\1", piece).replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)


def table(head: Sequence[str], rows: Any) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def fenced(text: str, language: str) -> str:
    """A block of code, long lines as they are."""
    return f"~~~~{language}\n{text.rstrip()}\n~~~~"


def picture(name: str, caption: str) -> str:
    """A picture in its two versions, one of which the theme shows, with its caption."""
    both = "".join(f"![{escaped(caption)}](images/{name}-{theme}.svg#only-{theme})" for theme in site_pictures.THEMES)
    return f"{both}\n\n*{escaped(caption)}*"


def shown(value: Any) -> str:
    """A single value in a cell, addresses as links."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{escaped(str(key))}: {shown(inner)}" for key, inner in value.items())
    text = f"{value:,}" if isinstance(value, int) else str(value)
    pieces = re.split(r"(https?://[^\s,;]+)", text)
    pieces[::2] = map(escaped, pieces[::2])
    pieces[1::2] = [f"<{address}>" for address in pieces[1::2]]
    return "".join(pieces)


def group(value: Any) -> str:
    """Several values as a table: a mapping by its keys; a list of mappings or dataclasses by their fields."""
    if isinstance(value, Mapping):
        if not any(_is_group(inner) or is_dataclass(inner) for inner in value.values()):
            return table(("name", "what it is"), [(f"`{key}`", shown(inner)) for key, inner in value.items()])
        value = [{"": f"`{key}`", **_as_mapping(inner)} for key, inner in value.items()]
    rows = [_as_mapping(inner) for inner in value]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [key for key in columns if any(row.get(key) not in (None, "", (), {}) for row in rows)]
    cells = [[row[key] if key == "" else "" if row.get(key) is None else shown(row[key]) for key in columns] for row in rows]
    return table([_title(key) for key in columns], cells)


def _as_mapping(value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    return dict(value) if isinstance(value, Mapping) else {"value": value}


def _is_group(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(inner, Mapping) or is_dataclass(inner) for inner in value)
    return isinstance(value, Mapping) and not all(isinstance(inner, int) for inner in value.values())


def _title(key: str) -> str:
    """A key in words; what is no word, such as a file's name, as it is."""
    return key.replace("_", " ").capitalize() if re.fullmatch("[a-z_]*", key) else f"`{key}`"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sizes.items())


# ---- what is read out of the package ---------------------------------------------------------------------


def _reads(cls: type) -> str:
    needs = cls.info.needs
    found = needs(cls()) if callable(needs) else needs
    return ", ".join(sorted(found)) + (" (depends on its parameters)" if callable(needs) else "")


def _parameter_table(cls: type) -> str:
    said, tried = _comments(cls), cls.info.search
    rows = []
    for field in fields(cls):
        values = ", ".join(f"`{value}`" for value in tried.get(field.name, ()))
        rows.append((f"`{field.name}`", f"`{parameters_of(cls)[field.name]!r}`", escaped(said.get(field.name, "")), values))
    return table(("parameter", "default", "what it is", "tried when tuned"), rows) if rows else "None."


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comment behind it, in the class or in one that it is derived from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base) and base.__module__.startswith("baselines."):
            found |= dict(re.findall(r"^ {4}(\w+): [^#\n]*# (.*)$", inspect.getsource(base), re.MULTILINE))
    return found


def _loader(name: str) -> Callable[..., Any]:
    from importlib import import_module

    loader: Callable[..., Any] = import_module(modules("xmbench.datasets", "none")[name]).load
    return loader


def _toml(kind: str, name: str) -> Iterator[str]:
    text = resources("xmbench").joinpath(kind, f"{name}.toml").read_text("utf-8")
    yield from (f"## {name}", fenced(text, "toml"))


def _helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100)
    yield f"## {context.command_path}"
    yield fenced(command.get_help(context), "text")
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _helps(command.commands[inner], inner, context)
