"""Specs, profiles and protocols: what a file may say, what it means, and what is refused."""

import tomllib
from dataclasses import replace
from importlib.resources import files

import pytest

from xmbench.datasets import dataset_card
from xmbench.metrics import METRICS
from xmbench.spec import Protocol, Spec, canonical, load_protocol, load_spec, parse_settings, seed_list, shipped

VARIANT = '[variants.mrl_rc]\nmethod = "mrl"\nbeta = 1.0\n'


@pytest.fixture
def toml(tmp_path):
    """Write a TOML file; returns its path as text."""

    def write(content, name="own.toml"):
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


def is_profile(name):
    return "methods" not in tomllib.loads((files("xmbench") / "specs" / f"{name}.toml").read_text("utf-8"))


def test_canonical_json_knows_no_order_and_tells_numbers_apart():
    assert canonical({"b": 1, "a": [1.0, True, None]}) == '{"a":[1.0,true,null],"b":1}'
    assert canonical({"b": 2, "a": 1}) == canonical({"a": 1, "b": 2})
    assert canonical(1) != canonical(1.0)


def test_a_spec_file_says_everything_that_the_command_line_can(toml):
    spec = load_spec(
        toml(
            'description = "all of it"\nmethods = ["cca", "mrl_rc", "cca"]\ndatasets = ["openmoji"]\nseeds = [4, 2]\n'
            'noise_seed = 9\nprotocol = "noisy_valid"\n[noise]\nscheme = "pair_flip"\nrates = [0, 0.5, 0.0]\n'
            '[set]\n"mrl.epochs" = 3\n[set.openmoji]\nclasses = "subgroup"\n'
            '[dataset.openmoji.set]\n"mrl.lr" = 1e-3\n"mrl_rc.tau" = 0.5\n' + VARIANT
        )
    )
    assert spec == Spec(
        name="own",
        description="all of it",
        methods=("cca", "mrl_rc"),
        datasets=("openmoji",),
        schemes=("pair_flip",),
        rates=(0.0, 0.5),
        seeds=(4, 2),
        noise_seed=9,
        protocol="noisy_valid",
        settings=(("mrl", "epochs", 3), ("openmoji", "classes", "subgroup")),
        dataset_settings={"openmoji": (("mrl", "lr", 1e-3), ("mrl_rc", "tau", 0.5))},
        variants={"mrl_rc": {"method": "mrl", "beta": 1.0}},
    )
    assert {type(rate) for rate in spec.rates} == {float}


def test_what_a_spec_leaves_out_is_the_command_lines_default(toml):
    assert load_spec(toml('methods = ["cca"]')) == Spec(name="own", methods=("cca",))
    assert Spec().rates == (0.0, 0.2, 0.4, 0.6, 0.8)
    assert (Spec().noise_schemes(), Spec().seeds, Spec().protocol) == (("symmetric",), (0, 1, 2), "default")


def test_a_spec_may_name_several_schemes(toml):
    several = load_spec(toml('methods = ["cca"]\n[noise]\nscheme = ["symmetric", "symmetric+image_shuffle@0.2", "symmetric"]'))
    assert several.noise_schemes() == several.schemes == ("symmetric", "symmetric+image_shuffle@0.2")
    with pytest.raises(ValueError, match="schemes must be of type str, got 3"):
        load_spec(toml('methods = ["cca"]\n[noise]\nscheme = 3'))


