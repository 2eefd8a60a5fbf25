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
from xmbench.report.significance import MAX_LETTERED, intervals, read_column, table_letters
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


def write_run(store, method, per_query, rate=0.0, seed=0, metric="map", pairs=True, **columns):
    """A finished run of two directions with these values per query, {direction: (n,)}, and the test pairs.

    Args:
        pairs: True for query i of one direction with an equal share of the other's, None for none, or {modality: items}.
    """
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
    sizes = {direction.partition("2")[0]: len(part) for direction, part in per_query.items()}
    n = max(sizes.values())
    pairs = {name: np.arange(n) * size // n for name, size in sizes.items()} if pairs is True else pairs or {}
    arrays |= {f"items/test/{name}/pairs": np.asarray(part, np.int32) for name, part in pairs.items()}
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


def clustered_interval(images, captions, pairs):
    """The 95 % interval of the mean of both directions over clusters that pairs join, found by merging sets."""
    clusters = []
    for i, j in pairs:
        joined = [c for c in clusters if c & {("image", i), ("text", j)}]
        clusters = [c for c in clusters if c not in joined] + [{("image", i), ("text", j)}.union(*joined)]
    values = {"image": images, "text": captions}
    influence = np.array([
        sum((values[name][i] - values[name].mean()) / len(values[name]) / 2 for name, i in cluster) for cluster in clusters
    ])  # fmt: skip
    n, centre = len(clusters), (images.mean() + captions.mean()) / 2
    half = stats.t.ppf(0.975, n - 1) * np.sqrt(n * influence.var(ddof=1))
    return centre - half, centre + half, n


@pytest.mark.parametrize("shuffled", [False, True])
def test_items_are_those_that_the_pairs_join_whatever_their_order_and_number(tmp_path, shuffled):
    """Images have one to five captions, in any order; one caption belongs to two images."""
    rng = np.random.default_rng(5)
    owners = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    order = rng.permutation(len(owners)) if shuffled else np.arange(len(owners))
    pairs = np.array([*zip(owners, order, strict=True), (0, order[-1])])
    quality = rng.random(12)  # captions of one image are alike
    images, captions = quality + rng.normal(0, 0.05, 12), np.empty(len(owners))
    captions[order] = quality[owners] + rng.normal(0, 0.05, len(owners))
    of_queries = {"image2text": images.astype(np.float32), "text2image": captions.astype(np.float32)}
    write_run(tmp_path, "ce", of_queries, seed=0, pairs={"image": pairs[:, 0], "text": pairs[:, 1]})
    write_run(tmp_path, "mrl", of_queries, seed=1, pairs=None)  # only the first seed keeps them
    (group,) = groups_of(tmp_path)
    reader = Reader(Store(tmp_path))
    column = read_column(reader, group, ["mrl"], "best_valid", "mean", "map", 0.0)
    low, high, n_items = clustered_interval(images, captions, pairs)
    interval = intervals(reader, (group, "mean", "map", 0.0), "best_valid")["mrl"]
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)
    assert column.values.values.shape == (1, n_items) == (1, 11) and not column.by_place


@pytest.mark.parametrize("pairs", [None, {"image": [0, 1], "text": [0, N]}, {"image": [0, 1]}])
def test_without_pairs_of_these_queries_items_are_told_by_place_and_it_is_said(xmbench, tmp_path, pairs):
    for method in ("mrl", "ce"):
        write_run(tmp_path / "s", method, both(0.1, 0), pairs=pairs)
    (row,) = xmbench("compare", "mrl", "ce", "--store", tmp_path / "s", "--format", "json").json
    assert row["note"] == (
        "training variance not included; what belongs to one item is told by the place of queries, since no run kept the pairs"
    )


def test_runs_with_other_queries_are_no_pairs(store):
    write_run(store, "short", both(0.2, 0, n=30))
    (group,) = groups_of(store)
    with pytest.raises(ValueError, match="must have the same test queries"):
        table_letters(Reader(Store(store)), [(group, "mean", "map", 0.0)], "best_valid")[0]


