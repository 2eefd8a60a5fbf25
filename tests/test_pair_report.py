"""Reports of instance retrieval: recall tables against text written out by hand, noise detection, and what is left out."""

import csv
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_report import FakeStore, assert_nothing_cut_off, hash8, only_group, rows_of, run, shown, visible

from xmbench import evaluate
from xmbench.report import NothingToReport, render
from xmbench.report.cells import COLLAPSED_BELOW, cells_of, tidy
from xmbench.report.curves import draw_noise_curves
from xmbench.report.detection import draw_detection, read_detection, single_values
from xmbench.report.files import Context
from xmbench.report.groups import Reader, group_rows
from xmbench.report.layouts import load_layout
from xmbench.report.rendering import render_table
from xmbench.report.style import Palette
from xmbench.report.table_files import rsum_tables, size_notes
from xmbench.report.tables import make_table
from xmbench.report.training import draw_training_curves, read_histories
from xmbench.report.trials import trials_of

STEM = "flickr8k_caption_shuffle"


def pair_run(method="sgr", rate=0.0, seed=0, status="ok", *, sizes=None, **columns):
    facts = {
        "dataset": "flickr8k",
        "dataset_params": '{"train_images": 1500, "vocabulary": ""}',
        "features": None,
        "noise_scheme": "caption_shuffle",
        "protocol": "pairs",
        "params": json.dumps(sizes or {}),
    }
    return run(method, rate, seed, status, **(facts | columns))


def measure(split, network, selection, direction, metric, value, **more):
    where = {"split": split, "network": network, "selection": selection, "direction": direction}
    return {"chance": np.nan, "metric": metric, "value": value} | where | more


def pair_rows(facts, r1=0.2, *, networks=(), last=None, more=(), collapsed=False, fold=None):
    """Rows of a run: R@1, R@5, R@10 of image2text are r1, 2 r1, 3 r1, and half of that of text2image: rSum is 900 r1.

    Args:
        facts: of `pair_run`.
        r1: of the networks together.
        networks: R@1 of each one by itself.
        last: of the last epoch; `r1` where None.
        more: (split, network, direction, metric, value) of further measures, the same of both selections.
        collapsed: the flag of all rows.
        fold: the fold of all rows.
    """
    if facts["status"] != "ok":
        return rows_of(facts)
    rows = []
    for selection, whole in (("best_valid", r1), ("last", r1 if last is None else last)):
        for network, base in (("mean", whole), *((str(i), own) for i, own in enumerate(networks))):
            for direction, share in (("image2text", 1.0), ("text2image", 0.5)):
                values = {f"r@{k}": base * share * step for step, k in enumerate((1, 5, 10), 1)}
                rows += [measure("test", network, selection, direction, *item, chance=0.01) for item in values.items()]
            rows.append(measure("test", network, selection, "mean", "rsum", 900 * base, chance=3.2))
        rows += [measure(split, network, selection, *rest) for split, network, *rest in more]
        rows.append(measure("valid", "mean", selection, "mean", "rsum", 599.0))
    return [facts | {"collapsed": collapsed, "fold": fold} | row for row in rows]


