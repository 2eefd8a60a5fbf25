"""The command line: thin, no logic. Results go to stdout, everything else to stderr."""

import shlex
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from xmbench.data_cli import data
from xmbench.noise_cli import noise
from xmbench.printing import FORMAT, print_facts, print_frame

if TYPE_CHECKING:
    import pandas as pd

    from xmbench.spec import Spec
    from xmbench.store import Store
    from xmbench.sweep import Outcome, Todo

DONE, INTERNAL, USAGE, SOME_FAILED, REGRESSION, NO_DATA, NOTHING, TIME_UP, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 130
REPORT_HINT = "xmbench run --methods mrl,ce,mcca --dataset wikipedia"

KEEP = click.option(
    "--keep", type=click.Choice(["none", "first", "all"]), default="first", show_default=True,
    help="Seeds whose embeddings are stored.",
)  # fmt: skip
STORE = click.option("--store", default="results", show_default=True, help="Folder of results, or one parquet file of them.")


class Stop(click.ClickException):
    """An error with an exit code of its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xmbench")
def cli() -> None:
    """Benchmark for cross-modal retrieval under noisy supervision.

    \b
    Exit codes: 0 done, 1 internal error, 2 usage, 3 some runs failed, 4 regression, 5 data missing or damaged,
    6 nothing matched or measured, 7 time budget reached, 130 interrupted.
    """


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a grid of runs."""
    options = [
        click.option("--methods", help="Names, separated by commas; see `xmbench list methods`."),
        click.option("--dataset", "datasets", help="Names, separated by commas; see `xmbench list datasets`."),
        click.option("--noise", "schemes", metavar="NAME,NAME+NAME@RATE",
                     help="Noise schemes, separated by commas; see `xmbench list noise`. One of labels and one of pairs may be "
                          "joined: symmetric+caption_shuffle@0.2 has the latter at 0.2 beside every rate of the former. "
                          " [default: symmetric, or caption_shuffle where no dataset has labels]"),
        click.option("--rates", help="Noise rates, separated by commas.  [default: 0,0.2,0.4,0.6,0.8]"),
        click.option("--seeds", help="How many, or a list such as 0,1,5 (one seed: 5,).  [default: 3]"),
        click.option("--noise-seed", type=int, help="Seed of the noise, where it should not follow --seeds."),
        click.option("--set", "settings", multiple=True, metavar="OWNER.PARAM=VALUE", help="Owner: method, dataset or noise."),
        click.option("--profile", help="A shipped or own set of method parameters, such as reduced."),
        click.option("--spec", "spec_name", help="A shipped spec or a TOML file; other options change it."),
        click.option("--twins", type=click.IntRange(min=1), metavar="N",
                     help="Instead of each dataset its synthetic twin with 1/N of the items: to try a spec without its data."),
        click.option("--tune", metavar="grid | random:N | none", help="Choose hyper-parameters by validation."),
        click.option("--tune-per", type=click.Choice(["dataset", "rate"]), help="One choice per which.  [default: dataset]"),
        click.option("--protocol", help="How runs are validated and measured.  [default: default]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def execution_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how to execute; `plan` takes them too, so that one command line serves both."""
    options = [
        click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time.  [default: all cores]"),
        click.option("--threads", type=click.IntRange(min=1), help="Threads per run.  [default: the protocol's]"),
        click.option("--device", default="auto", show_default=True, help="A torch device, such as cpu or cuda:0."),
        click.option("--rerun", type=click.Choice(["stale"]), multiple=True, help="Run again what is stored but stale."),
        click.option("--dry-run", is_flag=True, help="Only say what would run."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@grid_options
@KEEP
@STORE
@FORMAT
@execution_options
def run(
    jobs: int | None,
    threads: int | None,
    device: str,
    rerun: tuple[str, ...],
    dry_run: bool,
    **grid: Any,
) -> None:
    """Run what is missing of a grid: methods x datasets x noise rates x seeds."""
    from xmbench.device import choose_device
    from xmbench.plan import plan as make_plan
    from xmbench.progress import Progress, duration
    from xmbench.run import Settings
    from xmbench.spec import load_protocol
    from xmbench.store import Store
    from xmbench.sweep import default_jobs, estimate, forget_losers, sweep, todo

    spec, store = _spec(**grid), Store(grid["store"])
    settings = Settings(choose_device(device), threads)
    at_a_time = jobs or default_jobs(threads or load_protocol(spec.protocol).threads)
    failed = False
    for trials_done in (False, True):
        cells = make_plan(spec, keep=grid["keep"], rows=store.rows() if spec.tune else None)
        if missing := next((cell for cell in cells if cell.status == "skipped" and not cell.fit_key), None):
            raise Stop(missing.reason, NO_DATA)
        if not dry_run:
            store.check_writable()
        if trials_done:
            forget_losers(cells, store)
        work = todo([cell for cell in cells if not (trials_done and cell.run.trial)], store, frozenset(rerun))
        click.echo(_what_to_do(work), err=True)
        if not trials_done:
            _say_why_not(work)
        if dry_run:
            return
        seconds = estimate(work, settings)
        if work.groups:
            wall = sum(seconds.values()) / min(at_a_time, len(work.groups))
            click.echo(f"about {duration(wall)}, {at_a_time} at a time on {settings.device}; store {store.path}", err=True)
        with Progress(work.groups, seconds, at_a_time) as progress:
            outcome = sweep(work, store, settings, jobs=at_a_time, progress=progress)
        failed |= bool(outcome.counts.get("failed"))
        if outcome.interrupted or outcome.error or not work.waiting:
            break
    _finish(outcome, failed, store, [cell.run.run_id for cell in cells], grid["form"])


def _what_to_do(work: "Todo") -> str:
    """What a sweep begins with, in one line."""
    missing = sum(map(len, work.groups))
    then = f"; then {len(work.waiting)} with the hyper-parameters that their trials choose" if work.waiting else ""
    return (
        f"{len(work.cells)} runs: {len(work.done)} done, {len(work.impossible)} not applicable, {missing} to do, "
        f"of which {work.shared} share the fit of another{then}"
    )


def _say_why_not(work: "Todo") -> None:
    """Print once each why runs are not applicable, with their number."""
    for reason, n in Counter(cell.reason for cell in work.impossible if cell.status == "not_applicable").items():
        click.echo(f"not applicable, {n} of {len(work.cells)}: {reason}", err=True)


def _finish(outcome: "Outcome", failed: bool, store: "Store", run_ids: list[str], form: str) -> None:
    """Print the summary of a sweep and leave with its exit code."""
    rows = store.rows()
    rows = rows[rows["run_id"].isin(run_ids)]
    summary = _summary(rows)
    if len(summary) or form != "table":
        print_frame(summary, form)
    for _, row in rows[~rows["status"].isin(["ok", "not_applicable"])].drop_duplicates("run_id").iterrows():
        reason = str(row["error"]).strip().splitlines()[-1]
        what = f"{row['method']} on {row['dataset']}, rate {row['noise_rate']}, seed {row['seed']}"
        trial = f", trial {row['trial']}" if isinstance(row["trial"], str) else ""
        click.echo(f"{row['status']}: {what}{trial}: {reason}", err=True)
    if outcome.interrupted or outcome.error:
        click.echo(_how_to_go_on(outcome.error or "interrupted"), err=True)
        raise click.exceptions.Exit(INTERRUPTED if outcome.interrupted else SOME_FAILED)
    click.echo(f"report: {shlex.join(['xmbench', 'report', '--store', str(store.path)])}", err=True)
    raise click.exceptions.Exit(SOME_FAILED if failed else DONE)


def _how_to_go_on(reason: str) -> str:
    return f"{reason}; finished runs are kept. To go on: {shlex.join(['xmbench', *sys.argv[1:]])}"


def _summary(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Mean MAP over directions and seeds, by dataset, method and noise rate."""
    chosen = rows[
        (rows["status"] == "ok") & rows["trial"].isna() & (rows["split"] == "test")
        & (rows["selection"] == "best_valid") & (rows["network"] == "mean")
        & (rows["direction"] == "mean") & rows["metric"].isin(["map", "rsum"])
    ]  # fmt: skip
    metric = "map" if (chosen["metric"] == "map").any() else "rsum"
    chosen = chosen[chosen["metric"] == metric]
    table = chosen.pivot_table(index=["dataset", "noise_scheme", "method"], columns="noise_rate", values="value", sort=False)
    counts = chosen.groupby(["dataset", "noise_scheme", "method"])["seed"].nunique()
    table = table.sort_index(axis=1).round(3)
    table.columns = [f"{metric} at {rate:g}" for rate in table.columns]
    table["seeds"] = counts
    return table.reset_index()


@cli.command()
@grid_options
@KEEP
@STORE
@FORMAT
@execution_options
def plan(rerun: tuple[str, ...], **grid: Any) -> None:
    """Print the cells of a grid: what is done, what is shared, what cannot run and why."""
    import pandas as pd

    from xmbench.plan import plan as make_plan
    from xmbench.store import Store
    from xmbench.sweep import todo

    spec, store = _spec(**grid), Store(grid["store"])
    cells = make_plan(spec, keep=grid["keep"], rows=store.rows() if spec.tune else None)
    work = todo(cells, store, frozenset(rerun))
    done, waiting = ({cell.run.run_id for cell in part} for part in (work.done, work.waiting))
    first = {group[0].run.run_id for group in work.groups}
    rows = []
    for cell in cells:
        run = cell.run
        state = (
            "waiting"
            if run.run_id in waiting
            else cell.status
            if cell.status != "ready"
            else "done"
            if run.run_id in done
            else "to do"
            if run.run_id in first
            else "shares a fit"
        )
        run_id = "" if state == "waiting" else run.run_id
        tuning = f"trial {run.trial}" if run.trial else run.tuning
        rows.append([run_id, run.dataset, str(run.noise), run.method, run.seed, tuning, run.protocol.name, state, cell.reason])
    columns = ["run_id", "dataset", "noise", "method", "seed", "tuning", "protocol", "state", "reason"]
    print_frame(pd.DataFrame(rows, columns=columns), grid["form"], below="reason")


cli.add_command(noise)
cli.add_command(data)


@cli.command("list")
@click.argument("kind", type=click.Choice(["methods", "datasets", "noise", "metrics", "specs", "protocols", "published"]))
@FORMAT
def list_(kind: str, form: str) -> None:
    """List what there is."""
    import pandas as pd

    from xmbench.catalogue import catalogue

    print_frame(pd.DataFrame(catalogue(kind)), form)


@cli.command()
@click.argument("name")
@FORMAT
def info(name: str, form: str) -> None:
    """Everything about one method, dataset, noise scheme, metric, spec, protocol or published method."""
    from xmbench.catalogue import describe

    print_facts(describe(name), form)


@cli.command()
@STORE
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
@FORMAT
def results(store: str, where: str | None, form: str) -> None:
    """Print the rows of a store."""
    from xmbench.store import Store, where_rows

    rows = where_rows(Store(store).rows(), where)
    if rows.empty:
        raise Stop(f"no rows in {store}{' match' if where else ''}; fill it: {REPORT_HINT}", NOTHING)
    if form == "table":
        main = "dataset noise_scheme noise_rate method seed status split selection network direction metric value".split()
        click.echo(f"{len(rows)} rows; {len(rows.columns) - len(main)} more columns with --format csv or json", err=True)
        rows = rows[main]
    print_frame(rows, form)


@cli.command()
@STORE
@click.option("--out", default="reports", show_default=True, help="Folder to write to.")
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
@grid_options
def report(store: str, out: str, where: str | None, **grid: Any) -> None:
    """Render tables and figures from a store.

    With a grid, given by --spec or as for `run`, what of it has no run is shown as such.
    """
    from pathlib import Path

    from xmbench.report import NothingToReport, render
    from xmbench.store import Store, mark_stale, where_rows

    source = Store(store)
    rows = source.rows()
    if grid["spec_name"] or grid["methods"]:
        rows = _with_planned(rows, _spec(**grid))
    try:
        files = render(source, Path(out), where=mark_stale(where_rows(rows, where)))
    except NothingToReport as error:
        raise Stop(str(error), NOTHING) from None
    for file in files:
        click.echo(file)


def _with_planned(rows: "pd.DataFrame", spec: "Spec") -> "pd.DataFrame":
    """The rows, and one of status "no run", or with its reason, for each run of the spec that is not among them."""
    import pandas as pd

    from xmbench.plan import plan as make_plan
    from xmbench.run import failure_row

    known = set(rows["run_id"])
    missing = [cell for cell in make_plan(spec, rows=rows) if cell.run.run_id not in known and not cell.run.trial]
    statuses = ["no run" if cell.status in ("ready", "waiting") else cell.status for cell in missing]
    planned = [failure_row(cell, status, cell.reason) for cell, status in zip(missing, statuses, strict=True)]
    return pd.concat([rows, pd.DataFrame(planned, columns=rows.columns)], ignore_index=True) if planned else rows


@cli.command()
@click.option(
    "--against", required=True, type=click.Path(exists=True, dir_okay=True), help="Reference: a parquet file or a store."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@FORMAT
def check(against: str, jobs: int, form: str) -> None:
    """Run a reference's runs again and compare: exit 0 same, 4 regression, 6 nothing measured."""
    from xmbench.check import check as compare
    from xmbench.store import Store

    table = compare(Store(against).rows(), jobs=jobs)
    bad = table[table["problem"] != ""]
    if bool(table["value"].isna().all()):
        raise Stop(f"nothing in {against} could be measured: it must hold finished runs with MAP", NOTHING)
    click.echo(f"{len(table)} numbers of {against} compared, {len(bad)} of them differ", err=True)
    if len(bad):
        print_frame(bad, form)
    raise click.exceptions.Exit(REGRESSION if len(bad) else DONE)


def _spec(
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


def main() -> None:
    """The entry point: every error becomes one line and its exit code."""
    try:
        sys.exit(cli.main(standalone_mode=False) or DONE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(_how_to_go_on("interrupted"), err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.code if isinstance(error, Stop) else error.exit_code)
    except Exception as error:
        sys.exit(_report_error(error))


def _report_error(error: Exception) -> int:
    """Print what went wrong; return the exit code."""
    from xmbench.datasets import MissingDataError
    from xmbench.store import StoreError
    from xmbench.types import DataError

    if isinstance(error, MissingDataError | DataError | StoreError | FileNotFoundError):
        click.echo(f"Error: {error}", err=True)
        return NO_DATA
    if isinstance(error, ValueError | LookupError | OSError) and not isinstance(error, KeyError | IndexError):
        click.echo(f"Error: {error}", err=True)
        return USAGE
    import traceback

    traceback.print_exception(error)
    click.echo("Error: this is a defect of xmbench; please report it with the lines above", err=True)
    return INTERNAL
