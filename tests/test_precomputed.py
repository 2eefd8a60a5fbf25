"""Embeddings made elsewhere: the numbers of the method that made them, rows by order or by id, a file per rate, bad files."""

import hashlib
import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from xmbench import Modality, load_dataset, register_method, registry
from xmbench.method import FitContext
from xmbench.plan import plan
from xmbench.registry import build_method
from xmbench.run import Settings, fit_method
from xmbench.spec import Spec
from xmbench.store import Store
from xmbench.sweep import sweep, todo
from xmbench.types import Items

SMALL = (("synthetic", "train", 60), ("synthetic", "valid", 30), ("synthetic", "test", 40))


@cache
def data():
    return load_dataset("synthetic", **{key: value for _, key, value in SMALL})


def embeddings():
    """Embeddings by PLS: split -> {modality: (n, 8)}, in the dataset's order."""
    method = build_method("pls", dim=8)
    fit_method(method, data().train, FitContext())
    splits = {"valid": data().valid, **data().tests}
    return {name: {m.name: np.float32(method.embed(m).values) for m in split.modalities} for name, split in splits.items()}


def saved(folder, made):
    folder.mkdir(parents=True, exist_ok=True)
    for split, arrays in made.items():
        np.savez(folder / f"{split.replace(':', '-')}.npz", **arrays)
    return folder


def rows(tmp_path, path, methods=("precomputed",), **spec):
    """Run, and the rows of the store."""
    given = (*SMALL, ("precomputed", "path", str(path)), *([("pls", "dim", 8)] if "pls" in methods else []))
    grid = {"rates": (0.0, 0.4), "seeds": (0,), **spec}
    cells = plan(Spec(methods=methods, datasets=("synthetic",), settings=given, **grid))
    store = Store(tmp_path / "store")
    sweep(todo(cells, store), store, Settings())
    return store.rows()


def maps(found):
    chosen = found[(found["metric"] == "map") & (found["selection"] == "last") & (found["network"] == "mean")]
    return chosen.set_index(["method", "noise_rate", "seed", "split", "direction"])["value"].sort_index()


def error(tmp_path, made):
    """The error of the only run."""
    found = rows(tmp_path, saved(tmp_path / "emb", made), rates=(0.0,))
    assert found["status"].tolist() == ["failed"]
    return found["error"].iloc[0].strip().splitlines()[-1]


def test_the_numbers_are_those_of_the_method_that_made_them_and_all_rates_share_one_fit(tmp_path):
    folder = saved(tmp_path / "emb", embeddings())
    found = rows(tmp_path, folder, methods=("precomputed", "pls"))
    ours, theirs = maps(found).loc["precomputed"], maps(found).loc["pls"]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert set(ours.index.get_level_values("split")) == {"valid", "test"}
    assert found.query("method == 'precomputed'")["fit_key"].nunique() == 1


def test_rows_name_the_files_with_their_sha256(tmp_path):
    folder = saved(tmp_path / "emb", embeddings())
    (versions,) = rows(tmp_path, folder)["versions"].unique()
    for split in ("valid", "test"):
        file = folder / f"{split}.npz"
        assert json.loads(versions)[str(file)] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_other_files_at_the_same_path_are_another_run(tmp_path):
    made = embeddings()
    before = maps(rows(tmp_path, saved(tmp_path / "emb", made)))
    worse = {split: {**arrays, "text": arrays["text"][::-1]} for split, arrays in made.items()}
    after = maps(rows(tmp_path, saved(tmp_path / "emb", worse)))
    assert len(after) == len(before)
    assert (after < before - 0.1).all()


def test_items_are_found_by_their_ids_in_any_order_among_others(tmp_path):
    made, rng = embeddings(), np.random.default_rng(0)
    in_order = maps(rows(tmp_path / "a", saved(tmp_path / "order", made)))
    for split, arrays in made.items():
        for modality in {"valid": data().valid, **data().tests}[split].modalities:
            order = rng.permutation(len(modality))
            ids = np.concatenate([["another"], modality.item_ids[order]])
            arrays |= {modality.name: arrays[modality.name][[0, *order]], f"{modality.name}_ids": ids}
    assert maps(rows(tmp_path / "b", saved(tmp_path / "ids", made))).tolist() == in_order.tolist()
    assert in_order.min() > 0.3, "chance has 0.15"


