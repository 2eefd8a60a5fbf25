"""One run from noise to store: sharing, stripping, selection, failures, resume, and what a cheating method can gain."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import ROOT

import xmbench as xb
from xmbench.detection import noise_detection
from xmbench.metrics import chance_ap
from xmbench.plan import cached_dataset, corruption_of, make_cell, plan
from xmbench.registry import _METHODS
from xmbench.run import Settings, execute
from xmbench.spec import Spec, canonical, load_protocol
from xmbench.store import Store
from xmbench.sweep import sweep, todo

SMALL = tuple(("mrl", name, value) for name, value in {"hidden": 32, "dim": 16, "epochs": 4, "lr": 1e-3}.items())
DATA = (("synthetic", "train", 120), ("synthetic", "valid", 60), ("synthetic", "test", 80))


def spec(*methods, data=DATA, **changes):
    settings = (*data, *(SMALL if "mrl" in methods or "mrl_mc" in methods else ()))
    return Spec(methods=methods, datasets=("synthetic",), settings=settings, **{"rates": (0.0, 0.4), "seeds": (0,), **changes})


def run_all(grid, store, **options):
    work = todo(plan(grid, **options), store)
    return sweep(work, store, Settings(checkpoint_seconds=0.0)), store.rows()


@pytest.fixture
def registered():
    """Methods registered inside a test are forgotten after it."""
    before = dict(_METHODS)
    yield
    _METHODS.clear()
    _METHODS.update(before)


def test_label_free_fit_is_shared_over_rates_and_labelled_one_is_not(tmp_path):
    grid = spec("cca", "mrl", "mrl_mc", variants={"mrl_mc": {"method": "mrl", "beta": 0.0}}, rates=(0.0, 0.2, 0.4))
    work = todo(plan(grid), Store(tmp_path))
    assert sorted(len(group) for group in work.groups) == [1, 1, 1, 3, 3]
    assert work.shared == 4
    _, rows = run_all(grid, Store(tmp_path))
    values = rows[(rows["metric"] == "map") & (rows["split"] == "test")].pivot_table(
        index=["method", "selection", "direction"], columns="noise_rate", values="value"
    )
    for method in ("cca", "mrl_mc"):
        assert (values.loc[method].nunique(axis=1) == 1).all()
    assert (values.loc["mrl"].loc["last"].nunique(axis=1) == 3).all()


def test_second_call_does_what_is_missing_and_copies_what_is_known(tmp_path):
    store = Store(tmp_path)
    run_all(spec("cca"), store)
    more = todo(plan(spec("cca", rates=(0.0, 0.4, 0.8))), store)
    assert (len(more.done), len(more.groups), len(more.known)) == (2, 1, 1)
    before = store.rows()
    sweep(more, store, Settings())
    rows = store.rows()
    new = rows[rows["noise_rate"] == 0.8].reset_index(drop=True)
    old = before[before["noise_rate"] == 0.4].reset_index(drop=True)
    assert new["value"].equals(old["value"])
    assert (new["noise_sha"] != old["noise_sha"]).all()
    assert (new["realised_rate"] > old["realised_rate"]).all()


def test_noisy_validation_shares_the_fit_but_not_the_selection(tmp_path):
    grid = spec("cca", "mrl_mc", variants={"mrl_mc": {"method": "mrl", "beta": 0.0}}, protocol="noisy_valid", rates=(0.0, 0.6))
    cells = [cell for cell in plan(grid) if cell.run.method == "mrl_mc"]
    assert len({cell.fit_key for cell in cells}) == 1
    assert len({cell.score_key for cell in cells}) == 2
    _, rows = run_all(grid, Store(tmp_path))
    rows = rows[(rows["metric"] == "map") & (rows["direction"] == "mean") & (rows["method"] == "mrl_mc")]
    valid = rows[(rows["split"] == "valid") & (rows["selection"] == "last")].set_index("noise_rate")["value"]
    test = rows[(rows["split"] == "test") & (rows["selection"] == "last")].set_index("noise_rate")["value"]
    assert test[0.0] == test[0.6]
    assert valid[0.0] > valid[0.6]  # its labels are wrong


def test_rows_say_what_was_run(tmp_path):
    _, rows = run_all(spec("mrl"), Store(tmp_path))
    assert set(rows["direction"]) == {"image2text", "text2image", "mean"}
    assert set(rows["split"]) == {"valid", "test"}
    assert set(rows["selection"]) == {"best_valid", "last"}
    row = rows.iloc[0]
    assert json.loads(row["params"])["hidden"] == 32
    assert row["n_networks"] == 1
    assert row["fit_seconds"] > 0
    assert (rows["noise_rate"] == 0.4).any()
    noisy = rows[rows["noise_rate"] == 0.4].iloc[0]
    cell = next(c for c in plan(spec("mrl")) if c.run.run_id == noisy["run_id"])
    dataset = cached_dataset("synthetic", canonical(dict(cell.run.dataset_parameters)))
    given = corruption_of(cell.run, dataset).train
    wrong = [(a.labels != b.labels).any(axis=1).mean() for a, b in zip(given.modalities, dataset.train.modalities, strict=True)]
    assert noisy["realised_rate"] == pytest.approx(np.mean(wrong))
    means = rows[
        (rows["metric"] == "map") & (rows["split"] == "test") & (rows["selection"] == "last") & (rows["noise_rate"] == 0.4)
    ]
    by_direction = means.set_index("direction")["value"]
    assert by_direction["mean"] == pytest.approx((by_direction["image2text"] + by_direction["text2image"]) / 2)
    arrays = Store(tmp_path).arrays(noisy["run_id"])
    assert arrays["per_query/test/last/mean/image2text/map"].mean() == pytest.approx(by_direction["image2text"], abs=1e-6)
    assert arrays["history/valid"].shape == (4,)
    assert arrays["ranking/test/last/mean/image2text"].shape == (80, 50)
    selected = rows[(rows["selection"] == "best_valid") & (rows["noise_rate"] == 0.4)]["epoch"].iloc[0]
    assert selected == arrays["history/valid"].argmax()


def test_chance_column_is_the_closed_form(tmp_path):
    _, rows = run_all(spec("cca"), Store(tmp_path))
    chance = rows[(rows["metric"] == "map") & (rows["split"] == "test")]["chance"]
    assert chance.iloc[0] == pytest.approx(float(chance_ap(8, 80)))  # 80 items in 10 classes of 8
    assert rows[(rows["metric"] == "r@5") & (rows["split"] == "test")]["chance"].iloc[0] == pytest.approx(5 / 80)


@pytest.mark.parametrize("modalities", [2, 3])
def test_every_ordered_pair_of_modalities_is_a_direction(tmp_path, modalities):
    grid = spec("mcca", "mrl", rates=(0.2,), data=(*DATA, ("synthetic", "modalities", modalities)))
    _, rows = run_all(grid, Store(tmp_path))
    assert set(rows["status"]) == {"ok"}
    assert rows["direction"].nunique() == modalities * (modalities - 1) + 1


def test_too_many_modalities_are_not_applicable_with_the_reason(tmp_path):
    grid = spec("cca", rates=(0.2,), data=(*DATA, ("synthetic", "modalities", 3)))
    outcome, rows = run_all(grid, Store(tmp_path))
    assert outcome.counts == {"not_applicable": 1}
    assert rows["error"].tolist() == ["cca takes at most 2 modalities, synthetic has 3"]


def fixed_embedding(name, read):
    """Register a method that embeds item i as `read(train, modality)` says: what it could learn from the order of things."""

    @xb.register_method(name, needs={"vectors", "labels", "pairs"})
    @dataclass(kw_only=True)
    class Cheat(xb.Method):
        def fit(self, train, context):
            self.train_ = train

        def embed(self, modality):
            return xb.Embedding(modality.name, read(self.train_, modality))


def wave(positions, n):
    """Unit vectors that are the more alike the closer two positions are."""
    angle = np.asarray(positions) / n * np.pi
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


CHEATS = {
    # in the released files, row i of one modality belongs to row i of the other
    "row_order": lambda train, modality: wave(np.arange(len(modality)), len(modality)),
    # pair k is made of items with neighbouring numbers: use the pair list's order as a clue to the test's order
    "pair_order": lambda train, modality: wave(
        np.resize(train.pairs[:, [m.name for m in train.modalities].index(modality.name)], len(modality)), len(train.pairs)
    ),
    # the number of an item's row in its file, read off the features' private index
    "row_number": lambda train, modality: wave(modality.vectors._index, len(modality)),
}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", CHEATS)
def test_cheating_on_the_order_scores_chance(tmp_path, name):
    fixed_embedding(name, CHEATS[name])
    grid = replace(spec(name, rates=(0.0,)), seeds=tuple(range(5)))
    _, rows = run_all(grid, Store(tmp_path))
    assert set(rows["status"]) == {"ok"}, rows["error"].dropna().tolist()
    chosen = rows[(rows["split"] == "test") & (rows["selection"] == "last") & (rows["direction"] == "mean")]
    got = chosen.groupby("metric")["value"].mean()
    assert got["map"] == pytest.approx(float(chance_ap(8, 80)), abs=0.02)
    assert got["r@10"] == pytest.approx(10 / 80, abs=0.06)


@pytest.mark.usefixtures("registered")
def test_a_similarity_of_its_own_cannot_tell_partners_by_their_place(tmp_path):
    @xb.register_method("place", needs={"vectors"})
    @dataclass(kw_only=True)
    class Place(xb.Method):
        """Says nothing of any item, and takes the i-th of both for partners."""

        def fit(self, train, context):
            self.rng_ = np.random.default_rng(0)

        def embed(self, modality):
            return xb.Embedding(modality.name, self.rng_.standard_normal((len(modality), 2)))

        def similarity(self, first, second):
            return wave(np.arange(len(first.values)), 80) @ wave(np.arange(len(second.values)), 80).T

    _, rows = run_all(spec("place", rates=(0.0,)), Store(tmp_path))
    chosen = rows[(rows["split"] == "test") & (rows["selection"] == "last") & (rows["direction"] == "mean")]
    got = chosen.set_index("metric")["value"]
    assert got["map"] == pytest.approx(float(chance_ap(8, 80)), abs=0.03)
    assert got["r@10"] == pytest.approx(10 / 80, abs=0.08)


def test_the_order_cheat_would_win_without_the_harness():
    """The same cheat on data in released order finds every partner: the test above can fail."""
    dataset = xb.load_dataset("synthetic", test=80)
    image, text = (wave(np.arange(80), 80) for _ in dataset.tests["test"].modalities)
    assert ((image @ text.T).argmax(axis=1) == np.arange(80)).all()


BROKEN = {
    "raises": (lambda n: 1 / 0, "ZeroDivisionError"),
    "nan": (lambda n: np.full((n, 3), np.nan), "must return finite values"),
    "shape": (lambda n: np.ones((n + 1, 3)), "must return"),
}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_becomes_a_failed_row_and_the_sweep_goes_on(tmp_path, name):
    make, message = BROKEN[name]
    fixed_embedding(name, lambda train, modality: make(len(modality)))
    outcome, rows = run_all(spec(name, "cca", rates=(0.0,)), Store(tmp_path))
    assert outcome.counts == {"failed": 1, "ok": 1}
    failed = rows[rows["method"] == name]
    assert failed["status"].tolist() == ["failed"]
    assert message in failed["error"].iloc[0]
    assert "Traceback" in failed["error"].iloc[0]
    again = todo(plan(spec(name, "cca", rates=(0.0,))), Store(tmp_path))
    assert [cell.run.method for group in again.groups for cell in group] == [name]  # failed runs are tried again


@pytest.mark.usefixtures("registered")
def test_networks_are_measured_alone_and_as_a_mean(tmp_path):
    @xb.register_method("two", needs={"vectors", "labels"})
    @dataclass(kw_only=True)
    class Two(xb.Method):
        def fit(self, train, context):
            self.maps_ = {
                m.name: context.generator(m.name).standard_normal((2, m.vectors.shape[1], 4)) for m in train.modalities
            }

        def embed(self, modality):
            return [xb.Embedding(modality.name, np.asarray(modality.vectors) @ w) for w in self.maps_[modality.name]]

    _, rows = run_all(spec("two", rates=(0.0,)), Store(tmp_path), keep="all")
    assert set(rows["network"]) == {"mean", "0", "1"}
    assert set(rows["n_networks"]) == {2}
    arrays = Store(tmp_path).arrays(rows["run_id"].iloc[0])
    assert arrays["embedding/test/last/1/text"].shape == (80, 4)
    by_network = rows[(rows["split"] == "test") & (rows["metric"] == "map") & (rows["direction"] == "image2text")]
    assert by_network.groupby("network")["value"].first().nunique() == 3


@pytest.mark.usefixtures("registered")
def test_methods_are_given_what_they_declare_and_nothing_else(tmp_path):
    seen = {}

    @xb.register_method("nosy", needs={"vectors"})
    @dataclass(kw_only=True)
    class Nosy(xb.Method):
        def fit(self, train, context):
            seen["train"] = train

        def embed(self, modality):
            seen["shown"] = modality
            return xb.Embedding(modality.name, np.asarray(modality.vectors)[:, :3])

    run_all(spec("nosy", rates=(0.4,)), Store(tmp_path))
    train, shown = seen["train"], seen["shown"]
    assert train.pairs is None
    assert train.clean is None
    for modality in (*train.modalities, shown):
        assert modality.labels is None
        assert modality.item_ids is None


def test_noise_detection_by_hand():
    clean = np.array([True, True, False, False])
    got = noise_detection(np.array([0.9, 0.4, 0.2, 0.7]), clean)
    assert got["noise_precision/mean"] == got["noise_recall/mean"] == got["noise_f1/mean"] == 0.5
    assert got["noise_auroc/mean"] == 0.75  # of the four pairs (clean, noisy), only (.4, .7) is the wrong way round
    both = noise_detection([np.array([0.9, 0.4, 0.2, 0.2]), np.array([0.9, 0.9, 0.2, 0.9])], clean)
    assert both["noise_recall/intersection"] == 0.5
    assert both["noise_precision/intersection"] == 1.0


KILLED = """
import sys
from xmbench.plan import plan
from xmbench.run import Settings, execute
from xmbench.spec import Spec
from xmbench.store import Store
settings = tuple(("mrl", k, v) for k, v in dict(hidden=64, dim=16, epochs=int(sys.argv[2]), lr=1e-3).items())
cell = plan(Spec(methods=("mrl",), datasets=("synthetic",), rates=(0.4,), seeds=(0,), settings=settings))[0]
execute([cell], Store(sys.argv[1]), Settings(checkpoint_seconds=0.0), {})
"""


def test_a_killed_run_continues_with_the_same_bits(tmp_path):
    """SIGKILL as soon as a checkpoint is there; the second process must resume, and end where an undisturbed one does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), "60"]
    process = subprocess.Popen(command, env=environment)
    checkpoints = tmp_path / "killed" / "checkpoints"
    while process.poll() is None and not list(checkpoints.glob("*.pt")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(checkpoints.glob("*.pt")), "the run ended before it could be killed"
    assert not list((tmp_path / "killed").glob("*.parquet"))
    subprocess.run(command, env=environment, check=True)
    subprocess.run([*command[:3], str(tmp_path / "whole"), "60"], env=environment, check=True)
    killed, whole = Store(tmp_path / "killed"), Store(tmp_path / "whole")
    assert killed.rows()["value"].equals(whole.rows()["value"])
    run_id = whole.rows()["run_id"].iloc[0]
    first, second = killed.arrays(run_id), whole.arrays(run_id)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first if first[name].dtype.kind == "f")
    assert not list(checkpoints.glob("*.pt"))


def test_a_damaged_checkpoint_starts_the_fit_anew(tmp_path):
    cell = plan(spec("mrl", rates=(0.0,)))[0]
    store = Store(tmp_path)
    store.checkpoint(f"{cell.fit_key}-{cell.source_sha}").write_bytes(b"not a checkpoint")
    assert execute([cell], store, Settings(), {}) == [(cell.run.run_id, "ok")]


def test_validation_on_a_subset_keeps_partners_together(tmp_path):
    protocol = replace(load_protocol("default"), validate_items=20)
    cell = plan(spec("mrl", rates=(0.0,)))[0]
    run = replace(cell.run, protocol=protocol)
    execute([make_cell(run, xb.build_method("mrl", **run.parameters))], Store(tmp_path), Settings(), {})
    history = Store(tmp_path).arrays(run.run_id)["history/valid"]
    assert np.isfinite(history).all()