# sgr: rSum 180 and 198, mean 189 with deviation 18 / sqrt(2) = 12.7; at 0.4 collapsed. ncr: 171 together, its networks
# 162 and 144, mean 153; at 0.4 only seed 0. pls: 189.04 and 189.04, so rSum and R@K look like those of sgr. The oracle is best.
SMALL = {"dim": 128, "similarity_dim": 32, "batch_size": 32, "epochs": 7, "margin": 0.2}
GOLDEN_RUNS = [
    *pair_rows(pair_run("sgr", 0.0, 0, sizes=SMALL), 0.20),
    *pair_rows(pair_run("sgr", 0.0, 1, sizes=SMALL), 0.22),
    *pair_rows(pair_run("sgr", 0.4, 0, sizes=SMALL), 0.01, collapsed=True),
    *pair_rows(pair_run("sgr", 0.4, 1, sizes=SMALL), 0.03),
    *pair_rows(pair_run("ncr", 0.0, 0, sizes=SMALL, n_networks=2), 0.19, networks=(0.18, 0.16)),
    *pair_rows(pair_run("ncr", 0.0, 1, sizes=SMALL, n_networks=2), 0.19, networks=(0.16, 0.18)),
    *pair_rows(pair_run("ncr", 0.4, 0, sizes=SMALL, n_networks=2, stale=True), 0.15, networks=(0.14, 0.12)),
    *pair_rows(pair_run("ncr", 0.4, 1, "timeout", sizes=SMALL, n_networks=2)),
    *pair_rows(pair_run("pls", 0.0, 0, sizes={"dim": 64}), 0.21004),
    *pair_rows(pair_run("pls", 0.0, 1, sizes={"dim": 64}), 0.21004),
    *pair_rows(pair_run("sgr_clean", 0.4, 0, sizes=SMALL, oracle=True), 0.30),
    *pair_rows(pair_run("sgr_clean", 0.4, 1, sizes=SMALL, oracle=True), 0.30),
    *pair_rows(pair_run("cca", 0.4, 0, "failed", sizes={"dim": 64})),
]
CAPTION = (
    "R@K and rSum in percent on flickr8k (train_images=1500) by nominal rate of caption_shuffle noise, epoch of the best "
    "validation rSum (clean pairs). Mean over seeds, for rSum ± standard deviation; the best of each column and rate is bold, "
    "the second underlined; chance is what a random ranking is expected to reach."
)
HEAD = """\
| Method | Image → Text R@1 | Image → Text R@5 | Image → Text R@10 | Text → Image R@1 | Text → Image R@5 | Text → Image R@10 | rSum |
|---|---|---|---|---|---|---|---|
"""  # noqa: E501
GOLDEN_MD = rf"""<caption>

**0 % noise**

{HEAD}| `cca` | – | – | – | – | – | – | – |
| `ncr` | <u>19.0</u> | <u>38.0</u> | <u>57.0</u> | <u>9.5</u> | <u>19.0</u> | <u>28.5</u> | <u>171.0</u>±0.0 |
| `ncr` (one network) | 17.0 | 34.0 | 51.0 | 8.5 | 17.0 | 25.5 | 153.0±0.0 |
| `pls` | **21.0** | **42.0** | **63.0** | **10.5** | **21.0** | **31.5** | **189.0**±0.0 |
| `sgr` | **21.0** | **42.0** | **63.0** | **10.5** | **21.0** | **31.5** | **189.0**±12.7 |
| `sgr_clean` (oracle) | – | – | – | – | – | – | – |
| chance | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 3.2 |

**40 % noise**

{HEAD}| `cca` | × | × | × | × | × | × | × |
| `ncr` | **15.0** | **30.0** | **45.0** | **7.5** | **15.0** | **22.5** | **135.0**† (1/2) |
| `ncr` (one network) | 13.0 | 26.0 | 39.0 | 6.5 | 13.0 | 19.5 | 117.0† (1/2) |
| `pls` | – | – | – | – | – | – | – |
| `sgr` | 2.0 | 4.0 | 6.0 | 1.0 | 2.0 | 3.0 | 18.0±12.7‡ |
| `sgr_clean` (oracle) | 30.0 | 60.0 | 90.0 | 15.0 | 30.0 | 45.0 | 270.0±0.0 |
| chance | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 3.2 |

n/2: only n of 2 seeds have a result; the mean is over those.

×: no run finished: cca at 0.4 (failed 1).

–: no result: cca at 0; pls at 0.4; sgr\_clean at 0.

†: stale, the source of the method changed after these runs: ncr.

‡: collapsed and not ranked, the scores of a network have a standard deviation below 0.0001, so that what is left of a ranking is hardly more than rounding: sgr at 0.4.

The similarities of 2 networks are averaged: ncr.

Oracles, not ranked, read what a method cannot know: sgr\_clean.

(one network): what the networks of a method reach on their own, on average; not ranked.

Sizes and training. dim=128, similarity\_dim=32, batch\_size=32, epochs=7: ncr, sgr, sgr\_clean; dim=64: cca, pls.

<source>
"""  # noqa: E501
GOLDEN_TABULAR = r"""\begin{tabular}{llccccccc}
\toprule
\multicolumn{2}{c}{} & \multicolumn{3}{c}{Image $\rightarrow$ Text} & \multicolumn{3}{c}{Text $\rightarrow$ Image} &  \\
\cmidrule(lr){3-5}\cmidrule(lr){6-8}
Noise & Method & R@1 & R@5 & R@10 & R@1 & R@5 & R@10 & rSum \\
\midrule
0 \% & \texttt{cca} & -- & -- & -- & -- & -- & -- & -- \\
 & \texttt{ncr} & \underline{19.0} & \underline{38.0} & \underline{57.0} & \underline{9.5} & \underline{19.0} & \underline{28.5} & \underline{171.0}{\tiny$\pm$0.0} \\
 & \texttt{ncr} (one network) & 17.0 & 34.0 & 51.0 & 8.5 & 17.0 & 25.5 & 153.0{\tiny$\pm$0.0} \\
 & \texttt{pls} & \textbf{21.0} & \textbf{42.0} & \textbf{63.0} & \textbf{10.5} & \textbf{21.0} & \textbf{31.5} & \textbf{189.0}{\tiny$\pm$0.0} \\
 & \texttt{sgr} & \textbf{21.0} & \textbf{42.0} & \textbf{63.0} & \textbf{10.5} & \textbf{21.0} & \textbf{31.5} & \textbf{189.0}{\tiny$\pm$12.7} \\
\cmidrule(l){2-9}
 & \texttt{sgr\_clean} & -- & -- & -- & -- & -- & -- & -- \\
\midrule
40 \% & \texttt{cca} & $\times$ & $\times$ & $\times$ & $\times$ & $\times$ & $\times$ & $\times$ \\
 & \texttt{ncr} & \textbf{15.0} & \textbf{30.0} & \textbf{45.0} & \textbf{7.5} & \textbf{15.0} & \textbf{22.5} & \textbf{135.0}$^\dagger${\tiny\,(1/2)} \\
 & \texttt{ncr} (one network) & 13.0 & 26.0 & 39.0 & 6.5 & 13.0 & 19.5 & 117.0$^\dagger${\tiny\,(1/2)} \\
 & \texttt{pls} & -- & -- & -- & -- & -- & -- & -- \\
 & \texttt{sgr} & 2.0 & 4.0 & 6.0 & 1.0 & 2.0 & 3.0 & 18.0{\tiny$\pm$12.7}$^\ddagger$ \\
\cmidrule(l){2-9}
 & \texttt{sgr\_clean} & 30.0 & 60.0 & 90.0 & 15.0 & 30.0 & 45.0 & 270.0{\tiny$\pm$0.0} \\
\midrule
 & chance & 1.0 & 1.0 & 1.0 & 1.0 & 1.0 & 1.0 & 3.2 \\
\bottomrule
\end{tabular}"""  # noqa: E501


