"""What comes from elsewhere can neither execute code, nor leave its folder, nor fill memory; and what a plug-in may do."""

import io
import json
import os
import pickle
import re
import resource
import struct
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_released_formats as released
import torch
from test_report import rows_of
from test_report import run as facts_of
from test_video import make_howto100m

from xmbench import build_method, load_dataset, registry
from xmbench.check import _cell
from xmbench.convert import convert
from xmbench.datasets._files import check_archive, open_npz
from xmbench.method import _load
from xmbench.noise_files import facts
from xmbench.plan import plan
from xmbench.registry import find_method, is_built_in, load_plugin, method_names, module_sha, source_sha, typed_parameters
from xmbench.report import render
from xmbench.spec import command_line_settings, load_protocol, load_spec, seed_list
from xmbench.store import COLUMNS, SCHEMA_VERSION, Store, mark_stale, where_rows
from xmbench.types import DataError

PLUGIN = """
from dataclasses import dataclass
from xmbench import Embedding, Method, register_method

@register_method("{name}", needs={{"vectors"}})
@dataclass(kw_only=True)
class Own(Method):
    size: int = 2

    def fit(self, train, context):
        pass

    def embed(self, modality):
        return Embedding(modality.name, modality.vectors[slice(None)])
"""
OWN = PLUGIN.format(name="own_method")


