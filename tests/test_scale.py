"""Splits larger than memory: similarities computed as they are read, features left in their file, little kept of each item."""

import math
from dataclasses import replace

import numpy as np
import pytest

import xmbench as xb
from xmbench import evaluate, progress, scores, ties
from xmbench.evaluate import embed_split, measure, measure_folds
from xmbench.method import MethodInfo
from xmbench.plan import plan
from xmbench.run import Settings, execute
from xmbench.scores import Streamed
from xmbench.spec import Spec, load_protocol
from xmbench.store import Store
from xmbench.types import fingerprint

EVERYTHING = replace(
    load_protocol("pairs"),
    metrics=("map", "map@50", "map@50_min", "ndcg", "ndcg@100", "r@1", "r@5", "r@10", "medr", "meanr", "rsum", "map@r", "pmrp"),
)
MATCHES = replace(EVERYTHING, metrics=("r@1", "r@5", "r@10", "medr", "meanr", "rsum"))


@pytest.fixture
def tiny(monkeypatch):
    """Budgets so small that a matrix of 21 x 34 is read in many tiles of uneven sizes, and embeddings lie in files."""
    budgets = {"HELD_BYTES": 0, "MATRIX_BYTES": 0, "PAIRS_PER_BLOCK": 70, "ROWS_PER_BLOCK": 3, "ROWS_PER_TILE": 4}
    for name, value in (budgets | {"COLUMNS_PER_TILE": 5, "PAIRS_PER_TILE": 3, "PAIRS_WATCHED": 8}).items():
        monkeypatch.setattr(scores, name, value)
    made = []
    streamed = scores.Streamed
    monkeypatch.setattr(scores, "Streamed", lambda *args, **kw: made.append(1) or streamed(*args, **kw))
    return made


class Given(xb.Method):
    """The features are the embedding of the first network; of a second one, they are those in reverse."""

    info = MethodInfo("given", frozenset({"vectors"}))

    def __init__(self, n_networks=1):
        self.n_networks = n_networks

    def fit(self, train, context):
        pass

    def embed(self, modality):
        values = np.asarray(modality.vectors)
        return [xb.Embedding(modality.name, v, network=k) for k, v in enumerate((values, values[:, ::-1])[: self.n_networks])]


class Distant(Given):
    """A similarity of its own, in double precision, which remembers what it was shown."""

    def similarity(self, first, second):
        self.shown = [*getattr(self, "shown", []), (np.array(first.values), len(second.values))]
        return -np.abs(first.values[:, None].astype(float) - second.values).sum(axis=2)


def signs(rng, n_items):
    """Vectors whose cosines are multiples of 1/4 without rounding, zeros of both signs among them; the last one is zero."""
    values = np.zeros((n_items, 8), np.float32)
    for row in values[:-1]:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-1.0, 1.0], 4)
    return values


def tied_split(*, several=False, n=(21, 34)):
    """Many ties; an image without a caption, captions without an image, images with several; some items without a class."""
    rng = np.random.default_rng(5)
    pairs = np.array([(i, j) for i in range(n[0] - 1) for j in range(n[1] - 2) if rng.random() < 0.06] + [(0, 3), (0, 3)])
    modalities = []
    for name, n_items in zip(("image", "text"), n, strict=True):
        labels = rng.random((n_items, 4)) < 0.3 if several else xb.one_hot(rng.integers(-1, 4, n_items), 4)
        modalities.append(xb.Modality(name=name, vectors=xb.Rows(signs(rng, n_items)), labels=labels))
    return xb.PairedSet(modalities=tuple(modalities), pairs=pairs)


def evaluated(method, split, protocol=EVERYTHING, **options):
    return measure(method, split, embed_split(method, split, "float32", 0), protocol, **options)