def test_letters_of_a_column_leave_out_oracles(store):
    (group,) = groups_of(store)
    reader = Reader(Store(store))
    assert table_letters(reader, [(group, "mean", "map", 0.0)], "best_valid")[0] == {"mrl": "a", "ce": "b"}
    assert set(table_letters(reader, [(group, "mean", "map", 0.4)], "best_valid")[0].values()) == {"a"}
    assert table_letters(reader, [(group, "mean", "medr", 0.4)], "best_valid")[0] == {}
    assert table_letters(reader, [(group, "mean", "map", 0.4)], "last")[0] == {}


def context_of(store, out):
    out.mkdir(exist_ok=True)
    groups = groups_of(store)
    return Context(Reader(Store(store)), Palette(sorted({label for g in groups for label in g.labels})), out, groups)


def test_letters_are_of_the_methods_shown(store):
    """Of one method alone there is nothing to test."""
    (group,) = groups_of(store)
    reader = Reader(Store(store))
    assert table_letters(reader, [(group.only(["ce"], []), "mean", "map", 0.0)], "best_valid") == [{"ce": "a"}]


def test_holm_is_over_all_columns_of_a_table(tmp_path):
    """p is about .03 in one column and .8 in the other: separable alone, and no more with two columns in the table."""
    noise = np.random.default_rng(3).normal(size=N)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    for rate, errors in ((0.0, 2.2), (0.4, 0.3)):
        differences = (0.5 + 0.05 * (noise + errors / np.sqrt(N))).astype(np.float32)
        write_run(tmp_path, "mrl", {"image2text": differences, "text2image": differences}, rate)
        write_run(tmp_path, "ce", {name: np.full(N, 0.5, np.float32) for name in ("image2text", "text2image")}, rate)
    (group,) = groups_of(tmp_path)
    columns = [(group, "mean", "map", rate) for rate in group.rates]
    assert table_letters(Reader(Store(tmp_path)), columns[:1], "best_valid") == [{"mrl": "a", "ce": "b"}]
    assert table_letters(Reader(Store(tmp_path)), columns, "best_valid") == [{"mrl": "a", "ce": "a"}] * 2


def test_methods_without_a_seed_in_common_share_no_letter(store, tmp_path):
    """pls ran with a seed that no other has: nothing tells whether it differs."""
    write_run(store, "pls", both(0.3, 9), 0.0, 9)
    (group,) = groups_of(store)
    assert table_letters(Reader(Store(store)), [(group, "mean", "map", 0.0)], "best_valid")[0] == {"mrl": "a", "ce": "b"}
    files = {file.path.suffix: file.path for file in significance_tables(group, context_of(store, tmp_path / "out"))}
    text = files[".md"].read_text()
    assert "No letter, for want of a seed in common with each of the others: pls at 0." in text


def test_of_many_methods_each_is_compared_with_the_best_only(tmp_path):
    for i in range(MAX_LETTERED + 1):
        write_run(tmp_path / "s", f"m{i:02}", both(0.004 * i, i))
    (group,) = groups_of(tmp_path / "s")
    assert table_letters(Reader(Store(tmp_path / "s")), [(group, "mean", "map", 0.0)], "best_valid")[0] == {}
    files = {file.path.suffix: file.path for file in significance_tables(group, context_of(tmp_path / "s", tmp_path / "out"))}
    pairs = pd.read_csv(files[".csv"])
    assert pairs.groupby("direction").size().tolist() == [MAX_LETTERED] * 3
    assert (pairs.groupby("direction")["method_a"].nunique() == 1).all()
    assert "More than 40 methods: each is compared with the best one only, and none has a letter." in files[".md"].read_text()


