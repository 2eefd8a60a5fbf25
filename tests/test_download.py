"""Getting public data, against a server on this machine that breaks off, lies, waits and is busy; archives that are hostile."""

import errno
import hashlib
import http.server
import io
import os
import re
import resource
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import defaultdict
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from conftest import ROOT
from test_released_formats import FILES
from test_video import MAKE

from xmbench import downloading
from xmbench.cards import DOWNLOADS, Parcel
from xmbench.datasets import MissingDataError, dataset_card
from xmbench.datasets import _files as found_files
from xmbench.downloading import SUMS, NoSpaceError, fetch
from xmbench.obtaining import obtain
from xmbench.types import DataError
from xmbench.unpacking import unpack

CONTENT = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(10_000))  # 320 kB
OTHER = CONTENT[::-1]
SHA = hashlib.sha256(CONTENT).hexdigest()
PUBLIC = (
    "wikipedia wikipedia_deep inria_websearch nus_wide nus_wide_multilabel xmedianet xmedianet4 f30k_precomp f30k_clip "
    "coco_precomp coco_clip coco_multilabel cc152k_precomp msrvtt lsmdc youcook2 howto100m mirflickr25k flickr8k"
).split()


@dataclass(frozen=True)
class Answer:
    """What the server answers to one request: `cut` ends the connection after so many bytes, `waits` keeps it silent."""

    content: bytes = CONTENT
    status: int = 200
    cut: int | None = None
    waits: bool = False
    ranges: bool = True
    etag: str = ""
    kind: str = "application/octet-stream"


@pytest.fixture
def web(monkeypatch):
    """A server on this machine: `answers[path]` are given one after the other, the last one for ever."""
    answers, asked, over = defaultdict(lambda: [Answer(status=404)]), [], threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            waiting = answers[self.path]
            answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            wanted = self.headers.get("Range") if answer.ranges and answer.status == 200 else None
            if wanted and self.headers.get("If-Range", answer.etag) != answer.etag:
                wanted = None
            asked.append((self.path, self.headers.get("Range")))
            if answer.waits:
                over.wait(60)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if start >= len(answer.content) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(answer.content)}")
                self.end_headers()
                return
            self.send_response(206 if wanted else answer.status)
            self.send_header("Content-Length", str(len(answer.content) - start))
            self.send_header("Content-Type", answer.kind)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(answer.content) - 1}/{len(answer.content)}")
            if answer.etag:
                self.send_header("ETag", answer.etag)
            self.end_headers()
            self.wfile.write(answer.content[start : answer.cut])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    yield SimpleNamespace(answers=answers, asked=asked, url=f"http://127.0.0.1:{server.server_port}")
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "toy" / "x.bin"


def seen(target):
    """Names in the folder of a file that are not hidden."""
    return sorted(path.name for path in target.parent.glob("[!.]*"))


# One file


def test_a_broken_connection_is_taken_up_where_it_broke(web, target):
    web.answers["/x"] = [Answer(cut=200_000), Answer(cut=250_000), Answer()]
    told = []
    assert fetch([f"{web.url}/x"], target, SHA, lambda *facts: told.append(facts)).read_bytes() == CONTENT
    begun = [int(asked.removeprefix("bytes=").rstrip("-")) for _, asked in web.asked[1:]]
    assert web.asked[0] == ("/x", None)
    assert 100_000 < begun[0] <= 200_000 < begun[1] <= 250_000
    assert seen(target) == ["x.bin"]
    assert told[-1] == ("x.bin", len(CONTENT), len(CONTENT))


def test_a_server_without_ranges_sends_all_of_it_again(web, target):
    web.answers["/x"] = [Answer(cut=200_000), Answer(ranges=False)]
    assert fetch([f"{web.url}/x"], target, SHA).read_bytes() == CONTENT
    assert web.asked[1][1].startswith("bytes=")