def recall_cells(group, selection="best_valid"):
    return cells_of(group, replace(load_layout("rsum"), metrics=(), selection=selection))


def recall_tidy(group):
    return tidy(group, recall_cells(group), load_layout("rsum"))


def table_text(group, name, suffix="md", selection="best_valid", notes=()):
    layout = replace(load_layout(name), selection=selection)
    return render_table(make_table([group], layout, stem=name, notes=notes), suffix)


def recall_text(rows, suffix, selection="best_valid"):
    group = only_group(rows)
    return table_text(group, "rsum", suffix, selection, size_notes(group))


# ---- tables of recalls --------------------------------------------------------------------------------------


def test_markdown_recall_table_is_the_one_written_by_hand():
    rows = pd.DataFrame(GOLDEN_RUNS)
    source = (
        f"Shown: noise {hash8(rows['noise_sha'])} (4 draws); protocol pairs (01234567); 11 of 13 runs "
        f"(set {hash8(rows['run_id'])}), seeds 0, 1; listed in provenance.csv."
    )
    expected = GOLDEN_MD.replace("<caption>", CAPTION.replace("_", "\\_")).replace("<source>", source)
    assert recall_text(GOLDEN_RUNS, "md") == expected


def test_latex_recall_table_is_the_one_written_by_hand():
    text = recall_text(GOLDEN_RUNS, "tex")
    assert text[text.index("\\begin{tabular}") : text.index("\\end{tabular}") + len("\\end{tabular}")] == GOLDEN_TABULAR
    assert r"$\ddagger$: collapsed and not ranked, the scores of a network have a standard deviation below 0.0001" in text


def test_tidy_csv_holds_all_metrics_as_stored_and_ranks_each_by_its_sense():
    extra = {"a": (9.0, 0.41), "b": (5.0, 0.42)}
    rows = [
        row
        for name, (rank, pmrp) in extra.items()
        for row in pair_rows(
            pair_run(name),
            more=[("test", "mean", "image2text", "medr", rank), ("test", "mean", "image2text", "pmrp", pmrp)],
        )
    ]
    group = only_group(rows)
    table = recall_tidy(group).set_index(["method", "direction", "metric"])
    assert table.loc[("a", "image2text", "medr"), ["mean", "rank"]].tolist() == [9.0, 2]
    assert table.loc[("b", "image2text", "medr"), ["mean", "rank"]].tolist() == [5.0, 1], "a low median rank is better"
    assert table.loc[("b", "image2text", "pmrp"), ["mean", "rank"]].tolist() == [0.42, 1]
    assert table.loc[("a", "text2image", "r@10"), "mean"] == pytest.approx(0.3)
    assert table.loc[("a", "mean", "rsum"), ["mean", "chance", "rank"]].tolist() == pytest.approx([180, 3.2, 1])
    assert set(table["network"]) == {"mean"}


