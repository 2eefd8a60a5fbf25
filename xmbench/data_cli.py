"""The commands of `xmbench data`: files of datasets as others released them. Thin, no logic."""

from pathlib import Path

import click

from xmbench.printing import FORMAT, print_facts


@click.group()
def data() -> None:
    """Data files of other projects, made into files that the loaders read."""


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
