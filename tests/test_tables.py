"""The table engine: cells worked out by hand, layouts against the tables that papers print, and four formats of one table."""

import itertools
import os
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from test_report import FakeStore, rows_of, run

from xmbench.cli import main
from xmbench.published.terms import published_cells
from xmbench.report import NothingToReport, render, tables
from xmbench.report.aggregate import aggregated
from xmbench.report.captions import place
from xmbench.report.groups import Reader, group_rows
from xmbench.report.layouts import AGGREGATES, Layout, layout_names, load_layout
from xmbench.report.markup import latex
from xmbench.report.rendering import render_table
from xmbench.report.tables import make_table
from xmbench.schema import COLUMNS
from xmbench.store import save_rows

PAPER_TABLES = [name for name in layout_names() if load_layout(name).of_a_paper]
TOOLS = all(map(shutil.which, ("pdflatex", "pdftotext", "pdftoppm")))
NO_LATEX = pytest.mark.skipif(not TOOLS and "CI" not in os.environ, reason="pdflatex and poppler-utils are not installed")
AWKWARD = r"a_b % & # $x$ {y} ~ ^ \z <script>|`*[é图"
BY_RATE = Layout(name="own", cols=("noise_rate",), metrics=("map",))
BY_DATASET = Layout(name="own", cols=("dataset", "noise_rate"), metrics=("map",))


def groups_of(rows):
    return group_rows(pd.DataFrame(rows))


def text_of(rows, layout, suffix="md", **options):
    return render_table(make_table(groups_of(rows), layout, stem="t", **options), suffix)


def lines_of(text):
    """Head -> cells of each line of the tables in a Markdown text."""
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    return {head: cells for head, *cells in lines}


# ---- aggregates ---------------------------------------------------------------------------------------------

THREE = [row for seed, value in enumerate((0.2, 0.4, 0.9)) for row in rows_of(run("ce", 0.4, seed), value)]


@pytest.mark.parametrize(
    ("agg", "shown", "words"),
    [  # mean .5; deviation sqrt((.09 + .01 + .16) / 2) = .3606
        ("mean±std", "**0.500**±0.361", "Mean ± standard deviation over seeds;"),
        ("mean±ci95", "**0.500**", "intervals are over nothing, for want of seeds or of values per query."),
        ("median", "**0.400**", "Median over seeds;"),
        ("best", "**0.900**", "Best seed of each cell, chosen by the number shown, which flatters;"),
    ],
)
def test_cells_are_those_worked_out_by_hand(agg, shown, words):
    text = text_of(THREE, replace(load_layout("map"), agg=agg))
    assert f"**Image → Text**\n\n| Method | 0.4 |\n|---|---|\n| `ce` | {shown} |" in text
    assert words in text


CI95 = replace(load_layout("map"), agg="mean±ci95")


def test_intervals_of_five_seeds_without_values_per_query_are_over_seeds():
    rows = [row for seed, value in enumerate((0.3, 0.4, 0.5, 0.6, 0.7)) for row in rows_of(run("ce", 0.4, seed), value)]
    text = text_of(rows, CI95)  # deviation sqrt(.1 / 4) = .1581; t of 4 degrees of freedom 2.7764: 2.7764 * .1581 / sqrt(5)
    assert "| `ce` | **0.500**±0.196 |" in text
    assert "Mean ± half the 95 % confidence interval;" in text
    assert "Confidence intervals are over seeds alone." in text


def test_intervals_of_fewer_seeds_are_over_queries_and_say_so():
    queries = {"image2text": [0.2, 0.4, 0.6, 0.8], "text2image": [0.3, 0.5, 0.7, 0.9]}
    arrays = {
        f"per_query/test/best_valid/mean/{direction}/map": np.array(part, np.float32) for direction, part in queries.items()
    }
    rows = THREE + rows_of(run("mrl", 0.4), 0.3)
    store = FakeStore(rows, {row["run_id"]: arrays for row in THREE})
    text = text_of(rows, CI95, reader=Reader(store))
    # deviation sqrt((.09 + .01 + .01 + .09) / 3) = .2582 in each direction; t of 3 degrees: 3.1824 * .2582 / 2
    assert lines_of(text)["`ce`"] == ["**0.550**±0.411"], "of the average, the last table"
    assert (
        "Confidence intervals are over nothing, for want of seeds or of values per query: mrl; "
        "queries (training variance not included): ce." in text
    )


