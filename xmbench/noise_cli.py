"""The commands of `xmbench noise`: files of noise, ours and other projects'. Thin, no logic."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from xmbench.completion import one
from xmbench.printing import FORMAT, print_facts

if TYPE_CHECKING:
    from xmbench.spec import Spec
    from xmbench.types import Dataset

FILE = click.argument("file", shell_complete=one(files=True))
OUT = click.argument("out", shell_complete=one(files=True))


@click.group()
def noise() -> None:
    """Noise files: the labels or pairs of a train split, as a JSON list (MRL) or a .npy index (NCR, DECL, RCL, L2RM).

    To run on one: --noise file --set noise.path=FILE.
    """


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name the split which a noise file belongs to."""
    options = [
        click.option("--dataset", required=True, shell_complete=one("datasets"),
                     help="Whose train split the noise is of; see `xmbench list datasets`."),
        click.option("--set", "settings", multiple=True, metavar="OWNER.PARAM=VALUE", help="Owner: the dataset or noise."),
        FORMAT,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@noise.command()
@OUT
@click.option("--noise", "scheme", shell_complete=one("noise"), help="Noise scheme.  [default: as in `xmbench run`]")
@click.option("--rate", type=float, required=True, help="Noise rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@data_options
def make(out: str, scheme: str | None, rate: float, seed: int, form: str, **data: Any) -> None:
    """Draw noise and write it to a new file OUT: pairs with one entry per caption, or labels."""
    from xmbench.noise import corrupt
    from xmbench.noise_files import export_noise, facts, new_file
    from xmbench.plan import noise_of

    spec, dataset = _spec_and_data(schemes=(scheme,) if scheme else (), **data)
    drawn = noise_of(spec, spec.noise_schemes()[0], rate, seed)
    if all(part.rate == 0 for part in drawn.parts):
        raise ValueError("rate 0 has no noise, and no file; give a --rate above 0")
    corruption = corrupt(dataset.train, drawn, family=dataset.family)
    export_noise(corruption.train, dataset.train, new_file(out))
    print_facts({"noise": str(drawn), "seed": seed, "noise_sha": corruption.noise_sha, **facts(out, dataset.train)}, form)


@noise.command()
@FILE
@data_options
def info(file: str, form: str, **data: Any) -> None:
    """What FILE is: its scheme and rate, how much is wrong, how many images keep a right caption."""
    from xmbench.noise_files import facts

    print_facts(facts(file, _data(**data).train), form)


@noise.command("import")
@FILE
@OUT
@data_options
def import_(file: str, out: str, form: str, **data: Any) -> None:
    """Check FILE of another project, write it to a new file OUT with one entry per caption, and say how to run on it."""
    from xmbench.noise_files import convert, facts, new_file

    train = _data(**data).train
    found = facts(file, train)
    convert(file, new_file(out), train)
    print_facts(found, form)
    click.echo(f"to run on it: --noise file {shlex.join(['--set', f'noise.path={out}'])} --rates {_rate(found)}", err=True)


def _rate(found: dict[str, Any]) -> str:
    """The nominal rate of a noise file, for the command line."""
    return f"{found.get('nominal rate, about', found['realised rate']):.2g}"


@noise.command()
@FILE
@OUT
@click.option("--for", "project", required=True, type=click.Choice(["mrl", "ncr", "l2rm", "decl", "rcl"]), help="Who reads it.")
@data_options
def export(file: str, out: str, project: str, form: str, **data: Any) -> None:
    """Write FILE to a new file OUT in the layout that the code of another project reads."""
    from xmbench.noise_files import convert, facts, new_file

    train = _data(**data).train
    convert(file, new_file(out), train, project)
    print_facts(facts(out, train), form)


@noise.command()
@click.argument("first", shell_complete=one(files=True))
@click.argument("second", shell_complete=one(files=True))
@data_options
def diff(first: str, second: str, form: str, **data: Any) -> None:
    """How far two noise files of one split agree."""
    from xmbench.noise_files import differences

    print_facts(differences(first, second, _data(**data).train), form)


def _data(**data: Any) -> "Dataset":
    return _spec_and_data(schemes=("file",), **data)[1]


def _spec_and_data(dataset: str, settings: tuple[str, ...], schemes: tuple[str, ...]) -> "tuple[Spec, Dataset]":
    from xmbench.datasets import load_dataset
    from xmbench.plan import check_owners
    from xmbench.spec import Spec, command_line_settings

    spec = Spec(datasets=(dataset,), schemes=schemes, settings=command_line_settings(settings))
    check_owners(spec)
    return spec, load_dataset(dataset, **spec.settings_of(dataset))