def assert_same(got, wanted):
    """Equal but for the order of sums in double precision."""
    for mine, theirs in zip(got.measures, wanted.measures, strict=True):
        assert replace(mine, value=0, chance=0) == replace(theirs, value=0, chance=0)
        assert (mine.value, mine.chance) == pytest.approx((theirs.value, theirs.chance), rel=1e-12, nan_ok=True)
    assert got.score_std == pytest.approx(wanted.score_std, rel=1e-12, nan_ok=True)
    assert set(got.arrays) == set(wanted.arrays)
    for name, array in wanted.arrays.items():
        np.testing.assert_allclose(got.arrays[name], array, rtol=2e-7, err_msg=name)


def plain_values(similarity, relevant):
    """AP, R@5 and mean rank of one query, position by position and over all orders of ties; NaN where nothing is relevant."""
    if not relevant.any():
        return [math.nan] * 3
    total, above, found, best = 0.0, 0, 0, None
    for score in sorted(set((similarity + 0.0).tolist()), reverse=True):
        group = relevant[similarity == score]
        n, r = len(group), int(group.sum())
        for i in range(n):
            total += r / n * (found + 1 + (i * (r - 1) / (n - 1) if n > 1 else 0)) / (above + i + 1)
        if r and best is None:
            drawn = min(max(5 - above, 0), n)
            best = [1 - math.comb(n - r, drawn) / math.comb(n, drawn), above + (n + 1) / (r + 1)]
        above, found = above + n, found + r
    return [total / found, *best]


# similarities that are never held


def test_every_number_of_tiles_is_that_of_a_plain_loop(tiny):
    split = tied_split()
    got = evaluated(Given(), split, rankings=True)
    assert tiny, "streamed"
    values = [np.asarray(m.vectors, np.float64) for m in split.modalities]
    norms = [np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1) for x in values]
    cosines = (values[0] / norms[0]) @ (values[1] / norms[1]).T
    paired = np.zeros(cosines.shape, bool)
    paired[tuple(split.pairs.T)] = True
    shared = (split.modalities[0].labels[:, None] & split.modalities[1].labels).any(axis=2)
    for direction, turned in (("image2text", False), ("text2image", True)):
        similarity, by_pair, by_label = (x.T if turned else x for x in (cosines, paired, shared))
        of_pairs = np.array([plain_values(*query) for query in zip(similarity, by_pair, strict=True)])
        of_labels = np.array([plain_values(*query) for query in zip(similarity, by_label, strict=True)])
        for name, wanted in {"map": of_labels[:, 0], "r@5": of_pairs[:, 1], "meanr": of_pairs[:, 2]}.items():
            np.testing.assert_allclose(got.arrays[f"per_query/mean/{direction}/{name}"], wanted, rtol=1e-6, err_msg=name)
            assert got.value(name, direction=direction) == pytest.approx(np.nanmean(wanted), abs=1e-12)
        leading = np.argsort(-similarity, axis=1, kind="stable")[:, :50]
        np.testing.assert_array_equal(got.arrays[f"ranking/mean/{direction}"], leading)
    assert got.score_std == pytest.approx(cosines[~paired].std(), abs=1e-12)


@pytest.mark.parametrize("protocol", [EVERYTHING, MATCHES], ids=["everything", "matches"])
@pytest.mark.parametrize("several", [False, True], ids=["one-class", "several"])
@pytest.mark.parametrize("method", [Given(), Given(2), Distant(), Distant(2)], ids=["cosine", "cosine2", "own", "own2"])
def test_tiles_give_every_array_that_a_matrix_gives(method, several, protocol, request):
    split = tied_split(several=several)
    wanted = evaluated(method, split, protocol, curves=True)
    tiny = request.getfixturevalue("tiny")
    assert_same(evaluated(method, split, protocol, curves=True), wanted)
    assert tiny, "streamed"


def test_folds_of_tiles_are_those_of_matrices(request):
    split = tied_split(n=(20, 34))
    embeddings = embed_split(Given(), split, "float32", 0)
    wanted = measure_folds(Given(), split, embeddings, EVERYTHING, 4)
    tiny = request.getfixturevalue("tiny")
    assert_same(measure_folds(Given(), split, embed_split(Given(), split, "float32", 0), EVERYTHING, 4), wanted)
    assert len(tiny) == 4