@pytest.mark.parametrize("agg", AGGREGATES)
def test_one_seed_has_no_spread(agg):
    assert "| `ce` | **0.500** |" in text_of(rows_of(run("ce"), 0.5), replace(load_layout("map"), agg=agg))


def test_the_best_of_a_rank_is_the_lowest():
    values = pd.DataFrame({"metric": ["medr"] * 2 + ["map"] * 2, "value": [9.0, 5.0, 0.1, 0.3], "chance": np.nan})
    assert aggregated(values, ["metric"])["best"].to_dict() == {"medr": 5.0, "map": 0.3}


def test_nan_values_are_no_numbers():
    rows = [row | {"value": np.nan} if row["seed"] else row for row in THREE]
    assert lines_of(text_of(rows, load_layout("map")))["`ce`"] == ["**0.250** (1/3)"], "of the average, the last table"
    assert "| `ce` | – |" in text_of([row | {"value": np.nan} for row in THREE[:-9]] + rows_of(run("mrl", 0.4), 0.5), BY_RATE)


# ---- what meets in a table ----------------------------------------------------------------------------------


def test_runs_of_different_protocols_stand_apart_under_letters_that_a_footnote_explains():
    other = {"protocol": "noisy_valid", "protocol_sha": "fedcba9876543210", "valid_labels": "noisy"}
    rows = rows_of(run("ce"), 0.5) + rows_of(run("mrl"), 0.4) + rows_of(run("ce", **other), 0.3)
    text = text_of(rows, BY_DATASET)
    assert "**wikipedia<sup>a</sup>**" in text
    assert "**wikipedia<sup>b</sup>**" in text
    first, second = text.split("<sup>b</sup>**")
    assert "| `ce` | **0.550** |" in first
    assert "| `mrl` | <u>0.450</u> |" in first
    assert "| `ce` | **0.350** |" in second, "ranked among its own"
    note = next(line for line in text.splitlines() if line.startswith("Runs of different settings"))
    assert "(a) protocol default (01234567)" in note
    assert "(b) protocol noisy\\_valid (fedcba98)" in note
    assert r"Wikipedia$^{a}$".lower() in text_of(rows, BY_DATASET, "tex")


def test_datasets_of_one_protocol_need_no_letters():
    rows = rows_of(run("ce"), 0.5) + rows_of(run("ce", dataset="nus_wide"), 0.3)
    text = text_of(rows, BY_DATASET)
    assert "<sup>" not in text
    assert "different settings" not in text


def test_other_noise_draws_in_a_column_are_marked():
    rows = [row for name in ("ce", "mrl") for row in rows_of(run(name, 0.4), 0.5)] + rows_of(
        run("pls", 0.4, noise_sha="x"), 0.2
    )
    text = text_of(rows, BY_RATE)
    assert "| `pls` | <u>0.250</u>§ |" in text
    assert "§: under other draws of the noise than most methods: pls at 0.4." in text
    assert "§" not in text_of([row for row in rows if row["method"] != "pls"], BY_RATE)


def test_two_machines_make_one_table():
    rows = [row | {"device": f"cuda{row['seed']}", "threads": row["seed"], "versions": str(row["seed"])} for row in THREE]
    assert text_of(rows, BY_RATE) == text_of(THREE, BY_RATE)


def test_letters_of_significance_stand_in_place_of_ranks(monkeypatch):
    monkeypatch.setattr(tables, "table_letters", lambda reader, columns, _: [{"ce": "a", "mrl": "b"}] * len(columns))
    rows = rows_of(run("ce"), 0.5) + rows_of(run("mrl"), 0.4) + rows_of(run("pls"), 0.2)
    text = text_of(rows, BY_RATE, reader=Reader(FakeStore(rows)), lettered=True)
    assert lines_of(text) | {"`ce`": ["0.550<sup>a</sup>"], "`mrl`": ["0.450<sup>b</sup>"], "`pls`": ["0.250"]} == lines_of(
        text
    )
    assert "methods of a column that share a letter are not separable" in text
    assert "No letter, for want of values per query or of a seed in common with each of the others: pls." in text
    assert "0.550$^{a}$" in text_of(rows, BY_RATE, "tex", reader=Reader(FakeStore(rows)), lettered=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": ("method",), "cols": ("method",)}, "none twice"),
        ({"rows": ("method",), "cols": ("seed",)}, "must be of dataset,"),
        ({"rows": ("method",), "cols": ("dataset",)}, "put noise_rate in rows or columns"),
        ({"agg": "mode"}, "agg must be of mean±std"),
    ],
)
def test_a_layout_that_makes_no_sense_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        Layout(name="own", **options)


