"""Pairwise tests of methods out of a store: `xmbench compare`, the significance tables, letters and mean ranks."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xmbench.report.files import Context
from xmbench.report.groups import READ, Reader, group_rows
from xmbench.report.ranks import block_scores, not_separable, rank_diagram
from xmbench.report.significance import letters, read_column
from xmbench.report.significance_table import significance_tables
from xmbench.report.style import Palette
from xmbench.store import Store
from xmbench.types import fingerprint

N = 40
DIFFICULTY = np.random.default_rng(0).random(N)


def values(level, seed, n=N, spread=0.05):
    """Average precisions of the same queries, some easy and some hard for every method."""
    noise = np.random.default_rng([seed, int(1000 * level)]).normal(0, spread, n)
    return np.clip(0.5 * np.resize(DIFFICULTY, n) + level + noise, 0, 1).astype(np.float32)


def write_run(store, method, per_query, rate=0.0, seed=0, metric="map", **columns):
    """A finished run of two directions with these values per query, {direction: (n,)}."""
    facts = {
        "status": "ok", "dataset": "wikipedia", "dataset_params": "{}", "features": "image 8, text 8",
        "noise_scheme": "symmetric", "noise_rate": rate, "noise_seed": seed, "realised_rate": rate,
        "noise_sha": f"{rate}{seed}",
        "noise_options": "{}", "method": method, "method_version": "1", "params": "{}", "seed": seed, "protocol": "default",
        "protocol_sha": columns.get("protocol", "default") * 4, "valid_labels": "clean", "tuning": "none", "profile": "",
        "oracle": False, "from_description": False, "n_networks": 1, "split": "test", "network": "mean",
        "selection": "best_valid",
    } | columns  # fmt: skip
    facts["run_id"] = fingerprint([json.dumps(facts | {"of": metric})])
    means = {direction: float(np.nanmean(part)) for direction, part in per_query.items()}
    known = {direction: int(np.isfinite(part).sum()) for direction, part in per_query.items()}
    means["mean"], known["mean"] = float(np.mean(list(means.values()))), sum(known.values())
    rows = [
        facts | {"direction": direction, "metric": metric, "value": value, "chance": 0.1, "n_queries": known[direction]}
        for direction, value in means.items()
    ]
    arrays = {f"per_query/test/best_valid/mean/{direction}/{metric}": part for direction, part in per_query.items()}
    Store(store).write(rows, arrays)


def both(level, seed, **more):
    return {"image2text": values(level, seed, **more), "text2image": values(level + 0.05, seed + 100, **more)}


@pytest.fixture
def store(tmp_path):
    """mrl far above ce without noise and level with it at .4, two seeds; an oracle above both."""
    folder = tmp_path / "store"
    for seed in (0, 1):
        for rate, level in ((0.0, 0.3), (0.4, 0.1)):
            write_run(folder, "mrl", both(level, seed), rate, seed)
            write_run(folder, "ce", both(0.1, seed + 10), rate, seed)
            write_run(folder, "clean_ce", both(0.4, seed + 20), rate, seed, oracle=True)
    return folder


def groups_of(store):
    return group_rows(Store(store).rows(READ))


def test_compare_prints_the_paired_difference_of_both_directions(xmbench, store):
    rows = pd.DataFrame(xmbench("compare", "mrl", "ce", "--store", store, "--format", "json").json)
    assert rows["noise_rate"].tolist() == [0.0, 0.4]
    of = {(method, rate): np.mean([[sum(both(level, seed + add).values()) / 2] for seed in (0, 1)], axis=(0, 1))
          for method, rate, level, add in (("mrl", 0.0, 0.3, 0), ("mrl", 0.4, 0.1, 0), ("ce", 0.0, 0.1, 10))}  # fmt: skip
    for row, rate in zip(rows.to_dict("records"), (0.0, 0.4), strict=True):
        difference = (of["mrl", rate] - of["ce", 0.0]).astype(float)
        low, high = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
        assert (row["difference"], row["low"], row["high"]) == pytest.approx((difference.mean(), low, high), abs=1e-6)
        assert row["mean_a"] - row["mean_b"] == pytest.approx(row["difference"])
        assert (row["n_seeds"], row["n_queries"]) == (2, 2 * N)
        assert row["note"] == "training variance not included"
    assert rows["p_holm"][0] < 0.001 < 0.05 < rows["p_holm"][1]
    assert rows["superiority"][0] > 0.95


def test_from_five_seeds_on_training_is_included(xmbench, tmp_path):
    for seed in range(5):
        write_run(tmp_path / "s", "mrl", both(0.3, seed), 0.0, seed)
        write_run(tmp_path / "s", "ce", both(0.1, seed + 10), 0.0, seed)
    (row,) = xmbench("compare", "mrl", "ce", "--store", tmp_path / "s", "--format", "json").json
    assert (row["n_seeds"], row["note"], row["interval_over"]) == (5, "", "queries and seeds")
    assert row["test"] == "t test over queries and seeds"
    printed = xmbench("compare", "mrl", "ce", "--store", tmp_path / "s")
    assert "training variance" not in printed.out and "mrl better" in printed.out
    assert "dataset wikipedia" in printed.err


def test_seeds_that_one_method_lacks_are_left_out_and_said(xmbench, store):
    write_run(store, "mrl", both(0.9, 7), 0.0, 7)
    row = xmbench("compare", "mrl", "ce", "--store", store, "--rate", "0", "--format", "json").json[0]
    assert row["n_seeds"] == 2 and row["mean_a"] < 0.7
    assert row["note"].endswith("seeds that both have, with values per query, out of 3 of mrl, 2 of ce")


def test_lower_ranks_are_better(xmbench, tmp_path):
    for method, rank in (("mrl", 2), ("ce", 5)):
        ranks = {direction: rank + np.arange(20, dtype=np.float32) % 3 for direction in ("image2text", "text2image")}
        write_run(tmp_path / "s", method, ranks, metric="meanr")
        write_run(tmp_path / "s", method, both(0.1, 0), seed=1)  # a MAP, by which the group is found
    (row,) = xmbench("compare", "mrl", "ce", "--store", tmp_path / "s", "--metric", "meanr", "--format", "json").json
    assert (row["difference"], row["superiority"]) == (-3, 1)


def test_queries_without_a_relevant_item_count_as_the_protocol_says(store):
    """Left out as a rule; as zero where the rows say that the metric is over all queries."""
    holes = {
        direction: np.where(np.arange(N) < 10, np.nan, 0.5).astype(np.float32) for direction in ("image2text", "text2image")
    }
    write_run(store, "skip", holes, 0.0, 0)
    write_run(store, "zero", holes, 0.0, 0, protocol="zero")
    group, zero = groups_of(store)
    column = read_column(Reader(Store(store)), group, ["skip", "mrl"], "best_valid", "mean", "map", 0.0)
    assert column.means["skip"] == 0.5 and column.values.n_queries == 60  # mrl over the same queries
    zero.rows.loc[:, "n_queries"] = N
    column = read_column(Reader(Store(store)), zero, ["zero"], "best_valid", "mean", "map", 0.0)
    assert column.means["zero"] == 0.375


def test_captions_belong_to_their_image_in_a_single_direction_too(tmp_path):
    for method, level in (("mrl", 0.3), ("ce", 0.1)):
        captions = np.repeat(values(level, 0), 5)
        write_run(tmp_path / "s", method, {"image2text": values(level, 1), "text2image": captions})
    (group,) = groups_of(tmp_path / "s")
    column = read_column(Reader(Store(tmp_path / "s")), group, ["mrl", "ce"], "best_valid", "text2image", "map", 0.0)
    assert column.values.values.shape == (2, N) and column.values.n_queries == 5 * N


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mrl", "cee"], 2, "did you mean 'ce'"),
        (["mrl", "mrl"], 2, "two different methods must be given"),
        (["mrl", "ce", "--rate", "0.9"], 6, "no finished runs in common"),
        (["mrl", "ce", "--where", "noise_rate > 1"], 6, "no finished run in"),
        (["mrl", "ce", "--metric", "medr"], 2, "medr is no mean over queries"),
        (["mrl", "ce", "--metric", "r@1"], 6, "with values per query of this metric"),
        (["mrl", "ce", "--direction", "text2audio"], 2, "direction must be mean or one of image2text, text2image"),
        (["mrl", "dscmr"], 2, "mrl has default, dscmr has noisy_valid"),
        (["mrl", "sm"], 2, "sm occurs with several settings on wikipedia: name one of 'sm (beta=1)', 'sm (beta=2)'"),
    ],
)
def test_what_cannot_be_compared_is_refused(xmbench, store, arguments, code, message):
    write_run(store, "dscmr", both(0.1, 3), protocol="noisy_valid")
    write_run(store, "sm", both(0.1, 4), seed=0, params='{"beta": 1}')
    write_run(store, "sm", both(0.1, 5), seed=1, params='{"beta": 2}')
    called = xmbench("compare", *arguments, "--store", store)
    assert called.code == code
    assert message in called.err and "Traceback" not in called.err


def test_an_empty_store_has_nothing_to_compare(xmbench, tmp_path):
    called = xmbench("compare", "mrl", "ce", "--store", tmp_path / "none")
    assert called.code == 6 and "no finished run" in called.err


def test_runs_with_other_queries_are_no_pairs(store):
    write_run(store, "short", both(0.2, 0, n=30))
    (group,) = groups_of(store)
    with pytest.raises(ValueError, match="must have the same test queries"):
        letters(Reader(Store(store)), group, "best_valid", "mean", "map", 0.0)


def test_letters_of_a_column_leave_out_oracles(store):
    (group,) = groups_of(store)
    reader = Reader(Store(store))
    assert letters(reader, group, "best_valid", "mean", "map", 0.0) == {"mrl": "a", "ce": "b"}
    assert set(letters(reader, group, "best_valid", "mean", "map", 0.4).values()) == {"a"}
    assert letters(reader, group, "best_valid", "mean", "medr", 0.4) == {}
    assert letters(reader, group, "last", "mean", "map", 0.4) == {}


def context_of(store, out):
    out.mkdir(exist_ok=True)
    groups = groups_of(store)
    return Context(Reader(Store(store)), Palette(sorted({label for g in groups for label in g.labels})), out, groups)


def test_significance_table_holds_all_pairs_and_compiles(store, tmp_path):
    write_run(store, "<b>_x", both(0.2, 4), 0.0, 0)
    context = context_of(store, tmp_path / "out")
    files = {file.path.suffix: file.path for file in significance_tables(context.groups[0], context)}
    pairs = pd.read_csv(files[".csv"])
    assert len(pairs) == 3 * (3 + 1)  # directions, times pairs at both rates
    text = files[".md"].read_text()
    assert "| `ce` |" in text and "training variance not included" in text and "\\<b\\>\\_x" not in text
    if shutil.which("pdflatex"):
        done = subprocess.run(
            ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", files[".tex"].name],
            cwd=tmp_path / "out", capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout


@pytest.fixture
def ranked(tmp_path):
    """Three methods, always in the same order, on two datasets at two rates each: four blocks."""
    for dataset in ("wikipedia", "openmoji"):
        for rate in (0.0, 0.4):
            for method, level in (("mrl", 0.3), ("ce", 0.2), ("cca", 0.1)):
                write_run(tmp_path / "s", method, both(level, 0), rate, dataset=dataset)
    return tmp_path / "s"


def test_ranks_over_datasets_and_rates(ranked, tmp_path):
    context = context_of(ranked, tmp_path / "out")
    files = [file for group in context.groups for file in rank_diagram(group, context)]
    assert [file.path.suffix for file in files] == [".pdf", ".png", ".md", ".csv"]
    text = files[2].path.read_text()
    assert "4 blocks, 2 datasets" in text and "blocks of one dataset are dependent" in text
    assert "chi-squared 8.00" in text  # 12 / (4 x 3 x 4) x (4^2 + 8^2 + 12^2) - 3 x 4 x 4
    assert "| `mrl` | 1.00 |" in text and "| `cca` | 3.00 |" in text
    assert len(pd.read_csv(files[3].path)) == 4
    assert set(files[0].runs["dataset"]) == {"wikipedia", "openmoji"}


def test_ranks_over_incomplete_blocks_are_refused_and_what_is_missing_is_named(ranked, tmp_path):
    write_run(ranked, "pls", both(0.2, 0), 0.0, dataset="openmoji")
    context = context_of(ranked, tmp_path / "out")
    (file,) = [file for group in context.groups for file in rank_diagram(group, context)]
    text = file.path.read_text()
    assert "No critical-difference diagram: every method must have a result in each of the 4 blocks" in text
    assert "pls on openmoji, symmetric at 0.4; pls on wikipedia" in text


def test_schemes_share_the_block_without_noise(ranked):
    for method, level in (("mrl", 0.3), ("ce", 0.2), ("cca", 0.1)):
        write_run(ranked, method, both(level, 0), 0.0, seed=3, noise_scheme="pair_flip")
        write_run(ranked, method, both(level, 0), 0.4, seed=3, noise_scheme="pair_flip")
    scores = block_scores(groups_of(ranked)).reset_index()
    assert len(scores) == 5 and (scores["noise_rate"] == 0).sum() == 2


def test_bars_of_the_diagram_join_what_the_critical_difference_does_not_separate():
    assert not_separable(np.array([1.0, 2.0, 3.0, 9.0]), 1.5) == [(0, 1), (1, 2)]
    assert not_separable(np.array([1.0, 1.2, 1.4]), 1.5) == [(0, 2)]


def test_compare_reads_its_csv_back(xmbench, store, tmp_path):
    csv, js = (xmbench("compare", "mrl", "ce", "--store", store, "--format", form).out for form in ("csv", "json"))
    (tmp_path / "a.csv").write_text(csv)
    frame = pd.read_csv(tmp_path / "a.csv")
    assert frame["p_holm"].tolist() == pytest.approx([row["p_holm"] for row in json.loads(js)])