def test_a_pair_that_a_tile_rounds_otherwise_costs_two_passes_and_no_rank(tiny, monkeypatch):
    split, passes = tied_split(), []
    blocks, paired = Streamed.blocks, Streamed.paired
    monkeypatch.setattr(Streamed, "blocks", lambda self, transposed: passes.append(1) or blocks(self, transposed))
    wanted = evaluated(Given(), split, MATCHES)
    assert len(passes) == 0, "both directions at once"
    monkeypatch.setattr(Streamed, "paired", lambda self, *places: np.nextafter(paired(self, *places), np.float32(2)))
    got = evaluated(Given(), split, MATCHES)
    assert len(passes) == 2
    assert list(map(str, got.measures)) == list(map(str, wanted.measures))


def test_a_similarity_of_its_own_never_meets_the_first_items_in_order(tiny):
    method, split = Distant(), tied_split()
    evaluated(method, split)
    values = np.asarray(split.modalities[0].vectors)
    seen = [first for first, _ in method.shown if len(first) > 2]
    in_order = [any(np.array_equal(values[k : k + len(first)], first) for k in range(len(values))) for first in seen]
    assert len(seen) > 10
    assert np.mean(in_order) < 0.5, "permutations of three, four or five items, by chance in order"
    assert max(len(first) * n_second for first, n_second in method.shown) <= 4 * 5


def test_a_score_that_is_not_finite_is_refused_in_tiles_too(tiny):
    split = tied_split()
    method = Distant()
    method.similarity = lambda first, second: np.full((len(first.values), len(second.values)), np.nan)
    for protocol in (EVERYTHING, MATCHES):
        with pytest.raises(ValueError, match="finite"):
            evaluated(method, split, protocol)