# ---- the papers' tables -------------------------------------------------------------------------------------


def printed(layout):
    cells = published_cells(layout.paper)
    return cells[cells["table"] == layout.table]


def paper_rows(layout, seeds=(0,)):
    """Rows of runs that reach the printed numbers, seed 1 a hundredth more."""
    rows = []
    for (dataset, rate, method), part in printed(layout).groupby(["dataset", "noise_rate", "method"]):
        for here in [name for name in layout.same.get(method, ()) if method == "scan"] or [method]:
            for seed in seeds:
                what = {"dataset": dataset, "dataset_params": "{}", "noise_scheme": layout.where["noise_scheme"]}
                facts = run(here, rate, seed, noise_sha=f"{dataset}{rate}{seed}", **what)
                main = "map" if layout.paper in ("mrl2021", "labelwise2021") else "rsum"
                numbers = {("test", "mean", main): 0.5} | {
                    (split, "mean", main): 0.5 for split in part["split"] if split != "train"
                }
                numbers |= {tuple(k): v for *k, v in part[["split", "direction", "metric", "value"]].itertuples(index=False)}
                common = facts | {"network": "mean", "selection": "best_valid", "chance": np.nan}
                rows += [
                    common | {"split": split, "direction": direction, "metric": metric, "value": value + seed / 100}
                    for (split, direction, metric), value in numbers.items()
                ]
    return rows


def groups_for(layout, rows):
    wanted = layout.values("dataset") or (layout.where["dataset"],)
    return sorted((g for g in groups_of(rows) if place(g) in wanted), key=lambda group: wanted.index(place(group)))


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_layout_has_the_cells_that_the_paper_prints(name):
    layout = load_layout(name).with_metrics(load_layout(name).metrics)
    dimensions = "dataset noise_rate method direction metric".split()
    crossed = itertools.product(layout.fixed_rows(), layout.fixed_cols())
    common = {"metric": layout.metrics[0]} | dict(layout.where)
    known = [common | dict(zip(layout.dimensions, (*row, *col), strict=True)) for (_, row), col in crossed]
    here = {tuple(cell[name] for name in dimensions) for cell in known}
    cells = printed(layout)
    places = cells["dataset"] + cells["split"].map(lambda split: f":{split[5:]}" if split.startswith("test:") else "")
    there = set(zip(places, cells["noise_rate"], cells["method"], cells["direction"], cells["metric"], strict=True))
    unprinted = {cell for cell in here - there if cell[2] in ("saf", "sgr", "sgraf") and cell[4] == "r@5"}
    assert here - unprinted == there
    assert not unprinted or name in ("ncr_table2", "lnc_table10"), "of MS-COCO 5K the SGRAF paper has no R@5"
    assert layout.spec == name


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_layout_shows_our_numbers_with_the_papers_below_them(name):
    layout = load_layout(name)
    table = make_table(groups_for(layout, paper_rows(layout)), layout, stem=name, published=published_cells(layout.paper))
    cells = [cell for row in table.rows for cell in row.cells]
    italics = [cell.text for cell in cells if cell.published]
    assert sorted(italics) == sorted(printed(layout)["printed"])
    assert not any(cell.rank for cell in cells if cell.published)
    assert any(cell.rank == 1 for cell in cells)
    assert not any(cell.text == "×" for cell in cells)


