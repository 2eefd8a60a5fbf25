"""What a method says it reads, it reads: each hyper-parameter, each modality's own labels, and the pairs."""

import typing
from dataclasses import replace

import numpy as np
import pytest
import tiny_clip
from test_baselines import METHODS, data_for, networks, smoke

from xmbench import FitContext
from xmbench.registry import find_method, parameters_of

FEW = {"epochs": 3, "lr_update": 2, "batch_size": 16, "landmarks": 30, "max_components": 4, "energy": 0.9, "neighbours": 3}
GIVEN = {  # what must be set for a parameter to have a part to play
    ("fgcrossnet", "joint"): {"margin": 0.02, "second_margin": 0.01},  # small: else every quadruplet counts
    ("fgcrossnet", "margin"): {"margin": 0.02, "second_margin": 0.01},
    ("fgcrossnet", "second_margin"): {"margin": 0.02, "second_margin": 0.01},
    ("mcca", "dim"): {"max_components": 64},
    ("mcca", "energy"): {"max_components": 64},
    ("coteaching", "forget_rate"): {"gradual": 1},
    ("gma", "k_within"): {"criterion": "mfa"},
    ("gma", "k_between"): {"criterion": "mfa"},
    ("coteaching", "gradual"): {"forget_rate": 0.5},
    ("labelwise", "consistency_weight"): {"variant": "consistency"},
    ("kcca", "width"): {"kernel": "rbf"},
    ("scan", "lambda2"): {"pooling": "lse"},
    ("naaf", "mining"): {"epochs": 12, "lr": 0.01, "least_words": 10},
    ("naaf", "penalty"): {"epochs": 12, "lr": 0.01, "least_words": 10},
    ("naaf", "least_words"): {"epochs": 12, "lr": 0.01, "least_words": 30},
    ("clip_adapter", "margin"): {"loss": "triplet", "margin": 0.02},
}
GIVEN |= {  # long and small enough that some hinges are at rest
    (name, "margin"): {"margin": 0.02, "epochs": 10, "lr": 0.01}
    for name in ("vse", "vsrn", "naaf", "imram", "scan", "saf", "sgr", "sgraf", "sgr_star", "sgr_clean")
}
GIVEN |= {
    ("dividemix_sgr", "margin"): {"margin": 0.02, "epochs": 10, "lr": 0.01},
    ("decl", "margin"): {"margin": 0.02, "epochs": 10, "lr": 0.01},
    ("bicro", "threshold"): {"threshold": 0.99},  # few labels are small where no pair is wrong
    ("bicro", "margin"): {"margin": 0.02, "epochs": 10, "lr": 0.01},
    ("decl", "eta"): {"eta": 2.0},  # so many fewer in the few steps of so short a fit
    ("decl", "mu"): {"eta": 4.0},
    ("rcl", "q"): {"form": "gce"},
}
GIVEN |= {(name, key): {"backbone": "sgr"} for name in ("ncr", "lnc") for key in ("similarity_dim", "steps")}
OTHER = {  # where half of the value is no value
    "fgcrossnet.ranking_share": 1.0,
    "labelwise.heads": 1,
    "labelwise.features": None,  # vectors here; sequences in test_semantic.py
    "labelwise.max_length": None,
    "gma.align": "means",
    "clip_finetune.checkpoint": tiny_clip.checkpoint(1),
    "clip_finetune.checkpoint_sha": None,  # checks the file, see test_clip.py
    "mrl.dim": 16,
    "miech.words": None,  # words are numbers here; vectors in test_miech.py
}


def split(name):
    """Forty instances."""
    return data_for(name, train=40).train


def unlabelled(part):
    kept = np.arange(len(part.modalities[0])) % 5 > 0
    return replace(part, modalities=tuple(replace(m, labels=m.labels & kept[:, None]) for m in part.modalities))


def embedded(name, train, **parameters):
    few = {key: value for key, value in FEW.items() if key in parameters_of(find_method(name))}
    method = smoke(name, **{**few, **parameters})
    context = FitContext()
    context.seed_torch()
    method.fit(train, context)
    return [values for m in data_for(name, train=40).valid.modalities for values in networks(method, m)]


def same(first, second):
    return all(np.shape(a) == np.shape(b) and np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def another(name, key, value):
    """A value of parameter `key` that is not `value`."""
    if f"{name}.{key}" in OTHER:
        return OTHER[f"{name}.{key}"]
    kind = typing.get_type_hints(find_method(name))[key]
    if typing.get_origin(kind) is typing.Literal:
        return next(option for option in typing.get_args(kind) if option != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value // 2 if value > 1 else 2
    return 3 if value is None else value / 2 if value else 0.5


FIELDS = [(name, key) for name in METHODS for key in parameters_of(find_method(name))]


@pytest.mark.parametrize(("name", "key"), FIELDS, ids=[f"{name}-{key}" for name, key in FIELDS])
def test_every_hyper_parameter_has_an_effect(name, key):
    few = {k: v for k, v in FEW.items() if k in parameters_of(find_method(name))}
    given = {**few, **GIVEN.get((name, key), {})}
    value = getattr(smoke(name, **given), key)
    changed = another(name, key, value)
    if changed is None:
        pytest.skip(f"{name}.{key} has no part to play with vectors")
    train = unlabelled(split(name)) if (name, key) in {("gss_sl", "smoothness"), ("gss_sl", "neighbours")} else split(name)
    assert not same(embedded(name, train, **given), embedded(name, train, **{**given, key: changed}))


def relabelled(part, numbers):
    """The split with the labels of the items `numbers` of each modality."""
    return replace(
        part, modalities=tuple(replace(m, labels=m.labels[n]) for m, n in zip(part.modalities, numbers, strict=True))
    )


@pytest.mark.parametrize("name", [name for name in METHODS if "labels" in smoke(name).needs()])
def test_each_modality_is_read_with_its_own_labels(name):
    own, other = np.arange(40), np.random.default_rng(0).permutation(40)
    first, second, both = (embedded(name, relabelled(split(name), n)) for n in ((own, own), (other, other), (own, other)))
    assert not same(both, first), "the first modality's labels for both would do this"
    assert not same(both, second)


@pytest.mark.parametrize("name", [name for name in METHODS if "pairs" in smoke(name).needs()])
def test_pairs_are_read(name):
    part = split(name)
    turned = replace(part, pairs=np.stack([part.pairs[:, 0], np.roll(part.pairs[:, 1], 7)], axis=1))
    assert not same(embedded(name, part), embedded(name, turned))
