"""The commands `xmbench new` and `xmbench validate`: a method of one's own, begun and checked. Thin, no logic."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xmbench.completion import one
from xmbench.grid_cli import DONE, NOTHING, PLUGIN, SOME_FAILED, Stop
from xmbench.printing import FORMAT, print_frame

if TYPE_CHECKING:
    from xmbench.contract import Finding


@click.group()
def new() -> None:
    """Begin something of your own."""


@new.command()
@click.argument("name")
@click.option("--out", metavar="FOLDER", help="Where to write to.  [default: a folder NAME]")
def method(name: str, out: str | None) -> None:
    """Write a small complete method NAME to go on from, its test, and a pyproject.toml that makes it a plug-in."""
    from xmbench.scaffold import write_method

    file, test, project = write_method(name, Path(out or name))
    for path in (file, test, project):
        click.echo(path)
    click.echo(
        f"check it: xmbench validate {file}\n"
        f"run it: xmbench run --methods {name},mrl,ce --dataset openmoji --profile reduced --rates 0,0.4 --seeds 1 "
        f"--plugin {file}\n"
        f"test it: pytest {project.parent}; install it, and leave out --plugin: pip install -e {project.parent}",
        err=True,
    )


@click.command()
@click.argument("target", metavar="NAME|FILE.py", shell_complete=one("methods", files=True))
@click.option("--set", "settings", multiple=True, metavar="NAME.PARAM=VALUE", help="A parameter beside its smoke setting.")
@PLUGIN
@FORMAT
def validate(target: str, settings: tuple[str, ...], plugins: tuple[str, ...], form: str) -> None:
    """Check that a method keeps the contract of all methods; what it breaks is explained. Exit code 3 where it breaks any.

    The method is fitted on small planted data some twenty times, with the smoke setting that it is registered with.
    """
    import pandas as pd

    from xmbench.contract import examine, explained
    from xmbench.device import limit_threads
    from xmbench.registry import closest, load_plugin
    from xmbench.spec import command_line_settings
    from xmbench.subject import SMOKE_SECONDS, Subject

    names = load_plugin(target) if target.endswith(".py") else [target]
    given = command_line_settings(settings)
    limit_threads(1)  # as runs have it
    if unknown := next((owner for owner, *_ in given if owner not in names), None):
        raise closest("method that is looked at", unknown, names)
    findings: list[tuple[str, Finding]] = []
    for name in names:
        subject = Subject(name=name, parameters={key: value for owner, key, value in given if owner == name})
        if reason := subject.obstacle():
            raise Stop(f"{name} cannot be tried on planted data: {reason}", NOTHING)
        findings += [(name, finding) for finding in examine(subject)]
        if subject.seconds > SMOKE_SECONDS:
            click.echo(
                f"a fit of {name} takes {subject.seconds:.0f} s here: declare smoke={{...}} with smaller parameters", err=True
            )
    table = [[name, f.check.name, f.outcome, f.got, round(f.seconds, 2)] for name, f in findings]
    print_frame(pd.DataFrame(table, columns=["method", "clause", "outcome", "got", "seconds"]), form)
    broken = [finding for _, finding in findings if finding.outcome == "broken"]
    for finding in broken if form == "table" else ():
        click.echo(explained(finding) + "\n")
    raise click.exceptions.Exit(SOME_FAILED if broken else DONE)
