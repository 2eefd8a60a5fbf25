"""What there is, for `xmbench list` and `xmbench info`."""

import ast
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmbench.cards import Parcel
from xmbench.datasets import dataset_card, dataset_names, dataset_parameters
from xmbench.metrics import METRICS
from xmbench.noise import SCHEMES
from xmbench.published import PAPERS, REPORTED, provenance, published_anomalies, published_results
from xmbench.registry import closest, find_method, method_names, modules, parameters_of
from xmbench.spec import describe as describe_toml
from xmbench.spec import load_protocol, shipped

if TYPE_CHECKING:
    import pandas as pd


def catalogue(kind: str) -> list[dict[str, Any]]:
    """One dictionary per item of `kind`; methods are not imported."""
    return _LISTS[kind]()


def describe(name: str) -> dict[str, Any]:
    """Everything about the item `name`, of whatever kind.

    Raises:
        LookupError: no such item.
    """
    sources: list[tuple[list[str], Callable[[str], dict[str, Any]]]] = [
        (method_names(), _method),
        (dataset_names(), dataset_facts),
        (list(SCHEMES), _scheme),
        (list(METRICS), _metric),
        (shipped("spec"), lambda spec: {"name": spec, "kind": "spec", **describe_toml("spec", spec)}),
        (shipped("protocol"), lambda protocol: {"name": protocol, "kind": "protocol", **vars(load_protocol(protocol))}),
        (list(PAPERS), _paper),
        (list(dict.fromkeys(published_results()["method"])), _reported),
    ]
    for names, found in sources:
        if name in names:
            return found(name)
    raise closest(
        "method, dataset, noise scheme, metric, spec, protocol, paper or published method",
        name,
        [n for names, _ in sources for n in names],
    )


def _methods() -> list[dict[str, Any]]:
    origins = modules("baselines", "xmbench.methods")
    return [
        {"name": name, "module": origins.get(name, ""), "description": _first_line(origins.get(name, ""))}
        for name in method_names()
    ]


def _first_line(module: str) -> str:
    """First line of a module's docstring, read without importing it; "" where it cannot be read."""
    try:
        spec = importlib.util.find_spec(module)
        source = Path(spec.origin).read_text("utf-8") if spec is not None and spec.origin else ""
        return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""


def _datasets() -> list[dict[str, Any]]:
    from xmbench.datasets import is_ready

    rows = []
    names = dataset_names()
    for name in names:
        if name.startswith("synthetic_"):  # a twin stands in the line of its original
            continue
        card = dataset_card(name)
        state = "ready" if is_ready(card) else "to download" if card.downloadable else "missing"
        rows.append(
            {
                "name": name,
                "here": state,
                "pairs": "/".join(map(str, card.sizes.values())),
                "twin": f"synthetic_{name}" if f"synthetic_{name}" in names else "",
                "title": card.title,
                "licence": card.licence,
            }
        )
    return rows


def _method(name: str) -> dict[str, Any]:
    cls = find_method(name)
    needs = cls.info.needs
    return {
        "name": name,
        "kind": "method",
        "version": cls.info.version,
        "reads": "depends on its parameters" if callable(needs) else ", ".join(sorted(needs)),
        "modalities": f"up to {cls.info.max_modalities}" if cls.info.max_modalities else "any number",
        "parameters": parameters_of(cls),
        "searched when tuned": {name: ", ".join(map(str, values)) for name, values in cls.info.search.items()},
        "origin": "re-implementation from a description" if cls.info.from_description else "paper or released code",
        "published numbers": _numbers(published_results().query("registered == @name")),
        "description": inspect.getdoc(inspect.getmodule(cls)) or inspect.getdoc(cls) or "",
    }


def dataset_facts(name: str) -> dict[str, Any]:
    """The card of a dataset, and where its files are to be had and to be put."""
    card = dataset_card(name)
    defaults = dataset_parameters(name)
    chosen = {key: f"{text} [default: {defaults.get(key)}]" for key, text in card.parameters.items()}
    facts = {key: value for key, value in vars(card).items() if key not in ("folder", "parcels")}
    facts |= {"kind": "dataset", "parameters": chosen, "folder": f"XMBENCH_DATA/{card.place}/"}
    return facts | {", ".join(parcel.files): _parcel_facts(parcel) for parcel in card.parcels}