def test_what_came_before_a_failure_is_kept_for_the_next_call(web, target, monkeypatch):
    monkeypatch.setattr(downloading, "TRIES", 1)
    web.answers["/x"] = [Answer(cut=200_000), Answer()]
    with pytest.raises(MissingDataError, match=r"toy: x\.bin cannot be downloaded from .* \(the connection broke"):
        fetch([f"{web.url}/x"], target, SHA)
    assert seen(target) == ["x.bin.part", "x.bin.part.from"]
    assert fetch([f"{web.url}/x"], target, SHA).read_bytes() == CONTENT
    assert web.asked[1][1] is not None


@pytest.mark.parametrize("sha256", [SHA, ""])
def test_a_part_that_is_whole_gets_its_name(web, target, sha256):
    web.answers["/x"] = [Answer(etag='"1"')]
    target.parent.mkdir(parents=True)
    target.with_name("x.bin.part").write_bytes(CONTENT)
    target.with_name("x.bin.part.from").write_text(f'{web.url}/x\n"1"\n')
    assert fetch([f"{web.url}/x"], target, sha256).read_bytes() == CONTENT
    assert web.asked == [("/x", f"bytes={len(CONTENT)}-")]


def test_wrong_bytes_send_it_to_the_next_address_and_leave_nothing(web, target):
    web.answers |= {"/bad": [Answer(content=OTHER)], "/good": [Answer()]}
    with pytest.raises(MissingDataError, match=rf"/bad \(its sha256 is not {SHA[:12]}\.\.\.; what came was removed\)") as error:
        fetch([f"{web.url}/bad"], target, SHA)
    assert (seen(target), "\n" in str(error.value)) == ([], False)
    assert fetch([f"{web.url}/bad", f"{web.url}/good"], target, SHA).read_bytes() == CONTENT
    assert [path for path, _ in web.asked] == ["/bad", "/bad", "/good"]


def test_parts_of_two_files_that_do_not_fit_are_replaced_by_the_whole(web, target, monkeypatch):
    monkeypatch.setattr(downloading, "TRIES", 1)
    web.answers |= {"/old": [Answer(content=OTHER, cut=200_000)], "/x": [Answer()]}
    assert fetch([f"{web.url}/old", f"{web.url}/x"], target, SHA).read_bytes() == CONTENT
    assert [asked is None for _, asked in web.asked] == [True, False, True]


@pytest.mark.parametrize(("etag", "goes_on"), [('"2"', False), ('"1"', True), ("", False)])
def test_without_a_sum_a_part_is_used_only_for_the_same_version(web, target, monkeypatch, etag, goes_on):
    monkeypatch.setattr(downloading, "TRIES", 1)
    web.answers["/x"] = [Answer(cut=200_000, etag=etag and '"1"'), Answer(OTHER if etag == '"2"' else CONTENT, etag=etag)]
    with pytest.raises(MissingDataError):
        fetch([f"{web.url}/x"], target)
    assert fetch([f"{web.url}/x"], target).read_bytes() == (OTHER if etag == '"2"' else CONTENT)
    assert (web.asked[1][1] is not None) == (etag != "")
    assert goes_on == (etag == '"1"')