def test_rows_of_single_networks_are_in_the_csv_without_a_rank():
    group = only_group(GOLDEN_RUNS)
    table = recall_tidy(group)
    rsum = table[(table["metric"] == "rsum") & (table["method"] == "ncr")].set_index(["network", "noise_rate"])
    assert rsum.loc[("one network", 0.0), ["mean", "n"]].tolist() == pytest.approx([153, 2])
    assert np.isnan(rsum.loc[("one network", 0.0), "rank"])
    assert rsum.loc[("mean", 0.0), "rank"] == 2


def test_collapse_is_marked_in_the_selection_in_which_it_happened():
    facts = pair_run("sgr")
    rows = [row | {"collapsed": row["selection"] == "last"} for row in pair_rows(facts, 0.2, last=0.001)]
    best, last = recall_text(rows, "md"), recall_text(rows, "md", "last")
    assert "‡" not in best
    assert "| 0.9‡ |" in last
    assert "rounding: sgr at 0." in last


def test_collapsed_runs_are_not_ranked_however_they_compare():
    rows = pair_rows(pair_run("ncr"), 0.3, collapsed=True) + pair_rows(pair_run("pls"), 0.1) + pair_rows(pair_run("sgr"), 0.2)
    cells = recall_cells(only_group(rows))
    ranks = cells[cells["metric"] == "rsum"].set_index("label")["rank"]
    assert ranks[["sgr", "pls"]].tolist() == [1, 2]
    assert np.isnan(ranks["ncr"])
    assert np.isnan(cells.loc[cells["label"] == "ncr", "rank"]).all()
    chance = [row for method in ("ncr", "pls", "sgr") for row in pair_rows(pair_run(method), 0.01, collapsed=True)]
    lines = [line for line in recall_text(chance, "md").splitlines() if line.startswith("| `")]
    assert lines == [f"| `{method}` | 1.0 | 2.0 | 3.0 | 0.5 | 1.0 | 1.5 | 9.0‡ |" for method in ("ncr", "pls", "sgr")]


def test_networks_are_counted_by_their_rows_not_by_the_stored_number():
    more = [*detection(), *detection("0"), *detection("1"), *detection("intersection")]
    group = only_group(pair_rows(pair_run("ncr", 0.2, n_networks=3), networks=(0.18, 0.16), more=more))
    text = table_text(group, "rsum")
    assert "The similarities of 2 networks are averaged: ncr." in text
    assert "The weights of 2 networks are averaged: ncr." in detection_text(group)


def test_scores_count_as_collapsed_where_the_harness_says_so():
    assert evaluate.COLLAPSED_BELOW == COLLAPSED_BELOW


def test_rows_of_a_store_without_the_flag_are_not_collapsed():
    rows = [{name: value for name, value in row.items() if name != "collapsed"} for row in pair_rows(pair_run("sgr"))]
    assert "**180.0** |" in recall_text(rows, "md")


def test_folds_of_a_run_are_averaged_before_its_deviation():
    folds = ((0, 0.20), (1, 0.24)), ((0, 0.30), (1, 0.34))
    rows = [
        row
        for seed, values in enumerate(folds)
        for fold, r1 in values
        for row in pair_rows(pair_run("sgr", 0.0, seed), r1, fold=str(fold))
    ]
    line = "| **27.0** | **54.0** | **81.0** | **13.5** | **27.0** | **40.5** | **243.0**±63.6 |"
    assert line in recall_text(rows, "md")
    stored = [row for seed, r1 in ((0, 0.22), (1, 0.32)) for row in pair_rows(pair_run("sgr", 0.0, seed), r1)]
    doubled = [row | {"value": 2 * row["value"]} for row in rows]
    assert line in recall_text(doubled + stored, "md"), "folds are not averaged with their average"