def test_a_file_per_rate_and_seed_and_modality(tmp_path):
    made, folder, rng = embeddings(), tmp_path / "emb", np.random.default_rng(0)
    folder.mkdir()
    for rate, seed in ((0, 0), (0, 1), (0.4, 0), (0.4, 1)):
        for split, arrays in made.items():
            for name, values in arrays.items():
                worse = values + (rate * 40 + seed) * values.std() * rng.standard_normal(values.shape)
                np.save(folder / f"symmetric-{rate}-{seed}-{split}-{name}.npy", worse)
    found = rows(tmp_path, folder / "{noise}-{rate}-{seed}-{split}-{modality}.npy", seeds=(0, 1))
    values = maps(found).loc["precomputed"].groupby(["noise_rate", "seed"]).mean()
    assert values.idxmax() == (0.0, 0)
    assert values.nunique() == found["fit_key"].nunique() == 4
    assert found["params"].nunique() == 1, "one row of a table"


def test_a_rate_without_a_file_is_not_applicable(tmp_path):
    saved(tmp_path / "emb" / "0", embeddings())
    found = rows(tmp_path, tmp_path / "emb" / "{rate}")
    assert found.groupby("noise_rate")["status"].unique().map(list).tolist() == [["ok"], ["not_applicable"]]
    assert found["error"].dropna().tolist() == [f"precomputed finds no file {tmp_path}/emb/0.4/{{split}}.npz"]


def spoilt(**arrays):
    """A change of the test file's arrays."""
    return lambda made: {**made, "test": {**made["test"], **arrays}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: {"valid": made["valid"]}, "there must be a file .*test.npz for this split, beside it is valid.npz"),
        (lambda made: {**made, "test": {"image": made["test"]["image"]}}, "must hold an array 'text', it has image"),
        (
            spoilt(text=np.ones((39, 8))),
            "'text' of .* must have one row for each of the 40 items of test, .* got 39; or name",
        ),
        (spoilt(text=np.full((40, 8), np.nan)), "must be finite, got NaN or infinity in 40 rows, the first is row 0"),
        (spoilt(text=np.ones((40, 5))), "must have one width in all modalities, got {'image': 8, 'text': 5}"),
        (spoilt(text=np.array(["a"] * 40)), r"must be \(n, d\) numbers, got <U1 \(40,\)"),
        (spoilt(text_ids=np.arange(9)), r"'text_ids' of .* must name each of the 40 rows, got shape \(9,\)"),
        (spoilt(text_ids=np.arange(40)), "must hold every item, it lacks 40 of 40, such as 'test-"),
        (spoilt(text_ids=np.arange(40) // 2), "must name every item once, got 40 rows of 20 items"),
        (spoilt(text=np.array([{}] * 40)), "must be an .npz or .npy file of plain arrays, got: Object arrays"),
    ],
)
def test_bad_files_are_named(tmp_path, change, message):
    assert re.search(message, got := error(tmp_path, change(embeddings()))), got


def test_ids_are_of_no_use_where_the_dataset_has_none(tmp_path):
    folder = saved(tmp_path, {"test": {"text": np.ones((3, 2)), "text_ids": np.arange(3)}})
    method = build_method("precomputed", path=str(folder))
    method.fit(data().train, FitContext())
    modality = Modality(name="text", items=Items("test", 3, np.arange(3), None))
    with pytest.raises(ValueError, match="the dataset has no item ids: store the rows in its order, without ids"):
        method.embed(modality)


def test_validation_on_noisy_labels_and_on_a_part_of_the_split_find_the_same_items(tmp_path):
    folder = saved(tmp_path / "emb", embeddings())
    protocol = tmp_path / "part.toml"
    protocol.write_text('metrics = ["map"]\nvalid_labels = "noisy"\nvalidate_items = 7\n', "utf-8")
    found = maps(rows(tmp_path, folder, methods=("precomputed", "pls"), protocol=str(protocol)))
    np.testing.assert_allclose(found.loc["precomputed"], found.loc["pls"], atol=1e-6)


def test_without_a_path_the_reason_says_what_to_give(tmp_path):
    found = rows(tmp_path, "", rates=(0.0,))
    assert found["status"].tolist() == ["not_applicable"]
    assert found["error"].iloc[0].startswith("precomputed needs embeddings: set precomputed.path=FOLDER")


def test_no_other_method_is_told_which_items_it_is_shown(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    cls = type("Cheat", (registry.find_method("pls"),), {})
    register_method("cheat", needs={"vectors", "items"})(cls)
    with pytest.raises(ValueError, match=r"method 'cheat': needs must be among .*, got \['items'\]"):
        cls().needs()
    named = replace(load_dataset("synthetic", train=20).train.modalities[0], item_ids=np.arange(20))
    assert named.only(frozenset({"features"})).items is None
