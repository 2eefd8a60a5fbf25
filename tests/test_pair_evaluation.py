"""Evaluation of pair data: each similarity once, whole images, folds, fast counts with ties, noise detection, collapse."""

import itertools
import json
import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest
from test_golden import GOLDEN

import xmbench as xb
from baselines.pls import weights_of_cosines
from xmbench import metrics, progress, scores, ties
from xmbench.detection import detection_measures, noise_detection, pair_lists
from xmbench.evaluate import embed_split, measure, measure_folds, score_and_spread
from xmbench.method import MethodInfo
from xmbench.plan import plan
from xmbench.registry import _METHODS
from xmbench.run import Settings, execute
from xmbench.spec import Spec, load_protocol, parse_settings
from xmbench.store import Store
from xmbench.subsets import chosen_pairs, with_items
from xmbench.sweep import sweep, todo
from xmbench.types import stream

PAIRS = load_protocol("pairs")


@pytest.fixture
def registered():
    """Methods registered inside a test are forgotten after it."""
    before = dict(_METHODS)
    yield
    _METHODS.clear()
    _METHODS.update(before)


def numbered(n_images, per_image, classes=None):
    """A split whose vectors are the items' numbers, with `per_image` captions one after the other for each image."""
    owner = np.repeat(np.arange(n_images), per_image)
    numbers = {"image": np.arange(n_images), "text": np.arange(len(owner))}
    labels = {"image": None, "text": None} if classes is None else {"image": classes, "text": classes[owner]}
    modalities = tuple(
        xb.Modality(name=name, vectors=xb.Rows(x[:, None].astype(float)), labels=labels[name]) for name, x in numbers.items()
    )
    return xb.PairedSet(modalities=modalities, pairs=np.stack([owner, numbers["text"]], axis=1))


class Looked(xb.Method):
    """Looks the similarity of two items up by their numbers, in one matrix per network; embeddings are sequences."""

    info = MethodInfo("looked", frozenset({"vectors"}))

    def __init__(self, *matrices, length=2):
        self.matrices, self.length, self.asked = matrices, length, []

    def fit(self, train, context):
        pass

    def embed(self, modality):
        values = np.repeat(np.asarray(modality.vectors)[:, None], self.length, axis=1)
        return [xb.Embedding(modality.name, values, np.full(len(values), self.length)) for _ in self.matrices]

    def similarity(self, first, second):
        assert (first.modality, second.modality, first.network) == ("image", "text", second.network)
        rows, columns = (e.values[:, 0, 0].astype(int) for e in (first, second))
        self.asked.append((first.network, len(rows) * len(columns)))
        return self.matrices[first.network][np.ix_(rows, columns)]


def measured(method, split, protocol=PAIRS, **options):
    return measure(method, split, embed_split(method, split, "float32", 0), protocol, **options)


