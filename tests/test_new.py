"""`xmbench new method` and `xmbench validate`: what is written is sound, installs and is explained; nothing is written over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from xmbench.scaffold import write_method


def call(*command, cwd):
    """A command in a process of its own; its output where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    whole = [sys.executable, "-m", *command]
    done = subprocess.run(whole, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_a_new_method_has_its_name_everywhere_and_passes_ruff(xmbench, tmp_path):
    code, out, err = xmbench("new", "method", "deep_dream")
    files = [Path("deep_dream") / name for name in ("deep_dream.py", "test_deep_dream.py", "pyproject.toml")]
    assert (code, out.split()) == (0, [str(file) for file in files])
    assert "xmbench run --methods deep_dream,mrl,ce --dataset openmoji --profile reduced" in err
    text = "".join(file.read_text("utf-8") for file in files)
    assert "class DeepDream(Method)" in text and 'name = "xmb-deep-dream"' in text
    assert not [word for word in ("my_method", "MyMethod", "my-method") if word in text]
    for check in (["ruff", "check", "."], ["ruff", "format", "--check", "."]):
        assert call(*check, cwd=tmp_path / "deep_dream") == ""


def test_nothing_is_written_over_and_names_must_be_free(xmbench, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pyproject.toml").write_text("mine", "utf-8")
    code, _, err = xmbench("new", "method", "mine")
    assert code != 0 and "pyproject.toml is there already and is not written over" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["pyproject.toml"]
    assert xmbench("new", "method", "mine", "--out", "other")[0] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My", "lower-case letters, digits and _, a letter first, got 'My'"),
        ("2nd", "a letter first, got '2nd'"),
        ("class", "got 'class'"),
        ("_mine", "got '_mine'"),
        ("../up", "got '../up'"),
        ("mrl", "there is a method 'mrl' already"),
        ("wikipedia", "'wikipedia' means something else in --set wikipedia.PARAM=VALUE"),
        ("noise", "'noise' means something else"),
        ("json", "there is a module 'json' already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name, message, tmp_path):
    with pytest.raises(ValueError) as error:
        write_method(name, tmp_path / "new")
    assert message in str(error.value)
    assert not (tmp_path / "new").exists()


BROKEN = """
from dataclasses import dataclass
import numpy as np
from xmbench import Embedding, Method, register_method


@register_method("two_only", needs={"vectors"})
@dataclass(kw_only=True)
class TwoOnly(Method):
    def fit(self, train, context):
        first, second = train.modalities

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors)[:, :5])
"""


def test_validate_explains_what_is_broken_and_exits_with_3(xmbench, tmp_path):
    (tmp_path / "two_only.py").write_text(BROKEN, "utf-8")
    code, out, _ = xmbench("validate", "two_only.py")
    assert code == 3
    assert "modalities is broken\n  must hold  The method takes as many modalities" in out
    assert "got        with 3 modalities ValueError: too many values to unpack (expected 2), line 11" in out
    assert "docs       docs/method.md#beats_chance" in out
    code, out, _ = xmbench("validate", "two_only", "--plugin", "two_only.py", "--format", "json")
    rows = {row["clause"]: row["outcome"] for row in json.loads(out)}
    assert code == 3
    assert {clause for clause, outcome in rows.items() if outcome == "broken"} == {"modalities", "beats_chance"}
    assert rows["resumes"] == "not applicable"


def test_validate_of_a_sound_method_exits_with_0(xmbench):
    code, out, _ = xmbench("validate", "pls", "--set", "pls.dim=8", "--format", "csv")
    assert code == 0
    assert {line.split(",")[2] for line in out.splitlines()[1:]} == {"kept", "not applicable"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["precomputed"], 6, "precomputed cannot be tried on planted data: precomputed needs embeddings"),
        (["no_such"], 2, "no method named 'no_such'"),
        (["no_such.py"], 5, "there is no plug-in no_such.py"),
        (["pls", "--set", "plz.dim=8"], 2, "did you mean 'pls'?"),
    ],
)
def test_what_cannot_be_validated_is_said(xmbench, arguments, code, message):
    got, _, err = xmbench("validate", *arguments)
    assert (got, message in err) == (code, True), err


def test_list_and_info_know_the_methods_of_a_plug_in_file(xmbench, tmp_path):
    (tmp_path / "two_only.py").write_text('"""Only two."""\n' + BROKEN, "utf-8")
    code, out, _ = xmbench("list", "methods", "--plugin", "two_only.py", "--format", "json")
    assert code == 0 and "two_only" in {row["name"] for row in json.loads(out)}
    code, out, _ = xmbench("info", "two_only", "--plugin", "two_only.py", "--format", "json")
    assert json.loads(out)["description"] == "Only two."


@pytest.mark.slow
def test_a_new_method_passes_mypy_keeps_the_contract_and_installs(tmp_path):
    write_method("deep_dream", tmp_path / "new")
    assert call("mypy", "--follow-imports=silent", "deep_dream.py", "test_deep_dream.py", cwd=tmp_path / "new") == ""
    assert call("pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "new") == ""
    assert call("venv", "--system-site-packages", str(tmp_path / "venv"), cwd=tmp_path) == ""
    own = str(tmp_path / "venv" / "bin" / "python")
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "-e",
        str(tmp_path / "new"),
    ]
    environment = {"PYTHONPATH": ":".join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])}
    subprocess.run([own, *install], check=True, capture_output=True, env=environment)
    code = "import xmbench; print(xmbench.build_method('deep_dream', dim=8).dim)"
    done = subprocess.run([own, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.stdout == "8\n", done.stderr
