"""`xmbench cite`: BibTeX that another reader understands, of every name, each reference once."""

import re

from xmbench.published import PAPERS
from xmbench.published.citations import cited

KNOWN_FIELDS = set("kind author title year journal booktitle institution howpublished note".split())


def entries_of(text):
    """Key -> fields of a BibTeX text, read brace by brace; fails where anything is left over."""
    found, rest = {}, text.strip()
    while rest:
        kind, key = re.match(r"@(\w+)\{([^,\s]+),\s*", rest).groups()
        rest = rest[len(kind) + len(key) + 3 :].lstrip()
        fields = {}
        while not rest.startswith("}"):
            name = re.match(r"(\w+) = \{", rest)[1]
            start, depth = rest.index("{"), 0
            for end in range(start, len(rest)):
                depth += {"{": 1, "}": -1}.get(rest[end], 0)
                if depth == 0:
                    break
            assert name not in fields
            assert depth == 0
            fields[name], rest = rest[start + 1 : end], rest[end + 1 :].lstrip(",").lstrip()
        assert key not in found
        found[key], rest = {"kind": kind, **fields}, rest[1:].lstrip()
    return found


def test_a_method_a_dataset_and_a_paper_have_the_references_that_they_rest_on(xmbench):
    done = xmbench("cite", "mcca", "flickr8k", "lnc2024")
    assert (done.code, done.err) == (0, "")
    entries = entries_of(done.out)
    assert {key: entry["year"] for key, entry in entries.items()} == {
        "hodosh2013framing": "2013",
        "huang2024lnc": "2024",
        "rupnik2010mcca": "2010",
    }
    assert entries["huang2024lnc"]["title"] == "Learning with Noisy Correspondence"
    assert entries["hodosh2013framing"]["author"] == "Hodosh, Micah and Young, Peter and Hockenmaier, Julia"


def test_names_of_one_paper_bring_its_reference_once(xmbench):
    alone = xmbench("cite", "mrl").out
    assert list(entries_of(alone)) == ["hu2021mrl"]
    assert xmbench("cite", "mrl2021", "mrl", "mrl").out == alone


def test_the_text_of_all_names_is_sound_bibtex(xmbench):
    entries = entries_of(xmbench("cite", *sorted(cited())).out)
    assert {"hu2021mrl", "huang2024lnc", "xmbench"} <= set(entries)
    for key, entry in entries.items():
        assert {"author", "title"} <= set(entry) <= KNOWN_FIELDS, key
        assert re.fullmatch(r"(19|20)\d\d", entry.get("year", "2000")), key
        assert all(re.fullmatch(r"\{.+\}|[^,]+, [^,]+|others", author) for author in entry["author"].split(" and ")), key


def test_every_paper_of_published_numbers_has_one(xmbench):
    for paper in PAPERS:
        (entry,) = entries_of(xmbench("cite", paper).out).values()
        assert entry["year"] == paper[-4:]


def test_an_unknown_name_is_2_and_brings_the_closest_one(xmbench):
    done = xmbench("cite", "mrl", "flikr8k")
    assert (done.code, done.out) == (2, "")
    assert done.err == "Error: no method, dataset or paper with a reference named 'flikr8k'; did you mean 'flickr8k'?\n"
    assert xmbench("cite").code == 2
