"""Tables against text written out by hand, figures against the numbers drawn in them, and what a report writes."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xmbench.report import FIGURES as KINDS
from xmbench.report import NothingToReport, render
from xmbench.report.cells import cells_of, tidy
from xmbench.report.curves import draw_noise_curves, draw_precision_recall, pr_curves
from xmbench.report.files import Context, write_figure
from xmbench.report.groups import Reader, group_rows
from xmbench.report.index import unfinished
from xmbench.report.labels import setting_notes
from xmbench.report.layouts import load_layout
from xmbench.report.markup import latex, markdown
from xmbench.report.rendering import render_table
from xmbench.report.selected import shown_rate
from xmbench.report.style import Palette, panels
from xmbench.report.table_files import map_tables
from xmbench.report.tables import make_table
from xmbench.report.training import best_epoch, draw_training_curves, read_histories
from xmbench.report.tsne import Cloud, draw_tsne, layout

DIRECTIONS = ("image2text", "text2image", "mean")


class FakeStore:
    """What a report reads of a store, in memory."""

    def __init__(self, rows, arrays=None):
        self._rows = pd.DataFrame(rows)
        self._arrays = arrays or {}
        self.read = []

    def rows(self):
        return self._rows

    def arrays(self, run_id):
        self.read.append(run_id)
        return self._arrays.get(run_id, {})


def run(method="ce", rate=0.0, seed=0, status="ok", **columns):
    """The columns that all rows of a run share; the run id says what the run is."""
    base = {
        "run_id": "",
        "status": status,
        "error": None if status == "ok" else "Traceback\nValueError: loss is not finite",
        "dataset": "wikipedia",
        "dataset_params": '{"text": "lda"}',
        "features": "image 128, text 10" if status == "ok" else None,
        "noise_scheme": "symmetric",
        "noise_rate": rate,
        "noise_seed": seed,
        "realised_rate": 0.9 * rate,
        "noise_sha": f"{rate:g}-{seed}",
        "noise_options": "{}",
        "method": method,
        "implementation": method,
        "method_version": "1" if status == "ok" else None,
        "params": "{}",
        "seed": seed,
        "protocol": "default",
        "protocol_sha": "0123456789abcdef",
        "valid_labels": "clean",
        "tuning": "none",
        "profile": "",
        "oracle": False,
        "from_description": False,
        "n_networks": 1,
        "trial": None,
    } | columns
    return base | {"run_id": hashlib.sha256(json.dumps(base, sort_keys=True).encode()).hexdigest()[:16]}


def rows_of(facts, value=0.5, last=None, split="test"):
    """MAP rows of a run: text2image is .1 above image2text, and the mean between them."""
    none = dict.fromkeys(("split", "network", "selection", "direction", "metric"))
    if facts["status"] != "ok":
        return [facts | none | {"value": np.nan, "chance": np.nan}]
    measures = [
        {"split": split, "network": "mean", "selection": selection, "direction": direction, "metric": "map", "chance": 0.1}
        | {"value": base + offset}
        for selection, base in (("best_valid", value), ("last", value if last is None else last))
        for direction, offset in zip(DIRECTIONS, (0, 0.1, 0.05), strict=True)
    ]
    decoys = [{"network": "0", "value": 0.99}, {"metric": "map@50", "value": 0.98}, {"split": "valid", "value": 0.97}]
    return [facts | measure for measure in [*measures, *(measures[0] | decoy for decoy in decoys)]]


def only_group(rows):
    (group,) = group_rows(pd.DataFrame(rows))
    return group


# ce: mean of .50 and .52 is .51 with deviation .02 / sqrt(2) = .0141; of .40 and .44 .42 with .0283.
# mrl_rc: .49 twice; at 0.5 only seed 0 finished. pls: .20 twice; at 0.5 nothing finished.
GOLDEN_RUNS = [
    *rows_of(run("ce", 0.0, 0), 0.50),
    *rows_of(run("ce", 0.0, 1), 0.52),
    *rows_of(run("ce", 0.5, 0), 0.40),
    *rows_of(run("ce", 0.5, 1), 0.44),
    *rows_of(run("mrl_rc", 0.0, 0), 0.49),
    *rows_of(run("mrl_rc", 0.0, 1), 0.49),
    *rows_of(run("mrl_rc", 0.5, 0, stale=True), 0.30),
    *rows_of(run("mrl_rc", 0.5, 1, "timeout")),
    *rows_of(run("pls", 0.0, 0), 0.20),
    *rows_of(run("pls", 0.0, 1), 0.20),
    *rows_of(run("pls", 0.5, 0, "failed")),
    *rows_of(run("pls", 0.5, 1, "oom")),
]
GOLDEN_CAPTION = (
    "MAP on wikipedia (text=lda; image 128, text 10) by nominal rate of symmetric noise, epoch of the best validation MAP "
    "(clean labels). Mean {pm} standard deviation over seeds; the best of each column is bold, the second underlined; chance "
    "is what a random ranking is expected to reach."
)
GOLDEN_SOURCE = (
    "Shown: noise {noise} (4 draws); protocol default (01234567); 9 of 12 runs (set {runs}), seeds 0, 1; "
    "listed in provenance.csv."
)
GOLDEN_TEX = r"""% <source>
% Compiles with pdflatex. To use it in a paper, take the table or a tabular; needs booktabs (and graphicx for \resizebox).
\documentclass[10pt]{article}
\usepackage[paperwidth=297mm,paperheight=210mm,margin=12mm]{geometry}
\usepackage{booktabs,graphicx}
\pagestyle{empty}
\setlength{\belowcaptionskip}{6pt}
\begin{document}
\begin{table}[!ht]
\centering
\caption{\sloppy <caption> <source>}
\footnotesize
\setlength{\tabcolsep}{3pt}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{lcccccc}
\toprule
 & \multicolumn{2}{c}{Image $\rightarrow$ Text} & \multicolumn{2}{c}{Text $\rightarrow$ Image} & \multicolumn{2}{c}{Average} \\
