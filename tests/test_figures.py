"""The figures of a report: what each one draws against values worked out by hand, and what is said of those without data."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from test_report import FakeStore, only_group, rows_of, run, visible

from xmbench.report import FIGURES, render
from xmbench.report import tsne as tsne_module
from xmbench.report.accuracy import draw_accuracy, read_curves
from xmbench.report.beliefs import boundary_of, by_truth, draw_losses, draw_recasting, fitted_mixture, min_max, recast
from xmbench.report.clusters import draw_clusters, lay_out
from xmbench.report.detection_recall import clean_recall, draw_recalls, read_recalls
from xmbench.report.examples import Line, draw_lines, shortened
from xmbench.report.formulas import (
    cross_entropy,
    cross_entropy_slope,
    draw_formulas,
    robust_clustering,
    robust_clustering_slope,
)
from xmbench.report.groups import Reader
from xmbench.report.pair_lists import listed
from xmbench.report.retrieved import DEPTH, QUERIES, found_by
from xmbench.report.selected import Kept, best_of, kept_runs
from xmbench.report.sensitivity import axis_of, draw_sensitivity, run_points, slices, trial_points
from xmbench.report.style import LEGEND_LINES, drawable, finish, panels

NAN = np.nan


def pair_rows(facts, value=300.0):
    """rSum rows of a run on pairs."""
    shared = {"split": "test", "network": "mean", "direction": "mean", "metric": "rsum", "value": value, "chance": 6.0}
    return [facts | shared | {"selection": selection} for selection in ("best_valid", "last")]


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are laid out, and files of them written, but not rendered, which takes longest."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(b"a figure"))


def pair_group(*runs):
    return only_group([row for facts in runs for row in pair_rows(facts)])


# ---- formulas -----------------------------------------------------------------------------------------------


def test_losses_and_gradients_are_those_of_the_formulas():
    p = np.array([0.2, 0.5, 0.9])
    np.testing.assert_allclose(cross_entropy(p), [1.6094379, 0.6931472, 0.1053605], rtol=1e-6)
    np.testing.assert_allclose(robust_clustering(p), [-0.2231436, -0.6931472, -2.3025851], rtol=1e-6)
    np.testing.assert_allclose(cross_entropy_slope(p), [-5, -2, -1 / 0.9])
    np.testing.assert_allclose(robust_clustering_slope(p), [-1.25, -2, -10])


def test_the_drawn_gradients_are_the_differences_of_the_drawn_losses():
    losses, slopes = draw_formulas("the footer").axes
    for loss, slope in zip(losses.lines[:2], slopes.lines, strict=True):
        p, middle = loss.get_xdata(), slice(100, 400)
        np.testing.assert_allclose(np.abs(np.gradient(loss.get_ydata(), p))[middle], slope.get_ydata()[middle], rtol=1e-3)


# ---- accuracy -----------------------------------------------------------------------------------------------

CURVES = {
    "accuracy/given/image": [0.3, 0.6, 0.9],
    "accuracy/true/image": [0.4, 0.5, 0.3],
    "valid/accuracy/image": [0.4, NAN, 0.3],
    "valid/map/image2text": [0.5, NAN, 0.2],
    "valid/map/mean": [0.45, NAN, 0.3],
}


def test_accuracy_by_given_and_true_labels_and_what_was_validated():
    runs = [run("ce", 0.6, 0), run("deep_sm", 0.6, 0), run("deep_sm", 0.8, 0), run("pls", 0.6, 0)]
    history = {f"history/{name}": np.array(values) for name, values in CURVES.items()} | {"history/epoch": np.arange(3.0)}
    without = {name: values for name, values in history.items() if "accuracy" not in name}
    arrays = {runs[0]["run_id"]: without, runs[1]["run_id"]: history, runs[2]["run_id"]: history}
    group = only_group([row for facts in runs for row in rows_of(facts)])
    rate, curves = read_curves(group, Reader(FakeStore([], arrays)))
    assert rate == 0.6
    assert {label: run_id for label, (run_id, _) in curves.items()} == {"ce": runs[0]["run_id"], "deep_sm": runs[1]["run_id"]}
    figure = draw_accuracy(group, {label: arrays for label, (_, arrays) in curves.items()}, rate, "the footer")
    assert [ax.get_title() for ax in visible(figure)] == ["deep_sm", "", "ce"]
    training, below, below_ce = visible(figure)
    assert [(line.get_linestyle(), line.get_ydata().tolist()) for line in training.lines] == [
        ("--", [0.3, 0.6, 0.9]),
        ("-", [0.4, 0.5, 0.3]),
    ]
    assert [line.get_xydata().tolist() for line in below.lines] == [[[0, 0.4], [2, 0.3]], [[0, 0.5], [2, 0.2]]]
    assert [line.get_xydata().tolist() for line in below_ce.lines] == [[[0, 0.5], [2, 0.2]]]
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["image", "MAP, Image → Text", "by the given labels", "by the true labels"]


@pytest.mark.parametrize("values", [[], [0.5], [NAN, NAN, 0.5]], ids=["empty", "one epoch", "one value"])
def test_a_history_too_short_for_a_curve_has_none(values):
    facts = run("ce", 0.6)
    arrays = {facts["run_id"]: {"history/epoch": np.arange(float(len(values))), "history/valid/map/mean": np.array(values)}}
    assert read_curves(only_group(rows_of(facts)), Reader(FakeStore([], arrays)))[1] == {}


# ---- beliefs ------------------------------------------------------------------------------------------------


def test_pairs_are_counted_by_truth_and_bin():
    values, clean = np.array([0.0, 0.1, 0.1, 0.6, 1.0, NAN]), np.array([True, True, False, False, False, True])
    counts = by_truth(values, clean, np.array([0, 0.5, 1.0]))
    assert {name: part.tolist() for name, part in counts.items()} == {"clean": [2, 0], "noisy": [1, 2]}


def test_losses_are_scaled_by_what_is_finite():
    np.testing.assert_allclose(min_max(np.array([2.0, 4.0, NAN, 3.0, np.inf])), [0, 1, NAN, 0.5, NAN])
    assert min_max(np.full(3, 7.0)).tolist() == [0, 0, 0]
    assert np.isnan(min_max(np.array([NAN, NAN]))).all()


def test_the_mixture_is_the_one_that_the_losses_were_drawn_from():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.05, 3000), rng.normal(0.7, 0.1, 1000)])
    weights, means, deviations = fitted_mixture(values)
    np.testing.assert_allclose(weights, [0.75, 0.25], atol=0.02)
    np.testing.assert_allclose(means, [0.2, 0.7], atol=0.02)
    np.testing.assert_allclose(deviations, [0.05, 0.1], atol=0.02)
    assert fitted_mixture(np.full(9, 0.3)) is None
    assert fitted_mixture(np.array([NAN, 0.1])) is None


def belief_arrays():
    """Ten pairs, the first six clean; their losses and labels say so but for one of each kind."""
    clean = np.arange(10) < 6
    losses = np.array([0, 0.1, 0.2, 0.1, 0, 0.9, 1, 0.8, 0.9, 0.1])
    labels = np.array([1, 1, 0.9, 0.9, NAN, 0.2, 0, 0.1, 0.1, 0.9])
    weights = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.9])
    two = {"pair_losses": losses, "rectified_labels": labels, "clean_weights": weights}
    arrays = {f"record/{name}": np.stack([values, 1 - values]) for name, values in two.items()}
    return arrays | {"record/clean_weights": np.stack([1 - weights, weights]), "record/pair_clean": clean}


def heights(ax):
    """Sums of the filled histograms of a panel."""
    return [patch.get_data().values.sum() for patch in ax.patches if patch.get_fill()]


def test_losses_are_drawn_of_the_first_network_with_a_mixture_of_as_many_pairs():
    group, kept = pair_group(run("ncr", 0.4)), [Kept("ncr", "", belief_arrays())]
    (panel,) = visible(draw_losses(group, kept, 0.4, "the footer"))
    assert heights(panel) == [6, 4]
    assert panel.patches[0].get_data().values[[0, 4, 8, 36]].tolist() == [2, 2, 1, 1]  # .9 is the edge at which bin 36 begins
    x = panel.lines[0].get_xdata()
    area = sum(np.trapezoid(line.get_ydata(), x) for line in panel.lines) * 40  # pairs per bin, over forty bins
    assert area == pytest.approx(10, rel=0.2)  # components reach beyond [0, 1]


def test_recast_margins_are_those_of_the_methods():
    import torch

    from baselines._correspondence import soft_margin

    labels = np.linspace(0, 1, 21)
    for boundary in (0.2, 0.5, 0.7):
        ours = recast(labels, boundary)
        for name, values in ours.items():
            theirs = soft_margin(torch.from_numpy(labels), name, 1.0, boundary).numpy()
            np.testing.assert_allclose(values, theirs, atol=1e-12, err_msg=name)
    assert recast(np.array([0.5]), 0.5) == {
        "linear": [0.5],
        "exponential": [pytest.approx((10**0.5 - 1) / 9)],
        "sin": [0.5],
        "sigmoid": [0.5],
    }


def test_the_boundary_lies_between_pairs_believed_clean_and_noisy():
    assert boundary_of(belief_arrays()) == pytest.approx((np.mean([1, 1, 0.9, 0.9, 0.9]) + np.mean([0.2, 0, 0.1, 0.1])) / 2)
    (figure) = draw_recasting(pair_group(run("ncr", 0.4)), [Kept("ncr", "", belief_arrays())], 0.4, "the footer")
    panels_of_margins = [ax for ax in visible(figure) if ax.get_xlabel() == "Margin"]
    assert [heights(ax) for ax in panels_of_margins] == [[5, 4]] * 4  # one label is not known


# ---- recall of noisy and of clean pairs ---------------------------------------------------------------------


def test_recall_of_clean_pairs_follows_from_that_of_noisy_ones():
    rng = np.random.default_rng(0)
    noisy, found = rng.random(200) < 0.3, rng.random(200) < 0.4
    recall, precision = (found & noisy).sum() / noisy.sum(), (found & noisy).sum() / found.sum()
    expected = (~found & ~noisy).sum() / (~noisy).sum()
    got = clean_recall(np.array([recall, 0.0]), np.array([precision, NAN]), noisy.mean())
    np.testing.assert_allclose(got, [expected, 1])


def test_recalls_are_means_over_seeds_by_rate():
    runs = [run("ncr", 0.5, 0, realised_rate=0.5), run("ncr", 0.5, 1, realised_rate=0.5), run("ncr", 0.0, 0), run("pls", 0.5)]
    arrays = {
        facts["run_id"]: {
            "history/epoch": np.arange(3.0),
            "history/noise_recall/mean": np.array([NAN, recall, 0.5]),
            "history/noise_precision/mean": np.array([NAN, 1.0, 0.5]),
        }
        for facts, recall in zip(runs, (0.6, 0.8), strict=False)
    }
    group = pair_group(*runs)
    figure = draw_recalls(group, read_recalls(group, Reader(FakeStore([], arrays))), "the footer")
    noisy, clean = visible(figure)
    np.testing.assert_allclose(noisy.lines[0].get_xydata(), [[1, 0.7], [2, 0.5]])
    np.testing.assert_allclose(clean.lines[0].get_xydata(), [[1, 1.0], [2, 0.5]])
    assert [text.get_text() for text in figure.legends[0].texts] == ["noise rate 0.5"]


# ---- sensitivity --------------------------------------------------------------------------------------------


def params(**own):
    return json.dumps({"beta": 0.7, "lr": 0.1} | own)


def test_sensitivity_takes_the_runs_that_differ_in_one_parameter():
    settings = [{"beta": 0.0}, {"beta": 0.5}, {"beta": 1.0}, {"beta": 0.0, "lr": 0.2}, {"beta": 0.5, "lr": 0.2}]
    rows = []
    for own, value in zip(settings, (0.1, 0.2, 0.3, 0.8, 0.9), strict=True):
        for seed, shift in ((0, -0.02), (1, 0.02)):
            rows += rows_of(run("mrl", 0.6, seed, params=params(**own)), value + shift)
    group = only_group(rows)
    shown = slices(run_points(group, "map"))
    assert set(zip(shown["method"], shown["parameter"], strict=True)) == {("mrl", "beta")}  # of lr there are two values
    figure = draw_sensitivity(group, shown, "test", "the footer", "map")
    assert [ax.get_title() for ax in visible(figure)] == ["mrl: Image → Text", "mrl: Text → Image", "mrl: Average"]
    (line,) = [container.lines[0] for container in visible(figure)[0].containers]
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.1], [0.5, 0.2], [1, 0.3]])
    bars = visible(figure)[0].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[0], [[0, 0.1 - 0.04 / np.sqrt(2)], [0, 0.1 + 0.04 / np.sqrt(2)]])


def test_sensitivity_to_trials_is_that_of_validation():
    tuned = {"tuning": "grid over beta, lr"}
    rows = rows_of(run("mrl", 0.4, params=params(), **tuned), 0.9)
    for trial, (beta, lr, value) in enumerate(
        [(0.5, 0.1, 0.3), (0.7, 0.1, 0.5), (0.9, 0.1, 0.4), (0.5, 0.2, 0.6), (0.7, 0.2, 0.2)]
    ):
        rows += rows_of(run("mrl", 0.4, params=params(beta=beta, lr=lr), trial=str(trial), **tuned), value, split="valid")
    group = only_group(rows)
    shown = slices(trial_points(group, "map"))
    mean = shown[(shown["parameter"] == "beta") & (shown["direction"] == "mean")].sort_values("x")
    assert mean["x"].tolist() == [0.5, 0.7, 0.9]
    np.testing.assert_allclose(mean["value"], [0.35, 0.55, 0.45])


def test_no_score_chooses_the_runs_that_a_sensitivity_shows():
    """Of two sets of three values that of the higher learning rate is better, and the other has a seed more."""
    settings = [(beta, lr, seed) for beta in (0.1, 0.5, 0.9) for lr, seed in ((0.1, 0), (0.1, 1), (0.2, 0))]
    rows = [r for beta, lr, seed in settings for r in rows_of(run("mrl", 0.4, seed, params=params(beta=beta, lr=lr)), lr)]
    (lr,) = {json.loads(text)["lr"] for text in slices(run_points(only_group(rows), "map"))["params"]}
    assert lr == 0.1
    (lr,) = {
        json.loads(text)["lr"] for text in slices(run_points(only_group([r for r in rows if not r["seed"]]), "map"))["params"]
    }
    assert lr == 0.1, "of equal sets the first, whichever is better"


def test_sensitivity_shows_gains_too_where_they_were_measured(tmp_path, unsaved):
    rows = [r for beta in (0.1, 0.5, 0.9) for r in rows_of(run("mrl", 0.4, params=params(beta=beta)), beta)]
    rows += [row | {"metric": "ndcg@100", "value": row["value"] / 2} for row in rows if row["metric"] == "map"]
    files = render(FakeStore(rows), tmp_path, kinds=("sensitivity",))
    assert [path.stem for path in files if path.suffix == ".pdf"] == [
        "wikipedia_symmetric_sensitivity", "wikipedia_symmetric_sensitivity_ndcg100"
    ]  # fmt: skip
    points = run_points(only_group(rows), "ndcg@100")
    assert points[points["direction"] == "image2text"]["value"].tolist() == pytest.approx([0.05, 0.25, 0.45])


def test_categories_are_not_joined_by_lines():
    rows = [r for name in ("rnn", "cnn", "mlp") for r in rows_of(run("mrl", 0.4, params=params(backbone=name)), 0.5)]
    group = only_group(rows)
    panel = visible(draw_sensitivity(group, slices(run_points(group, "map")), "test", "the footer", "map"))[0]
    assert panel.containers[0].lines[0].get_linestyle() == "None"
    assert [text.get_text() for text in panel.get_xticklabels()] == ["cnn", "mlp", "rnn"]


def test_values_stand_at_their_place_or_side_by_side():
    assert axis_of([3, 1.5, 10]) == ([1.5, 3, 10], [1.5, 3.0, 10.0])
    assert axis_of(["sin", "linear"]) == (["linear", "sin"], [0.0, 1.0])
    assert axis_of([True, None, False]) == ([False, None, True], [0.0, 1.0, 2.0])


# ---- clusters -----------------------------------------------------------------------------------------------


def cluster_arrays():
    """Items of five classes on the axes of the space, twelve of class 0 and 4 per modality fewer of the others; centres too."""
    numbers = np.repeat(np.arange(5), [12, 2, 10, 8, 6])
    values = np.eye(5)[numbers] + np.random.default_rng(0).normal(0, 0.05, (len(numbers), 5))
    arrays = {f"embedding/test/last/mean/{name}": values.astype(np.float16) for name in ("image", "text")}
    arrays |= {f"labels/test/{name}": np.eye(5, dtype=bool)[numbers] for name in ("image", "text")}
    return arrays | {"record/prototypes": 3 * np.eye(5), "class_names": np.array(list("abcde"))}


def test_clusters_are_of_the_most_frequent_classes_with_their_centres():
    panel = lay_out(cluster_arrays(), "test")
    centres = panel.kind == ""
    assert panel.class_number[centres].tolist() == [0, 2, 3, 4]
    assert {name: int((panel.kind == name).sum()) for name in ("image", "text")} == {"image": 36, "text": 36}
    for number in (0, 2, 3, 4):  # every centre lies nearest the items of its own class
        centre = panel.points[centres & (panel.class_number == number)][0]
        items = ~centres
        nearest = panel.class_number[items][np.linalg.norm(panel.points[items] - centre, axis=1).argmin()]
        assert nearest == number
    figure = draw_clusters(only_group(rows_of(run("mrl"))), {"mrl": panel}, list("abcde"), 0.6, "the footer")
    assert [text.get_text() for text in figure.legends[0].texts] == ["image", "text", "learnt centre", "a", "c", "d", "e"]


def test_centres_of_another_space_are_not_drawn():
    assert lay_out(cluster_arrays() | {"record/prototypes": np.eye(4)}, "test") is None


# ---- lists --------------------------------------------------------------------------------------------------


def test_what_is_found_is_marked_by_pairs_and_the_same_queries_are_asked():
    owner = np.repeat(np.arange(12), 2)  # two captions of each image
    ranking = np.tile(np.arange(24), (12, 1))  # captions 0, 1, 2, ... for every image
    arrays = {
        "ranking/test/best_valid/mean/image2text": ranking,
        "items/test/image/pairs": owner,
        "items/test/text/pairs": np.arange(24),
        "items/test/image": np.array([f"i{k}" for k in range(12)]),
        "items/test/text": np.array([f"t{k}" for k in range(24)]),
        "items/test/text/words": np.array([f"caption {k}" for k in range(24)]),
    }
    table = found_by(arrays, pair_group(run("ncr")))
    assert len(table) == QUERIES * DEPTH
    assert table["item"].unique().tolist() == [f"caption {k}" for k in range(DEPTH)]
    right = {(query, item) for query, item in table.loc[table["right"], ["query", "item"]].itertuples(index=False)}
    expected = {(f"i{k // 2}: caption {k - k % 2}", f"caption {k}") for k in range(DEPTH)}  # an image and its first caption
    assert right == {pair for pair in expected if pair[0] in set(table["query"])} != set()
    other = found_by(arrays | {"ranking/test/best_valid/mean/image2text": ranking[:, ::-1]}, pair_group(run("lnc")))
    assert other["query"].tolist() == table["query"].tolist()


def test_what_is_found_is_marked_by_labels():
    labels = np.eye(3, dtype=bool)[np.arange(12) % 3]
    arrays = {"ranking/test/best_valid/mean/image2text": np.tile(np.arange(12), (12, 1))}
    arrays |= {f"labels/test/{name}": labels for name in ("image", "text")}
    table = found_by(arrays, only_group(rows_of(run("ce"))))
    assert all(
        right == (int(query) % 3 == int(item) % 3) for query, item, right in table[["query", "item", "right"]].to_numpy()
    )


def test_listed_pairs_say_whether_the_method_is_right():
    arrays = {
        "detected/weight": np.array([0.1, 0.3]), "detected/clean": np.array([False, True]),
        "detected/image": np.array(["a", "b"]), "detected/text": np.array(["1", "2"]),
        "detected/text/words": np.array(["x", "y z"]),
        "recalled/weight": np.array([0.3]), "recalled/clean": np.array([True]), "recalled/label": np.array([0.9]),
        "recalled/image": np.array(["b"]), "recalled/text": np.array(["2"]), "recalled/text/words": np.array(["y z"]),
    }  # fmt: skip
    table = listed(arrays)
    assert table["right"].tolist() == [True, False, True]
    assert table["text"].tolist() == ["x", "y z", "y z"]
    assert table["rectified"].fillna(-1).tolist() == [-1, -1, 0.9]


def test_lines_have_marks_and_no_more_characters_than_fit():
    assert shortened("a  b\nc") == "a b c"
    assert shortened("x" * 100, 10) == "x" * 9 + "…"
    figure = draw_lines([[Line("query"), Line("<script>$x$", True), Line("图", False)]], "the title", "the footer")
    assert [text.get_text() for text in figure.texts] == ["query", "✓", "<script>$x$", "✗", "?", "the title", "the footer"]


# ---- which runs, and what is missing ------------------------------------------------------------------------


def test_the_first_seed_that_kept_enough_is_shown_at_one_rate():
    runs = [run("ncr", 0.4, 0), run("ncr", 0.4, 1), run("ncr", 0.8, 0), run("lnc", 0.2, 0), run("lnc", 0.4, 2)]
    arrays = {facts["run_id"]: {"record/x": np.zeros(1)} for facts in runs[1:]}
    group = pair_group(*runs)
    rate, kept = kept_runs(group, Reader(FakeStore([], arrays)), lambda names: "record/x" in names)
    assert (rate, [(own.label, own.run_id) for own in kept]) == (0.4, [("lnc", runs[4]["run_id"]), ("ncr", runs[1]["run_id"])])


def test_the_best_method_is_no_oracle():
    rows = [
        *pair_rows(run("ncr", 0.4), 100),
        *pair_rows(run("lnc", 0.4), 200),
        *pair_rows(run("sgr_clean", 0.4, oracle=True), 300),
    ]
    group = only_group(rows)
    assert best_of(group, 0.4, [Kept(label, "", {}) for label in group.labels]).label == "lnc"


def test_figures_without_data_are_told_with_what_they_need(tmp_path, unsaved):
    told = []
    render(FakeStore(pair_rows(run("ncr", 0.4))), tmp_path, kinds=tuple(FIGURES), tell=told.append)
    said = {line.split()[1].rstrip(":"): line for line in told}
    assert set(said) == set(FIGURES) - {"noise", "ce_rc"}
    assert said["pr"] == f"no pr: it is of data with labels, and needs {FIGURES['pr'].needs}"
    assert said["loss_mixture"] == f"no loss_mixture of wikipedia_symmetric: it needs {FIGURES['loss_mixture'].needs}"
    assert "--keep" in said["loss_mixture"]
    index = (tmp_path / "index.md").read_text("utf-8")
    assert all(FIGURES[name].needs in index for name in said if FIGURES[name].metric != "map" and not FIGURES[name].once)


def test_every_kind_is_drawn_where_there_is_data(tmp_path, unsaved):
    facts = run("lnc <script>$x_图", 0.4, realised_rate=0.4)
    arrays = belief_arrays() | {
        "history/epoch": np.arange(2.0), "history/loss": np.array([2.0, 1]), "history/valid": np.array([0.1, 0.2]),
        "history/noise_recall/mean": np.array([0.5, 0.6]), "history/noise_precision/mean": np.array([0.5, 0.6]),
        "history/noise_f1/mean": np.array([0.5, 0.6]), "history/noise_auroc/mean": np.array([0.5, 0.6]),
        "ranking/test/best_valid/mean/image2text": np.tile(np.arange(10), (10, 1)),
        "items/test/image/pairs": np.arange(10), "items/test/text/pairs": np.arange(10),
        "detected/weight": np.array([0.1]), "detected/clean": np.array([False]), "detected/image": np.array(["图"]),
    }  # fmt: skip
    told = []
    files = render(FakeStore(pair_rows(facts), {facts["run_id"]: arrays}), tmp_path, kinds=tuple(FIGURES), tell=told.append)
    assert {line.split()[1].rstrip(":") for line in told if "of data with labels" not in line} == {"sensitivity", "ranks"}
    stems = {path.stem.removeprefix("wikipedia_symmetric_") for path in files if path.suffix == ".pdf"}
    own = {
        "noise",
        "training",
        "loss_mixture",
        "rectified",
        "recasting",
        "detection_epochs",
        "detection_recall",
        "topk",
        "pairs",
    }
    assert stems == own | {"ce_rc"}


def many_methods(n):
    """Rows and arrays of methods that are the better the higher their number."""
    rng, rows, arrays = np.random.default_rng(0), [], {}
    numbers = {"history/epoch": np.arange(3.0), "history/loss": np.array([3.0, 2, 1]), "history/valid": np.array([0.1, 0.2, 0])}
    for i in range(n):
        facts = run(f"m{i:03}", 0.4)
        rows += rows_of(facts, 0.2 + 0.005 * i)
        arrays[facts["run_id"]] = own = dict(numbers)
        for name, direction in (("image", "image2text"), ("text", "text2image")):
            values = np.clip(0.005 * i + rng.normal(0.2, 0.05, 30), 0, 1).astype(np.float32)
            own |= {f"per_query/test/best_valid/mean/{direction}/map": values, f"items/test/{name}/pairs": np.arange(30)}
            own[f"embedding/test/best_valid/mean/{name}"] = rng.normal(size=(30, 4)).astype(np.float16)
            own[f"labels/test/{name}"] = np.eye(3, dtype=bool)[np.arange(30) % 3]
    return rows, arrays


@pytest.mark.slow
def test_a_report_of_120_methods_is_bounded_and_says_what_it_leaves_out(tmp_path, monkeypatch):
    """All kinds of files; of figures with a panel a method those of the best are shown."""
    told, fitted = {}, []

    def savefig(figure, file, metadata, **_):
        told[metadata["Title"]] = metadata.get("Subject") or metadata["Description"]
        file.write(b"a figure")

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(tsne_module, "layout", lambda values: fitted.append(len(values)) or np.zeros((len(values), 2)))
    files = render(FakeStore(*many_methods(120)), tmp_path)
    assert {path.suffix for path in files} == {".tex", ".md", ".html", ".csv", ".pdf", ".png"}
    assert "the 6 best of 120 methods by MAP" in told["wikipedia_symmetric_tsne"] and len(fitted) == 6
    assert "the 40 best of 120 methods by MAP" in told["wikipedia_symmetric_training"]
    pairs = pd.read_csv(tmp_path / "wikipedia_symmetric_significance.csv")
    assert len(pairs) == 3 * 119, "each with the best of its direction"


# ---- style --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_methods", [1, LEGEND_LINES, 40])
def test_legends_of_many_methods_stay_inside_the_figure(n_methods):
    figure, _ = panels(1, 1, width=2, height=2)
    finish(figure, "a title", "the footer", [Line2D([], [], label=f"method {i}") for i in range(n_methods)])
    box = figure.legends[0].get_window_extent()
    assert box.x0 > figure.axes[0].get_window_extent().x1
    assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert box.x1 <= figure.bbox.x1


def test_characters_without_a_glyph_become_question_marks():
    assert drawable("a_$b →\n图") == "a_$b →\n?"


def test_tables_of_examples_are_csv_too(tmp_path):
    facts = run("ncr", 0.4)
    arrays = {"detected/weight": np.array([0.25]), "detected/clean": np.array([False]), "detected/text": np.array(["a|图 $x$"])}
    render(FakeStore(pair_rows(facts), {facts["run_id"]: arrays}), tmp_path, kinds=("pairs",))
    table = pd.read_csv(tmp_path / "wikipedia_symmetric_pairs.csv")
    assert table[["label", "kind", "weight", "right", "text"]].to_numpy().tolist() == [
        ["ncr", "detected", 0.25, True, "a|图 $x$"]
    ]
    assert r"| detected | 0.250 |  | ✓ | a\|图 $x$ |" in (tmp_path / "wikipedia_symmetric_pairs.md").read_text("utf-8")