def test_pairs_are_shuffled_by_default_where_no_dataset_has_labels(monkeypatch):
    bare = replace(dataset_card("openmoji"), classes=None)
    monkeypatch.setattr("xmbench.spec.dataset_card", lambda name: bare if name == "openmoji" else dataset_card(name))
    assert Spec(datasets=("openmoji",)).noise_schemes() == ("caption_shuffle",)
    assert Spec(datasets=("openmoji", "synthetic")).noise_schemes() == ("symmetric",)
    assert Spec(datasets=("openmoji",), schemes=("pair_flip",)).noise_schemes() == ("pair_flip",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('methods = ["cca"]\nmethod = 1', "no key of spec .* named 'method'; did you mean 'methods'"),
        ('methods = ["cca"]\n[noise]\nrate = 1', r"no key of \[noise\] of spec .* named 'rate'; did you mean 'rates'"),
        ('methods = ["cca"]\nnoise = "pair_flip"', r"\[noise\] of spec .* must be a table, got 'pair_flip'"),
        ('methods = "cca"', "methods of spec .* must be a list, got 'cca'"),
        ("methods = [3]", "methods must be of type str, got 3"),
        ('methods = [["cca"]]', "methods must be of type str"),
        ('methods = ["cca"]\ndatasets = "openmoji"', "datasets of spec .* must be a list"),
        ('methods = ["cca"]\n[noise]\nrates = 0.4', "rates of spec .* must be a list, got 0.4"),
        ('methods = ["cca"]\n[noise]\nrates = ["much"]', "rates must be of type float, got 'much'"),
        ('methods = ["cca"]\nseeds = 2.5', "seeds must be a count of 1 or more"),
        ('methods = ["cca"]\nnoise_seed = "a"', "noise_seed must be of type int, got 'a'"),
        ('methods = ["cca"]\nprotocol = 3', "protocol must be of type str, got 3"),
        ('methods = ["cca"]\nset = 3', r"\[set\] of spec .* must be a table, got 3"),
        ('methods = ["cca"]\n[set]\nepochs = 3', "a setting must read OWNER.PARAM=VALUE, got 'epochs'"),
        ('methods = ["cca"]\n[variants.mine]\nbeta = 1.0', "variant 'mine' of spec .* must say of which method"),
        ('methods = ["cca"]\n[variants.mrl]\nmethod = "ce"', "variant 'mrl' of spec .* must have a name of its own"),
        ('methods = ["cca"]\n[dataset.openmojo.set]\n', "no dataset named 'openmojo'; did you mean 'openmoji'"),
        ('methods = ["cca"]\n[dataset.openmoji]\nsets = 1', "no key of .* named 'sets'; did you mean 'set'"),
        ('methods = ["cca"]\n[dataset.openmoji.set]\n"cc.dim" = 1', "no method of spec .* named 'cc'; did you mean 'cca'"),
        ('methods = ["cca"]\n[dataset.openmoji.set]\n"openmoji.classes" = "both"', "no method of spec .* named 'openmoji'"),
        ('description = "x"\n[set]\n"cca.dim" = 1', "must name methods; if it is a profile, use it as --profile"),
        ("methods = [", "is not TOML"),
    ],
)
def test_a_spec_with_a_mistake_is_refused(toml, content, message):
    with pytest.raises((ValueError, LookupError), match=message):
        load_spec(toml(content))


def test_an_unknown_spec_profile_or_protocol_gets_the_closest():
    with pytest.raises(LookupError, match="no spec named 'smok'; did you mean 'smoke'"):
        load_spec("smok")
    with pytest.raises(LookupError, match=r"no file 'none\.toml' for a spec; shipped: ci, "):
        load_spec("none.toml")
    with pytest.raises(LookupError, match="no profile named 'reduce'; did you mean 'reduced'"):
        Spec().with_profile("reduce")
    with pytest.raises(LookupError, match="no protocol named 'defualt'; did you mean 'default'"):
        load_protocol("defualt")


@pytest.mark.parametrize("name", shipped("spec"))
def test_every_shipped_spec_is_described_and_read(name):
    if is_profile(name):
        assert Spec(methods=("mrl",)).with_profile(name).settings
    else:
        spec = load_spec(name)
        assert spec.name == name
        assert spec.description


def test_a_setting_may_be_written_flat_or_nested_and_the_last_one_counts():
    assert parse_settings({"mrl.beta": 0.5}) == parse_settings({"mrl": {"beta": 0.5}})
    spec = Spec(settings=(("mrl", "beta", 0.1), ("mrl", "tau", 2.0), ("ce", "beta", 9), ("mrl", "beta", 0.2)))
    assert spec.settings_of("mrl") == {"beta": 0.2, "tau": 2.0}
    for wrong in ("beta", ".beta", "mrl.", "."):
        with pytest.raises(ValueError, match=r"must read OWNER\.PARAM=VALUE"):
            parse_settings({wrong: 1})


def test_settings_of_one_dataset_override_there_alone():
    spec = Spec(settings=(("mrl", "lr", 1.0),), dataset_settings={"openmoji": (("mrl", "lr", 2.0),)})
    assert spec.settings_of("mrl", "openmoji") == {"lr": 2.0}
    assert spec.settings_of("mrl", "wikipedia") == spec.settings_of("mrl") == {"lr": 1.0}


def test_overriding_settings_stand_above_those_of_a_dataset_and_leave_its_others():
    spec = Spec(
        settings=(("mrl", "lr", 1.0),),
        dataset_settings={"openmoji": (("mrl", "lr", 2.0), ("mrl", "tau", 3.0), ("ce", "lr", 4.0)), "wikipedia": ()},
    ).overridden((("mrl", "lr", 5.0),))
    assert spec.settings_of("mrl", "openmoji") == {"lr": 5.0, "tau": 3.0}
    assert spec.settings_of("ce", "openmoji") == {"lr": 4.0}
    assert spec.settings_of("mrl", "wikipedia") == {"lr": 5.0}


