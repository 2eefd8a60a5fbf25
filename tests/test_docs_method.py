"""docs/method.md: its blocks are run in order, in one folder, as a reader would."""

import re
import shlex
import sys

import pytest
import torch
from conftest import ROOT

from xmbench import cli, registry

GUIDE = (ROOT / "docs" / "method.md").read_text("utf-8")
BLOCKS = re.findall(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', GUIDE, flags=re.MULTILINE | re.DOTALL)


def test_every_block_is_of_a_kind_that_is_run():
    assert len(BLOCKS) == GUIDE.count("```") / 2 == 10
    assert {kind for kind, _, _ in BLOCKS} == {"python", "sh"}


@pytest.mark.slow
def test_the_guide_works_from_its_first_block_to_its_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        registry, "_METHODS", {name: registry.find_method(name) for name in ("mrl", "ce", "cca", "pls", "precomputed")}
    )
    names, printed = {"__name__": "guide"}, ""
    for kind, title, content in BLOCKS:
        if title:
            (tmp_path / title).write_text(content, "utf-8")
        elif kind == "python":
            exec(content, names)
        else:
            for line in content.splitlines():
                monkeypatch.setattr(sys, "argv", shlex.split(line))
                with pytest.raises(SystemExit) as left:
                    cli.main()
                out, err = capsys.readouterr()
                assert left.value.code == 0, (line, out, err)
                printed += out
    torch.set_num_threads(1)
    maps = {line.split()[2]: float(line.split()[4]) for line in printed.splitlines() if line.startswith(" openmoji")}
    assert maps["trimmed_means"] > 0.5, "at 40 % noise, where chance has 0.14"
    assert all(maps[name] > 0.2 for name in ("mrl", "ce"))
    for name in ("trimmed_means", "mrl", "ce"):
        assert name in (tmp_path / "reports" / "openmoji_symmetric_map.md").read_text("utf-8")
