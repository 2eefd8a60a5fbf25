"""What the commands share: exit codes, the options that describe a grid of runs, and the spec that they make."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from xmbench.completion import one, several

if TYPE_CHECKING:
    from xmbench.spec import Spec

DONE, INTERNAL, USAGE, SOME_FAILED, REGRESSION, NO_DATA, NOTHING, TIME_UP, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 130
REPORT_HINT = "xmbench run --methods mrl,ce,mcca --dataset wikipedia"

KEEP = click.option(
    "--keep", type=click.Choice(["none", "first", "all"]), default="first", show_default=True,
    help="Seeds whose embeddings are stored.",
)  # fmt: skip
STORE = click.option(
    "--store", default="results", show_default=True, shell_complete=one(files=True),
    help="Folder of results, or one parquet file of them.",
)  # fmt: skip


class Stop(click.ClickException):
    """An error with an exit code of its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _load_plugins(context: click.Context, parameter: click.Parameter, paths: tuple[str, ...]) -> tuple[str, ...]:
    if paths and not context.resilient_parsing:  # a shell that completes executes nothing
        from xmbench.registry import load_plugin

        for path in paths:
            load_plugin(path)
    return paths


PLUGIN = click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    callback=_load_plugins, help="A Python file with methods of your own, which is executed.",
)  # fmt: skip


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a grid of runs."""
    options = [
        click.option("--methods", shell_complete=several("methods"),
                     help="Names, separated by commas; see `xmbench list methods`."),
        click.option("--dataset", "datasets", shell_complete=several("datasets"),
                     help="Names, separated by commas; see `xmbench list datasets`."),
        click.option("--noise", "schemes", metavar="NAME,NAME+NAME@RATE", shell_complete=several("noise"),
                     help="Noise schemes, separated by commas; see `xmbench list noise`. One of labels and one of pairs may be "
                          "joined: symmetric+caption_shuffle@0.2 has the latter at 0.2 beside every rate of the former. "
                          " [default: symmetric, or caption_shuffle where no dataset has labels]"),
        click.option("--rates", help="Noise rates, separated by commas.  [default: 0,0.2,0.4,0.6,0.8]"),
        click.option("--seeds", help="How many, or a list such as 0,1,5 (one seed: 5,).  [default: 3]"),
        click.option("--noise-seed", type=int, help="Seed of the noise, where it should not follow --seeds."),
        click.option("--set", "settings", multiple=True, metavar="OWNER.PARAM=VALUE", help="Owner: method, dataset or noise."),
        click.option("--profile", shell_complete=one("profiles", files=True),
                     help="A shipped or own set of method parameters, such as reduced."),
        click.option("--spec", "spec_name", shell_complete=one("specs", files=True),
                     help="A shipped spec or a TOML file; other options change it."),
        click.option("--twins", type=click.IntRange(min=1), metavar="N",
                     help="Instead of each dataset its synthetic twin with 1/N of the items: to try a spec without its data."),
        click.option("--tune", metavar="grid | random:N | none", help="Choose hyper-parameters by validation."),
        click.option("--tune-per", type=click.Choice(["dataset", "rate"]), help="One choice per which.  [default: dataset]"),
        click.option("--protocol", shell_complete=one("protocols", files=True),
                     help="How runs are validated and measured.  [default: default]"),
        PLUGIN,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def spec_of(
    *,
    methods: str | None,
    datasets: str | None,
    schemes: str | None,
    rates: str | None,
    seeds: str | None,
    noise_seed: int | None,
    settings: tuple[str, ...],
    profile: str | None,
    spec_name: str | None,
    protocol: str | None,
    twins: int | None,
    tune: str | None,
    tune_per: Any,
    **_: Any,
) -> "Spec":
    """The spec that the options describe."""
    from dataclasses import replace

    from xmbench.spec import Spec, command_line_settings, load_spec, seed_list

    spec = load_spec(spec_name) if spec_name else Spec()
    given: dict[str, Any] = {
        "methods": _names(methods),
        "datasets": _names(datasets),
        "schemes": _names(schemes),
        "rates": None if rates is None else tuple(dict.fromkeys(_number(r, float, "--rates") for r in rates.split(","))),
        "seeds": None if seeds is None else seed_list(_seeds(seeds)),
        "noise_seed": noise_seed,
        "protocol": protocol,
    }
    spec = spec.narrowed(**{key: value for key, value in given.items() if value is not None})
    if profile:
        spec = spec.with_profile(profile)
    if twins:
        spec = spec.as_twins(twins)
    if tune:
        spec = spec.tuned(tune)
    if tune_per:
        if not spec.tune:
            raise ValueError("--tune-per says how --tune chooses: give --tune grid or --tune random:N with it")
        spec = replace(spec, tune_per=tune_per)
    return spec.overridden(command_line_settings(settings))


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _seeds(text: str) -> int | list[int]:
    if "," in text:
        return [_number(seed, int, "--seeds") for seed in text.split(",") if seed.strip()]
    count: int = _number(text, int, "--seeds")
    return count


def _number(text: str, kind: Callable[[str], Any], option: str) -> Any:
    try:
        return kind(text.strip())
    except ValueError:
        raise ValueError(f"{option} must hold numbers, got {text!r}") from None
