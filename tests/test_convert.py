"""Released pickles, torch and word2vec files: plain data come through, anything else is refused and nothing executed."""

import collections
import io
import json
import os
import pickle
import struct
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from xmbench import cli
from xmbench.convert import convert, read_word2vec, tables, words_in
from xmbench.datasets._vocabulary import SPECIAL_WORDS, read_vocabulary
from xmbench.types import DataError
from xmbench.unpickling import ForbiddenError, read_plain

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
CONTENT = {
    "text": "naïve", "bytes": b"\x00\xff", "none": None, "flags": [True, False], 7: -(10**20), "nested": {"x": (1, 2.5)},
    "f4": np.arange(6, dtype=np.float32).reshape(2, 3), "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i2"), "words": np.array(["a", "bcd"]), "raw": np.array([b"x", b"yz"]),
    "flag": np.array([True, False]), "objects": np.array(["a", 1, [2]], dtype=object), "none left": np.empty((0, 4)),
    "scalar": np.float64(0.5), "i": np.int16(-3), "ordered": collections.OrderedDict(b=1, a=2),
    "empty": b"", "array": bytearray(b"ab"),
}  # fmt: skip


def written(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def same(got, expected):
    if isinstance(expected, np.ndarray) and expected.dtype != object:
        return (
            isinstance(got, np.ndarray)
            and got.dtype == expected.dtype
            and got.shape == expected.shape
            and (got == expected).all()
        )
    if isinstance(expected, dict):
        return list(got) == list(expected) and all(same(got[key], value) for key, value in expected.items())
    if isinstance(expected, list | tuple | np.ndarray):
        return len(got) == len(expected) and all(same(a, b) for a, b in zip(got, expected, strict=True))
    return got == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_of_every_protocol_come_through(tmp_path, protocol):
    assert same(read_plain(written(tmp_path / "x", CONTENT, protocol)), CONTENT)


@pytest.mark.parametrize("array", [b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"])
def test_a_pickle_of_python_2_comes_through(tmp_path, array):
    raw = np.array([1.5, -2.0], dtype="<f8").tobytes()
    content = array + b"_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
    content += b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS" + repr(raw)[1:].encode() + b"\ntb."
    (tmp_path / "x").write_bytes(content)
    assert same(read_plain(tmp_path / "x"), np.array([1.5, -2.0]))
    (tmp_path / "x").write_bytes(b"(dS'caf\\xc3\\xa9'\nL12L\ns.")
    assert read_plain(tmp_path / "x") == {"caf\u00c3\u00a9": 12}


class Trap:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {"2d": {"a": np.ones(2)}, "3d": [trap]}])
def test_whatever_names_a_function_is_refused_and_not_executed(tmp_path, protocol, wrap):
    path = written(tmp_path / "x", wrap(Trap(tmp_path / "made")), protocol)
    with pytest.raises(ForbiddenError, match=r"x: only plain data is read, got a pickle that names (posix|nt)\.mkdir; nothing"):
        read_plain(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "made").exists(), "it would have been executed"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_is_no_way_round(tmp_path, legacy):
    path, content = tmp_path / "x.pth", {"2d": {"a": torch.ones(2)}, "b": Trap(tmp_path / "made")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ForbiddenError, match=r"names (posix|nt)\.mkdir"):
        read_plain(path)
    assert not (tmp_path / "made").exists()


FORBIDDEN = {
    "eval": (b"c__builtin__\neval\n(S'1'\ntR.", "builtins.eval"),
    "getattr": (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
    "a function of numpy": (b"cnumpy.core.multiarray\nfromfile\n.", "fromfile"),
    "a path through a name": (b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.fft\x93.", "ndarray.fft"),
    "an old class": (b"(ios\nsystem\n.", "os.system"),
    "a class of its own": (pickle.dumps(types.SimpleNamespace(a=1)), "SimpleNamespace"),
    "a set": (pickle.dumps({1, 2}, 2), "set"),
    "a new set": (pickle.dumps({1, 2}, 4), "set"),
    "a complex": (pickle.dumps(1j), "complex"),
    "a date array": (pickle.dumps(np.array(["2020"], dtype="M8[s]")), "M8"),
    "records": (pickle.dumps(np.zeros(2, dtype="i4,f4")), "V8"),
    "a type alone": (pickle.dumps(np.dtype("f4")), "_Type"),
    "a function alone": (b"c_codecs\nencode\n.", "_Call"),
    "an array without content": (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.", "NotImplemented"),
    "a reference": (b"S'x'\nQ.", "reference to 'x'"),
    "an object": (b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.", "NotImplemented"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_only_what_plain_data_need_is_known(tmp_path, name):
    content, said = FORBIDDEN[name]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ForbiddenError) as raised:
        read_plain(tmp_path / "x")
    assert said in str(raised.value)


def test_a_file_cannot_change_how_others_are_read(tmp_path):
    bad = b"c_codecs\nencode\n(N(dS'function'\nS'gone'\nstb."
    for content in (bad, bad.replace(b"c_codecs\nencode\n", b"cnumpy\ndtype\n")):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError):
            read_plain(tmp_path / "bad")
    assert same(read_plain(written(tmp_path / "x", CONTENT, 2)), CONTENT)


DAMAGED = [
    b"",
    b"\x80",
    pickle.dumps(CONTENT)[:-40],
    pickle.dumps(CONTENT, 0)[:300],
    b"PK\x03\x04rest",
    b"\x89PNG\r\n",
    b"plain text",
]


@pytest.mark.parametrize("content", [*DAMAGED, b"(lp0\nh1\n."])
def test_a_damaged_file_is_a_data_error(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path / 'x'}: "):
        read_plain(tmp_path / "x")


# Small files that unfold


def nested(levels):
    """Lists of two, both the one below: 2^levels when written out."""
    parts = b"".join(b"0]q%c(h%ch%ce" % (i + 1, i, i) for i in range(levels))
    return b"\x80\x02]q\x00" + parts + b"."


def many(raw, each, times):
    """A list of what `each` makes, time and again, of one memorised value."""
    return b"\x80\x02" + raw + b"q\x000](" + each * times + b"e."


LONG = b"X" + (10**6).to_bytes(4, "little") + b"x" * 10**6
UNFOLDING = {
    "lists of lists": nested(40),
    "a long text": many(LONG, b"h\x00", 100),
    "text made into bytes": many(LONG, b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R", 100),
    "a dict made of pairs": many(b"](" + b"NN\x86" * 10**4 + b"e", b"ccollections\nOrderedDict\nh\x00\x85R", 10**4),
    "rows of nothing": pickle.dumps(np.empty((10**9, 0), dtype=np.float32)),
}


@pytest.mark.parametrize("name", UNFOLDING)
def test_a_file_that_would_unfold_without_end_is_refused(tmp_path, name):
    (tmp_path / "x").write_bytes(UNFOLDING[name])
    with pytest.raises(DataError, match=r"x: [\d,]+ bytes must hold at most [\d,]+ values and characters, got more"):
        read_plain(tmp_path / "x")


ENDLESS = nested(40)[2:-1]
MENTIONED = {
    "the name of a type": (b"cnumpy\ndtype\n(" + ENDLESS + b"tR.", "_Type"),
    "the shape of an array": (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n" + ENDLESS
        + b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\n](etb.", "must have one axis, got 2"),
    "a reference": (ENDLESS + b"Q.", "got a reference to list"),
}  # fmt: skip


@pytest.mark.parametrize("name", MENTIONED)
def test_no_message_unfolds_what_it_mentions(tmp_path, name):
    content, said = MENTIONED[name]
    (tmp_path / "x").write_bytes(b"\x80\x02" + content)
    with pytest.raises(ForbiddenError, match=said):
        read_plain(tmp_path / "x")


def test_what_a_file_shares_stays_shared_and_counts_as_often_as_it_is_named(tmp_path):
    (tmp_path / "x").write_bytes(nested(20))
    content, levels = read_plain(tmp_path / "x"), 0
    while content:
        assert content[0] is content[1]
        content, levels = content[0], levels + 1
    assert levels == 20


def test_what_holds_itself_is_refused(tmp_path):
    endless = []
    endless.append({"x": endless})
    with pytest.raises(DataError, match="must end somewhere, got a part that holds itself"):
        read_plain(written(tmp_path / "x", endless))


def test_a_number_that_is_shown_often_counts_as_often(tmp_path):
    torch.save({"a": torch.ones(1).expand(1 << 27)}, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 2000
    tracemalloc.start()
    with pytest.raises(DataError, match=r"x\.pth: [\d,]+ bytes must hold at most 10,0"):
        read_plain(tmp_path / "x.pth")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7, "refused before the 512 MB are copied"


def zipped(content, compression=zipfile.ZIP_STORED, **changed):
    """A torch file of one member, whose header in both places has other bytes at some places."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", content)
    raw = bytearray(file.getvalue())
    for name, value in changed.items():
        at = {"flags": 6, "method": 8}[name]
        raw[at], raw[raw.find(b"PK\1\2") + at + 2] = value, value
    return bytes(raw)


@pytest.mark.parametrize("content", [
    zipped(pickle.dumps("x" * 10**6), zipfile.ZIP_DEFLATED), zipped(b"N.", flags=1), zipped(b"N.", method=99),
])  # fmt: skip
def test_what_torch_would_not_have_compressed_or_encrypted_is_not_inflated(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=r"must be stored as torch\.save does it, got 'x/data\.pkl' compressed or encrypted"):
        read_plain(tmp_path / "x")


# Torch


def tensors():
    base = torch.arange(12.0).reshape(3, 4)
    return {
        "rows": {"a": base[1], "b": base[:, 2]}, "turned": base.T, "half": torch.ones(2).half(), "one": torch.tensor(3),
        "flags": torch.tensor([True]), "none": torch.empty(0, 2), "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "weights": torch.nn.Parameter(torch.ones(2)),
        "wide": torch.ones(1).expand(3), "double": torch.ones(2).double(),
    }  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_become_arrays(tmp_path, legacy):
    path = tmp_path / "x.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=not legacy)
    assert zipfile.is_zipfile(path) != legacy
    expected = {name: value.detach().numpy() for name, value in tensors().items() if name != "rows"}
    expected = {"rows": {name: value.numpy() for name, value in tensors()["rows"].items()}} | expected
    assert same(read_plain(path), expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_torch_file_is_a_data_error(tmp_path, legacy):
    path = tmp_path / "x.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"x\.pth: "):
        read_plain(path)


@pytest.mark.parametrize(
    "view", [(1, (2,), (1,)), (0, (3,), (1,)), (-1, (1,), (1,)), (0, (2,), (-1,)), (0, (10**12,), (10**6,))]
)
def test_a_tensor_cannot_look_outside_its_storage(tmp_path, view):
    class Outside:
        def __reduce__(self):
            return torch._utils._rebuild_tensor, (torch.ones(2).untyped_storage(), *view)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 2) if isinstance(value, torch.UntypedStorage) else None

    content = io.BytesIO()
    Pickler(content, 2).dump(Outside())
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("x/data.pkl", content.getvalue())
        archive.writestr("x/data/0", np.ones(2, dtype="<f4").tobytes())
    with pytest.raises(DataError, match="must lie inside its storage"):
        read_plain(tmp_path / "x")


# What becomes of it


def test_features_become_tables(tmp_path):
    content = {kind: {f"video{i}": torch.full((4,), float(i)) for i in range(3)} for kind in ("2d", "3d")}
    torch.save(content, tmp_path / "features.pth")
    facts = convert(tmp_path / "features.pth", tmp_path / "features.npz")
    assert facts["2d"] == "float32 (3, 4)"
    with np.load(tmp_path / "features.npz") as arrays:
        assert set(arrays) == {"2d", "2d.ids", "3d", "3d.ids"}
        assert arrays["3d.ids"].tolist() == ["video0", "video1", "video2"]
        assert np.array_equal(arrays["3d"], np.repeat(np.arange(3.0), 4).reshape(3, 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.npz", "features.pth"], "nothing half-written"


def test_rows_become_columns_and_vectors_a_table():
    rows = [{"2d": np.ones(3, dtype=np.float32), "caption": "a b", "id": f"v_{i}"} for i in range(2)]
    made = tables("x", rows)
    assert {name: (values.shape, values.dtype.kind) for name, values in made.items()} == {
        "2d": ((2, 3), "f"), "caption": ((2,), "U"), "id": ((2,), "U"),
    }  # fmt: skip
    assert {name: values.tolist() for name, values in tables("x", {"a": [1, 2], 3: [4, 5]}).items()} == {
        "ids": ["a", "3"], "values": [[1, 2], [4, 5]],
    }  # fmt: skip


@pytest.mark.parametrize(("content", "said"), [
    ([{"2d": [1.0], "3d": [1.0]}, {"2d": [1.0]}], "every row must hold 2d, 3d, got 2d in row 1"),
    ({"2d": {"a": [1.0, 2.0], "b": [1.0]}}, r"2d must have one shape in every row, got \(1,\), \(2,\)"),
    ({"a": [None]}, r"must be numbers or text"),
    ({"a": [[1], [1, 2]], "b": [[1], [2]]}, "x: values must have one shape in every row, got lists in one row"),
    ([{"id": 1}, {"id": "x"}], "x: id must be of one kind, got numbers and text; make them alike"),
    ({"a": [1, "x"]}, "values must be of one kind, got numbers and text"), ({"a": [True, 2]}, "got flags and numbers"),
    ({"2d": {1: [1.0], "1": [2.0]}}, "x: ids of 2d must differ as text, got 2 of which 1 do"),
    ({1: [1.0], "1": [2.0]}, "ids must differ as text"),
    ([{1: 1.0, "1": 2.0}], "arrays must have names of their own, got two of '1'"),
    ({"a": {"x": [1]}, "a.ids": {"x": [1]}}, r"got two of 'a\.ids'"),
    ({"a\0": {"x": [1]}}, r"got one of unprintable characters: 'a\\x00\.ids'"),
    ([], "must be a dict of vectors"), ({}, "must be a dict of vectors"), ([1, 2], "must be a dict of vectors"),
])  # fmt: skip
def test_what_is_no_table_is_refused(content, said):
    with pytest.raises(DataError, match=said):
        tables("x", content)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b"])
def test_a_table_may_have_any_name(tmp_path, name):
    convert(written(tmp_path / "x", {name: {"a": np.ones(2)}}), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert {key: arrays[key].tolist() for key in arrays} == {f"{name}.ids": ["a"], name: [[1.0, 1.0]]}


def test_keys_that_no_file_can_hold_are_named(tmp_path):
    with pytest.raises(DataError, match="x: keys of dicts must be text or numbers, got one of type tuple"):
        read_plain(written(tmp_path / "x", {(1, 2): "a"}))


def test_captions_become_json(tmp_path):
    content = {"v": {"start": np.array([0.0, 1.5]), "end": [1, 2], "text": ["où", "b"]}}
    convert(written(tmp_path / "c.pickle", content), tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text("utf-8")) == {
        "v": {"start": [0.0, 1.5], "end": [1, 2], "text": ["où", "b"]}
    }
    with pytest.raises(DataError, match="must be text, numbers, lists and dicts"):
        convert(written(tmp_path / "c.pickle", {"x": float("nan")}), tmp_path / "n.json")
    assert not (tmp_path / "n.json").exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_vocabulary_becomes_the_json_that_the_loaders_read(tmp_path, protocol, monkeypatch):
    module = types.ModuleType("vocab")
    monkeypatch.setitem(__import__("sys").modules, "vocab", module)
    module.Vocabulary = type("Vocabulary", (), {"__module__": "vocab"})
    vocabulary, words = module.Vocabulary(), (*SPECIAL_WORDS, "dog")
    vocabulary.word2idx = {word: i for i, word in enumerate(words)}
    vocabulary.idx2word, vocabulary.idx = dict(enumerate(words)), len(words)
    old = written(tmp_path / "vocab.pkl", vocabulary, protocol)
    monkeypatch.delitem(__import__("sys").modules, "vocab")
    convert(old, tmp_path / "vocab.json")
    assert read_vocabulary(tmp_path / "vocab.json") == words


def word2vec(path, words, separator=b"\n"):
    rows = [word.encode() + b" " + struct.pack("<2f", i, -i) + separator for i, word in enumerate(words)]
    path.write_bytes(f"{len(words)} 2\n".encode() + b"".join(rows))
    return path


@pytest.mark.parametrize("separator", [b"\n", b""])
def test_word_vectors_of_all_words_or_of_those_in_captions(tmp_path, separator):
    path = word2vec(tmp_path / "w.bin", ["the", "dog", "can't", "été", "</s>"], separator)
    whole = read_word2vec(path)
    assert whole["words"].tolist() == ["the", "dog", "can't", "été", "</s>"]
    assert np.array_equal(whole["vectors"], np.outer(np.arange(5), [1, -1]).astype(np.float32))
    (tmp_path / "a.csv").write_text('id,sentence\nv1,"The dog, can\'t"\n', "utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"sentences": [{"caption": "en été"}]}), "utf-8")
    np.savez(tmp_path / "c.npz", caption=np.array(["unknown"]), values=np.ones(2))
    files = [tmp_path / name for name in ("a.csv", "b.json", "c.npz")]
    assert words_in(files) >= {"The", "dog", "can't", "en", "été", "unknown"}
    convert(path, tmp_path / "w.npz", files)
    with np.load(tmp_path / "w.npz") as arrays:
        assert arrays["words"].tolist() == ["dog", "can't", "été"]
        assert arrays["vectors"].tolist() == [[1, -1], [2, -2], [3, -3]]


def test_damaged_word_vectors_are_a_data_error(tmp_path):
    path = word2vec(tmp_path / "w.bin", ["a", "b"])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="must hold 2 words of 2 features, got 1 whole ones"):
        read_word2vec(path)
    with pytest.raises(DataError, match="must hold a word that is asked for, got none of 1"):
        read_word2vec(word2vec(path, ["a", "b"]), {"c"})


@pytest.mark.parametrize("header", ["1 4000000000000", "1 999999999999999999999", "9999999999 1", "0 3", "1 0"])
def test_word_vectors_that_are_larger_than_their_file_are_not_read(tmp_path, header):
    (tmp_path / "w.bin").write_bytes(f"{header}\na xxxx".encode())
    with pytest.raises(
        DataError, match=rf"must begin with the number .* got {header.split()[0]} words of .*, and 6 bytes after"
    ):
        read_word2vec(tmp_path / "w.bin")


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", b"{"), ("a.npz", b"PK"), ("a.csv", b"\xff"), ("b.json", b"[" * 10**5)]
)
def test_captions_that_cannot_be_read_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: must be captions as text, CSV, JSON or \.npz"):
        words_in([tmp_path / name])


@pytest.mark.parametrize(("target", "code", "said"), [
    ("x.npz", 0, "values: int64 (1, 2)"),
    ("x.txt", 2, "must end in .npz (arrays) or .json (everything else), got '.txt'"),
    ("there.npz", 2, "there.npz exists; give the new file another name"),
    ("no/x.npz", 5, "there is no folder"),
])  # fmt: skip
def test_the_command_and_its_exit_codes(tmp_path, monkeypatch, capsys, target, code, said):
    old = written(tmp_path / "x.pkl", {"a": [1, 2]})
    (tmp_path / "there.npz").touch()
    monkeypatch.setattr("sys.argv", ["xmbench", "data", "convert", str(old), str(tmp_path / target)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert (stopped.value.code, said in "".join(capsys.readouterr())) == (code, True)
    assert (tmp_path / target).exists() == (code == 0 or target == "there.npz")


def test_the_command_refuses_a_trap(tmp_path):
    old = written(tmp_path / "x.pkl", Trap(tmp_path / "made"))
    done = CliRunner().invoke(cli.cli, ["data", "convert", str(old), str(tmp_path / "x.json")])
    assert isinstance(done.exception, ForbiddenError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pkl"]
    with pytest.raises(ValueError, match="words choose among those of a binary word2vec file"):
        convert(old, tmp_path / "x.json", [old])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convert(tmp_path / "none.pkl", tmp_path / "x.json")