def test_half_done_reproduction_looks_like_the_paper_with_gaps():
    layout = load_layout("mrl_table1")
    rows = rows_of(run("mrl", 0.4, dataset="wikipedia_deep"), 0.48)
    table = make_table(groups_of(rows), layout, stem="t")
    assert [row.heads[0].text for row in table.rows] == [*layout.heads["method"].values()]
    assert [[head.text for head in heads] for heads in table.cols][:5] == [
        *(["Wikipedia", "Image → Text", rate] for rate in ("0.2", "0.4", "0.6", "0.8")),
        ["Wikipedia", "Text → Image", "0.2"],
    ]
    assert [cell.text for cell in table.rows[-1].cells] == ["–", "0.480", "–", "–", "–", "0.580", *"–" * 10]
    assert {cell.text for row in table.rows[:-1] for cell in row.cells} == {"–"}
    assert table.rows[-1].rule == 0, "the paper's own method stands below a rule"


def test_misprints_are_told():
    layout = load_layout("labelwise_table1")
    published = published_cells("labelwise2021")
    text = render_table(make_table(groups_for(layout, paper_rows(layout)), layout, stem="t", published=published), "md")
    assert "In italics: numbers that papers print, in rows of their own; not ranked, and no results of runs." in text
    assert "Printed numbers in doubt. labelwise, 2021, coco5k-labelwise, dscmr at 0: " in text


def test_papers_stand_beside_our_own_tables_too():
    rows = rows_of(run("mrl", 0.4, dataset="wikipedia_deep"), 0.48) + rows_of(run("pls", 0.4, dataset="wikipedia_deep"), 0.3)
    lines = lines_of(text_of(rows, load_layout("map"), published=published_cells("mrl2021")).split("**Text")[0])
    assert lines["`mrl`"] == ["**0.480**"]
    assert lines["`mrl` (MRL, 2021)"] == ["*0.491*"]
    assert lines["`pls` (MRL, 2021)"] == ["*0.337*"]
    assert "`mcca` (MRL, 2021)" not in lines, "no run of it to stand beside"


# ---- formats ------------------------------------------------------------------------------------------------


