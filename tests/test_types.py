"""Types: rows compose indices, splits hold what they should, bad data are named."""

from dataclasses import replace

import numpy as np
import pytest

from xmbench.types import (
    Embedding,
    Modality,
    PairedSet,
    Rows,
    check_split,
    class_numbers,
    fingerprint,
    one_hot,
    split_sha,
    stream,
    stream_seed,
)


def modality(name="image", n=4, labels=(0, 1, 0, 1), vectors=None):
    x = np.arange(2.0 * n).reshape(n, 2) if vectors is None else np.asarray(vectors)
    return Modality(name=name, vectors=Rows(x), labels=None if labels is None else one_hot(np.array(labels), 2))


def split(*modalities, pairs=((0, 0), (1, 1), (2, 2), (3, 3))):
    modalities = modalities or (modality("image"), modality("text"))
    return PairedSet(modalities=modalities, pairs=None if pairs is None else np.array(pairs).reshape(-1, len(modalities)))


def test_rows_pick_compose_and_copy():
    data = np.arange(12.0).reshape(6, 2)
    rows = Rows(data).take(np.array([5, 3, 1])).take(np.array([2, 0]))
    assert np.asarray(rows).tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert rows.shape == (2, 2)
    assert rows[np.array([1])].tolist() == [[10.0, 11.0]]
    values = np.asarray(rows)
    assert values.dtype == np.float32
    values[:] = -1
    assert data[1].tolist() == [2.0, 3.0], "the data were written to"
    assert np.asarray(rows, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match=r"\(n, d\) or \(n, L, d\), got shape \(3,\)"):
        Rows(np.arange(3.0))


def test_rows_read_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    rows = Rows(np.load(tmp_path / "x.npy", mmap_mode="r"), np.array([2]))
    assert np.asarray(rows).tolist() == [[4.0, 5.0]]


def test_a_modality_takes_items_and_shows_only_what_is_asked_for():
    full = Modality(
        name="text",
        vectors=Rows(np.eye(3)),
        tokens=np.array([[1, 2], [3, 0], [4, 5]]),
        lengths=np.array([2, 1, 2]),
        vocabulary=("a", "b", "c", "d", "e", "f"),
        labels=one_hot(np.array([0, 1, -1]), 2),
        item_ids=np.array(["x", "y", "z"]),
    )
    part = full.take(np.array([2, 0]))
    assert (len(part), part.tokens.tolist(), part.lengths.tolist()) == (2, [[4, 5], [1, 2]], [2, 2])
    assert part.labels.tolist() == [[False, False], [True, False]]
    assert part.item_ids.tolist() == ["z", "x"]
    shown = full.only(frozenset({"vectors"}))
    assert [getattr(shown, name) for name in ("tokens", "lengths", "vocabulary", "labels", "item_ids")] == [None] * 5
    shown = full.only(frozenset({"tokens", "labels"}))
    assert shown.vectors is None and shown.lengths is not None and shown.vocabulary is not None and shown.n_classes == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "must hold vectors, sequences, tokens or labels"),
        ({"vectors": Rows(np.eye(3)), "lengths": np.ones(2)}, "one row per item"),
        ({"labels": np.array([0, 1])}, r"must be \(n, c\) bool, got int64 \(2,\); .*one_hot"),
        ({"labels": np.eye(2)}, r"must be \(n, c\) bool, got float64"),
    ],
)
def test_a_modality_that_cannot_be_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Modality(name="image", **parts)


def test_a_split_needs_two_modalities_and_pairs_over_all_of_them():
    with pytest.raises(ValueError, match="two or more modalities"):
        PairedSet(modalities=(modality(),))
    with pytest.raises(ValueError, match="names of their own"):
        PairedSet(modalities=(modality(), modality()))
    with pytest.raises(ValueError, match=r"pairs must be \(n_pairs, 2\), got \(4, 3\)"):
        PairedSet(modalities=(modality("a"), modality("b")), pairs=np.zeros((4, 3), int))
    with pytest.raises(ValueError, match="has no labels: declare needs"):
        _ = split(modality("a", labels=None), modality("b", labels=None)).n_classes