class Trap:
    """Makes a folder where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder to be in, which nothing may write beside, and in which no trap may spring."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    yield tmp_path / "in"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not Path("owned").exists()


@pytest.fixture
def plugin(here):
    """Write a plug-in file; what it registers is forgotten at the end."""

    def write(content=OWN, name="own.py"):
        (here / name).write_text(content)
        return here / name

    yield write
    for name in [name for name, cls in registry._METHODS.items() if cls.__module__.startswith("_xmbench_plugin_")]:
        del registry._METHODS[name]


def stored(**changes):
    """Rows of a finished run with other values in some columns."""
    rows = pd.DataFrame(rows_of(facts_of("ce") | changes)).reindex(columns=list(COLUMNS))
    return rows.assign(schema_version=SCHEMA_VERSION, score_key="s", source_sha="x", noise_seed=0)


def store_of(rows, folder="store"):
    """A store with one file, whatever its rows say."""
    Path(folder).mkdir(parents=True)
    table = pa.Table.from_pandas(rows, schema=pa.schema(list(COLUMNS.items())), preserve_index=False)
    pq.write_table(table, Path(folder) / f"{'a' * 16}.parquet")
    return Store(folder)


# Plug-ins


def test_a_plugin_file_adds_its_methods_once_and_they_are_not_built_in(plugin):
    path = plugin("with open('loaded', 'a') as file:\n    file.write('x')\n" + OWN)
    load_plugin(path)
    load_plugin(str(path))
    assert Path("loaded").read_text() == "x"
    assert "own_method" in method_names()
    assert build_method("own_method", size="3").size == 3
    assert not is_built_in("own_method")
    assert is_built_in("ce")
    sha = source_sha(find_method("own_method"))
    assert module_sha("own_method") == sha
    assert sha == registry._sha(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLUGIN.format(name="ce"), r"own\.py cannot be used.*'ce' is provided already, by baselines\.ce|defined twice"),
        (PLUGIN.format(name="kcca"), "method 'kcca' is (provided already|defined twice)"),
        ("x = 1", "must register a method"),
        ("def f():\n    1 / 0\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
        ("x = (\n", "line 1: SyntaxError"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
        (OWN + "\nraise RuntimeError('late')", "line 16: RuntimeError: late"),
    ],
)
def test_a_plugin_that_cannot_be_used_says_why_and_leaves_nothing(plugin, content, message):
    before = dict(registry._METHODS)
    with pytest.raises(ValueError, match=message):
        load_plugin(plugin(content))
    find_method("ce")
    assert {name: cls for name, cls in registry._METHODS.items() if name in before} == before
    assert "own_method" not in method_names()


def test_two_plugins_cannot_share_a_name_and_a_plugin_must_be_there(plugin):
    load_plugin(plugin())
    with pytest.raises(ValueError, match="'own_method' is defined twice"):
        load_plugin(plugin(name="other.py"))
    with pytest.raises(FileNotFoundError, match=r"there is no plug-in none\.py"):
        load_plugin("none.py")
    with pytest.raises(ValueError, match=r"must be a Python file, whose name ends in \.py"):
        load_plugin(plugin(name="own.txt"))


# Nothing else brings code in


@pytest.mark.parametrize("name", ["os", "evil", "evil.module", "evil:Own", "../evil", "baselines.ce", "_deep"])
def test_a_name_in_a_store_or_spec_imports_nothing(here, monkeypatch, name):
    monkeypatch.syspath_prepend(here)
    (here / "evil.py").write_text("import os\nos.mkdir('owned')\n")
    row = stored(implementation=name, method=name, dataset="synthetic", dataset_params="{}").iloc[0].to_dict()
    with pytest.raises(LookupError, match="no method named"):
        _cell(row)
    for key, content in (("methods", f'["{name}"]'), ("datasets", f'["{name}"]')):
        other = {"methods": '["ce"]', "datasets": '["synthetic"]'} | {key: content}
        (here / "own.toml").write_text("".join(f"{k} = {v}\n" for k, v in other.items()))
        with pytest.raises(LookupError, match=r"no (method|dataset) named"):
            plan(load_spec("own.toml"))
    assert not mark_stale(stored(implementation=name))["stale"].any()


def test_no_pickle_is_opened_wherever_it_lies(here, paired):
    trap = pickle.dumps(Trap())
    split = paired({"a": np.ones((4, 2)), "b": np.ones((4, 2))}, [0, 1, 0, 1])
    objects = io.BytesIO()
    np.save(objects, np.array([Trap()], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=True, values=np.array([Trap()], dtype=object))
    for content in (trap, objects.getvalue(), archive.getvalue()):
        Path("noise").write_bytes(content)
        with pytest.raises(ValueError, match="noise"):
            facts("noise", split)
    store = store_of(stored())
    (store.path / f"{store.rows()['run_id'][0]}.npz").write_bytes(archive.getvalue())
    assert store.arrays(store.rows()["run_id"][0]) == {}
    torch.save({"epoch": Trap()}, "fit.pt")
    assert _load(Path("fit.pt")) is None
    assert not Path("fit.pt").exists()


def test_a_filter_calls_nothing_and_deep_ones_are_refused():
    rows = stored()
    for where in (
        "__import__('os').mkdir('owned')",
        "@os",
        "status.str.len() > 1",
        "`a`",
        "not " * 2400 + "oracle",
        "-" * 9000 + "1",
    ):
        with pytest.raises((ValueError, LookupError), match=r"--where|no column"):
            where_rows(rows, where)


# Paths


@pytest.mark.parametrize("run_id", ["../../escaped", "/tmp/escaped", "a/b", "", "x" * 300, "a\n", None])
def test_a_run_id_that_is_no_file_name_is_damage(here, run_id):
    (here / "escaped.npz").write_bytes(b"untouched")
    store = store_of(stored().assign(run_id=run_id), "a/store")
    assert store.rows().empty
    assert store.finished() == {}
    assert [path.name for path in store.path.glob("*.damaged")] == [f"{'a' * 16}.parquet.damaged"]
    assert (here / "escaped.npz").read_bytes() == b"untouched"


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/../../b", "a\0"])
def test_no_name_leads_out_of_a_store(here, name):
    store = store_of(stored())
    for use in (store.arrays, lambda name: store.drop_arrays(name, ("x",)), store.run):
        with pytest.raises(ValueError, match="must lie in its folder"):
            use(name)


@pytest.mark.parametrize("path", ["../x.npy", "/etc/passwd", "~/x.npy", "in/../../x.npy", "link/x.npy"])
@pytest.mark.parametrize(
    "content",
    [
        '[set]\n"noise.path" = "{}"\n',
        '[set]\nnoise.path = "{}"\n',
        '[set]\nclip_finetune.checkpoint = "{}"\n',
        '[dataset.f30k_precomp.set]\nce.vocabulary = "{}"\n',
        '[variants.own]\nmethod = "clip_finetune"\ncheckpoint = "{}"\n',
    ],
)
def test_paths_in_a_spec_stay_below_its_folder(here, content, path):
    Path("specs").mkdir()
    Path("specs/link").symlink_to("/")
    text = 'methods = ["ce"]\ndatasets = ["synthetic"]\n'
    Path("specs/own.toml").write_text(text + content.format(path))
    with pytest.raises(ValueError, match="must be a path below the folder of the spec"):
        load_spec("specs/own.toml")


def test_a_path_in_a_spec_counts_from_its_folder_and_one_on_the_command_line_from_here():
    Path("specs").mkdir()
    Path("specs/mine.toml").write_text('metrics = ["r@1"]\n')
    Path("specs/own.toml").write_text('methods = ["ce"]\nprotocol = "mine.toml"\n[set]\n"noise.path" = "noise/x.npy"\n')
    spec = load_spec("specs/own.toml")
    assert spec.settings == (("noise", "path", "specs/noise/x.npy"),)
    assert load_protocol(spec.protocol).metrics == ("r@1",)
    assert command_line_settings(["noise.path=../x.npy"]) == (("noise", "path", "../x.npy"),)
    Path("specs/own.toml").write_text('methods = ["ce"]\nprotocol = "../mine.toml"\n')
    with pytest.raises(ValueError, match="'protocol' must be a path below the folder of the spec"):
        load_spec("specs/own.toml")
    row = stored(dataset="synthetic", dataset_params="{}", protocol="specs/mine.toml").iloc[0].to_dict()
    with pytest.raises(LookupError, match="no protocol named 'mine'"):
        _cell(row)


@pytest.mark.parametrize("path", ["../../secret.npy", "/etc/secret.npy"])
def test_paths_in_a_table_of_videos_stay_below_its_folder(here, monkeypatch, path):
    monkeypatch.setenv("XMBENCH_DATA", str(here))
    table = make_howto100m(here) / "HowTo100M.csv"
    table.write_text(table.read_text().replace(" 3/tube3.npy", path))
    with pytest.raises(DataError, match=re.escape(f"every path in HowTo100M.csv must lie inside {here / 'howto100m'}")):
        load_dataset("howto100m", valid_videos=2)


HDF5 = {
    "external link": lambda file, key, n: file.__setitem__(key, h5py.ExternalLink("other.h5", key)),
    "soft link": lambda file, key, n: file.__setitem__(key, h5py.SoftLink("/test_text")),
    "external numbers": lambda file, key, n: file.create_dataset(key, (n, 4), "f4", external=[("other.h5", 0, 16 * n)]),
    "virtual": lambda file, key, n: file.create_virtual_dataset(key, layout_of(n)),
    "group": lambda file, key, n: file.create_group(key),
}


def layout_of(n):
    layout = h5py.VirtualLayout((n, 4), "f4")
    layout[...] = h5py.VirtualSource("other.h5", "train_text", (n, 4))
    return layout


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5_that_names_other_files_is_refused(here, monkeypatch, kind):
    from xmbench.datasets import nus_wide

    monkeypatch.setenv("XMBENCH_DATA", str(here))
    facts = {"sizes": {"train": 30, "valid": 6, "test": 12}, "widths": {"image": 5, "text": 4}, "classes": 3}
    monkeypatch.setattr(nus_wide, "CARD", released.replace(nus_wide.CARD, **facts))
    content = released.arrays(nus_wide.CARD)
    (here / "nus_wide").mkdir()
    released.write_h5(here / "nus_wide" / "other.h5", content)
    path = here / "nus_wide" / released.FILES["nus_wide"]
    released.write_h5(path, content)
    load_dataset("nus_wide")
    del content["train_text"]
    released.write_h5(path, content)
    with h5py.File(path, "a") as file:
        HDF5[kind](file, "train_text", 30)
    with pytest.raises(DataError, match="train_text must be an array in the file itself"):
        load_dataset("nus_wide")


# Sizes


def archive(content):
    """An .npz file of one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("values.npy", content)
    return file.getvalue()