class Grid(HTMLParser):
    """The texts of the first table as a grid, with what spans several rows or columns repeated."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.row, self.spans, self.inside = {}, -1, (1, 1), False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        spans = dict(attributes)
        if tag == "tr":
            self.row += 1
        elif tag in ("td", "th"):
            self.inside, self.text = True, ""
            self.spans = int(spans.get("rowspan", 1)), int(spans.get("colspan", 1))

    def handle_data(self, data):
        self.text = getattr(self, "text", "") + data if self.inside else ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False
            column = next(i for i in range(10_000) if (self.row, i) not in self.cells)
            spanned = [(self.row + i, column + j) for i in range(self.spans[0]) for j in range(self.spans[1])]
            self.cells |= dict.fromkeys(spanned, self.text.strip())


def test_html_holds_the_cells():
    layout = load_layout("lnc_table1")
    table = make_table(groups_for(layout, paper_rows(layout, (0, 1))), layout, stem="t", published=published_cells("lnc2024"))
    cells = Grid(render_table(table, "html")).cells
    top = next(row for row, column in cells if cells[row, column] == "0 %")
    assert [[cells[level, 2 + i] for level in range(3)] for i in range(12)] == [[h.text for h in heads] for heads in table.cols]
    for i, row in enumerate(table.rows):
        assert [cells[top + i, level] for level in (0, 1)] == [head.text + head.after for head in row.heads]
        expected = [cell.text + (f"±{cell.spread}" if cell.spread else "") for cell in row.cells]
        assert [cells[top + i, 2 + j] for j in range(12)] == expected


def awkward_rows(n_methods=1, rate=0.4):
    names = [AWKWARD, *(f"m_{i}%" for i in range(n_methods - 1))]
    return [row for i, name in enumerate(names) for row in rows_of(run(name, rate, dataset=AWKWARD), 0.3 + i / 10_000)]


def test_names_stay_text_in_every_format():
    text, page = (text_of(awkward_rows(), BY_DATASET, suffix) for suffix in ("md", "html"))
    assert "<script>" not in page
    assert AWKWARD in Grid(page).cells.values()
    assert r"**a\_b % & # $x$ {y} ~ ^ \\z \<script\>\|\`\*\[é图**" in text
    assert f"| `{AWKWARD.replace('`', chr(39)).replace('|', chr(92) + '|')}` |" in text


def compiled(folder, text):
    """What pdflatex says of a document, which must compile with nothing cut off."""
    (folder / "t.tex").write_text(text, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "too large" not in done.stdout
    return done.stdout


@NO_LATEX
def test_the_papers_tables_and_awkward_names_compile(tmp_path):
    layout = load_layout("mrl_table1")
    table = make_table(groups_for(layout, paper_rows(layout)), layout, stem="t", published=published_cells("mrl2021"))
    assert "(1 page" in compiled(tmp_path, render_table(table, "tex"))
    assert "(1 page" in compiled(tmp_path, text_of(awkward_rows(), BY_DATASET, "tex"))


@NO_LATEX
def test_500_methods_go_over_several_pages_with_their_heads(tmp_path):
    text = text_of(awkward_rows(500), BY_DATASET, "tex")
    assert text.count(r"\begin{longtable}") == 1
    assert text.count(r"\cmidrule(lr){2-2}") == 2, "under the heads of the first page and of the others"
    compiled(tmp_path, text)  # twice, since a longtable learns its widths
    pages = int(compiled(tmp_path, text).split("(")[-1].split(" page")[0])
    assert 8 < pages < 16


# ---- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Run `xmbench report` on a store with two datasets; returns exit code, the files' names and what went to stderr."""
    monkeypatch.chdir(tmp_path)
    rows = THREE + rows_of(run("mrl", 0.4), 0.5) + rows_of(run("ce", 0.4, dataset="nus_wide"), 0.3)
    frame = pd.DataFrame([row | {"schema_version": 1} for row in rows])
    save_rows(frame.reindex(columns=list(COLUMNS)), tmp_path / "store.parquet")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["xmbench", "report", "--store", "store.parquet", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        return done.value.code, [line.removeprefix("reports/") for line in said.out.splitlines()], said.err

    return call


def test_a_table_of_ones_own(report, tmp_path):
    code, files, _ = report("--rows", "dataset,method", "--cols", "noise_rate", "--agg", "mean+-ci95")
    assert code == 0
    assert files == [
        *(f"symmetric_map_table.{suffix}" for suffix in ("tex", "md", "html", "csv")),
        "provenance.csv",
        "index.md",
    ]
    text = (tmp_path / "reports" / "symmetric_map_table.md").read_text("utf-8")
    assert "**wikipedia**" in text
    assert "| `ce` | **0.550** |" in text
    assert "for want of seeds" in text
    csv = pd.read_csv(tmp_path / "reports" / "symmetric_map_table.csv").set_index(["dataset", "method", "direction"])
    assert csv.loc[("wikipedia", "ce", "mean"), ["mean", "median", "best", "n"]].tolist() == pytest.approx(
        [0.55, 0.45, 0.95, 3]
    )
    index = (tmp_path / "reports" / "index.md").read_text("utf-8")
    assert index.count("- [symmetric_map_table.md]") == 2, "below each of the groups it shows"


def test_a_table_of_each_group_where_it_shows_no_dataset(report):
    _, files, _ = report("--cols", "noise_rate", "--where", "noise_rate == 0.4")
    assert [name for name in files if name.endswith(".md")] == [
        "nus_wide_symmetric_table.md",
        "wikipedia_symmetric_table.md",
        "index.md",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--table", "lnc_tabel1"], 2, "no table named 'lnc_tabel1'; did you mean 'lnc_table1'?"),
        (["--rows", "metod"], 2, "no dimension named 'metod'; did you mean 'method'?"),
        (["--agg", "mean"], 2, "no --agg named 'mean'"),
        (["--published", "mrl"], 2, "did you mean 'mrl2021'?"),
        (["--table", "lnc_table1"], 6, "`xmbench run --spec lnc_table1`"),
        (["--where", "method == 'x'", "--table", "mrl_table1"], 6, "no finished run"),
        (["--metric", "r@1", "--cols", "noise_rate"], 6, "has a number for table (r@1"),
    ],
)
def test_what_cannot_be_shown_is_said(report, arguments, code, message):
    found, files, said = report(*arguments)
    assert (found, files) == (code, [])
    assert message in said


def test_empty_store(tmp_path):
    frame = pd.DataFrame(columns=list(rows_of(run("ce"))[0]))
    with pytest.raises(NothingToReport):
        render(FakeStore(frame), tmp_path, layouts=[load_layout("mrl_table1")])


# ---- what a table of a paper shows, and what not ------------------------------------------------------------

