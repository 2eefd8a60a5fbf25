"""The commands of `xmbench data`: data of one's own, and files of datasets as others released them. Thin, no logic."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xmbench.completion import one
from xmbench.printing import FORMAT, print_facts, print_frame

if TYPE_CHECKING:
    from xmbench.downloading import Shown


@click.group()
def data() -> None:
    """Data of your own, made into datasets, and data of others: where they are, downloads, files that the loaders read."""


@data.command("import")
@click.argument("name")
@click.option(
    "--features",
    multiple=True,
    metavar="MODALITY=FILE[:KEY]",
    help="Features of a modality, a row per item: .npy, .npz, .mat, .h5, .csv or .parquet; KEY where a file holds several "
    "arrays. Once for every modality; more often for a file per split.",
)
@click.option(
    "--labels",
    multiple=True,
    shell_complete=one(files=True),
    metavar="FILE[:COLUMN]",
    help="A column label, several classes separated by ;, and optionally a column split; or an array.",
)
@click.option(
    "--pairs",
    default="",
    shell_complete=one(files=True),
    metavar="FILE",
    help="Rows that belong together, a column per modality, and optionally split.  [default: by their order]",
)
@click.option(
    "--captions",
    multiple=True,
    shell_complete=one(files=True),
    metavar="FILE",
    help="Captions of the images: one per line, CSV, JSON lines, COCO, Karpathy's JSON or Flickr's tokens.",
)
@click.option(
    "--images", default="", metavar="DIR", shell_complete=one(files=True), help="Images; with a folder per class, their labels."
)
@click.option(
    "--skip-broken",
    is_flag=True,
    help="Leave out images that cannot be decoded, with their captions and labels, and captions of images that are not there.",
)
@click.option("--title", help="For the card.  [default: the name]")
@click.option("--source", help="For the card: where the data are from.  [default: the files]")
@click.option("--licence", help="For the card.")
@click.option("--citation", help="For the card.")
@FORMAT
def import_(name: str, form: str, features: tuple[str, ...], **options: Any) -> None:
    """Make a dataset NAME out of files: the name then stands wherever --dataset does.

    Splits are taken from the column split, or the names of files such as img_train.npy, or drawn from a seed.
    """
    from xmbench.importing import Request, import_data

    given: dict[str, list[str]] = {}
    for text in features:
        modality, sign, file = text.partition("=")
        if not sign:
            raise click.BadParameter(f"must be MODALITY=FILE, got {text}", param_hint="--features")
        given.setdefault(modality, []).append(file)
    about = {key: value for key in ("title", "source", "licence", "citation") if (value := options.pop(key)) is not None}
    print_facts(import_data(Request(name=name, features=given, about=about, **options)), form)


@data.command("list")
@FORMAT
def list_(form: str) -> None:
    """The datasets that were imported."""
    import pandas as pd

    from xmbench.importing.care import listed

    rows = listed()
    if not rows:
        click.echo("nothing was imported yet: xmbench data import", err=True)
    print_frame(pd.DataFrame(rows, columns=["name", "state", "pairs", "modalities", "classes", "GB", "folder"]), form)


@data.command()
@click.argument("name", shell_complete=one("datasets"))
@FORMAT
def info(name: str, form: str) -> None:
    """The card of a dataset: sizes, files, how it was imported, or where its files are to be had and to be put."""
    from xmbench.datasets._imported import folders

    if name in folders():
        from xmbench.importing.care import found

        imported = found(name)
        print_facts({"folder": str(imported.folder), **imported.content}, form)
    else:
        from xmbench.catalogue import dataset_facts

        print_facts(dataset_facts(name), form)


@data.command()
@click.argument("name", shell_complete=one("datasets"))
@FORMAT
def download(name: str, form: str) -> None:
    """Download the files of a public dataset below the data root, as far as they may be; a stopped download goes on.

    For the rest it says what to do by hand; exit 5 where files that are needed are missing.
    """
    from xmbench.datasets import dataset_card
    from xmbench.grid_cli import NO_DATA, Stop
    from xmbench.obtaining import obtain

    with _bars() as shown:
        got = obtain(dataset_card(name), shown)
    print_facts(got.files or {name: "needs no files"}, form)
    for line in got.to_do:
        click.echo(f"- {line}", err=True)
    if got.missing:
        raise Stop(f"{name}: {', '.join(got.missing)} still missing; what to do stands above", NO_DATA)


@contextmanager
def _bars() -> Iterator["Shown"]:
    """A bar on stderr for every file, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def shown(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name)
            progress.update(bars[name], completed=done, total=total)

        yield shown


@data.command()
@click.argument("name", shell_complete=one("datasets"))
@FORMAT
def verify(name: str, form: str) -> None:
    """Read every file of a dataset and compare it with its sha256, where that is known; exit 5 where one differs."""
    from xmbench.datasets import dataset_card
    from xmbench.datasets._imported import folders
    from xmbench.grid_cli import NO_DATA
    from xmbench.obtaining import verified

    if name in folders():
        from xmbench.importing.care import found

        imported = found(name)
        damaged = imported.damaged()
        states, advice = {name: damaged.get(name, "ok") for name in imported.content["files"]}, f"import {name} again"
    else:
        states = verified(dataset_card(name))
        damaged = {file: state for file, state in states.items() if state == "missing" or state.startswith("damaged")}
        advice = f"remove what is damaged, then: xmbench data download {name}"
    print_facts(states, form)
    if damaged:
        click.echo(f"{len(damaged)} files are damaged or missing: {advice}", err=True)
        raise click.exceptions.Exit(NO_DATA)


@data.command()
@click.argument("file", shell_complete=one(files=True))
@FORMAT
def doctor(file: str, form: str) -> None:
    """What FILE is: a released file of a paper's dataset, or what is inside and which import would fit."""
    from xmbench.importing.doctor import examine

    print_facts(examine(Path(file)), form)


@data.command()
@click.argument("name", shell_complete=one("imported"))
def remove(name: str) -> None:
    """Remove an imported dataset. The files that it was imported from stay."""
    from xmbench.importing.folders import remove as remove_folder

    click.echo(f"removed {remove_folder(name)}", err=True)


@data.command()
@click.argument("source")
@click.argument("target")
@click.option(
    "--words", "files", multiple=True, metavar="FILE", help="Of word2vec, keep the words of these caption files alone."
)
@FORMAT
def convert(source: str, target: str, files: tuple[str, ...], form: str) -> None:
    """Read SOURCE, a pickle, torch or binary word2vec file, and write it to the new file TARGET, .npz or .json.

    Plain data alone is read: a file that names anything else is refused, and nothing of it is executed.
    """
    from xmbench.convert import convert as convert_file

    print_facts(convert_file(Path(source), Path(target), [Path(file) for file in files]), form)