\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}
Method & 0 & 0.5 & 0 & 0.5 & 0 & 0.5 \\
\midrule
\texttt{ce} & \textbf{0.510}{\tiny$\pm$0.014} & \textbf{0.420}{\tiny$\pm$0.028}
 & \textbf{0.610}{\tiny$\pm$0.014} & \textbf{0.520}{\tiny$\pm$0.028}
 & \textbf{0.560}{\tiny$\pm$0.014} & \textbf{0.470}{\tiny$\pm$0.028} \\
\texttt{mrl\_rc} & \underline{0.490}{\tiny$\pm$0.000} & \underline{0.300}$^\dagger${\tiny\,(1/2)}
 & \underline{0.590}{\tiny$\pm$0.000} & \underline{0.400}$^\dagger${\tiny\,(1/2)}
 & \underline{0.540}{\tiny$\pm$0.000} & \underline{0.350}$^\dagger${\tiny\,(1/2)} \\
\texttt{pls} & 0.200{\tiny$\pm$0.000} & $\times$
 & 0.300{\tiny$\pm$0.000} & $\times$
 & 0.250{\tiny$\pm$0.000} & $\times$ \\
\midrule
chance & 0.100 & 0.100 & 0.100 & 0.100 & 0.100 & 0.100 \\
\bottomrule
\end{tabular}}
\par\medskip{}\raggedright\scriptsize n/2: only n of 2 seeds have a result; the mean is over those.
\par\smallskip{}\raggedright\scriptsize $\times$: no run finished: pls at 0.5 (failed 1, oom 1).
\par\smallskip{}\raggedright\scriptsize $\dagger$: stale, the source of the method changed after these runs: mrl\_rc.
\end{table}
\end{document}
"""
GOLDEN_MD = r"""<caption>

**Image → Text**

| Method | 0 | 0.5 |
|---|---|---|
| `ce` | **0.510**±0.014 | **0.420**±0.028 |
| `mrl_rc` | <u>0.490</u>±0.000 | <u>0.300</u>† (1/2) |
| `pls` | 0.200±0.000 | × |
| chance | 0.100 | 0.100 |

**Text → Image**

| Method | 0 | 0.5 |
|---|---|---|
| `ce` | **0.610**±0.014 | **0.520**±0.028 |
| `mrl_rc` | <u>0.590</u>±0.000 | <u>0.400</u>† (1/2) |
| `pls` | 0.300±0.000 | × |
| chance | 0.100 | 0.100 |

**Average**

| Method | 0 | 0.5 |
|---|---|---|
| `ce` | **0.560**±0.014 | **0.470**±0.028 |
| `mrl_rc` | <u>0.540</u>±0.000 | <u>0.350</u>† (1/2) |
| `pls` | 0.250±0.000 | × |
| chance | 0.100 | 0.100 |

n/2: only n of 2 seeds have a result; the mean is over those.

×: no run finished: pls at 0.5 (failed 1, oom 1).

†: stale, the source of the method changed after these runs: mrl\_rc.

