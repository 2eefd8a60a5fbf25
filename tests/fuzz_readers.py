"""What reads something from outside, with the input that it is tried on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import test_released_formats as released
import test_video
from conftest import ROOT
from fuzzing import (
    damaged,
    hdf5,
    hdf5_files,
    json_text,
    mat,
    mat_files,
    npy_files,
    npz_files,
    parquet,
    parquet_files,
    pickles,
    text,
    torch_files,
)  # fmt: skip
from hypothesis import strategies as st
from test_report import rows_of
from test_report import run as facts_of

from xmbench import Modality, PairedSet, Rows, load_dataset, noise_files, one_hot
from xmbench.check import _cell
from xmbench.compact import compact
from xmbench.convert import convert
from xmbench.datasets._vocabulary import SPECIAL_WORDS, read_vocabulary
from xmbench.plan import _check
from xmbench.report import REPORTS, render
from xmbench.spec import Spec, command_line_settings, load_protocol, load_spec
from xmbench.store import COLUMNS, Store, mark_stale, save_rows, where_rows


@dataclass
class Reader:
    """What is read, how, and its share of all inputs."""

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]
    share: float = 1.0


# Readers of text


def spec_reader(folder):
    shipped = [path.read_bytes() for path in sorted((ROOT / "xmbench" / "specs").glob("*.toml"))][:6]
    own = (
        b'methods = ["mrl", "own"]\ndatasets = ["synthetic"]\nseeds = 3\nprotocol = "default"\nprofile = "reduced"\n[noise]\n'
        b'scheme = ["symmetric", "file"]\nrates = [0, 0.4]\n[set]\nmrl.beta = 0.5\n"noise.path" = "x.npy"\n'
        b"[dataset.synthetic.set]\n"
        b'mrl.epochs = 2\n[variants.own]\nmethod = "ce"\nlr = 0.1\n[tune]\ngrid = ["mrl"]\n"random:2" = "all"\n'
    )

    def read(content):
        (folder / "own.toml").write_bytes(content)
        spec = load_spec(str(folder / "own.toml"))
        _check(spec, load_protocol(spec.protocol))

    return Reader(text(*shipped, own), read)


def profile_reader(folder):
    documents = [(ROOT / "xmbench" / "specs" / f"{name}.toml").read_bytes() for name in ("reduced",)]

    def read(content):
        (folder / "own.toml").write_bytes(content)
        Spec(methods=("mrl",), datasets=("synthetic",)).with_profile(str(folder / "own.toml"))

    return Reader(text(*documents, b"[set]\nmrl.beta = 0.5\nce = {epochs = 3}\n"), read, 0.5)


def protocol_reader(folder):
    documents = [path.read_bytes() for path in sorted((ROOT / "xmbench" / "protocols").glob("*.toml"))]

    def read(content):
        (folder / "own.toml").write_bytes(content)
        load_protocol(str(folder / "own.toml"))

    return Reader(text(*documents), read)


def settings_reader(folder):
    spec = Spec(methods=("mrl", "ce"), datasets=("synthetic",), schemes=("file", "symmetric"))
    documents = [b"mrl.beta=0.5", b"ce.epochs=3", b"noise.path=x.npy", b"synthetic.n_classes=4", b"noise.shared=true"]

    def read(content):
        changed = spec.overridden(command_line_settings([content.decode("utf-8", "surrogateescape")]))
        _check(changed, load_protocol("default"))

    return Reader(text(*documents), read)


def where_reader(folder):
    rows = frame()
    documents = [b"method == 'mrl' and noise_rate >= 0.4", b"seed in [0, 1] or not (value < .5)", b"status != 'ok' & ~oracle"]
    documents += [b"not " * 3000 + b"oracle", b"(" * 150 + b"seed" + b")" * 150, b"seed == -" + b"-" * 3000 + b"1"]
    return Reader(text(*documents), lambda content: where_rows(rows, content.decode("utf-8", "surrogateescape")))


# The store


def frame():
    """Rows of five runs, one of which failed, with all columns."""
    runs = [("ce", 0.0, 0), ("ce", 0.4, 1), ("mrl", 0.0, 0), ("mrl", 0.4, 1)]
    rows = [row for given in runs for row in rows_of(facts_of(*given, dataset="synthetic", dataset_params="{}"))]
    rows += rows_of(facts_of("pls", 0.4, 0, "failed"))
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS)).assign(schema_version=1, score_key="s", source_sha="x")
    return table.assign(implementation=table["method"], noise_seed=0)


def store_reader(folder):
    whole = frame()
    save_rows(whole, folder / "whole.parquet")
    typed = pq.read_table(folder / "whole.parquet")

    def read(content):
        shutil.rmtree(folder / "store", ignore_errors=True)
        (folder / "store").mkdir()
        (folder / "store" / f"{'a' * 16}.parquet").write_bytes(content)
        store = Store(folder / "store")
        mark_stale(store.rows())
        for run_id in store.finished():
            store.run(run_id)
            store.arrays(run_id)
            store.drop_arrays(run_id, ("a",))

    return Reader(parquet_files(typed), read, 0.7)


def arrays_reader(folder):
    rows = frame()
    run_id = rows["run_id"][0]
    save_rows(rows[rows["run_id"] == run_id], folder / "store" / f"{run_id}.parquet")
    arrays = {"per_query/test": np.linspace(0, 1, 20), "class_names": np.array(["a", "bc"]), "drop/x": np.ones((3, 2), "f2")}

    def read(content):
        (folder / "store" / f"{run_id}.npz").write_bytes(content)
        store = Store(folder / "store")
        store.finished()
        assert all(isinstance(values, np.ndarray) for values in store.arrays(run_id).values())
        store.drop_arrays(run_id, ("drop",))

    return Reader(npz_files(arrays), read)


def compacted_reader(folder):
    for run_id, rows in frame().groupby("run_id"):
        save_rows(rows, folder / "store" / f"{run_id}.parquet")
    compact(Store(folder / "store"))
    whole = {path: path.read_bytes() for path in (folder / "store" / "compact").glob("*.parquet")}

    def read(given):
        path, content = given
        for other, there in whole.items():
            other.write_bytes(content if other == path else there)
        store = Store(folder / "store")
        mark_stale(store.rows())
        for run_id in store.finished():
            store.run(run_id)

    one_of = [st.tuples(st.just(path), parquet_files(pq.read_table(path))) for path in whole]
    return Reader(st.one_of(one_of), read, 0.3)


def report_reader(folder):
    """Tables and lists alone: of figures, Matplotlib sees nothing that the tables do not."""
    whole = frame()
    save_rows(whole, folder / "whole.parquet")
    typed = pq.read_table(folder / "whole.parquet")

    tables = {kind: write for kind, write in REPORTS.items() if kind in ("map", "rsum", "trials")}

    def read(content):
        (folder / "one.parquet").write_bytes(content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("xmbench.report.REPORTS", tables)
            render(Store(folder / "one.parquet"), folder / "out")

    return Reader(parquet(typed), read, 0.1)


def reference_reader(folder):
    save_rows(frame(), folder / "whole.parquet")
    typed = pq.read_table(folder / "whole.parquet").slice(0, 1)

    def read(content):
        (folder / "one.parquet").write_bytes(content)
        for row in Store(folder / "one.parquet").rows().to_dict("records"):
            _cell(row)

    return Reader(parquet(typed), read, 0.1)


# Noise files


def noise_reader(folder):
    labels = [one_hot(np.arange(n) % 3, 3) for n in (4, 8)]
    modalities = tuple(
        Modality(name=m, vectors=Rows(np.ones((len(y), 2))), labels=y) for m, y in zip("ab", labels, strict=True)
    )
    split = PairedSet(modalities=modalities, pairs=np.stack([np.arange(8) // 2, np.arange(8)], axis=1))
    indices = [np.array([1, 0, 2, 3]), np.array([0, 1, 1, 0, 2, 2, 3, 3])]
    lists = json.dumps([[0, 1, 1, 0], [0, 1, 2, 0, 0, 1, 2, 1]]).encode()

    def read(content):
        path, new = folder / "noise", folder / "new"
        path.write_bytes(content)
        new.unlink(missing_ok=True)
        noise_files.facts(path, split)
        noise_files.differences(path, path, split)
        noise_files.convert(path, new, split)

    return Reader(npy_files(*indices) | json_text(lists) | pickles([1, 2]), read, 1.5)


# Datasets


def folder_reader(folder, files, name, share=1.0, **parameters):
    """A dataset of which one file at a time is hostile."""
    whole = {file: (folder / name / file).read_bytes() for file in files}

    def read(given):
        file, content = given
        (folder / name / file).write_bytes(content)
        try:
            load_dataset(name, **parameters)
        finally:
            (folder / name / file).write_bytes(whole[file])

    one_of = [st.tuples(st.just(file), inputs) for file, inputs in files.items()]
    return Reader(st.one_of(one_of), read, share)


def precomp_reader(folder):
    rng, part = np.random.default_rng(0), folder / "coco_precomp"
    part.mkdir()
    for stem, n in (("train", 3), ("dev", 2), ("testall", 5)):
        np.save(part / f"{stem}_ims.npy", rng.standard_normal((n, 2, 4)).astype(np.float16))
        (part / f"{stem}_caps.txt").write_text("A dog runs.\nTwo cats, here!\n" * n)
        (part / f"{stem}_ids.txt").write_text("".join(f"{i}\n" for i in range(n) for _ in range(2)))
    instances = {"categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}]}
    instances["annotations"] = [{"image_id": i, "category_id": 7 + 2 * (i % 2)} for i in range(5)]
    (part / "instances_val2014.json").write_text(json.dumps(instances))
    inputs = {
        "train_ims.npy": npy_files(np.load(part / "train_ims.npy"), np.ones((3, 2, 4))),
        "dev_caps.txt": text((part / "dev_caps.txt").read_bytes(), b"caf\xc3\xa9 ...\n" * 4),
        "testall_ids.txt": text((part / "testall_ids.txt").read_bytes()),
        "instances_val2014.json": json_text((part / "instances_val2014.json").read_bytes()),
    }
    return folder_reader(folder, inputs, "coco_precomp")


def vocabulary_reader(folder):
    words = [*SPECIAL_WORDS, "dog"]
    whole = {"word2idx": {w: i for i, w in enumerate(words)}, "idx2word": {str(i): w for i, w in enumerate(words)}, "idx": 5}

    def read(content):
        (folder / "vocabulary.json").write_bytes(content)
        read_vocabulary(folder / "vocabulary.json")

    return Reader(json_text(json.dumps(whole).encode()) | pickles(whole), read)


def clip_reader(folder):
    rng, part = np.random.default_rng(0), folder / "f30k_clip"
    part.mkdir()
    for stem in ("train", "dev", "test"):
        for kind, shape in (("images", (3, 4)), ("texts", (6, 4)), ("patches", (3, 2, 4))):
            np.save(part / f"{stem}_{kind}.npy", rng.standard_normal(shape).astype(np.float32))
        np.save(part / f"{stem}_tokens.npy", np.tile([1, 2, 9, 0], (6, 1)))
    return folder_reader(folder, {path.name: npy_files(np.load(path)) for path in part.glob("train_*")}, "f30k_clip", 0.7)


def video_reader(name):
    def reader(folder):
        part, inputs = test_video.MAKE[name](folder), {}
        for path in sorted(part.rglob("*.*")):
            content, file = path.read_bytes(), str(path.relative_to(part))
            if path.suffix == ".npz":
                inputs[file] = npz_files(dict(np.load(path)))
            elif path.suffix == ".npy" and path.stem == "tube0":
                inputs[file] = npy_files(np.load(path))
            elif path.suffix in (".csv", ".json"):
                inputs[file] = (json_text if path.suffix == ".json" else text)(content)
        return folder_reader(folder, inputs, name, 0.7, **test_video.FEW[name])

    return reader


def small(name, **changes):
    """A dataset's card made a small one's for good."""
    module = import_module(f"xmbench.datasets.{name}")
    facts = {"sizes": {"train": 9, "valid": 3, "test": 6}, "widths": {"image": 3, "text": 4}, "classes": 3}
    module.CARD = replace(module.CARD, **{**facts, **changes})
    return module.CARD


def multilabel_reader(folder):
    (folder / "mirflickr25k").mkdir()
    small("mirflickr25k")
    arrays = {key: values[:, :3] if key.endswith("labels") else values for key, values in released.multilabel(24).items()}
    np.savez(folder / "mirflickr25k" / "mirflickr25k.npz", **arrays)
    return folder_reader(
        folder, {"mirflickr25k.npz": npz_files(arrays | {"class_names": np.array(["a", "b", "c"])})}, "mirflickr25k"
    )


def hdf5_reader(folder):
    (folder / "nus_wide").mkdir()
    arrays = released.arrays(small("nus_wide"), bases=(1, 1))
    file = released.FILES["nus_wide"]
    (folder / "nus_wide" / file).write_bytes(hdf5(arrays))
    return folder_reader(folder, {file: hdf5_files(arrays)}, "nus_wide")


def mat_reader(folder):
    (folder / "inria_websearch").mkdir()
    arrays = released.inria(small("inria_websearch"))
    file = released.FILES["inria_websearch"]
    (folder / "inria_websearch" / file).write_bytes(mat(arrays))
    return folder_reader(folder, {file: mat_files(arrays)}, "inria_websearch", 0.5)


# What is converted, and checkpoints


def convert_reader(folder):
    contents = [
        {"a": np.ones(3, "f4"), "b": np.zeros(3, "f4")}, [{"id": "x", "v": [1, 2]}, {"id": "y", "v": [3, 4]}],
        {"word2idx": {"a": 1}, "n": 3, "text": "naïve", "raw": b"\x00\xff"}, np.arange(6.0).reshape(2, 3),
    ]  # fmt: skip
    tensors = [{"a": np_tensor([1.0, 2.0]), "b": np_tensor([[3]])}, [np_tensor([True])]]
    word2vec = b"2 3\na " + np.ones(3, "<f4").tobytes() + b"\nbc " + np.ones(3, "<f4").tobytes()

    def read(given):
        ending, content = given
        (folder / "source").write_bytes(content)
        (folder / f"target{ending}").unlink(missing_ok=True)
        convert(folder / "source", folder / f"target{ending}")

    files = pickles(*contents) | torch_files(*tensors) | damaged([word2vec])
    return Reader(st.tuples(st.sampled_from([".npz", ".json"]), files), read, 1.5)


def np_tensor(values):
    import torch

    return torch.tensor(values)


def checkpoint_reader(folder):
    from xmbench.method import _load

    state = {"epoch": 3, "state": {"w": np_tensor([[0.5, 1.0]]), "step": np_tensor(7)}, "history": [{"loss": 0.5}]}

    def read(content):
        (folder / "fit.pt").write_bytes(content)
        _load(folder / "fit.pt")

    return Reader(torch_files(state) | pickles({"epoch": 3}), read)


READERS = {
    "specs": spec_reader,
    "profiles": profile_reader,
    "protocols": protocol_reader,
    "settings": settings_reader,
    "where": where_reader,
    "rows": store_reader,
    "arrays": arrays_reader,
    "compacted rows": compacted_reader,
    "report": report_reader,
    "reference": reference_reader,
    "noise files": noise_reader,
    "regions and captions": precomp_reader,
    "vocabulary": vocabulary_reader,
    "clip inputs": clip_reader,
    **{name: video_reader(name) for name in test_video.MAKE},
    "npz": multilabel_reader,
    "hdf5": hdf5_reader,
    "mat": mat_reader,
    "convert": convert_reader,
    "checkpoints": checkpoint_reader,
}