def test_matches_have_a_table_of_their_own_where_measured():
    def with_pmrp(method, i2t, t2i):
        more = [("test", "mean", "image2text", "pmrp", i2t), ("test", "mean", "text2image", "pmrp", t2i)]
        return pair_rows(pair_run(method), more=more)

    group = only_group(with_pmrp("ncr", 0.472, 0.477) + with_pmrp("sgr", 0.220, 0.239))
    text = table_text(group, "matches")
    assert "| Method | Image → Text mAP@R | Image → Text PMRP |" not in text, "mAP@R was not measured"
    assert "| Method | Image → Text PMRP | Text → Image PMRP |" in text
    assert "| `ncr` | **47.2** | **47.7** |" in text
    assert "| `sgr` | <u>22.0</u> | <u>23.9</u> |" in text


def test_table_of_matches_does_not_name_what_was_not_measured(tmp_path):
    group = only_group(pair_rows(pair_run("sgr"), more=[("test", "mean", "image2text", "map@r", 0.3)]))
    plain = only_group(pair_rows(pair_run("sgr")))
    tables = rsum_tables(group, Context(Reader(FakeStore([])), Palette(group.labels), tmp_path))
    (text,) = [file.path.read_text("utf-8") for file in tables if file.path.name == f"{STEM}_matches_last.md"]
    assert text.startswith("Matches among the first R ranks, R as many as a query has (mAP@R) in percent on flickr8k")
    assert "last epoch" in text
    assert "PMRP" not in text
    tables = rsum_tables(plain, Context(Reader(FakeStore([])), Palette(plain.labels), tmp_path))
    assert not [file.path for file in tables if "matches" in file.path.name]


def test_sizes_name_what_differs_between_papers_and_nothing_else():
    rows = pair_rows(pair_run("sgr", sizes=SMALL | {"warm_up": 2, "lr": 1e-3, "backbone": "x", "schedule": [1]}))
    assert size_notes(only_group(rows)) == [
        "Sizes and training. dim=128, similarity_dim=32, batch_size=32, epochs=7, warm_up=2, lr=0.001: sgr."
    ]
    assert size_notes(only_group(pair_rows(pair_run("sgr")))) == []


def test_schemes_never_share_a_table():
    rows = pair_rows(pair_run("sgr"), 0.2) + pair_rows(pair_run("sgr", noise_scheme="image_shuffle"), 0.1)
    groups = group_rows(pd.DataFrame(rows))
    assert [group.slug for group in groups] == ["flickr8k_caption_shuffle", "flickr8k_image_shuffle"]
    texts = [recall_text([row for row in rows if row["noise_scheme"] == group.noise_scheme], "md") for group in groups]
    assert ["180.0" in text for text in texts] == [True, False]
    assert ["image\\_shuffle noise" in text for text in texts] == [False, True]