def plain_ranks(matrix, per_image):
    """Ranks from 1 of the best own caption of each image and of each caption's image, without ties."""
    best = matrix.reshape(len(matrix), -1, per_image)[np.arange(len(matrix)), np.arange(len(matrix))].max(axis=1)
    own = matrix[np.arange(matrix.shape[1]) // per_image, np.arange(matrix.shape[1])]
    return 1 + (matrix > best[:, None]).sum(axis=1), 1 + (matrix > own).sum(axis=0)


# similarities


def test_each_similarity_of_each_network_is_computed_once_for_all_numbers():
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((2, 150, 300)).astype(np.float32)
    method = Looked(*matrices)
    got = measured(method, numbered(150, 2))
    sizes = [size for _, size in method.asked]
    assert sum(sizes) == 2 * 150 * 300, "two networks, and not once more for their mean or for another direction"
    assert max(sizes) == scores.SEQUENCES_PER_BLOCK * 300, "sequences come in blocks"
    for network, matrix in {"0": matrices[0], "1": matrices[1], "mean": matrices.mean(axis=0)}.items():
        for direction, ranks in zip(("image2text", "text2image"), plain_ranks(matrix, 2), strict=True):
            assert got.value("meanr", network=network, direction=direction) == ranks.mean()
            assert got.value("medr", network=network, direction=direction) == np.floor(np.median(ranks))
            assert got.value("r@10", network=network, direction=direction) == (ranks <= 10).mean()
    hits = [(ranks <= k).mean() for ranks in plain_ranks(matrices.mean(axis=0), 2) for k in (1, 5, 10)]
    assert got.value("rsum") == pytest.approx(100 * sum(hits))


def test_perfect_scores_reach_everything_and_random_ones_what_chance_gives():
    owner = np.repeat(np.arange(60), 5)
    perfect = (np.arange(60)[:, None] == owner).astype(np.float32)
    got = measured(Looked(perfect), numbered(60, 5))
    assert (got.value("rsum"), got.value("map@r"), got.value("medr"), got.value("meanr")) == (600, 1, 1, 1)
    rng = np.random.default_rng(0)
    drawn = [measured(Looked(rng.random((60, 300), dtype=np.float32)), numbered(60, 5)) for _ in range(40)]
    for direction in ("image2text", "text2image"):
        at_one = np.mean([part.value("r@1", direction=direction) for part in drawn])
        assert at_one == pytest.approx(1 / 60, abs=0.005), "five of 300 captions, one of 60 images"


def test_scores_that_are_not_finite_are_refused():
    matrix = np.zeros((6, 6), dtype=np.float32)
    matrix[2, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        measured(Looked(matrix), numbered(6, 1))


def test_an_epoch_is_chosen_by_the_mean_of_the_networks_and_watched_for_the_worst():
    rng = np.random.default_rng(1)
    good, flat = rng.standard_normal((12, 24)), np.full((12, 24), 0.5)
    method, split = Looked(good, flat), numbered(12, 2)
    score, spread, _ = score_and_spread(method, split, embed_split(method, split, "float64", 0), PAIRS)
    assert score == pytest.approx(measured(Looked(good), split).value("rsum"))
    assert spread == 0
    unpaired = good[np.arange(24) // 2 != np.arange(12)[:, None]]
    alone = score_and_spread(Looked(good), split, embed_split(Looked(good), split, "float64", 0), PAIRS)
    assert alone[1] == pytest.approx(unpaired.std(), abs=1e-12)


def test_a_matrix_too_large_for_memory_lies_in_a_file_and_gives_the_same_numbers(monkeypatch):
    matrices = np.random.default_rng(2).standard_normal((2, 20, 40)).astype(np.float32)
    wanted = measured(Looked(*matrices), numbered(20, 2), rankings=True)
    made = []
    monkeypatch.setattr(scores, "MATRIX_BYTES", 0)
    monkeypatch.setattr(np, "memmap", lambda *args, memmap=np.memmap, **kw: made.append(1) or memmap(*args, **kw))
    got = measured(Looked(*matrices), numbered(20, 2), rankings=True)
    assert len(made) == 6, "the embeddings of two networks and both modalities, and two matrices"
    assert list(map(str, got.measures)) == list(map(str, wanted.measures))
    assert all(np.array_equal(got.arrays[name], wanted.arrays[name], equal_nan=True) for name in wanted.arrays)


def test_long_work_says_how_far_it_is(monkeypatch, capsys):
    now = iter([0.0, 10.0, 31.0, 40.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    work = progress.LongWork("SGR: similarities of 4 x 9 items", 4)
    for parts in (1, 2, 3, 4):
        work.done(parts)
    assert capsys.readouterr().err == "SGR: similarities of 4 x 9 items: 50% done, 31 s left\n"


def test_embeddings_remember_their_network_and_their_order():
    split = numbered(9, 1)
    first, second = embed_split(Looked(np.eye(9), np.eye(9)), split, "float32", 3)["image"]
    assert (first.network, second.network, second.take(np.array([1])).network) == (0, 1, 1)
    assert first.values[:, 0, 0].tolist() == list(range(9))
    assert second.lengths.tolist() == [2] * 9


# whole images


def test_validation_takes_whole_images_with_all_their_captions():
    split = numbered(50, 5)
    rows = chosen_pairs(split, 23)
    assert len(rows) == 20
    assert (np.bincount(split.pairs[rows, 0])[np.unique(split.pairs[rows, 0])] == 5).all()
    part, items = with_items(split, rows)
    assert [len(m) for m in part.modalities] == [4, 20]
    assert (np.asarray(part.modalities[0].vectors)[part.pairs[:, 0], 0] == split.pairs[rows, 0]).all()
    assert items[1].tolist() == rows.tolist()
    assert len(chosen_pairs(split, 3)) == 5, "one image at least"
    assert chosen_pairs(split, 250) is None


def test_validation_of_one_to_one_data_is_what_it_was():
    order = np.random.default_rng(0).permutation(30)
    split = replace(numbered(30, 1), pairs=np.stack([order, order], axis=1))
    assert chosen_pairs(split, 12).tolist() == sorted(stream("validate").permutation(30)[:12])


# folds


def golden(name):
    if not (GOLDEN / "index.json").exists():
        pytest.skip(f"no index.json in {GOLDEN}: XMBENCH_GOLDEN must name the folder of golden fixtures")
    entry = next(e for e in json.loads((GOLDEN / "index.json").read_text("utf-8"))["fixtures"] if e["name"] == name)
    with np.load(GOLDEN / entry["file"]) as z:
        return {key: z[key] for key in z.files}


def test_folds_are_those_of_the_released_code():
    z = golden("recall_metrics")
    folds = z["input.scores_folds"]
    whole = np.full((100, 500), 99.0)  # another fold's items would be the best ones
    for k, fold in enumerate(folds):
        whole[20 * k : 20 * k + 20, 100 * k : 100 * k + 100] = fold
    method, split = Looked(whole), numbered(100, 5)
    got = measure_folds(method, split, embed_split(method, split, "float64", 0), PAIRS, 5)
    for wanted, fold in [(z["output.folds_mean"], None), *((row, str(k)) for k, row in enumerate(z["output.folds"]))]:
        found = {(m.direction, m.metric): m.value for m in got.measures if m.fold == fold}
        for i, direction in enumerate(("image2text", "text2image")):
            values = [found[direction, name] for name in ("r@1", "r@5", "r@10", "medr", "meanr")]
            np.testing.assert_allclose([*np.multiply(values[:3], 100), *values[3:]], wanted[5 * i : 5 * i + 5], atol=1e-9)
        assert found["mean", "rsum"] == pytest.approx(wanted[-1], abs=1e-9)
    assert got.value("rsum") == pytest.approx(z["output.folds_mean"][-1])
    assert got.arrays["per_query/mean/text2image/meanr"].shape == (500,)
    assert next(m.n_queries for m in got.measures if m.direction == "image2text") == 100


def test_folds_that_do_not_divide_are_refused():
    method, split = Looked(np.eye(7)), numbered(7, 1)
    with pytest.raises(ValueError, match="5 folds must have pairs and items that divide by it, it has 7 of 'image'"):
        measure_folds(method, split, embed_split(method, split, "float32", 0), PAIRS, 5)


# metrics


def tied(rng, dtype):
    """Scores with many ties, zeros of both signs and negative ones; pairs, one of them twice, an image and a caption alone."""
    matrix = rng.choice([-1.5, -0.0, 0.0, 0.25, 2.0], (9, 14)).astype(dtype)
    matrix[4] = rng.standard_normal(14)
    pairs = np.array([(i, j) for i in range(8) for j in range(13) if rng.random() < 0.25] + [(0, 0), (0, 0)])
    return matrix, pairs


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_pass_for_both_directions_equals_the_tie_groups_of_each(dtype, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(ties, "compiled", lambda: None)
    matrix, pairs = tied(np.random.default_rng(3), dtype)
    relevance = np.zeros(matrix.shape, bool)
    relevance[pairs[:, 0], pairs[:, 1]] = True
    names = ["r@1", "r@5", "r@10", "meanr"]
    both = metrics.evaluate_matches(names, matrix, pairs)
    for got, block, mask in zip(both, (matrix, matrix.T), (relevance, relevance.T), strict=True):
        wanted = metrics.evaluate_block(names, block, mask)
        for name in names:
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)
    assert np.isnan(both[0]["r@1"][8]) and np.isnan(both[1]["r@1"][13])


def test_chance_of_map_at_r_is_the_mean_over_all_rankings():
    relevance = np.array([True, True, True, False, False])
    orders = np.array(list(itertools.permutations(range(5))), float)
    got = metrics.average_precision_at_r(orders, np.tile(relevance, (120, 1))).mean()
    assert metrics.chance_ap_at_r(3, 5) == pytest.approx(got)
    assert metrics.average_precision_at_r(np.zeros((1, 5)), relevance[None])[0] == pytest.approx(got)
    alike = measured(Looked(np.zeros((4, 12))), numbered(4, 3))
    for m in alike.measures:
        if m.metric in ("map@r", "r@1", "r@5"):
            assert m.value == pytest.approx(m.chance), "constant scores are chance"


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_r_precision_with_ties_is_the_mean_over_their_orders(dtype, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(ties, "compiled", lambda: None)
    rng = np.random.default_rng(4)
    similarity = rng.choice([-1.0, -0.0, 0.0, 0.5], (8, 6)).astype(dtype)
    level = rng.integers(0, 4, (8, 6)).astype(np.uint8)
    level[0] = 3  # nothing relevant
    got = ties.r_precisions(similarity, level, np.arange(8), np.arange(6), 3)
    for q, z in itertools.product(range(8), range(3)):
        relevant = level[q] <= z
        n = relevant.sum()
        if not n:
            assert np.isnan(got[z, q])
            continue
        orders = (sorted(order, key=lambda i: -similarity[q, i]) for order in itertools.permutations(range(6)))
        assert got[z, q] == pytest.approx(np.mean([relevant[order[:n]].mean() for order in orders]))


def test_pmrp_is_that_of_the_released_code_without_the_image_that_has_no_class():
    z = golden("pmrp")
    per_image = np.bincount(z["input.caption_owner"])[0]
    classes = z["input.class_vectors"].astype(bool)
    split = numbered(len(classes), per_image, classes)
    method = Looked(z["input.scores"])
    for no_relevant in ("skip", "zero"):
        got = measure(method, split, embed_split(method, split, "float64", 0), replace(PAIRS, no_relevant=no_relevant))
        for direction, name in (("image2text", "i2t"), ("text2image", "t2i")):
            assert 100 * got.value("pmrp", direction=direction) == pytest.approx(z[f"output.{name}_pmrp"], abs=1e-9)
            per_query = got.arrays[f"per_query/mean/{direction}/pmrp"]
            assert np.isnan(per_query).sum() == (1 if name == "i2t" else per_image)
    counted = {m.direction: m.n_queries for m in got.measures if m.metric == "pmrp"}
    assert counted["image2text"] == classes.any(axis=1).sum()


# noise detection


def test_detection_of_labels_is_told_per_modality_and_of_pairs_as_one():
    clean = {"image": np.array([True, False]), "text": np.array([True, True, False])}
    weights = {"image": np.array([0.9, 0.1]), "text": np.array([0.2, 0.9, 0.8])}
    figures = noise_detection([weights, weights], clean)
    assert figures["noise_recall/mean"] == 0.5
    rows = {(m.metric, m.network, m.direction): (m.value, m.n_queries) for m in detection_measures(figures, clean)}
    assert rows["noise_recall", "1", "image"] == (1.0, 2)
    assert rows["noise_recall", "intersection", "text"] == (0.0, 3)
    assert {direction for _, _, direction in rows} == {"image", "text"}
    pairs = detection_measures(noise_detection(weights["text"], clean["text"]), clean["text"])
    assert {(m.network, m.direction, m.n_queries) for m in pairs} == {("mean", "pairs", 3)}


def test_the_pairs_that_were_found_and_won_back_are_listed_with_their_truth():
    words = ("<pad>", "<start>", "<end>", "<unk>", "a", "dog", "runs")
    image = xb.Modality(name="image", vectors=xb.Rows(np.zeros((3, 1))), item_ids=np.array(["i0", "i1", "i2"]))
    tokens = np.array([[1, 4, 5, 2, 0], [1, 4, 5, 6, 2], [1, 6, 2, 0, 0], [1, 3, 5, 2, 0]])
    text = xb.Modality(name="text", tokens=tokens, vocabulary=words, item_ids=np.array(["t0", "t1", "t2", "t3"]))
    pairs, clean = np.array([[0, 0], [1, 1], [2, 2], [1, 3]]), np.array([True, False, True, False])
    train = xb.PairedSet(modalities=(image, text), pairs=pairs, clean_pairs=clean)
    lists = pair_lists(train, np.array([0.9, 0.2, 0.4, 0.1]), np.array([1.0, 0.1, 0.8, np.nan]))
    assert lists["detected/image"].tolist() == ["i1", "i1", "i2"]
    assert lists["detected/text"].tolist() == ["t3", "t1", "t2"], "the surest first"
    assert lists["detected/text/words"].tolist() == ["<unk> dog", "a dog runs", "runs"]
    assert lists["detected/clean"].tolist() == [False, False, True]
    assert lists["detected/weight"].tolist() == [0.1, 0.2, 0.4]
    assert {key: lists[f"recalled/{key}"].tolist() for key in ("text", "label", "clean")} == {
        "text": ["t2"],
        "label": [0.8],
        "clean": [True],
    }
    assert not any(name.startswith("recalled") for name in pair_lists(train, np.full(4, 0.7)))


def test_weights_of_cosines_are_half_between_the_means_of_two_clusters():
    cosines = np.array([0.9, -0.4, 0.7, -0.2, 0.8])
    border = (0.8 - 0.3) / 2
    got = weights_of_cosines(cosines)
    np.testing.assert_allclose(got, np.where(cosines > border, 0.5 + 0.5 * (cosines - border) / (0.9 - border), got))
    assert got[1] == 0 and got[3] == pytest.approx(0.5 * 0.2 / (border + 0.4))
    assert weights_of_cosines(np.full(4, 0.3)).tolist() == [1, 1, 1, 1]
    assert weights_of_cosines(np.array([0.3])).tolist() == [1]


def executed(folder, *methods, rates=(0.4,), schemes=("caption_shuffle",)):
    data = (("synthetic", "train", 200), ("synthetic", "valid", 60), ("synthetic", "test", 80))
    cells = plan(
        Spec(
            methods=methods, datasets=("synthetic",), settings=data, rates=rates, seeds=(0,), schemes=schemes, protocol="pairs"
        )
    )
    store = Store(folder)
    for cell in cells:
        assert execute([cell], store, Settings(), {}) == [(cell.run.run_id, "ok")], store.rows()["error"].dropna().tolist()
    return store, store.rows()


def test_a_closed_form_is_a_detector_too_with_rows_of_its_own(tmp_path):
    store, rows = executed(tmp_path, "pls")
    found = rows[rows["split"] == "train"].set_index(["selection", "metric"])["value"]
    assert found["last", "noise_auroc"] > 0.85
    assert found["best_valid", "noise_f1"] == found["last", "noise_f1"]
    assert set(rows[rows["split"] == "train"]["direction"]) == {"pairs"}
    assert set(rows[rows["split"] == "train"]["n_queries"]) == {200}
    arrays = store.arrays(rows["run_id"].iloc[0])
    assert arrays["history/noise_auroc/mean"].tolist() == [found["last", "noise_auroc"]]
    _, rows = executed(tmp_path / "clean", "pls", rates=(0.0,))
    assert set(rows["split"]) == {"valid", "test"}, "nothing to find"


def test_a_run_counts_the_networks_whose_scores_are_averaged(tmp_path):
    """Its detection rows have an intersection of both beside them, which is no network."""
    grid = Spec(
        methods=("ncr",), datasets=("synthetic",), schemes=("caption_shuffle",), rates=(0.4,), seeds=(0,), protocol="pairs",
        settings=parse_settings(
            {
                "synthetic": {"regions": 4, "train": 60, "valid": 20, "test": 20},
                "ncr": {"backbone": "scan_t2i", "dim": 16, "word_dim": 16, "batch_size": 16, "warm_up": 1, "epochs": 1},
            }
        ),
    )  # fmt: skip
    store = Store(tmp_path)
    sweep(todo(plan(grid), store), store, Settings())
    rows = store.rows()
    assert set(rows["status"]) == {"ok"}, rows["error"].iloc[0]
    assert set(rows[rows["split"] == "train"]["network"]) == {"0", "1", "mean", "intersection"}
    assert set(rows["n_networks"]) == {2}
    arrays = store.arrays(rows["run_id"].iloc[0])
    assert not any(name.startswith("embedding/") for name in arrays), "words and regions are not kept"
    train = xb.load_dataset("synthetic", regions=4, train=60, valid=20, test=20).train
    clean = xb.corrupt(train, xb.Noise("caption_shuffle", 0.4, 0), family="synthetic").train.clean_pairs
    weights = arrays["record/clean_weights"]
    assert set(arrays["detected/clean"]) <= {True, False}
    assert len(arrays["detected/image"]) == len(arrays["detected/text/words"]) == min((weights.mean(axis=0) < 0.5).sum(), 50)
    told = noise_detection(list(weights), clean[arrays["record/pair_order"]])
    assert told["noise_auroc/mean"] == pytest.approx(arrays["history/noise_auroc/mean"][-1]), "the order of what was recorded"


# collapse


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("noise", [1e-5, 1e-2])
def test_collapsed_scores_are_marked_in_the_rows_and_named_in_the_log(tmp_path, noise, caplog):
    @xb.register_method("folding", needs={"vectors", "pairs"})
    @dataclass(kw_only=True)
    class Folding(xb.Method):
        """Two epochs; in the second its scores all but lose what tells them apart."""

        def fit(self, train, context):
            self.scale_ = np.ones(1)
            for epoch in context.epochs(2, state={"scale": self.scale_}):
                self.scale_[:] = (1.0, noise)[epoch]
                context.end_epoch(loss=0.0)

        def embed(self, modality):
            return xb.Embedding(modality.name, np.asarray(modality.vectors)[:, :10])

        def similarity(self, first, second):
            return 0.5 + self.scale_ * super().similarity(first, second)

    with caplog.at_level(logging.WARNING, "xmbench"):
        store, rows = executed(tmp_path, "folding", rates=(0.0,))
    marks = rows[rows["split"] == "test"].groupby("selection")["collapsed"].unique()
    assert [bool(v[0]) for v in marks[["best_valid", "last"]]] == [False, noise < 1e-4]
    assert rows[rows["split"] == "valid"]["collapsed"].isna().all()
    history = store.arrays(rows["run_id"].iloc[0])["history/score_std"]
    assert history[1] == pytest.approx(noise * history[0], rel=1e-2)
    said = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(said) == (noise < 1e-4)
    assert all("folding: the scores of epoch 1 have collapsed" in message for message in said)