def test_long_evaluations_and_embeddings_say_how_far_they_are(tiny, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(evaluate, "ITEMS_PER_BLOCK", 10)
    evaluated(Given(), tied_split())
    said = capsys.readouterr().err
    assert "Given: embeddings of 34 items of text: 29% done" in said
    assert "Given: similarities of 34 x 21 items: 9% done" in said


@pytest.mark.parametrize("compiled", [True, False])
def test_the_leading_items_are_those_of_a_stable_sort(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(ties, "compiled", lambda: None)
    rng = np.random.default_rng(0)
    block = rng.choice([-1.0, -0.0, 0.0, 0.5, 2.0], (6, 40)).astype(np.float32)
    block[0] = rng.standard_normal(40)
    block[1] = np.arange(40)
    for depth in (1, 7, 40, 60):
        wanted = np.argsort(-block, axis=1, kind="stable")[:, :depth]
        np.testing.assert_array_equal(ties.leading(block, depth), wanted)


# features larger than memory


MEMORY = """
import sys, threading, time
from pathlib import Path
import numpy as np
import xmbench as xb
from xmbench import method as of_method
from xmbench.evaluate import embed_split, measure
from xmbench.types import check_split, split_sha
from xmbench.method import data_fingerprint
from xmbench.run import fit_method
from xmbench.spec import load_protocol

def anonymous():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) // 1024

def growth_of(work):
    before, peak, done = anonymous(), [0], threading.Event()
    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return peak[0] - before

def mapped(name, n, d):
    values = np.lib.format.open_memmap(name, "w+", np.float32, (n, d))
    values[:, 0] = np.random.default_rng(n).random(n)
    values[::7, 1:] = np.random.default_rng(d).random((len(values[::7]), d - 1))
    return xb.Rows(np.load(name, mmap_mode="r"))

def split_of(sizes, d, n_classes=0):
    n, m = sizes
    rows = {"image": mapped("image.npy", n, d), "text": mapped("text.npy", m, d)}
    labels = {k: xb.one_hot(np.arange(len(v)) % n_classes, n_classes) if n_classes else None for k, v in rows.items()}
    modalities = tuple(xb.Modality(name=k, vectors=v, labels=labels[k]) for k, v in rows.items())
    return xb.PairedSet(modalities=modalities, pairs=np.stack([np.arange(max(sizes)) % n, np.arange(max(sizes)) % m], axis=1))
"""


def in_child(python, tmp_path, code):
    path = tmp_path / "child.py"
    path.write_text(MEMORY + code)
    done = python(str(path))
    assert done.returncode == 0, done.stderr
    return [float(x) for x in done.stdout.split()]


def test_a_large_gallery_is_measured_in_less_than_its_similarities_take(python, tmp_path):
    code = """
from baselines.zero_shot import ZeroShot
def work(sizes):
    split, method = split_of(sizes, 16), ZeroShot()
    found = measure(method, split, embed_split(method, split, "float32", 0), load_protocol("pairs"), rankings=True)
    return found.value("meanr", direction="image2text")
work((50, 60))
print(growth_of(lambda: print(work((1500, 100_000)))))
"""
    mean_rank, growth = in_child(python, tmp_path, code)
    assert 1 <= mean_rank <= 100_000
    assert growth < 400, "600 MB of similarities alone"


def test_a_fit_reads_features_larger_than_its_memory_batch_by_batch(python, tmp_path):
    code = """
of_method._free_bytes = lambda device: 2.0**24
split = split_of((50_000, 50_000), 768, 5)
def work():
    check_split("train", split)
    split_sha(split), data_fingerprint(split)
    context = xb.FitContext(time_batches=3)
    try:
        fit_method(xb.build_method("ce", hidden=64, epochs=1), split, context)
    except of_method.FitStopped:
        print(1)
tiny = xb.PairedSet(modalities=tuple(m.take(np.arange(50)) for m in split.modalities))
fit_method(xb.build_method("ce", hidden=64, epochs=1), tiny, xb.FitContext())
print(growth_of(work))
"""
    stopped, growth = in_child(python, tmp_path, code)
    assert stopped == 1
    assert growth < 200, "the features are 2 x 154 MB"


def test_rows_read_in_blocks_are_the_same_in_double_precision_and_to_a_fingerprint(monkeypatch):
    rows = xb.Rows(np.random.default_rng(0).random((50, 3, 2)), np.arange(49, -1, -1))
    whole = np.asarray(rows)
    wanted = fingerprint([whole])
    monkeypatch.setattr("xmbench.types._BLOCK", 40)
    assert np.asarray(rows, dtype=np.float64).tolist() == whole.tolist()
    assert fingerprint([rows]) == wanted
    assert fingerprint([rows.take(np.arange(49))]) != wanted


# what is kept


def test_of_many_items_values_per_query_are_kept_and_little_else(tmp_path, monkeypatch):
    settings = (("synthetic", "train", 60), ("synthetic", "valid", 20), ("synthetic", "test", 40))
    spec = Spec(methods=("pls",), datasets=("synthetic",), settings=settings, rates=(0.0,), seeds=(0,), protocol="pairs")
    arrays, values = [], []
    for folder, limit in (("all", 40), ("little", 39)):
        monkeypatch.setattr(evaluate, "KEPT_ITEMS", limit)
        store = Store(tmp_path / folder)
        (cell,) = plan(spec)
        assert execute([cell], store, Settings(), {}) == [(cell.run.run_id, "ok")]
        arrays.append(store.arrays(cell.run.run_id))
        values.append(store.rows()["value"].tolist())
    assert values[0] == values[1]
    gone = {name.split("/")[0] for name in set(arrays[0]) - set(arrays[1])}
    assert gone == {"embedding", "input", "labels", "items", "ranking"}
    assert "per_query/test/best_valid/mean/image2text/r@1" in arrays[1]