def test_a_slow_server_is_left_for_the_next_address(web, target, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", (1.0, 1.0))
    web.answers |= {"/slow": [Answer(waits=True)], "/x": [Answer()]}
    with pytest.raises(MissingDataError, match=r"/slow \(no answer in 1 seconds\)"):
        fetch([f"{web.url}/slow"], target, SHA)
    assert fetch([f"{web.url}/slow", f"{web.url}/x"], target, SHA).read_bytes() == CONTENT
    assert [path for path, _ in web.asked] == ["/slow", "/slow", "/x"], "an address that gives nothing is tried once"


def test_a_missing_file_is_asked_for_once_and_a_busy_server_again(web, target):
    web.answers |= {"/busy": [Answer(status=503), Answer(status=429), Answer()]}
    assert fetch([f"{web.url}/none", f"{web.url}/busy"], target, SHA).read_bytes() == CONTENT
    assert [path for path, _ in web.asked] == ["/none", "/busy", "/busy", "/busy"]
    web.answers["/busy"] = [Answer(status=503)]
    with pytest.raises(
        MissingDataError, match=r"/none \(404 Not Found\), nor from .*/busy \(503 Service Unavailable\); try again"
    ):
        fetch([f"{web.url}/none", f"{web.url}/busy"], target.with_name("y.bin"), SHA)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>"),
        Answer(b"<HTML><body>moved</body></HTML>", kind="text/plain"),
        Answer(b"Sign in to go on", kind="text/html; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("sha256", [SHA, ""])
def test_a_web_page_instead_of_the_file_is_called_so(web, target, answer, sha256):
    web.answers |= {"/page": [answer], "/x": [Answer()]}
    with pytest.raises(MissingDataError, match=r"a web page came instead of the file: a login, a licence .* or an address"):
        fetch([f"{web.url}/page"], target, sha256)
    assert seen(target) == []
    assert fetch([f"{web.url}/page", f"{web.url}/x"], target, sha256).read_bytes() == CONTENT


def test_the_first_download_of_a_file_whose_sum_nobody_knows_decides(web, target):
    web.answers["/x"] = [Answer(), Answer(content=OTHER)]
    fetch([f"{web.url}/x"], target)
    assert (target.parent / SUMS).read_text() == f"{SHA}  x.bin\n", "what `sha256sum --check` reads"
    target.unlink()
    with pytest.raises(MissingDataError, match=rf"{SHA[:12]}\.\.\. as in the first download; to take another, remove its line"):
        fetch([f"{web.url}/x"], target)
    (target.parent / SUMS).unlink()
    assert fetch([f"{web.url}/x"], target).read_bytes() == OTHER


def test_a_disk_without_room_is_noticed_before_anything_is_written(web, target, monkeypatch):
    web.answers |= {"/x": [Answer()], "/y": [Answer()]}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(NoSpaceError, match=r"no space left in .*0\.00 GB are needed for x\.bin"):
        fetch([f"{web.url}/x", f"{web.url}/y"], target, SHA)
    assert (seen(target), [path for path, _ in web.asked]) == ([], ["/x"])


def test_a_disk_that_fills_up_stops_it_and_keeps_what_came(web, target):
    web.answers |= {"/x": [Answer()], "/y": [Answer()]}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(NoSpaceError, match=r"what came of x\.bin is kept, make room"):
            fetch([f"{web.url}/x", f"{web.url}/y"], target, SHA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 0 < target.with_name("x.bin.part").stat().st_size <= 150_000
    assert not target.exists()
    assert fetch([f"{web.url}/x"], target, SHA).read_bytes() == CONTENT
    assert web.asked[-1][1] is not None


def test_an_interrupted_download_goes_on(web, target):
    web.answers["/x"] = [Answer()]

    def interrupt(name, done, total):
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([f"{web.url}/x"], target, SHA, interrupt)
    assert seen(target) == ["x.bin.part", "x.bin.part.from"]
    assert fetch([f"{web.url}/x"], target, SHA).read_bytes() == CONTENT
    assert re.fullmatch(r"bytes=\d{6}-", web.asked[1][1])


def test_two_processes_download_a_file_once(web, target):
    web.answers["/x"] = [Answer(cut=100_000), Answer()]
    code = (
        "import sys; from pathlib import Path; from xmbench import downloading; downloading.PAUSE = 1.0;"
        f"downloading.fetch(['{web.url}/x'], Path({str(target)!r}), {SHA!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert target.read_bytes() == CONTENT
    assert len(web.asked) == 2, "a broken connection and the rest of the file"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_to_is_named(web, target, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(MissingDataError, match=rf"toy cannot be written to \({os.strerror(number)}\); set XMBENCH_DATA"):
        fetch([f"{web.url}/x"], target, SHA)
    assert web.asked == []


# Archives


def zip_of(path, members, **changes):
    """A .zip of names and contents; `changes` are attributes of its entries."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return path


def tar_of(path, members, kind=tarfile.REGTYPE, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content) if kind == tarfile.REGTYPE else 0, kind, "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_members_are_found_by_the_ends_of_their_paths(tmp_path, make):
    archive = make(tmp_path / "a", [("data/f30k/train.txt", b"other"), ("data/cc/train.txt", b"right"), ("notes", b"no")])
    wanted = {"cc/train.txt": tmp_path / "out" / "captions.txt", "nothing.npy": tmp_path / "out" / "x"}
    with pytest.raises(DataError, match=r"must hold one file nothing\.npy, got 0; there are 3: data/f30k/train\.txt"):
        unpack(archive, wanted)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["captions.txt"], "what is there is taken, and no more"
    assert (tmp_path / "out" / "captions.txt").read_bytes() == b"right"
    with pytest.raises(DataError, match=r"must hold one file train\.txt, got 2"):
        unpack(archive, {"train.txt": tmp_path / "y"})
    (tmp_path / "out" / "captions.txt").write_bytes(b"mine")
    unpack(archive, {"cc/train.txt": tmp_path / "out" / "captions.txt"})
    assert (tmp_path / "out" / "captions.txt").read_bytes() == b"mine"


def lying(path):
    """A .zip that says of a member of 1,000 bytes that it has 900."""
    content = zip_of(path, [("x.txt", bytes(1000))]).read_bytes()
    path.write_bytes(content.replace((1000).to_bytes(4, "little"), (900).to_bytes(4, "little")))
    return path


def cut_off(path):
    content = tar_of(path, [("x.txt", CONTENT)]).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


HOSTILE = {
    "a path up": (lambda path: zip_of(path, [("x.txt", b"1"), ("../../x", b"2")]), r"no name may lead out .*'\.\./\.\./x'"),
    "a path up in a tar": (lambda path: tar_of(path, [("x.txt", b"1"), ("a/../../x", b"2")]), "no name may lead out"),
    "an absolute path": (lambda path: tar_of(path, [("/x.txt", b"1")]), "no name may lead out of the folder, got '/x.txt'"),
    "backslashes": (lambda path: zip_of(path, [("x.txt", b"1"), ("..\\x", b"2")]), "no name may lead out"),
    "a link": (lambda path: tar_of(path, [("x.txt", b"")], tarfile.SYMTYPE), r"x\.txt must be a file, got a link"),
    "a hard link": (lambda path: tar_of(path, [("x.txt", b"")], tarfile.LNKTYPE), r"x\.txt must be a file, got a link"),
    "a device": (lambda path: tar_of(path, [("x.txt", b"")], tarfile.CHRTYPE), r"x\.txt must be a file"),
    "a link in a zip": (
        lambda path: zip_of(path, [("x.txt", b"/etc/passwd")], external_attr=(stat.S_IFLNK | 0o777) << 16),
        r"x\.txt must be a file, got a link",
    ),
    "a bomb": (
        lambda path: zip_of(path, [("x.txt", bytes(1_000_000))]),
        r"must unfold to at most [\d,]+ bytes, says 1,000,000",
    ),
    "a bomb in a tar": (lambda path: tar_of(path, [("x.txt", bytes(1_000_000))]), "must unfold to at most"),
    "a false size": (lying, "must be a whole .zip or .tar archive .*remove it and download it again"),
    "the half of it": (cut_off, "must be a whole .zip or .tar archive"),
    "no archive": (lambda path: path.write_bytes(CONTENT) and path, "must be a whole .zip or .tar archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_nothing_is_written(tmp_path, monkeypatch, name):
    make, message = HOSTILE[name]
    monkeypatch.setattr(found_files, "_FREE", 400_000)
    archive = make(tmp_path / "archive")
    with pytest.raises(DataError, match=message):
        unpack(archive, {"x.txt": tmp_path / "data" / "x.txt"})
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]


def test_an_archive_that_the_disk_has_no_room_for_leaves_nothing_half(tmp_path, monkeypatch):
    archive = zip_of(tmp_path / "a.zip", [("x.txt", CONTENT)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(NoSpaceError, match=r"x\.txt was not unpacked; make room"):
            unpack(archive, {"x.txt": tmp_path / "out" / "x.txt"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(NoSpaceError, match=r"are needed for x\.txt"):
        unpack(archive, {"x.txt": tmp_path / "out" / "x.txt"})
    assert list((tmp_path / "out").iterdir()) == []


# A dataset


@pytest.fixture
def toy(web, tmp_path, monkeypatch):
    """Sets the parcels of wikipedia's card; data root and cache are folders of the test."""
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(found_files, "cache_root", lambda: tmp_path / "cache")

    def make(*parcels):
        card = replace(dataset_card("wikipedia"), parcels=parcels)
        monkeypatch.setattr("xmbench.datasets.wikipedia.CARD", card)
        return card

    return make


def test_a_dataset_is_downloaded_unpacked_and_what_is_left_is_said(web, toy, tmp_path, xmbench):
    web.answers |= {
        "/x": [Answer()],
        "/a.zip": [Answer(zip_of(tmp_path / "a", [("d/1.csv", b"1"), ("d/2.pkl", b"2")]).read_bytes())],
    }
    convert = f"xmbench data convert {DOWNLOADS}/2.pkl wikipedia/two.npz"
    card = toy(
        Parcel(files={"x.bin": SHA}, urls=(f"{web.url}/none", f"{web.url}/x")),
        Parcel(
            files={"one.csv": "", "two.npz": ""},
            urls=(f"{web.url}/a.zip",),
            members={"1.csv": "one.csv", "2.pkl": ""},
            then=(convert,),
        ),
        Parcel(files={"three.npy": ""}, note="ask its authors", needed=False, dead=("http://gone",)),
    )
    for _ in range(2):
        done = xmbench("data", "download", "wikipedia", "--format", "json")
        assert (done.code, len(web.asked)) == (5, 3), "a second call downloads nothing"
    folder, downloads = tmp_path / "data" / "wikipedia", tmp_path / "data" / DOWNLOADS
    assert done.json["x.bin"] == str(folder / "x.bin")
    assert ((folder / "one.csv").read_bytes(), (downloads / "2.pkl").read_bytes()) == (b"1", b"2")
    assert f"- in {tmp_path / 'data'}: {convert}\n" in done.err
    assert f"- not needed by default: put three.npy into {folder}: ask its authors (dead: http://gone)\n" in done.err
    assert done.err.endswith("Error: wikipedia: two.npz still missing; what to do stands above\n")
    assert obtain(card).missing == ["two.npz"]
    (folder / "two.npz").write_bytes(b"")
    assert xmbench("data", "download", "wikipedia").code == 0


def test_verify_reads_public_files_too(web, toy, tmp_path, xmbench):
    web.answers["/x"] = [Answer()]
    toy(
        Parcel(files={"x.bin": SHA}, urls=(f"{web.url}/x",)),
        Parcel(files={"y.bin": ""}, urls=(f"{web.url}/x",)),
        Parcel(files={"z.bin": ""}, note="by hand", needed=False),
    )
    assert xmbench("data", "verify", "wikipedia").code == 5
    done = xmbench("data", "download", "wikipedia")
    assert (done.code, f"{SHA[:12]}..., was not known and is kept in {SUMS}" in done.out) == (0, True)
    done = xmbench("data", "verify", "wikipedia", "--format", "json")
    assert (done.code, done.json) == (0, {"x.bin": "ok", "y.bin": "ok", "z.bin": "missing, and not needed"})
    (tmp_path / "data" / "wikipedia" / "y.bin").write_bytes(OTHER)
    done = xmbench("data", "verify", "wikipedia", "--format", "json")
    assert (done.code, done.json["y.bin"][:7]) == (5, "damaged")


def test_a_failed_download_does_not_stop_the_others_but_a_full_disk_does(web, toy, monkeypatch, xmbench):
    web.answers["/y"] = [Answer()]
    toy(*(Parcel(files={f"{name}.bin": SHA}, urls=(f"{web.url}/{name}",)) for name in "xy"))
    done = xmbench("data", "download", "wikipedia", "--format", "json")
    assert (done.code, done.json["x.bin"]) == (5, "missing")
    assert done.json["y.bin"].endswith("y.bin")
    assert "/x (404 Not Found)" in done.err
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    web.answers["/x"] = [Answer()]
    done = xmbench("data", "download", "wikipedia")
    assert (done.code, done.out) == (5, "")
    assert re.match(r"Error: no space left in .*make room, or set XMBENCH_DATA to another disk\n$", done.err)


def test_what_has_no_address_says_what_to_do_and_what_needs_no_files_is_done(xmbench, toy, tmp_path):
    done = xmbench("data", "download", "nus_wide")
    assert (done.code, done.out) == (5, "nus_wide_deep_doc2vec_data_42941.h5py: missing\n")
    assert f"put nus_wide_deep_doc2vec_data_42941.h5py into {tmp_path / 'data' / 'nus_wide'}: ask for images" in done.err
    done = xmbench("data", "download", "openmoji")
    assert (done.code, done.out, done.err) == (0, "openmoji: needs no files\n", "")
    assert xmbench("data", "download", "nuswide").code == 2


# Cards


@pytest.mark.parametrize("name", PUBLIC)
def test_a_card_says_of_every_file_where_it_is_from_and_what_is_checked(name, xmbench):
    card = dataset_card(name)
    assert card.checks
    names = [file for parcel in card.parcels for file in parcel.files]
    assert len(names) == len(set(names))
    for parcel in card.parcels:
        assert all(re.fullmatch(r"https?://[\w.-]+/\S+", url) for url in (*parcel.urls, *parcel.dead))
        assert not set(parcel.urls) & set(parcel.dead)
        assert all(re.fullmatch(r"([0-9a-f]{64})?", sha256) for sha256 in parcel.files.values())
        assert "\n" not in parcel.note
        made = {command.split()[4].partition("/")[2] for command in parcel.then}
        read = {command.split()[3].removeprefix(f"{DOWNLOADS}/") for command in parcel.then}
        assert read == {member for member, file in parcel.members.items() if not file}
        if parcel.members:
            assert set(parcel.files) == made | {file for file in parcel.members.values() if file}
    told = xmbench("data", "info", name).out
    assert all(part in told for part in (card.licence, card.checks, f"XMBENCH_DATA/{card.place}/", *names))
    assert all(url in told for parcel in card.parcels for url in (*parcel.urls, *parcel.dead))


def test_every_dataset_with_files_is_among_the_cards_above():
    built_in = {path.stem for path in (ROOT / "xmbench" / "datasets").glob("[a-z]*.py")}
    assert {name for name in built_in if dataset_card(name).parcels} == set(PUBLIC)


@pytest.mark.parametrize("name", FILES)
def test_a_card_names_the_files_that_the_loader_is_tested_on(name):
    assert dataset_card(name).files == (FILES[name],)


@pytest.mark.parametrize("name", MAKE)
def test_a_card_of_videos_names_the_files_that_the_loader_is_tested_on(name, tmp_path):
    MAKE[name](tmp_path)
    assert {path.name for path in (tmp_path / name).iterdir()} == set(dataset_card(name).files)
