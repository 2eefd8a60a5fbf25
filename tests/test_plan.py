"""Plans: ids and keys, which runs share a fit, settings and variants, and cells that cannot run."""

import json
from dataclasses import replace
from functools import partial

import pytest
import tiny_clip

import xmbench as xb
from xmbench.datasets import dataset_parameters
from xmbench.noise import Noise, export_labels
from xmbench.plan import _corruption, cached_dataset, corruption_of, plan
from xmbench.registry import find_method, parameters_of
from xmbench.run import Settings
from xmbench.spec import Spec, canonical, load_spec, shipped
from xmbench.store import Store
from xmbench.sweep import sweep, todo

TINY = (("synthetic", "train", 60), ("synthetic", "valid", 30), ("synthetic", "test", 30))


def spec(*methods, settings=(), **changes):
    given = {"rates": (0.0, 0.4), "seeds": (0,), "datasets": ("synthetic",), **changes}
    return Spec(methods=methods, settings=(*TINY, *settings), **given)


def only(grid):
    (cell,) = plan(grid)
    return cell


ONE = spec("mrl", rates=(0.4,))
RUN = only(ONE).run


def test_a_run_id_does_not_depend_on_the_order_in_which_things_are_said():
    assert len(RUN.run_id) == 16
    assert int(RUN.run_id, 16) >= 0
    turned = replace(
        RUN,
        parameters=dict(reversed(RUN.parameters.items())),
        dataset_parameters=dict(reversed(RUN.dataset_parameters.items())),
        noise=replace(RUN.noise, options=dict(reversed(RUN.noise.options))),
    )
    assert turned.run_id == RUN.run_id
    settings = (("mrl", "beta", 0.5), ("mrl", "tau", 0.9), ("synthetic", "seed", 3), ("noise", "shared", True))
    first, second = (only(replace(ONE, settings=(*TINY, *s))).run for s in (settings, settings[::-1]))
    assert first.run_id == second.run_id != RUN.run_id


def test_a_run_id_is_the_same_in_the_grid_and_alone_and_for_values_spelled_otherwise():
    assert RUN.run_id in {cell.run.run_id for cell in plan(spec("cca", "mrl", rates=(0.8, 0.4), seeds=(3, 0)))}
    assert only(replace(ONE, settings=(*TINY, ("mrl", "beta", "0.7")))).run.run_id == RUN.run_id, "the default, as text"
    assert only(replace(ONE, name="other", profile="p")).run.run_id == RUN.run_id