<source>
"""


def map_layout(selection="best_valid"):
    return replace(load_layout("map"), selection=selection)


def table(rows, suffix, selection="best_valid"):
    return render_table(make_table([only_group(rows)], map_layout(selection), stem="map"), suffix)


def hash8(values):
    return hashlib.sha256("\n".join(sorted(set(values))).encode()).hexdigest()[:8]


def golden(text, pm):
    rows = pd.DataFrame(GOLDEN_RUNS)
    source = GOLDEN_SOURCE.format(noise=hash8(rows["noise_sha"]), runs=hash8(rows["run_id"]))
    return text.replace("<source>", source).replace("<caption>", GOLDEN_CAPTION.format(pm=pm))


# ---- tables -------------------------------------------------------------------------------------------------


def test_latex_table_is_the_one_written_by_hand():
    expected = golden(GOLDEN_TEX, r"$\pm$").replace("\n & ", " & ").replace("\\toprule & ", "\\toprule\n & ")
    assert table(GOLDEN_RUNS, "tex") == expected


def test_markdown_table_is_the_one_written_by_hand():
    assert table(GOLDEN_RUNS, "md") == golden(GOLDEN_MD, "±")


def test_tidy_table_holds_numbers_and_their_runs():
    group = only_group(GOLDEN_RUNS)
    cells = tidy(group, cells_of(group, map_layout()), map_layout()).set_index(["method", "direction", "noise_rate"])
    ce = cells.loc[("ce", "text2image", 0.5)]
    assert ce["mean"] == pytest.approx(0.52)
    assert ce["std"] == pytest.approx(0.04 / np.sqrt(2))
    assert (ce["n"], ce["n_expected"], ce["rank"], ce["chance"], ce["status"]) == (2, 2, 1, 0.1, "")
    assert ce["noise_sha"] == "0.5-0 0.5-1"
    assert ce["run_ids"] == " ".join(sorted([run("ce", 0.5, 0)["run_id"], run("ce", 0.5, 1)["run_id"]]))
    incomplete = cells.loc[("mrl_rc", "mean", 0.5)]
    assert np.isnan(incomplete["std"])
    assert (incomplete["n"], incomplete["status"]) == (1, "timeout 1")
    failed = cells.loc[("pls", "mean", 0.5)]
    assert np.isnan(failed["mean"])
    assert (failed["n"], failed["n_expected"], failed["status"]) == (0, 2, "failed 1, oom 1")


def test_table_of_the_last_epoch_shows_the_last_epoch():
    rows = rows_of(run("ce"), 0.5, last=0.3) + rows_of(run("mrl"), 0.45, last=0.44)
    best, last = table(rows, "md"), table(rows, "md", "last")
    assert "`ce` | **0.500** |" in best
    assert "`mrl` | <u>0.450</u> |" in best
    assert "`ce` | <u>0.300</u> |" in last
    assert "`mrl` | **0.440** |" in last
    assert "last epoch. Mean" in last


def test_equal_digits_look_equal():
    rows = [row for name, value in zip("abcd", (0.5001, 0.4999, 0.4986, 0.3), strict=True) for row in rows_of(run(name), value)]
    lines = table(rows, "md").splitlines()
    assert [line.split("|")[2].strip() for line in lines if line.startswith("| `")][:4] == [
        "**0.500**",
        "**0.500**",
        "<u>0.499</u>",
        "0.300",
    ]


def test_oracles_stand_last_and_are_not_ranked():
    rows = rows_of(run("a_oracle", oracle=True), 0.9) + rows_of(run("ce"), 0.5) + rows_of(run("mrl"), 0.4)
    markdown_lines = [line for line in table(rows, "md").splitlines() if line.startswith("| `")][:3]
    assert markdown_lines[0].startswith("| `ce` | **0.500**")
    assert markdown_lines[1].startswith("| `mrl` | <u>0.400</u>")
    assert markdown_lines[2].startswith("| `a_oracle` (oracle) | 0.900 |")
    tex = table(rows, "tex")
    assert tex.count("\\midrule") == 3  # below the heads, above the oracle and above chance
    below = tex.index("\\texttt{mrl}")
    assert below < tex.index("\\midrule", below) < tex.index("\\texttt{a\\_oracle}") < tex.rindex("\\midrule")
    assert "Oracles, not ranked, read what a method cannot know: a\\_oracle." in tex


def test_notes_say_where_a_method_is_from_who_is_an_ensemble_and_how_large_networks_are():
    small = {"profile": "reduced", "params": '{"hidden": 1024, "epochs": 30}'}
    rows = rows_of(run("smln", from_description=True, **small), 0.5) + rows_of(run("coteaching", n_networks=2), 0.4)
    text = table(rows + rows_of(run("ce", profile="reduced", params='{"hidden": 512, "epochs": 20}'), 0.3), "md")
    assert "Re-implementation from a description, neither code nor the paper's text could be had: smln." in text
    assert "The similarities of 2 networks are averaged: coteaching." in text
    assert "Profile: networks at most 1024 wide, trained for at most 30 epochs." in text
    plain = table(rows_of(run("ce"), 0.5), "md")
    assert not any(word in plain for word in ("description", "networks", "Profile"))


def test_parameters_chosen_anew_for_every_rate_are_one_method():
    def chosen(rate, dim, **more):
        return run("cca", rate, tuning="grid per rate over dim, ridge", params=json.dumps({"dim": dim, "power": 0.0} | more))

    assert only_group(rows_of(chosen(0.0, 8), 0.5) + rows_of(chosen(0.4, 32), 0.4)).labels == ["cca"]
    other = only_group(rows_of(chosen(0.0, 8), 0.5) + rows_of(chosen(0.4, 32, power=1.0), 0.4))
    assert other.labels == ["cca (power=0)", "cca (power=1)"], "what was not chosen still tells settings apart"


def test_cells_without_a_run_and_not_applicable_ones_have_marks_of_their_own():
    rows = rows_of(run("ce", 0.0), 0.5) + rows_of(run("ce", 0.4), 0.4) + rows_of(run("mrl", 0.0), 0.4)
    rows += rows_of(run("classifier", 0.0, status="not_applicable")) + rows_of(run("classifier", 0.4, status="not_applicable"))
    text = table(rows, "md")
    assert "| `mrl` | <u>0.400</u> | – |" in text
    assert "| `classifier` | n/a | n/a |" in text
    assert "–: no result: mrl at 0.4." in text
    assert "n/a: not applicable: classifier at 0, 0.4." in text


def test_settings_of_one_method_are_told_apart():
    rows = [row for beta in (0.5, 0.7) for row in rows_of(run("mrl", params=json.dumps({"beta": beta, "lr": 0.1})), beta)]
    rows += rows_of(run("mrl", 0.4, status="failed", params=json.dumps({"beta": 0.5, "lr": 0.1})))
    rows += rows_of(run("ce", params=json.dumps({"lr": 0.2})), 0.3)
    group = only_group(rows)
    assert group.labels == ["ce", "mrl (beta=0.5)", "mrl (beta=0.7)"]
    assert "mrl occurs with 2 settings. mrl (beta=0.5): beta=0.5; mrl (beta=0.7): beta=0.7." in table(rows, "md")
    many = [row for i in (1, 2) for row in rows_of(run("mrl", params=json.dumps({"a": i, "b": i, "c": i})))]
    group = only_group(many)
    assert group.labels == ["mrl (1)", "mrl (2)"]
    assert setting_notes(group.rows) == ["mrl occurs with 2 settings. mrl (1): a=1, b=1, c=1; mrl (2): a=2, b=2, c=2."]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("protocol_sha", "fedcba9876543210"),
        ("dataset_params", '{"text": "minilm"}'),
        ("noise_options", '{"shared": true}'),
    ],
)
def test_what_differs_in_kind_never_shares_a_table(tmp_path, column, value):
    rows = rows_of(run("ce"), 0.5) + rows_of(run("ce", **{column: value}), 0.3)
    groups = group_rows(pd.DataFrame(rows))
    files = [file for group in groups for file in map_tables(group, Context(Reader(FakeStore([])), palette(group), tmp_path))]
    tables = {file.path.read_text("utf-8"): set(file.runs["run_id"]) for file in files if file.path.name.endswith("_map.md")}
    assert len(tables) == len({file.group.slug for file in files}) == 2
    for text, runs in tables.items():
        assert ("0.500" in text) != ("0.300" in text)
        assert runs == {rows[0 if "0.500" in text else -1]["run_id"]}


def test_test_splits_have_tables_of_their_own():
    facts = run("ce")
    rows = rows_of(facts, 0.5) + rows_of(facts, 0.3, split="test:twemoji") + rows_of(run("mrl", status="failed"))
    groups = group_rows(pd.DataFrame(rows))
    assert [group.slug for group in groups] == ["wikipedia_symmetric", "wikipedia_symmetric_twemoji"]
    first, second = (render_table(make_table([group], map_layout(), stem="map"), "md") for group in groups)
    assert "`ce` | **0.500**" in first
    assert "`ce` | **0.300**" in second
    assert "split test:twemoji" in second
    assert all("`mrl` | × |" in text for text in (first, second))


def test_more_than_24_columns_continue_below():
    facts = [run("ce", rate) for rate in (0.0, 0.2, 0.4, 0.6, 0.8)]
    directions = [f"{a}2{b}" for a in ("audio", "image", "text") for b in ("audio", "image", "text") if a != b] + ["mean"]
    common = {"split": "test", "network": "mean", "selection": "best_valid", "metric": "map", "chance": 0.1}
    text = table([run | common | {"direction": d, "value": 0.5} for run in facts for d in directions], "tex")
    blocks = text.split("\\begin{tabular}{l")[1:]
    assert [part.count("multicolumn") for part in blocks] == [4, 3], "20 columns, then 15"
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 3  # the third holds the two
    assert text.count("\\resizebox{\\ifdim") == 1  # one size for all


def test_escaping():
    assert latex(r"a_b & 50% $x$ #1 {y} ~ ^ \z <u> |") == (
        r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z \textless{}u\textgreater{} "
        r"\textbar{}"
    )
    assert latex("图 → é") == r"? $\rightarrow$ é"
    assert markdown("a_b|*") == r"a\_b\|\*"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("n_methods", [1, 60])
def test_table_compiles(tmp_path, n_methods):
    awkward = r"""{"path": "C:\\x_y & 50% #1 ~^ {z} $a$ <b> | 图"}"""
    rows = [row | {"dataset_params": awkward} for row in GOLDEN_RUNS] + rows_of(
        run("odd_name%", oracle=True, dataset_params=awkward), 0.6
    )
    rows += [row for i in range(n_methods) for row in rows_of(run(f"m{i}", dataset_params=awkward))]
    (tmp_path / "map.tex").write_text(table(rows, "tex"), "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "map.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "(1 page" in done.stdout
    assert "Overfull" not in done.stdout
    assert "too large" not in done.stdout


# ---- figures ------------------------------------------------------------------------------------------------


def pr(precision):
    recall = np.linspace(0, 1, 11)
    return np.stack([recall, np.full(11, precision), np.zeros(11)])


def palette(group):
    return Palette(group.labels)


def shown(ax):
    """Lines of a panel as (x, y), without those without points."""
    return [(line.get_xdata(), line.get_ydata()) for line in ax.lines if len(line.get_xdata())]


def visible(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def assert_nothing_cut_off(figure):
    for ax in visible(figure):
        for line in ax.lines:
            y = np.asarray(line.get_ydata(), dtype=float)
            assert np.nanmin(y) >= ax.get_ylim()[0]
            assert np.nanmax(y) <= ax.get_ylim()[1]


def test_precision_recall_is_the_mean_over_seeds():
    runs = [run("ce", 0.2, 0), run("ce", 0.2, 1), run("mrl", 0.2, 0), run("mrl", 0.2, 1, "failed")]
    heights = {runs[0]["run_id"]: 0.2, runs[1]["run_id"]: 0.4, runs[2]["run_id"]: 0.1}
    arrays = {
        run_id: {f"pr/test/best_valid/mean/{d}": pr(height * factor) for d, factor in (("image2text", 1), ("text2image", 2))}
        | {"pr/test/last/mean/image2text": pr(0.9), "pr/test/best_valid/0/image2text": pr(0.8)}
        for run_id, height in heights.items()
    }
    group = only_group([row for facts in runs for row in rows_of(facts)])
    reader = Reader(FakeStore([], arrays))
    curves = pr_curves(group, reader)
    figure = draw_precision_recall(group, curves, palette(group), "the footer")
    left, right = visible(figure)
    assert [ax.get_title() for ax in (left, right)] == ["Image → Text", "Text → Image"]
    assert (left.get_xlabel(), left.get_ylabel(), right.get_xlabel()) == ("Recall", "Precision", "Recall")
    assert [len(ax.lines) for ax in (left, right)] == [2, 2]
    np.testing.assert_allclose(shown(left)[0], [np.linspace(0, 1, 11), np.full(11, 0.3)])
    np.testing.assert_allclose(shown(left)[1][1], 0.1)
    np.testing.assert_allclose(shown(right)[0][1], 0.6)
    assert_nothing_cut_off(figure)  # the panel on the right is higher than the first one
    assert left.get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].texts] == ["ce", "mrl (1/2 runs)"]
    assert figure.get_supxlabel() == "the footer"


def test_precision_recall_grid_has_a_panel_per_direction_and_rate():
    runs = [run("ce", rate) for rate in (0.0, 0.4, 0.8)]
    arrays = {
        facts["run_id"]: {f"pr/test/best_valid/mean/{d}": pr(1 - facts["noise_rate"]) for d in DIRECTIONS[:2]} for facts in runs
    }
    group = only_group([row for facts in runs for row in rows_of(facts)])
    figure = draw_precision_recall(group, pr_curves(group, Reader(FakeStore([], arrays))), palette(group), "")
    titles = [ax.get_title() for ax in visible(figure)]
    assert titles == [f"{d}, {rate:g}" for d in ("Image → Text", "Text → Image") for rate in (0, 0.4, 0.8)]
    assert [shown(ax)[0][1][0] for ax in visible(figure)] == pytest.approx([1, 0.6, 0.2] * 2)


def test_noise_curves_show_both_selections_where_they_differ():
    rows = [
        row
        for rate in (0.0, 0.4)
        for seed, shift in ((0, -0.01), (1, 0.01))
        for row in rows_of(run("ce", rate, seed), 0.5 - rate / 2 + shift, last=0.4 - rate / 2 + shift)
        + rows_of(run("pls", rate, seed), 0.2)
    ]
    group = only_group(rows)
    scores = pd.concat([group.scores(name).assign(selection=name) for name in ("best_valid", "last")])
    figure = draw_noise_curves(group, scores, palette(group), "the footer")
    axes = visible(figure)
    assert [ax.get_title() for ax in axes] == ["Image → Text", "Text → Image", "Average"]
    assert {ax.get_xlabel() for ax in axes} == {"Noise rate"}
    assert axes[0].get_ylabel() == "MAP"
    ce_best, ce_last, pls, chance = axes[0].lines  # pls ends where it is best: one line
    np.testing.assert_allclose(ce_best.get_xydata(), [[0, 0.5], [0.4, 0.3]])
    np.testing.assert_allclose(ce_last.get_xydata(), [[0, 0.4], [0.4, 0.2]])
    assert (ce_best.get_linestyle(), ce_last.get_linestyle(), chance.get_linestyle()) == ("-", "--", ":")
    assert ce_best.get_color() == ce_last.get_color() != pls.get_color()
    assert set(chance.get_ydata()) == {0.1}
    band = axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.5 + 0.02 / np.sqrt(2))
    assert_nothing_cut_off(figure)
    assert axes[0].get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].texts] == ["ce", "pls", "best_valid", "last", "chance"]


def history(valid, selectable=None):
    n = len(valid)
    found = {"epoch": np.arange(1, n + 1), "loss": np.linspace(2, 1, n), "valid": np.array(valid, dtype=float)}
    return found | ({} if selectable is None else {"selectable": np.array(selectable)})


@pytest.mark.parametrize(
    ("valid", "selectable", "expected"),
    [
        ([0.1, 0.4, 0.3], None, 1),
        ([0.9, 0.2, 0.3], [False, True, True], 2),
        ([0.2, np.nan, 0.3, np.nan], None, 2),
        ([0.1, 0.4, 0.4], None, 1),
        ([np.nan, np.nan], None, None),
        ([0.5, 0.4], [False, False], None),
    ],
)
def test_best_epoch_is_the_first_best_selectable_one(valid, selectable, expected):
    assert best_epoch(history(valid, selectable)) == expected


def test_training_curves_mark_best_and_last_epoch():
    runs = [run("ce", 0.0, 0, "failed"), run("ce", 0.0, 1), run("ce", 0.0, 2), run("ce", 0.4, 0), run("pls", 0.0, 0)]
    valid = [0.9, 0.2, 0.5, 0.3, 0.1]
    arrays = {
        runs[1]["run_id"]: {f"history/{k}": v for k, v in history(valid, [False, *[True] * 4]).items()},
        runs[2]["run_id"]: {f"history/{k}": v for k, v in history([0.7] * 5).items()},
        runs[3]["run_id"]: {f"history/{k}": v for k, v in history([0.1, 0.2, 0.3, 0.4, np.nan]).items()},
    }
    group = only_group([row for facts in runs for row in rows_of(facts)])
    histories = read_histories(group, Reader(FakeStore([], arrays)))
    assert {label: sorted(rates) for label, rates in histories.items()} == {"ce": [0.0, 0.4]}
    assert histories["ce"][0.0]["run_id"] == runs[1]["run_id"]  # the first seed that finished
    figure = draw_training_curves(group, histories, "the footer")
    loss, valid_map = visible(figure)
    assert (loss.get_title(), loss.get_xlabel(), loss.get_ylabel()) == ("ce", "Epoch", "Loss")
    assert (valid_map.get_xlabel(), valid_map.get_ylabel()) == ("Epoch", "Validation MAP")
    curves = [line for line in valid_map.lines if line.get_linestyle() != "None"]
    assert [len(line.get_xdata()) for line in curves] == [5, 4]
    best = [line.get_xydata().tolist() for line in valid_map.lines if line.get_marker() == "*"]
    last = [line.get_xydata().tolist() for line in valid_map.lines if line.get_marker() == "s"]
    assert best == [[[3, 0.5]], [[4, 0.4]]]
    assert last == [[[5, 0.1]], [[4, 0.4]]]
    assert [line.get_xydata().tolist() for line in loss.lines if line.get_marker() == "*"] == [[[3, 1.5]], [[4, 1.25]]]
    assert_nothing_cut_off(figure)


def test_methods_keep_colour_and_marker():
    many = Palette([f"m{i}" for i in range(90)])
    assert len({tuple(many[label].values()) for label in many.labels}) == 90


def test_tsne_rate_is_the_highest_up_to_six_tenths():
    assert shown_rate([0.0, 0.2, 0.6, 0.8]) == 0.6
    assert shown_rate([0.0, 0.1 + 0.2 + 0.3]) == pytest.approx(0.6)
    assert shown_rate([0.7, 0.9]) == 0.7


def test_tsne_layout_is_fixed_and_survives_collapse():
    values = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    values[15:, 0] += 50
    first = layout(values)
    np.testing.assert_array_equal(first, layout(values.copy()))
    centres = first[:15].mean(0), first[15:].mean(0)
    own = np.linalg.norm(first - np.repeat(centres, 15, axis=0), axis=1)
    assert own.mean() < np.linalg.norm(centres[0] - centres[1])  # what lies apart stays apart
    np.testing.assert_array_equal(layout(np.ones((8, 3), dtype=np.float32)), 0)
    assert layout(np.arange(3.0)[:, None]).shape == (3, 2)


def test_tsne_panels_show_class_as_colour_and_modality_as_marker():
    group = only_group(rows_of(run("ce")))
    names = np.array(["image", "text"] * 6, dtype=object)
    classes = np.array([*range(11), -1])
    cloud = Cloud("ce", np.arange(24.0).reshape(12, 2), names, classes)
    figure = draw_tsne(group, [cloud], [f"class {i}" for i in range(11)], 0.6, "the footer")
    (ax,) = visible(figure)
    assert ax.get_title() == "ce"
    assert "0.6" in figure.get_suptitle()
    image, text = ax.collections
    assert sorted(image.get_offsets()[:, 0]) == [0, 4, 8, 12, 16, 20]
    assert not np.array_equal(image.get_paths()[0].vertices, text.get_paths()[0].vertices)
    assert len(np.unique(np.concatenate([image.get_facecolors(), text.get_facecolors()]), axis=0)) == 11  # ten and grey
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["image", "text", *(f"class {i}" for i in range(10)), "other classes"]


# ---- the whole report -------------------------------------------------------------------------------------


def kept(facts, n=24):
    """Arrays of a run that kept everything."""
    rng = np.random.default_rng(facts["seed"])
    labels = np.eye(3, dtype=bool)[np.arange(n) % 3]
    arrays = {f"pr/test/best_valid/mean/{d}": pr(0.5) for d in DIRECTIONS[:2]} | {"class_names": np.array(["a", "b", "c"])}
    arrays |= {f"history/{k}": v for k, v in history([0.1, 0.3, 0.2]).items()}
    for i, name in enumerate(("image", "text")):
        arrays[f"embedding/test/best_valid/mean/{name}"] = rng.normal(size=(n, 8)).astype(np.float16)
        arrays[f"input/test/{name}"] = rng.normal(size=(n, 5 + i)).astype(np.float16)
        arrays[f"labels/test/{name}"] = labels
    return arrays


@pytest.fixture(scope="module")
def store():
    runs = [run(method, rate, seed) for method in ("ce", "mrl") for rate in (0.0, 0.6) for seed in (0, 1)]
    rows = [row for facts in runs for row in rows_of(facts, 0.5 - facts["noise_rate"] / 4 + facts["seed"] / 100)]
    rows += rows_of(run("pls", 0.0, 0, "failed"))
    return FakeStore(rows, {facts["run_id"]: kept(facts) for facts in runs})


@pytest.fixture(scope="module")
def report(store, tmp_path_factory):
    """The folder of a report, what `render` returned, and how often it read the arrays of each run."""
    out = tmp_path_factory.mktemp("report")
    store.read.clear()
    files = render(store, out)
    return out, files, Counter(store.read)


FIGURES = ("pr", "pr_rates", "noise", "training", "tsne")
TABLES = ("map", "map_last")


def test_report_writes_every_file_and_lists_it(report):
    out, files, _ = report
    names = {f"wikipedia_symmetric_{kind}.{suffix}" for kind in FIGURES for suffix in ("pdf", "png")}
    names |= {f"wikipedia_symmetric_{kind}.{suffix}" for kind in TABLES for suffix in ("tex", "md", "html", "csv")}
    names |= {f"wikipedia_symmetric_robustness.{suffix}" for suffix in ("tex", "md", "html", "csv")}
    names |= {"ce_rc.pdf", "ce_rc.png", "ranks_map_01234567.md"}
    names |= {"index.md", "provenance.csv"}
    assert {path.name for path in files} == names == {path.name for path in out.iterdir()}
    index = (out / "index.md").read_text("utf-8")
    assert all(f"- [{name}]({name}): " in index for name in names - {"index.md", "provenance.csv"})
    assert "pls at 0: failed, 1 run: ValueError: loss is not finite" in index
    with (out / "provenance.csv").open(newline="") as file:
        lines = {line["file"]: line for line in csv.DictReader(file)}
    assert set(lines) == names - {"index.md", "provenance.csv"}
    shas = {"0-0", "0-1", "0.6-0", "0.6-1"}
    assert set(lines["wikipedia_symmetric_map.tex"]["noise_shas"].split()) == shas
    assert set(lines["wikipedia_symmetric_pr.pdf"]["noise_shas"].split()) == {"0.6-0", "0.6-1"}
    tsne_runs = {run(method, 0.6, 0)["run_id"] for method in ("ce", "mrl")}
    assert set(lines["wikipedia_symmetric_tsne.png"]["run_ids"].split()) == tsne_runs


def test_arrays_are_read_once_and_embeddings_where_shown(report):
    runs = {
        run(method, rate, seed)["run_id"]: (rate, seed) for method in ("ce", "mrl") for rate in (0.0, 0.6) for seed in (0, 1)
    }
    # once for curves, once for values per query, and once for embeddings where they are shown
    assert report[2] == {run_id: 3 if shown == (0.6, 0) else 2 for run_id, shown in runs.items()}


def description(path):
    with Image.open(path) as image:
        return image.info["Description"]


def test_figures_say_what_they_show(report):
    out, _, _ = report
    for kind in FIGURES:
        said = description(out / f"wikipedia_symmetric_{kind}.png")
        assert "wikipedia (text=lda; image 128, text 10); symmetric noise; noise " in said
        assert "protocol default (01234567)" in said
        assert re.search(r"\d+ runs \(set [0-9a-f]{8}\), seed", said)
    said = description(out / "wikipedia_symmetric_pr.png")
    assert f"noise {hash8(['0.6-0', '0.6-1'])} (2 draws)" in said


def test_report_gives_the_same_bytes_again(store, report, tmp_path):
    first = {path.name: path.read_bytes() for path in report[1]}
    second = {path.name: path.read_bytes() for path in render(store, tmp_path)}
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == set()


def test_report_without_arrays_says_what_it_could_not_draw(tmp_path):
    render(FakeStore(rows_of(run("ce"))), tmp_path)
    assert {path.suffix for path in tmp_path.glob("*_noise.*")} == {".pdf", ".png"}
    assert not list(tmp_path.glob("*_pr*"))
    index = (tmp_path / "index.md").read_text("utf-8")
    assert all(f"- {kind}: {KINDS[kind].needs}" in index for kind in ("pr", "training", "tsne"))


def test_files_of_an_earlier_report_are_named(tmp_path):
    (tmp_path / "mnist_symmetric_map.tex").write_text("old")
    render(FakeStore(rows_of(run("ce"))), tmp_path)
    assert "- mnist_symmetric_map.tex" in (tmp_path / "index.md").read_text("utf-8")
    assert (tmp_path / "mnist_symmetric_map.tex").read_text() == "old"


def test_rows_selected_beforehand_are_the_ones_shown(tmp_path):
    rows = pd.DataFrame(GOLDEN_RUNS)
    render(FakeStore(rows), tmp_path, where=rows[rows["method"] == "mrl_rc"])
    text = (tmp_path / "wikipedia_symmetric_map.md").read_text("utf-8")
    assert "`mrl_rc`" in text
    assert "`ce`" not in text


@pytest.mark.parametrize("rows", [[], rows_of(run("ce", status="failed"))], ids=["empty", "failed"])
def test_nothing_to_report_says_what_to_run(tmp_path, rows):
    frame = pd.DataFrame(rows, columns=list(rows_of(run("ce"))[0]))
    with pytest.raises(NothingToReport, match="xmbench run --methods mrl,ce,mcca --dataset wikipedia") as caught:
        render(FakeStore(frame), tmp_path / "out")
    assert isinstance(caught.value, LookupError)
    assert ("failed 1" in str(caught.value)) == bool(rows)
    assert not (tmp_path / "out").exists()


def test_figure_that_cannot_be_drawn_leaves_the_old_file(tmp_path):
    (tmp_path / "a.pdf").write_text("old")
    figure, axes = panels(1, 1, width=2, height=2)
    axes[0].set_title("$\\notamathcommand$")
    with pytest.raises(ValueError, match="notamathcommand"):
        write_figure(tmp_path / "a", figure, "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pdf"]
    assert (tmp_path / "a.pdf").read_text() == "old"


def test_unfinished_runs_are_listed_by_status():
    rows = pd.DataFrame([row for seed in (0, 1) for row in rows_of(run("ce", 0.4, seed, "timeout", error=None))])
    assert unfinished(rows) == ["wikipedia, symmetric: ce at 0.4: timeout, 2 runs"]
