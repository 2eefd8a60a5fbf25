"""Hostile input: how whole documents are damaged, forged and mixed, as strategies of Hypothesis."""

import io
import json
import pickle
import re
import struct
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from scipy.io import savemat

TOKENS = [
    b"", b"0", b"-1", b"1", b"0.5", b"nan", b"-inf", b"NaN", b"1e999", b"0x" + b"f" * 200, b"9" * 30, b"9" * 5000,
    b"18446744073709551616", b"true", b"null", b"[" * 3000, b'{"a":' * 3000, b"[]", b"{}", b'""', b'"../../x"', b'"/dev/zero"',
    b'"~/x"', b'"\\u0000"', b'"\\ud800"', '"\u202e\U0001f0a1e\u0301"'.encode(), b"\x00", b"\xff\xfe", b"a.b.c", b"=",
    b"\n", b"\r", b"\t", b'"', b"'", b"\\", b",", b";", b"1979-05-27", b"__import__('os').mkdir('owned')",
    b"cos\nmkdir\n(S'owned'\ntR.",
]  # fmt: skip
NUMBERS = st.sampled_from([-(1 << 63), -1, 0, 1, 2, 3, 7, 255, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62])
TEXTS = st.sampled_from(
    ["", "a", "../../x", "/etc/passwd", "a" * 16, "\x00", "{}", "[", "none", "é\u202e", "\n", "=1+1", "$\\x"]
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from([0.5, float("nan"), float("inf"), -0.0]) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
_SPLIT = re.compile(rb"[\w.+-]+|\s+|.", re.DOTALL)


@st.composite
def damaged(draw, documents):
    """Bytes of a whole document with one to three changes: flipped, cut, doubled, or overwritten by a number."""
    content = bytearray(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        n = draw(st.sampled_from([1, 1, 4, 8, 64, 1 << 20]))
        match draw(st.sampled_from(["flip", "cut", "double", "number", "noise"])):
            case "flip" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del content[at : at + n]
            case "double":
                content[at:at] = content[at : at + min(n, 64)]
            case "number":
                content[at : at + 8] = struct.pack("<q", draw(NUMBERS))[: draw(st.sampled_from([1, 2, 4, 8]))]
            case _:
                content[at : at + 4] = draw(st.binary(max_size=8))
    return bytes(content)


@st.composite
def garbled(draw, documents):
    """Text of a whole document with one to three of its words replaced by hostile ones, or by words from elsewhere."""
    words = _SPLIT.findall(draw(st.sampled_from(documents)))
    others = _SPLIT.findall(documents[-1])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(words)))
        words[at : at + draw(st.integers(0, 2))] = [draw(st.sampled_from(TOKENS) | st.sampled_from(others))]
    return b"".join(words)


@st.composite
def grafted(draw, documents):
    """A JSON document with one of its parts replaced or gone."""
    content = json.loads(draw(st.sampled_from(documents)))
    part = content
    while True:
        keys = list(part) if isinstance(part, dict) else range(len(part))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(part[key], dict | list) and part[key] and draw(st.integers(0, 4)):
            part = part[key]
        elif draw(st.integers(0, 3)):
            part[key] = draw(JSON)
            break
        else:
            del part[key]
            break
    return json.dumps(content).encode()


def text(*documents):
    """Damaged text, and any bytes at all."""
    return garbled(documents) | garbled(documents) | damaged(documents) | st.binary(max_size=200)


def json_text(*documents):
    """Damaged JSON."""
    return grafted(documents) | garbled(documents) | damaged(documents) | JSON.map(lambda value: json.dumps(value).encode())


def npy(array):
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