def test_significance_table_holds_all_pairs_and_compiles(store, tmp_path):
    write_run(store, "<b>_x", both(0.2, 4), 0.0, 0)
    write_run(store, "mrl+", {name: part + 0.25 for name, part in both(0.3, 0).items()}, 0.0, 0, stale=True)
    context = context_of(store, tmp_path / "out")
    files = {file.path.suffix: file.path for file in significance_tables(context.groups[0], context)}
    pairs = pd.read_csv(files[".csv"])
    assert len(pairs) == 3 * (6 + 1)  # directions, times pairs at both rates
    text = files[".md"].read_text()
    assert "Holm's correction over the 21 pairs of all rates and directions" in text
    assert "| `ce` |" in text and "training variance not included" in text and "| `<b>_x` |" in text
    assert not {"-0.000", "nan", "inf", "-0.00"} & set(text.replace("[", " ").replace("]", " ").replace(",", " ").split())
    assert "<b>_x" not in files[".html"].read_text() and "&lt;b&gt;_x" in files[".html"].read_text()
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
    assert [file.path.suffix for file in files] == [".pdf", ".png", ".tex", ".md", ".html", ".csv"]
    text = files[3].path.read_text()
    assert "4 blocks, 2 datasets" in text and "blocks of one dataset are dependent" in text
    assert "chi-squared 8.00" in text  # 12 / (4 x 3 x 4) x (4^2 + 8^2 + 12^2) - 3 x 4 x 4
    assert "| `mrl` | 1.00 |" in text and "| `cca` | 3.00 |" in text
    assert len(pd.read_csv(files[5].path)) == 4
    assert set(files[0].runs["dataset"]) == {"wikipedia", "openmoji"}


def test_ranks_over_incomplete_blocks_are_refused_and_what_is_missing_is_named(ranked, tmp_path):
    write_run(ranked, "pls", both(0.2, 0), 0.0, dataset="openmoji")
    context = context_of(ranked, tmp_path / "out")
    (file,) = [file for group in context.groups for file in rank_diagram(group, context)]
    text = file.path.read_text()
    assert "No critical-difference diagram: every method must have a result in each of the 4 blocks" in text
    assert "pls on openmoji, symmetric at 0.4; pls on wikipedia" in text


@pytest.mark.parametrize("alike", [True, False])
def test_a_numbered_setting_is_the_same_in_all_blocks(ranked, tmp_path, alike):
    """Three parameters differ, so that settings have numbers; each dataset would number its own."""
    for dataset, last in (("wikipedia", 2), ("openmoji", 2 if alike else 3)):
        for rate in (0.0, 0.4):
            for k in (1, last):
                params = json.dumps({"a": k, "b": k, "c": k})
                write_run(ranked, "sm", both(0.02 * k, k), rate, dataset=dataset, params=params, implementation="sm")
    context = context_of(ranked, tmp_path / "out")
    files = [file for group in context.groups for file in rank_diagram(group, context)]
    (text,) = [file.path.read_text() for file in files if file.path.suffix == ".md"]
    if alike:
        csv = pd.read_csv(files[-1].path).set_index(["dataset", "noise_rate"])
        assert "5 methods over 4 blocks" in text and (csv["sm (2)"] > csv["sm (1)"]).all()
        assert "sm occurs with 2 settings. sm (1): a=1, b=1, c=1; sm (2): a=2, b=2, c=2." in text
    else:
        assert "missing are sm (2) on openmoji" in text and "sm (3) on wikipedia" in text
        assert "sm (3): a=3, b=3, c=3" in text and len(files) == 1


def test_schemes_share_the_block_without_noise(ranked):
    for method, level in (("mrl", 0.3), ("ce", 0.2), ("cca", 0.1)):
        write_run(ranked, method, both(level, 0), 0.0, seed=3, noise_scheme="pair_flip")
        write_run(ranked, method, both(level, 0), 0.4, seed=3, noise_scheme="pair_flip")
    groups = groups_of(ranked)
    scores = block_scores(groups, [{}] * len(groups)).reset_index()
    assert len(scores) == 5 and (scores["noise_rate"] == 0).sum() == 2


def test_bars_of_the_diagram_join_what_the_critical_difference_does_not_separate():
    assert not_separable(np.array([1.0, 2.0, 3.0, 9.0]), 1.5) == [(0, 1), (1, 2)]
    assert not_separable(np.array([1.0, 1.2, 1.4]), 1.5) == [(0, 2)]


def test_compare_reads_its_csv_back(xmbench, store, tmp_path):
    csv, js = (xmbench("compare", "mrl", "ce", "--store", store, "--format", form).out for form in ("csv", "json"))
    (tmp_path / "a.csv").write_text(csv)
    frame = pd.read_csv(tmp_path / "a.csv")
    assert frame["p_holm"].tolist() == pytest.approx([row["p_holm"] for row in json.loads(js)], abs=1e-9)