def test_names_of_files_are_safe_for_schemes_with_several_parts_and_rates(tmp_path):
    facts = pair_run("ncr", 0.4, noise_scheme="symmetric+caption_shuffle@0.2")
    history = {"epoch": np.arange(1, 4), "noise_auroc/mean": np.array([0.5, 0.6, 0.7])}
    store = FakeStore(pair_rows(facts, more=detection()), {facts["run_id"]: {f"history/{k}": v for k, v in history.items()}})
    names = {path.name for path in render(store, tmp_path)}
    stem = "flickr8k_symmetric-caption_shuffle-0-2"
    assert {f"{stem}_rsum.tex", f"{stem}_detection.csv", f"{stem}_detection_epochs.pdf"} <= names
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+\.[a-z]+", name) for name in names)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("n_methods", [1, 40])
def test_recall_table_compiles(tmp_path, n_methods):
    rows = GOLDEN_RUNS + [row for i in range(n_methods) for row in pair_rows(pair_run(f"odd_{i}%", sizes={"dim": i}))]
    (tmp_path / "rsum.tex").write_text(recall_text(rows, "tex"), "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "rsum.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "(1 page" in done.stdout
    assert "Overfull" not in done.stdout
    assert "too large" not in done.stdout


# ---- noise detection ----------------------------------------------------------------------------------------


def detection(network="mean", precision=0.9, recall=0.6, f1=0.72, auroc=0.8):
    values = {"noise_precision": precision, "noise_recall": recall, "noise_f1": f1, "noise_auroc": auroc}
    return [("train", network, "pairs", metric, value) for metric, value in values.items()]


NAN = float("nan")
NOTHING_NOISY = detection(precision=0.0, recall=NAN, f1=0.0, auroc=NAN)
DETECTION_RUNS = [
    *pair_rows(pair_run("ncr", 0.0, n_networks=2), more=NOTHING_NOISY),
    *pair_rows(
        pair_run("ncr", 0.2, n_networks=2),
        more=[
            *detection(precision=0.9422, recall=0.8304, f1=0.8828, auroc=0.95),
            *detection("0", 0.92, 0.80, 0.86, 0.92),
            *detection("1", 0.90, 0.78, 0.84, 0.90),
            *detection("intersection", 0.97, 0.70, 0.81, 0.94),
        ],
    ),
    *pair_rows(pair_run("pls", 0.0), more=NOTHING_NOISY),
    *pair_rows(pair_run("pls", 0.2), more=detection(precision=0.5, recall=0.9, f1=0.64, auroc=0.96)),
    *pair_rows(pair_run("sgr", 0.2)),
    *pair_rows(pair_run("sgr_clean", 0.2, oracle=True)),
]


def detection_text(group, suffix="md"):
    return table_text(group, "detection", suffix)


def test_detection_table_shows_who_finds_the_noise_at_the_rates_that_have_some():
    group = only_group(DETECTION_RUNS)
    text = detection_text(group)
    lines = [line for line in text.splitlines() if line.startswith(("|", "**"))]
    assert lines == [
        "**20 % noise**",
        "| Method | Precision | Recall | F1 | AUROC |",
        "|---|---|---|---|---|",
        "| `ncr` | **94.2** | <u>83.0</u> | **88.3** | <u>95.0</u> |",
        "| `ncr` (one network) | 91.0 | 79.0 | 85.0 | 91.0 |",
        "| `ncr` (intersection) | 97.0 | 70.0 | 81.0 | 94.0 |",
        "| `pls` | <u>50.0</u> | **90.0** | <u>64.0</u> | **96.0** |",
    ]
    assert "The weights of 2 networks are averaged: ncr." in text
    assert "(intersection): where all networks agree; not ranked." in text
    assert "Oracles" not in text, "the oracle has no belief"
    assert "∅" not in text


NOTHING_FOUND = {"precision": NAN, "recall": 0.0, "f1": 0.0, "auroc": 0.5}


def test_precision_is_undefined_where_no_run_of_the_group_took_a_pair_for_noisy(tmp_path):
    rows = pair_rows(pair_run("ncr", 0.4, n_networks=2), more=detection(**NOTHING_FOUND))
    text = detection_text(only_group(rows))
    assert "| Method | Precision | Recall | F1 | AUROC |" in text
    assert "| `ncr` | ∅ | **0.0** | **0.0** | **50.0** |" in text
    assert "∅: Precision is undefined where nothing was taken for noisy: ncr at 0.4.\n" in text
    assert "no result" not in text
    assert r"\texttt{ncr} & $\emptyset$ & \textbf{0.0}" in detection_text(only_group(rows), "tex")
    render(FakeStore(rows), tmp_path)
    table = pd.read_csv(tmp_path / f"{STEM}_detection.csv").set_index("metric")
    assert table.loc["noise_precision", "status"] == "undefined 1"
    assert table.loc["noise_precision", "n"] == 0
    assert np.isnan(table.loc["noise_precision", "mean"])


def test_undefined_precision_is_told_apart_from_runs_without_a_result():
    rows = [
        *pair_rows(pair_run("ncr", 0.4, 0), more=detection(**NOTHING_FOUND)),
        *pair_rows(pair_run("ncr", 0.4, 1, "failed")),
        *pair_rows(pair_run("pls", 0.4, 0), more=detection(precision=0.5)),
        *pair_rows(pair_run("pls", 0.4, 1), more=detection(**NOTHING_FOUND)),
        *pair_rows(pair_run("sgr", 0.4, 0), more=detection(precision=0.6)),
        *pair_rows(pair_run("sgr", 0.4, 1), more=detection(precision=0.6)),
        *pair_rows(pair_run("sgr", 0.2, 0), more=detection(precision=0.8)),
    ]
    text = detection_text(only_group(rows))
    assert "| `ncr` | ∅ | 0.0 (1/2) |" in text
    assert "| `pls` | <u>50.0</u> (1/2) | <u>30.0</u>±42.4 |" in text
    assert "| `ncr` | – | – | – | – |" in text, "no run at 0.2"
    assert "–: no result: ncr at 0.2; pls at 0.2." in text
    assert "×" not in text
    assert "∅: Precision is undefined where nothing was taken for noisy: ncr at 0.4; pls at 0.4 (1 of 2 runs).\n" in text


def test_groups_without_belief_have_no_detection_table():
    assert cells_of(only_group(pair_rows(pair_run("sgr", 0.4))), load_layout("detection")).empty


def test_detection_curves_are_means_over_seeds_and_one_value_is_a_level():
    runs = [pair_run("ncr", 0.2, 0), pair_run("ncr", 0.2, 1), pair_run("pls", 0.2, 0), pair_run("sgr", 0.2, 0)]
    rows = [row for facts in runs[:2] for row in pair_rows(facts, more=detection())]
    rows += pair_rows(runs[2], more=detection(auroc=0.96, f1=0.64)) + pair_rows(runs[3])
    epochs = np.arange(1, 5)
    auroc = [np.array([NAN, 0.5, 0.6, 0.7]), np.array([NAN, 0.7, 0.8, 0.9])]
    arrays = {
        facts["run_id"]: {"history/epoch": epochs, "history/noise_auroc/mean": values, "history/noise_f1/mean": values / 2}
        for facts, values in zip(runs[:2], auroc, strict=True)
    }
    group = only_group(rows)
    curves = read_detection(group, Reader(FakeStore([], arrays)))
    figure = draw_detection(group, curves, single_values(group, curves), Palette(group.labels), "the footer")
    above, below = visible(figure)
    assert (above.get_title(), above.get_ylabel(), below.get_ylabel(), below.get_xlabel()) == (
        "noise rate 0.2", "AUROC", "F1", "Epoch",
    )  # fmt: skip
    ncr, pls = shown(above)
    np.testing.assert_allclose(ncr, [[2, 3, 4], [0.6, 0.7, 0.8]])
    np.testing.assert_allclose(pls[1], 0.96)
    np.testing.assert_allclose(shown(below)[0][1], [0.3, 0.35, 0.4])
    np.testing.assert_allclose(shown(below)[1][1], 0.64)
    assert [line.get_linestyle() for line in above.lines] == ["-", "--"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["ncr", "pls"]


# ---- figures ------------------------------------------------------------------------------------------------


def test_noise_curves_show_rsum_in_one_panel():
    runs = [(rate, seed, 0.2 - rate / 4 + shift) for rate in (0.0, 0.4) for seed, shift in ((0, -0.01), (1, 0.01))]
    group = only_group([row for rate, seed, r1 in runs for row in pair_rows(pair_run("sgr", rate, seed), r1)])
    scores = group.scores("best_valid").assign(selection="best_valid")
    figure = draw_noise_curves(group, scores, Palette(group.labels), "the footer")
    (ax,) = visible(figure)
    sgr, chance = ax.lines
    np.testing.assert_allclose(sgr.get_xydata(), [[0, 180], [0.4, 90]])
    assert set(chance.get_ydata()) == {3.2}
    assert (ax.get_ylabel(), ax.get_title(), ax.get_xlabel()) == ("rSum", "", "Noise rate")
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "sgr", "epoch of the best validation rSum", "last epoch", "chance",
    ]  # fmt: skip
    assert figure.get_suptitle().replace("\n", " ").startswith("rSum on flickr8k by rate of caption_shuffle noise")


@pytest.mark.parametrize("measured", [True, False])
def test_training_curves_show_rsum_and_the_spread_of_scores_where_measured(measured):
    facts = pair_run("sgr", 0.4)
    group = only_group(pair_rows(facts))
    arrays = {"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "valid": [90.0, 180.0, 30.0]}
    arrays |= {"score_std": [1e-1, 1e-2, 1e-5]} if measured else {}
    store = FakeStore([], {facts["run_id"]: {f"history/{name}": np.array(values) for name, values in arrays.items()}})
    figure = draw_training_curves(group, read_histories(group, Reader(store)), "the footer")
    axes = visible(figure)
    assert [ax.get_ylabel() for ax in axes] == ["Loss", "Validation rSum", "Std. dev. of scores"][: 2 + measured]
    assert axes[1].lines[1].get_xydata().tolist() == [[2, 180.0]], "the best epoch"
    if measured:
        np.testing.assert_allclose(axes[2].lines[0].get_ydata(), [1e-1, 1e-2, 1e-5])
        assert axes[2].get_yscale() == "log"
        assert 1e-4 in [line.get_ydata()[0] for line in axes[2].lines], "where scores count as collapsed"
    assert_nothing_cut_off(figure)


def test_epochs_of_a_short_fit_are_whole_numbers():
    facts = pair_run("ncr", 0.4)
    group = only_group(pair_rows(facts, more=detection()))
    history = {name: np.array([0.4, 0.6]) for name in ("loss", "valid", "noise_auroc/mean", "noise_f1/mean")}
    arrays = {f"history/{name}": values for name, values in (history | {"epoch": np.array([1, 2])}).items()}
    reader = Reader(FakeStore([], {facts["run_id"]: arrays}))
    training = draw_training_curves(group, read_histories(group, reader), "the footer")
    curves = read_detection(group, reader)
    belief = draw_detection(group, curves, single_values(group, curves), Palette(group.labels), "the footer")
    for ax in [*visible(training), *visible(belief)]:
        ticks = ax.get_xticks()
        assert {1, 2} <= set(ticks)
        np.testing.assert_array_equal(ticks, np.round(ticks))


# ---- the whole report ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report on pairs that kept all they have, the files that `render` returned, and how often it read."""
    runs = [pair_run(method, rate) for method in ("ncr", "pls") for rate in (0.0, 0.4)]
    rows = [row for facts in runs for row in pair_rows(facts, more=detection() if facts["noise_rate"] else NOTHING_NOISY)]
    history = {"epoch": np.arange(1, 4), "loss": np.ones(3), "valid": np.array([90.0, 180.0, 30.0])}
    history |= {"noise_auroc/mean": np.array([0.5, 0.6, 0.7]), "noise_f1/mean": np.array([0.4, 0.5, 0.6])}
    arrays = {f"history/{name}": values for name, values in history.items()}
    for name in ("image", "text"):
        arrays[f"embedding/test/best_valid/mean/{name}"] = np.ones((20, 4, 8), dtype=np.float16)
    store = FakeStore(rows, {facts["run_id"]: arrays for facts in runs if facts["method"] == "ncr"})
    out = tmp_path_factory.mktemp("report")
    return out, render(store, out), Counter(store.read)


def test_report_on_pairs_writes_every_file_and_lists_it(report):
    out, files, read = report
    names = {f"{STEM}_{kind}.{suffix}" for kind in ("noise", "training", "detection_epochs") for suffix in ("pdf", "png")}
    tables = ("rsum", "rsum_last", "detection", "detection_last")
    names |= {f"{STEM}_{kind}.{suffix}" for kind in tables for suffix in ("tex", "md", "html", "csv")}
    names |= {"ce_rc.pdf", "ce_rc.png", *(f"{STEM}_robustness.{suffix}" for suffix in ("tex", "md", "html", "csv"))}
    assert {path.name for path in files} == names | {"index.md", "provenance.csv"} == {path.name for path in out.iterdir()}
    index = (out / "index.md").read_text("utf-8")
    assert all(f"- [{name}]({name}): " in index for name in names)
    assert (out / f"{STEM}_rsum.md").read_text("utf-8") in index
    assert "No run kept what these need: significance." in index, "which needs values per query"
    with (out / "provenance.csv").open(newline="") as file:
        assert {line["file"] for line in csv.DictReader(file)} == names
    assert set(read.values()) == {2}, "curves and values per query; embeddings of regions and words are not looked for"


def test_data_with_labels_and_pairs_keep_the_tables_of_labels(tmp_path):
    facts = run("ce")
    render(FakeStore(rows_of(facts)), tmp_path / "labels")
    both = rows_of(facts) + [row | facts for row in pair_rows(facts, more=detection())]
    render(FakeStore(both), tmp_path / "both")
    names = {path.name for path in (tmp_path / "labels").iterdir()}
    assert {path.name for path in (tmp_path / "both").iterdir()} == names
    for name in names - {"provenance.csv"}:
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "labels" / name).read_bytes(), name


def test_trials_of_pairs_show_the_rsum_they_were_chosen_by():
    tuned = {"tuning": "grid over dim"}
    rows = pair_rows(pair_run("pls", sizes={"dim": 8}, **tuned))
    for i, (dim, rsum) in enumerate(((8, 200.0), (4, 150.0))):
        facts = pair_run("pls", sizes={"dim": dim}, trial=str(i), **tuned)
        rows.append(facts | measure("valid", "mean", "best_valid", "mean", "rsum", rsum))
    table = trials_of(only_group(rows))
    assert table[["searched", "valid_rsum", "chosen"]].values.tolist() == [["dim=8", 200.0, True], ["dim=4", 150.0, False]]


def test_neither_map_nor_rsum_is_nothing_to_report(tmp_path):
    rows = [row | {"metric": "medr"} for row in pair_rows(pair_run("sgr"))]
    with pytest.raises(NothingToReport, match=r"test MAP or rSum \(ok 1\)"):
        render(FakeStore(rows), tmp_path)