def header(shape, kind="<f4"):
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(header((1 << 20, 80)) + bytes(80 << 22)), "bytes must unfold to at most"),
        (archive(header((1 << 40,)) + bytes(64)), "takes 4,398,046,511,104 bytes, of which 64 are there"),
        (archive(header((2, True)) + bytes(64)), "are there"),
        (archive(header((2,), "<U2") + b"\xff" * 16), "characters that Unicode has not"),
        (archive(header((2,), "|O") + bytes(16)), "Object arrays cannot be read without a pickle"),
        (archive(header((2,), "<M8[s]") + bytes(16)), "must be of numbers or text"),
        (archive(b"no array"), "values.npy"),
    ],
    ids=["bomb", "promise", "no shape", "no text", "objects", "dates", "other"],
)
def test_an_archive_is_measured_before_it_is_read(content, message):
    Path("x.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=message), open_npz(Path("x.npz")) as arrays:
        arrays["values"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_an_archive_that_compresses_well_is_read_all_the_same():
    np.savez_compressed("x.npz", values=np.zeros((1000, 2000), np.float32), names=np.array(["é", ""]))
    with open_npz(Path("x.npz")) as arrays:
        assert arrays["values"].shape == (1000, 2000)
        assert arrays["names"].tolist() == ["é", ""]
    with Path("x.npz").open("rb") as file:
        check_archive(file)
        assert file.tell() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = " + "[" * 50_000, "too deep or too large"),
        ("x." * 20 + "y = 1", "at most 8 deep"),
        ("x = " + "9" * 5000, "too deep or too large"),
        ("seeds = 0x" + "f" * 100, "at most 64 bits"),
        ('description = "' + "x" * 100_000 + '"', "at most 100,000 bytes"),
        ("seeds = 9223372036854775807", "seeds must be at most 10000"),
        ("[noise]\nrates = [nan]", "must be a finite number"),
        ("[noise]\nrates = [9223372036854775807]\n[variants.x]", "variant 'x'"),
        ('description = "\\ud800"', "is not TOML"),
    ],
)
def test_a_spec_of_senseless_size_is_refused(content, message):
    Path("own.toml").write_text(f'methods = ["ce"]\ndatasets = ["synthetic"]\n{content}\n')
    with pytest.raises(ValueError, match=message):
        load_spec("own.toml")


def test_a_pickle_cannot_ask_for_a_table_that_fills_memory(here):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path("x.pkl").write_bytes(b"\x80\x02]r" + (1 << 27).to_bytes(4, "little") + b".")  # a list, remembered as number 2^27
    with pytest.raises(DataError, match="MemoryError"):
        convert(Path("x.pkl"), Path("x.json"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    Path("x.pkl").write_bytes(pickle.dumps([["a"] * 3] * 2))
    convert(Path("x.pkl"), Path("x.json"))
    assert json.loads(Path("x.json").read_text()) == [["a"] * 3] * 2


def test_numbers_beyond_any_use_are_refused():
    with pytest.raises(ValueError, match="must be a finite number"):
        typed_parameters("mrl", find_method("mrl"), {"beta": 10**400})
    with pytest.raises(ValueError, match="seeds must be at most 10000"):
        seed_list(list(range(10_001)))
    assert len(seed_list(10_000)) == 10_000


# Names in reports


HOSTILE = '</code><script>alert(1)</script>|\n\\input{/etc/passwd}\\write18{touch owned}$\\frac{$x`{% x %}<< y >>"=1+1'


def test_names_in_a_report_are_shown_and_do_nothing(here):
    changes = {"method": HOSTILE, "noise_scheme": HOSTILE, "dataset": HOSTILE, "protocol": HOSTILE, "profile": HOSTILE}
    rows = pd.concat([stored(**changes), stored(**changes, noise_rate=0.4, seed=1), stored(**changes, status="failed")])
    changed = stored(**changes | {"params": json.dumps({HOSTILE: HOSTILE})})
    files = render(store_of(pd.concat([rows, changed])), here / "out")
    assert {path.parent for path in files} == {here / "out"}
    assert {path for path in here.rglob("*") if path.is_file()} >= set(files)
    for path in files:
        if path.suffix == ".tex":
            told = path.read_text()
            assert not re.search(r"\\(input|write18)", told), "LaTeX must see no command of a name"
            assert all(line.startswith("%") or "alert" not in line or r"\textless{}" in line for line in told.splitlines())
        if path.suffix == ".md":
            assert not re.search(r"(?<!\\)<script", re.sub(r"`[^`\n]*`", "", path.read_text())), path.name