def test_rows_together_are_the_pairs_or_row_by_row():
    assert split(pairs=((3, 1), (0, 0))).rows_together().tolist() == [[3, 1], [0, 0]]
    uneven = split(modality("a"), modality("b", n=2, labels=(0, 1)), pairs=None)
    assert uneven.rows_together().tolist() == [[0, 0], [1, 1], [2, 0], [3, 1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_named(bad):
    vectors = np.ones((4, 2))
    vectors[2, 1] = bad
    with pytest.raises(ValueError, match=r"train/text: vectors must be finite, got NaN or infinity in row 2"):
        check_split("train", split(modality("image"), modality("text", vectors=vectors)))
    sequences = Modality(name="text", sequences=Rows(np.stack([vectors, vectors], axis=1)), labels=modality().labels)
    with pytest.raises(ValueError, match=r"train/text: sequences must be finite, .* row 2"):
        check_split("train", split(modality("image"), sequences))


def test_a_bad_row_is_found_behind_the_first_block():
    vectors = np.ones((5000, 1))
    vectors[4500] = np.nan
    labels = tuple(np.arange(5000) % 2)
    whole = modality("image", n=5000, labels=labels)
    with pytest.raises(ValueError, match="row 4500"):
        check_split("train", split(whole, modality("text", n=5000, labels=labels, vectors=vectors), pairs=None))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (split(pairs=()), "at least one pair"),
        (split(pairs=((0, 4),)), r"pairs must be row numbers below \[4, 4\], got up to \[0, 4\]"),
        (split(pairs=((-1, 0),)), "pairs must be row numbers"),
        (split(modality("a"), modality("b", n=0, labels=()), pairs=None), "train/b: .* at least one item"),
        (split(modality("a"), modality("b", labels=(0, 0, 0, 0))), "train/b: .* two classes or more, got 1"),
        (
            split(modality("a"), replace(modality("b"), labels=one_hot(np.array([0, 1, 2, 0]), 3))),
            r"same classes, got \{'a': 2, 'b': 3\}",
        ),
    ],
)
def test_splits_that_cannot_be_used_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        check_split("train", given)


def test_a_good_split_passes():
    assert check_split("train", split()) is None
    assert check_split("train", split(modality("a", labels=None), modality("b", labels=None))) is None


def test_labels_and_class_numbers_are_each_other_inverse():
    hot = one_hot(np.array([2, -1, 0]), 3)
    assert hot.astype(int).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert class_numbers(hot).tolist() == [2, -1, 0]
    for wrong in ([3], [-2]):
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
            one_hot(np.array(wrong), 3)
    with pytest.raises(ValueError, match="got 1 items with several classes"):
        class_numbers(np.array([[True, True], [True, False]]))


def test_streams_depend_on_every_part_and_nothing_else():
    first = stream("noise", "toy", 0).standard_normal(3)
    assert np.array_equal(first, stream("noise", "toy", 0).standard_normal(3))
    assert np.array_equal(first, stream("noise", "toy", np.int64(0)).standard_normal(3))
    parts = [("noise", "toy", 0), ("noise", "toy", 1), ("noise", "toy0"), ("noise", "toy", "0")]
    assert len({stream_seed(*p) for p in parts}) == 4
    assert stream_seed("noise", "toy", 0) == 1680722722826505770, "other draws than in stored results"


def test_fingerprints_tell_values_types_and_shapes_apart():
    zeros = np.zeros(4)
    kinds = [[zeros], [zeros.astype(np.float32)], [zeros.reshape(2, 2)], [np.zeros(5)], [None], ["x"], [zeros, None]]
    assert len({fingerprint(parts) for parts in kinds}) == len(kinds)
    assert fingerprint([zeros[::-1]]) == fingerprint([zeros])


def test_a_splits_sha_reads_labels_partners_and_items_but_no_features():
    whole = split()
    same = split(modality("image", vectors=np.zeros((4, 7))), modality("text"))
    assert split_sha(whole) == split_sha(same)
    first, second = whole.modalities
    others = [
        split(pairs=((0, 0), (1, 1), (3, 2), (2, 3))),
        split(modality("image", labels=(1, 1, 0, 1)), second),
        split(modality("picture"), second),
        split(replace(first, item_ids=np.array(list("abcd"))), second),
    ]
    assert len({split_sha(s) for s in (whole, *others)}) == 5


def test_embeddings_take_values_with_their_lengths():
    embedding = Embedding("text", np.arange(12.0).reshape(3, 2, 2), np.array([1, 2, 1])).take(np.array([1]))
    assert embedding.values.tolist() == [[[4.0, 5.0], [6.0, 7.0]]]
    assert embedding.lengths.tolist() == [2]
    assert Embedding("text", np.eye(2)).take(slice(1)).lengths is None