DEEP = {"dataset": "wikipedia_deep", "dataset_params": "{}"}


def layout_files(tmp_path, rows, name):
    """Stem -> Markdown of the tables of a layout."""
    store = FakeStore(rows)
    render(store, tmp_path, kinds=(), layouts=[load_layout(name)])
    return {path.stem: path.read_text("utf-8") for path in tmp_path.glob("*.md") if path.stem != "index"}


def test_two_protocols_never_share_a_table_that_names_none(tmp_path):
    rows = [
        *rows_of(run("mrl", 0.4, **DEEP), 0.5),
        *rows_of(run("mrl", 0.4, **DEEP, protocol="noisy_valid", protocol_sha="f" * 16), 0.3),
    ]
    files = layout_files(tmp_path, rows, "mrl_table3")
    assert len(files) == 2
    shown = {lines_of(text)["Full MRL"][1] for text in files.values()}
    assert shown == {"**0.600**", "**0.400**"}, "of text to image, the last table"


def test_methods_that_a_paper_does_not_show_take_no_mark_and_are_not_named(tmp_path):
    values = {"elr": 0.9, "sdml": 0.8, "mrl": 0.5, "ce": 0.4}
    rows = [row for name, value in values.items() for row in rows_of(run(name, 0.4, **DEEP), value)]
    rows += rows_of(run("mrl", 0.1, **DEEP), 0.7)  # a rate that the table has no column for
    ((_, text),) = layout_files(tmp_path, rows, "mrl_table3").items()
    lines = lines_of(text)
    assert (lines["Full MRL"][1], lines["CE"][1]) == ("**0.600**", "<u>0.500</u>"), "of text to image"
    assert "2 runs" in text
    provenance = pd.read_csv(tmp_path / "provenance.csv")
    assert set(" ".join(provenance["run_ids"]).split()) == {
        row["run_id"] for row in rows[-27:-9] if row["method"] in ("mrl", "ce")
    }


def test_groups_that_their_heads_do_not_tell_apart_have_letters():
    rows = rows_of(run("ce"), 0.5) + rows_of(run("ce", noise_options='{"shared": true}'), 0.3)
    text = text_of(rows, Layout(name="own", cols=("noise_scheme", "noise_rate"), metrics=("map",)))
    assert "symmetric<sup>a</sup>" in text
    assert "symmetric<sup>b</sup>" in text
    assert "not to be compared across letters" in text


def test_twenty_seven_settings_have_twenty_seven_letters():
    rows = [row for i in range(27) for row in rows_of(run("ce", protocol_sha=f"{i:08d}" + 8 * "0"), 0.5)]
    text = text_of(rows, BY_DATASET)
    assert all(f"<sup>{letter}</sup>" in text for letter in ("a", "z", "aa"))


def test_two_numbers_for_one_cell_are_refused():
    rows = rows_of(run("ce"), 0.5) + rows_of(run("ce", dataset="nus_wide"), 0.3)
    with pytest.raises(ValueError, match="numbers fall on"):
        text_of(rows, BY_RATE)


def test_printed_numbers_stand_under_their_own_noise():
    schemes = ("pair_flip", "symmetric")
    rows = [row for name in schemes for row in rows_of(run("mrl", 0.4, **DEEP, noise_scheme=name), 0.5)]
    own = Layout(name="own", cols=("noise_scheme", "direction", "noise_rate"), metrics=("map",))
    (table,) = (make_table(groups_of(rows), own, stem="t", published=published_cells("mrl2021")),)
    printed = {
        tuple(head.text for head in col): cell.text
        for row in table.rows
        for col, cell in zip(table.cols, row.cells, strict=True)
        if cell.published
    }
    assert {head[0] for head, text in printed.items() if text} == {"symmetric"}


@pytest.mark.parametrize("options", [["--dataset", "nonsense"], ["--rates", "0.4"], ["--seeds", "2"], ["--set", "mrl.beta=1"]])
def test_options_of_a_grid_without_a_grid_are_refused(report, options):
    code, files, said = report(*options)
    assert (code, files) == (2, [])
    assert f"{options[0]}: of a grid, which begins with --methods or --spec" in said


# ---- LaTeX, compiled ----------------------------------------------------------------------------------------

LATIN = [chr(code) for code in range(0xA1, 0x180)]


