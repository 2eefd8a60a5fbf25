"""The command `xmbench doctor`: is all well here? Thin, no logic."""

import click

from xmbench.grid_cli import DONE, SOME_FAILED, STORE
from xmbench.printing import FORMAT, print_frame


@click.command()
@STORE
@FORMAT
def doctor(store: str, form: str) -> None:
    """Look at Python, packages, torch, threads, memory, disk, data, plug-ins and the store, and say what to do.

    Nothing is changed. Exit code 3 where there is a problem. What a file of data is, tells `xmbench data doctor FILE`.
    """
    from xmbench.doctor import examine

    findings = []
    for finding in examine(store):
        findings.append(finding)
        if form == "table":
            click.echo(str(finding))
    if form != "table":
        import pandas as pd

        print_frame(pd.DataFrame([vars(finding) for finding in findings]), form)
    problems, warnings = (sum(finding.state == state for finding in findings) for state in ("problem", "warning"))
    click.echo(f"problems: {problems}, warnings: {warnings}", err=True)
    raise click.exceptions.Exit(SOME_FAILED if problems else DONE)