def test_a_profile_stands_below_the_specs_own_settings_and_touches_methods_in_the_run_only():
    spec = Spec(methods=("mrl_rc",), variants={"mrl_rc": {"method": "mrl"}}, settings=(("mrl", "dim", 7),))
    small = spec.with_profile("reduced")
    assert small.profile == "reduced"
    assert small.settings_of("mrl") == {"hidden": 1024, "dim": 7, "epochs": 30}
    assert {owner for owner, *_ in small.settings} == {"mrl"}, "ce takes no part"
    assert Spec(methods=("cca",)).with_profile("reduced").settings == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('methods = ["cca"]', "must change method parameters only, got methods"),
        ("seeds = 1\n[noise]\nrates = [0.0]", "must change method parameters only, got noise, seeds"),
        ('[set]\n"noise.shared" = true', r"must change method parameters only, got noise\.shared"),
        ('[set]\n"wikipedia.text" = "minilm"', r"must change method parameters only, got wikipedia\.text"),
        ("set = 1", r"\[set\] of profile .* must be a table"),
    ],
)
def test_a_profile_changes_method_parameters_and_nothing_else(toml, content, message):
    with pytest.raises(ValueError, match=message):
        Spec(methods=("cca",), datasets=("wikipedia",)).with_profile(toml(content))


def test_a_narrowed_spec_forgets_the_settings_of_what_is_gone_and_no_others():
    smoke = load_spec("smoke")
    assert {owner for owner, *_ in smoke.narrowed(methods=("cca", "mrl")).settings} == {"mrl"}
    assert smoke.narrowed(seeds=(3,)).settings == smoke.settings
    typo = Spec(methods=("cca", "mrl"), settings=(("mlr", "beta", 1), ("mrl", "beta", 1)))
    assert typo.narrowed(methods=("cca",)).settings == (("mlr", "beta", 1),), "left for the plan to complain about"


@pytest.mark.parametrize(("given", "seeds"), [(1, (0,)), (3, (0, 1, 2)), ([5], (5,)), ((2, 0), (2, 0))])
def test_seeds_are_a_count_or_a_list(given, seeds):
    assert seed_list(given) == seeds


@pytest.mark.parametrize("given", [0, -1, [], [1, 1], [-1], [1.5], ["1"], 2.5, "3", True, [True], None])
def test_other_seeds_are_refused(given):
    with pytest.raises(ValueError, match="seeds must be a count of 1 or more, or different numbers of 0 or more, got"):
        seed_list(given)


def test_the_shipped_protocols_differ_in_the_labels_they_validate_on():
    clean, noisy = load_protocol("default"), load_protocol("noisy_valid")
    assert (clean.valid_labels, noisy.valid_labels) == ("clean", "noisy")
    assert clean.metrics == noisy.metrics
    assert clean.threads == 1
    assert clean.sha != noisy.sha


def test_a_protocols_sha_covers_its_content_and_not_its_name(toml):
    content = 'metrics = ["map", "r@1"]\nvalidate_every = 2\n'
    first = load_protocol(toml(content, "a.toml"))
    assert first.name == "a"
    assert load_protocol(toml('description = "words"\n' + content, "b.toml")).sha == first.sha
    assert load_protocol(toml(content + "threads = 2\n")).sha != first.sha
    assert load_protocol(toml('metrics = ["r@1", "map"]\nvalidate_every = 2\n')).sha != first.sha


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('metrics = ["mapp"]', "no metric named 'mapp'; did you mean 'map'"),
        ('metrics = ["MAP"]', "no metric named 'MAP'"),
        ("metrics = []", "at least one metric is needed"),
        ("validate_every = 0", "validate_every must be 1 or more, got 0"),
        ("threads = 0", "threads must be 1 or more"),
        ("validate_items = -1", "validate_items must be 1 or more"),
        ("threads = 1.5", "threads must be of type int"),
        ('valid_labels = "dirty"', "valid_labels must be one of clean, noisy, got 'dirty'"),
        ("valid_label = 1", "has no parameter 'valid_label'; did you mean .*valid_labels"),
    ],
)
def test_a_protocol_with_a_mistake_is_refused(toml, content, message):
    with pytest.raises((ValueError, LookupError), match=message):
        load_protocol(toml(content))


def test_metric_names_are_lower_case():
    assert all(name == name.lower() for name in METRICS)
    assert {"map", "map@50", "map@50_min", "r@1", "r@5", "r@10", "medr", "meanr", "rsum"} <= set(
        load_protocol("default").metrics
    )
    with pytest.raises(LookupError):
        Protocol(name="x", metrics=("R@1",))