@st.composite
def forged_npy(draw, arrays):
    """A .npy file whose header promises something else than what follows."""
    array = np.asarray(draw(st.sampled_from(arrays)))
    shape = list(array.shape)
    if shape:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(NUMBERS)
    kinds = ["|O", "<U9999999", "|S0", "|V0", ">f4", "<M8[ns]", "<f2", "?", "<c16", "<i8", [["a", "<f4"]], "evil", "<f99", 7]
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
    header[draw(st.sampled_from(["descr", "shape", "fortran_order", "other"]))] = draw(
        st.sampled_from([tuple(shape), (draw(NUMBERS),), (), *kinds, True, None, "x", (True,), (-1, -1), (1,) * 40])
    )
    written = repr(header).encode() if draw(st.integers(0, 5)) else draw(st.sampled_from(TOKENS))
    version = draw(st.sampled_from([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"]))
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", min(len(written), 65535))
    return b"\x93NUMPY" + version + length + written + array.tobytes()


def npy_files(*arrays):
    """Damaged and forged .npy files."""
    return forged_npy(arrays) | forged_npy(arrays) | damaged([npy(array) for array in arrays])


@st.composite
def zipped(draw, members, forged=None):
    """A zip archive with one of its members damaged, gone, doubled or under another name; sizes may be lies."""
    members, file = dict(members), io.BytesIO()
    name = draw(st.sampled_from(sorted(members)))
    content = members.pop(name)
    change = draw(st.sampled_from(["damage", "damage", "gone", "rename", "lie", "bomb"]))
    if change == "bomb":
        content = content[:128] + bytes(1 << 22)
    elif change == "damage":
        content = draw(damaged([content]) | (damaged([content]) if forged is None else forged))
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(file, "w", method) as archive:
        for other, whole in members.items():
            archive.writestr(other, whole)
        if change != "gone":
            archive.writestr("x" + draw(TEXTS) + ".npy" if change == "rename" else name, content)
    whole = bytearray(file.getvalue())
    if change == "lie":  # the size that the directory at the end states
        at = whole.rindex(b"PK\x01\x02")
        whole[at + 24 : at + 28] = struct.pack("<I", draw(NUMBERS) & 0xFFFFFFFF)
    return bytes(whole)


def npz(arrays):
    """The bytes of an .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npz_files(*contents):
    """Damaged and forged .npz files."""
    forged = [
        zipped({f"{name}.npy": npy(array) for name, array in arrays.items()}, npy_files(*arrays.values()))
        for arrays in contents
    ]
    return st.one_of(*forged, *forged, damaged([npz(arrays) for arrays in contents]))


@st.composite
def parquet(draw, table):
    """A parquet file of a table with a column of another type, of other values, gone or new."""
    n, names = len(table), table.column_names
    at = draw(st.integers(0, len(names) - 1))
    values = {
        "text": lambda: pa.array([draw(TEXTS) for _ in range(n)]),
        "numbers": lambda: pa.array([draw(NUMBERS) for _ in range(n)]),
        "real": lambda: pa.array([draw(st.sampled_from([0.5, -1.0, 1e308, float("nan"), float("inf")]))] * n),
        "null": lambda: pa.nulls(n, draw(st.sampled_from([pa.null(), table.schema.types[at]]))),
        "lists": lambda: pa.array([[1, 2]] * n),
        "bytes": lambda: pa.array([b"\xff\x00"] * n),
        "flags": lambda: pa.array([True] * n),
        "json": lambda: pa.array([json.dumps(draw(JSON)) for _ in range(n)]),
        "same": lambda: pa.array([table[at][0].as_py()] * n, table.schema.types[at]),
    }
    change = draw(st.sampled_from([*values, *values, "drop", "rename", "twice", "empty"]))
    if change in values:
        return parquet_bytes(table.set_column(at, names[at], values[change]()))
    if change == "empty":
        return parquet_bytes(table.slice(0, 0))
    if change == "drop":
        return parquet_bytes(table.remove_column(at))
    if change == "rename":
        return parquet_bytes(table.rename_columns([f"{draw(TEXTS)}x" if i == at else name for i, name in enumerate(names)]))
    return parquet_bytes(table.append_column(names[at], table[0]))


def parquet_bytes(table):
    """The bytes of a parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, write_page_checksum=True)
    return file.getvalue()


def parquet_files(table):
    """Damaged parquet files, and whole ones with other content."""
    return parquet(table) | parquet(table) | damaged([parquet_bytes(table)])


def hdf5(arrays, change=None, key=None):
    """The bytes of an HDF5 file, in which `change` writes something else than the array `key`."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        for name, values in arrays.items():
            if name == key:
                change(content, name, values)
            else:
                content[name] = values
    return file.getvalue()


def _virtual(content, name, values):
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", values.shape)
    content.create_virtual_dataset(name, layout)


HDF5_CHANGES = [
    lambda content, name, values: None,
    lambda content, name, values: content.create_group(name),
    lambda content, name, values: content.__setitem__(name, h5py.SoftLink("/nowhere")),
    lambda content, name, values: content.__setitem__(name, h5py.SoftLink("/")),
    lambda content, name, values: content.__setitem__(name, h5py.ExternalLink("../x.h5", "/x")),
    lambda content, name, values: content.create_dataset(name, values.shape, "f4", external=[("../x", 0, 1 << 20)]),
    _virtual,
    lambda content, name, values: content.create_dataset(name, data=h5py.Empty("f4")),
    lambda content, name, values: content.create_dataset(name, (1 << 40, 4), "f4", chunks=(1, 4)),
    lambda content, name, values: content.create_dataset(name, data=["text"] * len(values)),
    lambda content, name, values: content.create_dataset(name, data=values[:-1]),
    lambda content, name, values: content.create_dataset(name, data=values.reshape(-1)),
    lambda content, name, values: content.create_dataset(name, data=np.full(values.shape, np.nan)),
    lambda content, name, values: content.create_dataset(name, data=np.zeros(values.shape, [("a", "f4")])),
    lambda content, name, values: content.create_dataset(name, data=values.astype(">i2"), chunks=True, compression="gzip"),
    lambda content, name, values: content.create_dataset(name, data=np.float32(0.5)),
    lambda content, name, values: content.__setitem__(name, np.dtype("f8")),
    lambda content, name, values: content.create_dataset(name, data=np.full(values.shape, -(1 << 62), dtype=np.int64)),
]


def hdf5_files(arrays):
    """HDF5 files in which one array is something else, and damaged ones."""
    forged = st.builds(hdf5, st.just(arrays), st.sampled_from(HDF5_CHANGES), st.sampled_from(sorted(arrays)))
    return forged | damaged([hdf5(arrays)])


def mat(arrays, *, compressed=False):
    """The bytes of a .mat file."""
    file = io.BytesIO()
    savemat(file, arrays, do_compression=compressed)
    return file.getvalue()


def mat_files(arrays):
    """.mat files in which one variable is something else, and damaged ones."""
    import scipy.sparse

    others = st.sampled_from(
        ["text", {"a": 1}, np.array([[1, "a"], [0.5, 2]], dtype=object), np.zeros((0, 3)), scipy.sparse.eye(3), 1j, np.nan,
         np.array([], dtype=object), np.zeros((2, 2, 2)), np.full((3, 3), np.inf), np.array([True])]
    )  # fmt: skip
    forged = st.builds(lambda name, value: mat(arrays | {name: value}), st.sampled_from(sorted(arrays)), others)
    return forged | damaged([mat(arrays), mat(arrays, compressed=True)])


def pickles(*contents):
    """Damaged pickles of all protocols, some of them naming functions."""
    documents = [pickle.dumps(content, protocol) for content in contents for protocol in (0, 2, 5)]
    return damaged(documents) | garbled(documents) | st.binary(max_size=80).map(lambda tail: b"\x80\x04" + tail + b".")


def torch_file(content, *, zipped=True):
    """The bytes of a torch file."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def torch_files(*contents):
    """Damaged torch files of both formats, and zip archives with one of their members changed."""
    archives = [torch_file(content) for content in contents]
    members = []
    for archive in archives:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            members.append({name: file.read(name) for name in file.namelist()})
    old = [torch_file(content, zipped=False) for content in contents]
    return st.one_of(damaged([*archives, *old]), *map(zipped, members))