CHANGES = {
    "dataset": "other",
    "dataset_parameters": {**RUN.dataset_parameters, "seed": 1},
    "noise": replace(RUN.noise, rate=0.5),
    "method": "mrl_rc",
    "implementation": "ce",
    "parameters": {**RUN.parameters, "beta": 0.6},
    "seed": 1,
    "protocol": replace(RUN.protocol, validate_every=2),
    "tuning": "grid",
    "trial": "3",
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_run_id_changes_with_each_of_its_parts(part):
    assert set(CHANGES) == set(vars(RUN)) - {"run_id"}, "a new field belongs here too"
    run = replace(RUN, tuning="random:2") if part == "trial" else RUN
    assert replace(run, **{part: CHANGES[part]}).run_id != run.run_id


@pytest.mark.parametrize(
    "noise", [Noise("symmetric", 0.4, 1), Noise("pair_flip", 0.4, 0), Noise("symmetric", 0.4, 0, {"shared": True})], ids=str
)
def test_a_run_id_changes_with_each_part_of_the_noise(noise):
    assert replace(RUN, noise=noise).run_id != RUN.run_id


SHIPPED = [name for name in shipped("spec") if name != "reduced"]
TABLES = [name for name in SHIPPED if "_table" in name]


def twins_of(grid, shrink):
    """The spec on twins whose regions are narrow: their width is nothing that planning could get wrong."""
    twins = grid.as_twins(shrink)
    narrow = [(name, "region_width", 16) for name in twins.datasets if "region_width" in dataset_parameters(name)]
    return replace(twins, settings=(*twins.settings, *narrow, *((name, "shrink", 1000) for name, *_ in narrow)))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_spec_can_be_planned_on_synthetic_twins(name):
    grid = twins_of(load_spec(name), 100)
    trials, cells = ([cell for cell in plan(grid) if bool(cell.run.trial) == trial] for trial in (True, False))
    assert len(cells) == len(grid.methods) * len(grid.datasets) * len(grid.noise_schemes()) * len(grid.rates) * len(grid.seeds)
    assert len({cell.run.run_id for cell in trials}) == len(trials)
    without_checkpoint = {cell.reason for cell in cells if cell.status == "not_applicable"}
    assert all(reason.startswith("clip_finetune needs a checkpoint") for reason in without_checkpoint)
    assert bool(without_checkpoint) == (name == "lnc_table5")
    assert {cell.status for cell in [*trials, *cells]} <= {"ready", "waiting", "not_applicable"}
    assert bool(trials) == bool(grid.tune)


SIZES = {"epochs": 2, "dim": 256, "iterations": 1}  # more dimensions than XMediaNet has classes


def small(grid):
    """A spec at one rate and seed, on twins, each method with its smoke setting and few passes."""
    settings = []
    for name in dict.fromkeys(grid.implementations().values()):
        cls = find_method(name)
        sizes = {key: value for key, value in SIZES.items() if key in parameters_of(cls)}
        if "word_dim" in parameters_of(cls):
            sizes = {"dim": 16, "epochs": 1, "batch_size": 32} | ({"warm_up": 1} if "warm_up" in parameters_of(cls) else {})
        settings += [(name, key, value) for key, value in {**cls.info.smoke, **sizes}.items()]
    if "clip_finetune" in grid.methods:
        path = tiny_clip.checkpoint(kernel=(16, 1, 1), patches=49, words=49408, context=32)
        settings.append(("clip_finetune", "checkpoint", path))
    twins = twins_of(grid, 400)
    return replace(twins, rates=(grid.rates[-1],), seeds=(0,), dataset_settings={}, settings=(*twins.settings, *settings))


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_papers_runs_on_synthetic_twins(name, tmp_path):
    grid = small(load_spec(name))
    cells, store = plan(grid, keep="none"), Store(tmp_path)
    outcome = sweep(todo(cells, store), store, Settings())
    assert outcome.counts == {"ok": len(cells)}, store.rows()["error"].dropna().tolist()
    rows = store.rows()
    wanted = {"micro_f1"} if name == "labelwise_table1" else {"r@10"} if grid.protocol == "pairs" else {"map"}
    for _, part in rows[(rows["split"] == "test") & rows["metric"].isin(wanted)].groupby("run_id"):
        assert part["value"].between(0, 1).all()
    assert rows[rows["metric"].isin(wanted)]["run_id"].nunique() == len(cells)


def test_a_spec_without_twins_for_all_its_datasets_is_refused(monkeypatch):
    monkeypatch.setattr("xmbench.spec.dataset_names", lambda: ["own"])
    with pytest.raises(ValueError, match="no synthetic twin of synthetic_own"):
        Spec(datasets=("own",)).as_twins(2)


@pytest.fixture
def own_noise():
    """For tests that change a dataset under its name: its noise is remembered neither from before nor afterwards."""
    _corruption.cache_clear()
    yield
    _corruption.cache_clear()


def test_a_method_that_reads_pairs_does_not_run_where_there_are_none(monkeypatch, own_noise):
    def without_pairs(name, parameters):
        dataset = cached_dataset(name, parameters)
        return replace(dataset, train=replace(dataset.train, pairs=None))

    monkeypatch.setattr("xmbench.plan.cached_dataset", without_pairs)
    cells = {cell.run.method: cell for cell in plan(spec("ce", "mrl", "dscmr", "mvda", rates=(0.0,)))}
    assert {name: cell.status for name, cell in cells.items()} == {
        "ce": "ready", "mrl": "not_applicable", "dscmr": "not_applicable", "mvda": "ready",
    }  # fmt: skip
    assert cells["mrl"].reason == "mrl reads pairs, which synthetic has not"


def test_a_method_of_one_class_per_item_does_not_run_on_several():
    several = (("synthetic", "labels_per_item", 2.0),)
    cells = {cell.run.method: cell for cell in plan(spec("ce", "cca", "dscmr", rates=(0.0,), settings=several))}
    assert {name: cell.status for name, cell in cells.items()} == {"ce": "not_applicable", "cca": "ready", "dscmr": "ready"}
    assert cells["ce"].reason == "ce reads one class per item, synthetic has items with several"


def test_seeds_are_outermost_and_methods_innermost():
    cells = plan(spec("cca", "pls", seeds=(4, 1), rates=(0.4, 0.0)))
    order = [(cell.run.seed, cell.run.noise.rate, cell.run.method) for cell in cells]
    assert order == [(s, r, m) for s in (4, 1) for r in (0.4, 0.0) for m in ("cca", "pls")]


def test_embeddings_are_kept_for_the_first_seed_all_or_none():
    grid = spec("cca", seeds=(4, 1), rates=(0.0,))
    assert [[cell.keep for cell in plan(grid, keep=keep)] for keep in ("first", "all", "none")] == [
        [True, False],
        [True, True],
        [False, False],
    ]


def test_the_noise_follows_the_seed_unless_it_has_its_own():
    assert [cell.run.noise.seed for cell in plan(spec("cca", seeds=(0, 5), rates=(0.4,)))] == [0, 5]
    assert [cell.run.noise.seed for cell in plan(spec("cca", seeds=(0, 5), rates=(0.4,), noise_seed=3))] == [3, 3]


def test_a_variant_goes_by_its_own_name_and_its_parameters_win_over_those_of_its_method():
    variants = {"mrl_rc": {"method": "mrl", "beta": 1.0}}
    settings = (("mrl", "beta", 0.3), ("mrl", "dim", 16), ("mrl_rc", "tau", 0.5))
    cells = plan(spec("mrl", "mrl_rc", rates=(0.4,), variants=variants, settings=settings))
    plain, rc = (cell.run for cell in cells)
    assert (plain.method, plain.implementation, rc.method, rc.implementation) == ("mrl", "mrl", "mrl_rc", "mrl")
    assert [plain.parameters[key] for key in ("beta", "dim", "tau")] == [0.3, 16, 1.0]
    assert [rc.parameters[key] for key in ("beta", "dim", "tau")] == [1.0, 16, 0.5]
    assert cells[1].needs == {"vectors", "labels"}


def test_a_variant_equal_to_its_method_shares_the_fit_but_not_the_row():
    cells = plan(spec("mrl", "same", rates=(0.4,), variants={"same": {"method": "mrl"}}))
    assert cells[0].fit_key == cells[1].fit_key
    assert cells[0].run.run_id != cells[1].run.run_id


def test_settings_of_a_dataset_hold_there_alone():
    grid = spec("mrl", rates=(0.0,), datasets=("synthetic", "openmoji"), settings=(("mrl", "epochs", 5),))
    grid = replace(grid, dataset_settings={"openmoji": (("mrl", "epochs", 2),)})
    assert {cell.run.dataset: cell.run.parameters["epochs"] for cell in plan(grid)} == {"synthetic": 5, "openmoji": 2}


def keys(*methods, **changes):
    return {(cell.run.method, cell.run.noise.rate, cell.run.seed): cell.fit_key for cell in plan(spec(*methods, **changes))}


def test_a_fit_key_follows_the_noise_only_where_the_fit_reads_labels():
    variants = {"mrl_mc": {"method": "mrl", "beta": 0.0}, "mrl_rc": {"method": "mrl", "beta": 1.0}}
    methods = ("cca", "mcca", "pls", "ce", "mrl", "mrl_mc", "mrl_rc")
    got = keys(*methods, variants=variants)
    free = {method for method in methods if got[method, 0, 0] == got[method, 0.4, 0]}
    assert free == {"cca", "mcca", "pls", "mrl_mc"}


def test_a_fit_key_changes_with_seed_parameters_and_split_and_not_with_the_protocol():
    base = keys("cca")["cca", 0.4, 0]
    assert keys("cca", seeds=(1,))["cca", 0.4, 1] != base
    assert keys("cca", settings=(("cca", "dim", 3),))["cca", 0.4, 0] != base
    assert keys("cca", settings=(("synthetic", "seed", 1),))["cca", 0.4, 0] != base
    assert keys("cca", protocol="noisy_valid")["cca", 0.4, 0] == base


def test_a_score_key_adds_the_protocol_and_noisy_validation_labels():
    clean, noisy = (plan(spec("cca", protocol=name)) for name in ("default", "noisy_valid"))
    assert len({cell.fit_key for cell in clean + noisy}) == 1
    assert [len({cell.score_key for cell in cells}) for cells in (clean, noisy, clean + noisy)] == [1, 2, 3]


PAIRS_ONLY = {"mrl_mc": {"method": "mrl", "beta": 0.0}, "mrl_rc": {"method": "mrl", "beta": 1.0}}


def shares(scheme, rates=(0.0, 0.4)):
    """Methods whose fit is the same at both rates of a scheme."""
    methods = ("cca", "ce", "mrl", "mrl_mc", "mrl_rc")
    got = keys(*methods, variants=PAIRS_ONLY, schemes=(scheme,), rates=rates)
    return {method for method in methods if got[method, rates[0], 0] == got[method, rates[1], 0]}


def test_a_fit_key_follows_the_noise_of_pairs_only_where_the_fit_reads_pairs():
    for scheme in ("caption_shuffle", "image_shuffle"):
        assert shares(scheme) == {"ce", "mrl_rc"}


def test_joined_noise_counts_for_what_a_fit_reads_of_it():
    assert shares("symmetric+caption_shuffle@0.2") == {"cca", "mrl_mc"}
    assert shares("caption_shuffle+symmetric@0.2") == {"ce", "mrl_rc"}
    joined = keys("cca", "ce", "mrl", schemes=("symmetric+caption_shuffle@0.2",), rates=(0.4,))
    labels = keys("cca", "ce", "mrl", schemes=("symmetric",), rates=(0.4,))
    pairs = keys("cca", "ce", "mrl", schemes=("caption_shuffle",), rates=(0.2,))
    assert joined["cca", 0.4, 0] == pairs["cca", 0.2, 0]
    assert joined["ce", 0.4, 0] == labels["ce", 0.4, 0]
    assert len({joined["mrl", 0.4, 0], labels["mrl", 0.4, 0], pairs["mrl", 0.2, 0]}) == 3


def test_every_scheme_meets_every_rate_and_at_rate_0_they_share_their_results():
    schemes = ("symmetric", "caption_shuffle")
    cells = plan(spec("cca", "mrl", schemes=schemes, settings=(("noise", "shared", True),)))
    cases = [(c.run.noise.scheme, c.run.noise.rate, c.run.method) for c in cells]
    assert cases == [(s, r, m) for s in schemes for r in (0.0, 0.4) for m in ("cca", "mrl")]
    assert len({cell.run.run_id for cell in cells}) == 8
    by_case = dict(zip(cases, cells, strict=True))
    for method in ("cca", "mrl"):
        assert by_case["symmetric", 0.0, method].score_key == by_case["caption_shuffle", 0.0, method].score_key
        assert by_case["symmetric", 0.4, method].fit_key != by_case["caption_shuffle", 0.4, method].fit_key
    options = {cell.run.noise.scheme: dict(cell.run.noise.options) for cell in cells}
    assert options == {"symmetric": {"shared": True}, "caption_shuffle": {}}, "an option goes to the scheme that has it"


def test_results_at_rate_0_are_copied_from_one_scheme_to_the_next(tmp_path):
    store = Store(tmp_path)
    for scheme, measured in (("symmetric", 2), ("caption_shuffle", 1)):
        work = todo(plan(spec("cca", schemes=(scheme,), rates=(0.0, 0.6))), store)
        assert (sum(map(len, work.groups)), work.shared) == (2, 1)
        assert len(work.known) == 2 - measured
        assert sweep(work, store, Settings()).counts == {"ok": 2}
    rows = store.rows()
    rows = rows[(rows["metric"] == "map") & (rows["direction"] == "mean") & (rows["split"] == "test")]
    value = rows.set_index(["noise_scheme", "noise_rate", "selection"])["value"].unstack(["noise_scheme", "noise_rate"])
    assert (value["symmetric", 0.0] == value["caption_shuffle", 0.0]).all()
    assert (value["symmetric", 0.6] == value["symmetric", 0.0]).all(), "cca reads no labels"
    assert (value["caption_shuffle", 0.6] < value["caption_shuffle", 0.0] - 0.02).all(), "but pairs"
    realised = rows.groupby(["noise_scheme", "noise_rate"])["realised_rate"].first()
    assert (realised[:, 0.0] == 0).all()
    assert realised["caption_shuffle", 0.6] == pytest.approx(0.6, abs=0.05)


def test_tuning_chooses_for_each_scheme():
    cells = plan(spec("cca", schemes=("symmetric", "caption_shuffle"), tune={"cca": "random:2"}))
    trials = [cell.run.noise.scheme for cell in cells if cell.run.trial]
    assert trials == ["symmetric"] * 2 + ["caption_shuffle"] * 2
    assert {cell.status for cell in cells if not cell.run.trial} == {"waiting"}


def test_noise_of_what_the_data_have_not_is_not_applicable(monkeypatch, own_noise):
    def bare(name, parameters, parts):
        dataset = cached_dataset(name, parameters)
        train = dataset.train
        if "labels" not in parts:
            train = replace(train, modalities=tuple(replace(m, labels=None) for m in train.modalities))
        return replace(dataset, train=train if "pairs" in parts else replace(train, pairs=None))

    both = ("symmetric", "caption_shuffle")
    for method, parts, reason in (
        ("cca", {"pairs"}, "symmetric corrupts labels, which synthetic has not"),
        ("ce", {"labels"}, "caption_shuffle corrupts pairs, which synthetic has not"),
    ):
        monkeypatch.setattr("xmbench.plan.cached_dataset", partial(bare, parts=parts))
        cells = plan(spec(method, schemes=both, rates=(0.0, 0.2)))
        impossible = [(cell.run.noise.rate, cell.reason) for cell in cells if cell.status != "ready"]
        assert impossible == [(0.2, reason)]


def given_labels(run):
    dataset = cached_dataset(run.dataset, canonical(dict(run.dataset_parameters)))
    return corruption_of(run, dataset)


def test_a_feature_variant_changes_the_fit_and_meets_the_same_noise(data_root):
    if not (data_root / "wikipedia" / "wikipedia_text_minilm384.npz").exists():
        pytest.skip(f"{data_root} holds no wikipedia")
    grid = Spec(methods=("ce",), datasets=("wikipedia",), rates=(0.4,), seeds=(0,))
    lda, minilm, scaled = (
        only(replace(grid, settings=settings))
        for settings in ((), (("wikipedia", "text", "minilm"),), (("wikipedia", "standardise", "true"),))
    )
    assert len({lda.fit_key, minilm.fit_key, scaled.fit_key}) == 3
    assert len({given_labels(cell.run).noise_sha for cell in (lda, minilm, scaled)}) == 1


def test_shared_noise_is_an_option_that_reaches_the_labels():
    alone, shared = (only(spec("ce", rates=(0.4,), settings=settings)) for settings in ((), (("noise", "shared", "true"),)))
    assert dict(shared.run.noise.options) == {"shared": True}
    assert alone.fit_key != shared.fit_key
    for cell, same in ((alone, False), (shared, True)):
        image, text = given_labels(cell.run).clean.values()
        assert (image == text).all() == same


def test_noise_can_be_read_from_an_mrl_file(tmp_path):
    drawn = given_labels(only(spec("ce", rates=(0.4,))).run)
    path = tmp_path / "noise.json"
    export_labels(drawn.train, path)
    assert [len(labels) for labels in json.loads(path.read_text())] == [60, 60]
    cell = only(spec("ce", rates=(0.4,), schemes=("file",), settings=(("noise", "path", str(path)),)))
    read = given_labels(cell.run)
    assert (read.noise_sha, read.realised_rate) == (drawn.noise_sha, drawn.realised_rate)
    assert cell.fit_key == only(spec("ce", rates=(0.4,))).fit_key, "equal labels, equal fit, wherever they are from"
    with pytest.raises(ValueError, match="option 'path' of 'file' must be str"):
        plan(spec("ce", rates=(0.4,), schemes=("file",)))


def test_a_method_that_cannot_take_the_data_is_not_applicable_with_the_reason():
    cell = only(spec("pls", rates=(0.4,), settings=(("synthetic", "modalities", 3),)))
    assert (cell.status, cell.fit_key) == ("not_applicable", "")
    assert cell.reason == "pls takes at most 2 modalities, synthetic has 3"
    assert only(spec("mcca", rates=(0.4,), settings=(("synthetic", "modalities", 3),))).status == "ready"
    cell = only(spec("zero_shot", rates=(0.4,)))
    assert cell.status == "not_applicable"
    assert cell.reason.startswith("zero_shot compares vectors of one model, which are equally wide, got 64 numbers (image)")


def test_missing_data_skip_the_cell_with_what_to_do(monkeypatch, tmp_path):
    def load(parameters):
        raise xb.datasets.MissingDataError("synthetic: x.bin is missing; put it there")

    cached_dataset.cache_clear()
    monkeypatch.setattr("xmbench.datasets.synthetic.load", load)
    cell = only(spec("cca", rates=(0.4,)))
    assert (cell.status, cell.reason) == ("skipped", "synthetic: x.bin is missing; put it there")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("mrll",)}, "no method named 'mrll'; did you mean 'mrl'"),
        ({"datasets": ("openmojo",)}, "no dataset named 'openmojo'; did you mean 'openmoji'"),
        ({"schemes": ("symetric",)}, "no noise scheme named 'symetric'; did you mean 'symmetric'"),
        ({"protocol": "defualt"}, "no protocol named 'defualt'; did you mean 'default'"),
        ({"methods": ()}, "a run needs methods and a dataset"),
        ({"datasets": ()}, "a run needs methods and a dataset"),
        ({"rates": ()}, "at least one noise rate is needed"),
        ({"rates": (1.5,)}, r"the rate of 'symmetric' must lie in \[0, 1\], got 1\.5"),
        ({"rates": (-0.1,)}, r"must lie in \[0, 1\], got -0\.1"),
        ({"rates": (float("nan"),)}, r"must lie in \[0, 1\], got nan"),
        ({"settings": (("mrl", "betta", 1),)}, r"mrl has no parameter 'betta'; did you mean mrl\.beta"),
        ({"settings": (("mrl", "epochs", 1.5),)}, r"mrl\.epochs must be of type int, got 1\.5"),
        ({"settings": (("mrl", "epochs", 0),)}, "epochs must be above 0, got 0"),
        ({"settings": (("ce", "epochs", 1),)}, "no owner of a setting in this run named 'ce'"),
        ({"settings": (("synthetik", "train", 9),)}, "did you mean 'synthetic'"),
        ({"settings": (("synthetic", "trian", 9),)}, r"synthetic has no parameter 'trian'; did you mean synthetic\.train"),
        ({"settings": (("noise", "share", True),)}, "noise scheme 'symmetric' has no option 'share'"),
        ({"settings": (("noise", "shared", "maybe"),)}, r"noise\.shared must be of type bool, got 'maybe'"),
        ({"variants": {"mrl": {"method": "mlr"}}}, "no method named 'mlr'; did you mean 'mrl'"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes, message):
    with pytest.raises((ValueError, LookupError), match=message):
        plan(replace(ONE, **changes))


def test_a_wrong_setting_of_a_method_is_found_even_where_its_variant_overrides_it():
    variants = {"mrl_rc": {"method": "mrl", "beta": 1.0}}
    with pytest.raises(ValueError, match=r"mrl\.beta must be of type float, got 'big'"):
        plan(spec("mrl_rc", variants=variants, settings=(("mrl", "beta", "big"),)))
