"""The numbers of the papers as package data, and the systems of which there is nothing else."""

import pytest

from xmbench.catalogue import catalogue, describe
from xmbench.published import REPORTED, published_results
from xmbench.registry import find_method, method_names


def test_printed_numbers_are_found_by_paper_table_and_method():
    rows = published_results().set_index(["paper", "table", "dataset", "noise_rate", "method", "direction", "metric"])["value"]
    assert rows["mrl2021", "1", "wikipedia", 0.2, "mrl", "i2t", "map"] == 0.514
    assert rows["lnc2024", "1", "flickr30k", 0.2, "lnc", "t2i", "r@1"] == 58.4
    assert len(rows) == 1588


def test_what_is_known_by_numbers_only_says_so_and_has_no_network():
    assert set(REPORTED) <= set(published_results()["method"])
    assert not set(REPORTED) & set(method_names())
    with pytest.raises(LookupError, match="yu2018 is known by its published numbers only"):
        find_method("yu2018")
    facts = describe("yu2018")
    assert facts["here"] == "nothing: published numbers only, no network"
    assert (
        facts["numbers"]["lnc2024 Table 3, msr-vtt, text-to-video, none 0, Yu et al. (2018)"]
        == "r@1 10.2, r@5 31.2, r@10 43.2, medr 13"
    )


def test_doubts_about_a_printed_number_are_shown_with_it():
    assert "medr 99 [SUSPECT" in str(describe("lnc")["published numbers"])
    assert "real 0" not in str(describe("miech2019")["numbers"]) and "nan" not in str(describe("miech2019")["numbers"])
    assert "r@10 1.0" in str(describe("random")["published numbers"]), "with the digits as printed"


def test_every_published_method_is_listed_with_its_name_here():
    here = {row["name"]: row["here"] for row in catalogue("published")}
    assert here["sgr-c"] == "sgr_clean"
    assert here["kiros2014"] == "nothing: published numbers only, no network"
    assert here["mrl"] == "mrl"
