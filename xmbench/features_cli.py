"""The commands of `xmbench features`: features of images and captions by pretrained models. Thin, no logic."""

from typing import Any

import click

from xmbench.completion import one
from xmbench.printing import FORMAT, print_facts, print_frame


@click.group()
def features() -> None:
    """Features of images and captions by pretrained models."""


@features.command("list")
@FORMAT
def list_(form: str) -> None:
    """The extractors, and what of them is on this machine."""
    import pandas as pd

    from xmbench.features import listed

    print_frame(pd.DataFrame(listed()), form)


@features.command()
@click.argument("name", shell_complete=one("imported"))
@click.option("--image", metavar="EXTRACTOR", help="For images.  [default: efficientnet_lite0]")
@click.option("--text", metavar="EXTRACTOR", help="For captions.  [default: minilm]")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["vectors", "regions", "tokens"]),
    help="What to extract; may be given several times.  [default: vectors and regions]",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="MODALITY=PATH",
    help="Weights on disk: a torch or .safetensors file, or a model's folder.  [default: those of the library]",
)
@click.option("--device", default="auto", show_default=True, help="Of torch, such as cpu or cuda:0.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Items at a time.")
@FORMAT
def extract(name: str, image: str | None, text: str | None, weights: tuple[str, ...], form: str, **options: Any) -> None:
    """Extract features of the imported dataset NAME, which then loads and runs. An extractor is FAMILY or FAMILY:MODEL.

    The same command goes on where it was interrupted, and computes nothing twice.
    """
    from xmbench.features import Extraction
    from xmbench.features import extract as extract_features

    paths: dict[str, str] = {}
    for text in weights:
        modality, sign, path = text.partition("=")
        if not sign:
            raise click.BadParameter(f"must be MODALITY=PATH, got {text}", param_hint="--weights")
        paths[modality] = path
    extractors = {modality: given for modality, given in (("image", image), ("text", text)) if given}
    print_facts(extract_features(Extraction(name=name, extractors=extractors, weights=paths, **options)), form)
