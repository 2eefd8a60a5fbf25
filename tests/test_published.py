"""The numbers of the papers as package data, and the systems of which there is nothing else."""

import pytest

from xmbench.catalogue import catalogue, describe
from xmbench.published import PAPERS, REPORTED, provenance, published_anomalies, published_results
from xmbench.published.terms import published_cells
from xmbench.registry import find_method, method_names
from xmbench.spec import load_spec


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


def test_the_package_holds_the_numbers_as_they_were_transcribed():
    rows = published_results()
    assert rows.groupby("paper", sort=False).size().to_dict() == {
        "mrl2021": 512, "ncr2021": 152, "labelwise2021": 32, "lnc2024": 892,
    }  # fmt: skip
    assert set(PAPERS) == set(rows["paper"])
    assert (rows["printed"].astype(float) == rows["value"]).all()
    text = provenance()
    for paper in PAPERS:
        assert f"`{paper}`" in text
    assert "/work" not in text and "/home" not in text


def test_anomalies_point_at_numbers_and_put_them_in_doubt():
    anomalies, rows = published_anomalies(), published_results()
    assert int(rows["suspect"].sum()) == 21
    doubted = rows[rows["suspect"]].set_index(["paper", "table", "dataset", "method", "noise_rate", "direction"])["note"]
    assert "66 is likely" in doubted["lnc2024", "3", "youcook2", "lnc", 0.0, ""]
    assert "i2t .276 beside t2i .021" in doubted["mrl2021", "2", "xmedianet", "deep-sm", 0.6, "i2t"]
    for anomaly in anomalies[anomalies["suspect"]].to_dict("records"):
        about = {name: anomaly[name] for name in ("paper", "table", "dataset", "method") if anomaly[name]}
        assert (rows[list(about)] == about).all(axis=1).any(), f"no number is meant by {anomaly}"


def test_numbers_in_our_terms_have_our_names_units_and_noise():
    cells = published_cells()
    assert len(cells) == 1588 and not cells[["value", "noise_rate"]].isna().any().any()
    key = ["paper", "table", "dataset", "split", "noise_scheme", "noise_rate", "method", "direction", "metric"]
    value = cells.drop_duplicates(key).set_index(key)["value"]
    assert value["mrl2021", "1", "wikipedia_deep", "test", "symmetric", 0.2, "mrl", "image2text", "map"] == 0.514
    assert value["mrl2021", "1", "wikipedia_deep", "test", "symmetric", 0.2, "ce", "image2text", "map"] == 0.441
    assert value["lnc2024", "1", "f30k_precomp", "test", "caption_shuffle", 0.2, "lnc", "text2image", "r@1"] == 0.584
    assert value["lnc2024", "1", "coco_precomp", "test:1k", "", 0.0, "ncr", "image2text", "r@1"] == 0.787
    assert value["lnc2024", "3", "msrvtt", "test", "", 0.0, "miech_word2vec", "text2video", "medr"] == 12
    assert value["lnc2024", "7", "f30k_precomp", "train", "caption_shuffle", 0.2, "lnc", "pairs", "noise_f1"] > 0.8
    assert value["labelwise2021", "1", "mirflickr25k", "test", "", 0.0, "labelwise", "image", "micro_f1"] == 0.69
    assert value["ncr2021", "3", "coco_precomp", "test:1k", "caption_shuffle", 0.2, "sgr_star", "image2text", "r@1"] > 0.5


def test_every_method_of_the_papers_is_in_the_spec_of_its_table():
    for (paper, table), part in published_cells().groupby(["paper", "table"]):
        spec = load_spec(f"{paper[:-4]}_table{table}")
        regions = {"lnc"} if table == "5" else set()  # LNC's own rows there are those of its Table 10
        averaged = {"scan"}  # two networks in the papers, two variants in the specs
        assert set(part["method"]) - set(REPORTED) - regions - averaged <= set(spec.methods)
        assert set(part.loc[~part["method"].isin(regions), "dataset"]) <= set(spec.datasets)
        assert set(part["noise_rate"]) <= set(spec.rates)


def test_numbers_of_a_paper_that_is_not_there():
    with pytest.raises(LookupError, match="no published numbers of mrl2020; there are those of mrl2021, ncr2021"):
        published_cells("mrl2021", "mrl2020")