def page_texts(folder):
    """The text of each page of t.pdf."""
    done = subprocess.run(["pdftotext", "-layout", "t.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split("\f")[:-1]


@NO_LATEX
@pytest.mark.parametrize("encoding", ["", r"\usepackage[T1]{fontenc}"], ids=["OT1", "T1"])
def test_every_letter_of_latin_scripts_and_rows_that_begin_like_an_option_compile(tmp_path, encoding):
    lines = [r"\documentclass{article}", encoding, r"\usepackage{booktabs}", r"\begin{document}", r"\begin{tabular}{ll}"]
    lines += [rf"{latex(head)} & one \\" for head in ("x", "[x] y", "*y", " [z", "ễ図")]
    lines += [r"\midrule", rf"{latex('[5mm] m')} & end \\", r"\end{tabular}", ""]
    lines += [rf"{latex(' '.join(LATIN[i : i + 16]))}\par" for i in range(0, len(LATIN), 16)]
    compiled(tmp_path, "\n".join([*lines, r"\end{document}"]))
    (text,) = page_texts(tmp_path)
    shown = [line.split()[:-1] for line in text.splitlines() if line.endswith(("one", "end"))]
    assert shown == [["x"], ["[x]", "y"], ["*y"], ["[z"], ["e?"], ["[5mm]", "m"]]


def test_letters_that_the_default_fonts_lack_become_their_base():
    assert latex("Dąbrowa Ųđ e\u0301 x ŋ ﬁ") == "Dabrowa Ud é x ? fi"


@NO_LATEX
@pytest.mark.slow
def test_all_tables_of_the_papers_compile_and_are_no_blank_pages(tmp_path):
    documents = []
    for name in PAPER_TABLES:
        layout = load_layout(name)
        table = make_table(groups_for(layout, paper_rows(layout)), layout, stem=name, published=published_cells(layout.paper))
        documents.append(render_table(table, "tex"))
    preambles, bodies = zip(*(text.split(r"\begin{document}") for text in documents), strict=True)
    highest = max(preambles, key=lambda text: int(text.split("paperheight=")[1].split("mm")[0]))
    body = "\\clearpage\n".join(text.split(r"\end{document}")[0] for text in bodies)
    compiled(tmp_path, f"{highest}\\begin{{document}}\n{body}\\end{{document}}")
    subprocess.run(["pdftoppm", "-r", "40", "-gray", "t.pdf", "t"], cwd=tmp_path, check=True)
    pages = [imread(path) for path in sorted(tmp_path.glob("t-*.pgm"))]
    assert len(pages) == len(PAPER_TABLES) == 17
    assert all(0.005 < (page < 200).mean() < 0.3 for page in pages), [(page < 200).mean() for page in pages]


def test_a_second_report_in_a_folder_keeps_what_is_known_of_the_first(tmp_path):
    store = FakeStore(THREE)
    render(store, tmp_path, kinds=("map",))
    (tmp_path / "wikipedia_symmetric_map_last.md").unlink()
    before = pd.read_csv(tmp_path / "provenance.csv").set_index("file")
    render(FakeStore(rows_of(run("mrl", 0.4), 0.5)), tmp_path, kinds=(), layouts=[BY_RATE])
    after = pd.read_csv(tmp_path / "provenance.csv").set_index("file")
    assert set(after.index) - set(before.index) == {
        f"wikipedia_symmetric_own.{suffix}" for suffix in ("tex", "md", "html", "csv")
    }
    assert set(before.index) - set(after.index) == {"wikipedia_symmetric_map_last.md"}
    render(store, tmp_path, kinds=("ranks",))  # of which there is none
    assert set(pd.read_csv(tmp_path / "provenance.csv")["file"]) == set(after.index)
    assert after.loc["wikipedia_symmetric_map.md", "run_ids"] == before.loc["wikipedia_symmetric_map.md", "run_ids"]


def test_the_best_is_sought_along_the_methods():
    rows = rows_of(run("ce"), 0.5) + rows_of(run("mrl"), 0.4)
    text = text_of(rows, Layout(name="own", rows=("noise_rate", "direction"), cols=("method",), metrics=("map",)))
    assert "the best of each row is bold" in text
    assert "| Image → Text | **0.500** | <u>0.400</u> |" in text