def _parcel_facts(parcel: Parcel) -> dict[str, str]:
    """Where files are from, and what is known of them."""
    facts = {
        "needed": "" if parcel.needed else "not by default",
        "download": " or ".join(parcel.urls) or "by hand alone",
        "bytes": f"{parcel.size:,}" if parcel.size else "",
        "out of it": ", ".join(parcel.members),
        "then": "; ".join(parcel.then),
        "by hand": parcel.note,
        "dead": ", ".join(parcel.dead),
        "sha256": ", ".join(f"{sha256} {name}" for name, sha256 in parcel.files.items() if sha256) or "not known",
    }
    return {key: text for key, text in facts.items() if text}


def _scheme(name: str) -> dict[str, Any]:
    scheme = SCHEMES[name]
    bracket = "]" if scheme.inclusive else ")"
    options = {key: f"{text} [{kind.__name__}, default: {default}]" for key, (kind, default, text) in scheme.options.items()}
    return {
        "name": name, "kind": f"noise ({scheme.kind})", "version": scheme.version, "rates": f"[0, {scheme.max_rate:g}{bracket}",
        "description": scheme.description, "options": options,
    }  # fmt: skip


def _metric(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    better = "higher" if metric.higher_is_better else "lower"
    return {"name": name, "kind": "metric", "relevance": metric.relevance, "better": better, "description": metric.description}


def _reported(name: str) -> dict[str, Any]:
    """A method of the papers that has no network of this name here."""
    rows = published_results()
    rows = rows[rows["method"] == name]
    system = REPORTED.get(name, rows["method_label"].iloc[0])
    return {"name": name, "kind": "published numbers", "here": _here(name), "system": system, "numbers": _numbers(rows)}


def _paper(name: str) -> dict[str, Any]:
    """A paper whose numbers are in the package: how many, what is odd about them, and where they are from."""
    numbers, odd = (rows[rows["paper"] == name] for rows in (published_results(), published_anomalies()))
    which = ["table", "dataset", "method", "noise_rate", "direction", "metric"]
    where = [", ".join(filter(None, [f"Table {table}", *map(str, rest)])) for table, *rest in odd[which].to_numpy().tolist()]
    return {
        "name": name,
        "kind": "paper",
        "title": PAPERS[name],
        "numbers by table": {f"Table {table}": len(part) for table, part in numbers.groupby("table", sort=False)},
        "in doubt": int(numbers["suspect"].sum()),
        "odd": {f"{place} ({kind})": text for place, kind, text in zip(where, odd["kind"], odd["detail"], strict=True)},
        "provenance": provenance(),
    }


def _numbers(rows: "pd.DataFrame") -> dict[str, str]:
    """Published numbers by table, setting and direction, with what is doubtful about them."""
    by = ["paper", "table", "dataset", "setting", "noise_type", "noise_rate", "direction", "method_label"]
    numbers = {}
    for (paper, table, *setting, noise, rate, direction, label), part in rows.groupby(by, sort=False, dropna=False):
        noise_words = f"{noise} {rate:g}" if rate == rate else str(noise)
        where = [f"{paper} Table {table}", *map(str, setting), noise_words, str(direction), str(label)]
        printed = zip(part["metric"], part["printed"], part["note"], strict=True)
        numbers[", ".join(filter(None, where))] = ", ".join(
            f"{metric} {value}{f' [{note}]' if note else ''}" for metric, value, note in printed
        )
    return numbers


def _here(name: str) -> str:
    """What there is of a published method in this package."""
    if name in REPORTED:
        return "nothing: published numbers only, no network"
    return str(published_results().set_index("method")["registered"][name].iloc[0]) or "no method of that name"


def _published() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "here": _here(str(name)),
            "label": part["method_label"].iloc[0],
            "numbers": len(part),
            "tables": ", ".join(dict.fromkeys(part["paper"] + " " + part["table"])),
        }
        for name, part in published_results().groupby("method", sort=False)
    ]


def _layouts() -> list[dict[str, Any]]:
    from xmbench.report.layouts import layout_names, load_layout

    layouts = [load_layout(name) for name in layout_names()]
    return [{"name": layout.name, "spec": layout.spec, "description": layout.title} for layout in layouts]


_LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "methods": _methods,
    "datasets": _datasets,
    "noise": lambda: [{"name": s.name, "kind": s.kind, "description": s.description} for s in SCHEMES.values()],
    "metrics": lambda: [{"name": m.name, "relevance": m.relevance, "description": m.description} for m in METRICS.values()],
    "specs": lambda: [{"name": name, "description": describe_toml("spec", name)["description"]} for name in shipped("spec")],
    "published": _published,
    "layouts": _layouts,
    "protocols": lambda: [{"name": name, "description": load_protocol(name).description} for name in shipped("protocol")],
}
