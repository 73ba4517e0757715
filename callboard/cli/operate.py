"""The commands that keep a system going: their options, and what they say of themselves. What they do is imported when
they run.
"""

from typing import Annotated

import typer

from callboard.cli.options import OPERATE, By, Json, Limit, OfRole, OfRun, app

dead = typer.Typer(help="List dead letters: messages that nobody can handle.", invoke_without_command=True)
services = typer.Typer(
    help="The local PostgreSQL and Valkey, for where no server is named by URL.", no_args_is_help=True
)

Letter = Annotated[str, typer.Argument(metavar="ID", help="A dead letter: its message's id or its task's; may be cut.")]
OneStep = Annotated[str | None, typer.Option("--step", help="The step, where several wait.")]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="A task's id, its beginning or end, or `last`.")]


@app.command(rich_help_panel=OPERATE, epilog="Example: callboard doctor || callboard lag")
def doctor(as_json: Json = False) -> None:
    """Name every run that can't go on by itself, say why, and what to do. Exit code 1 if there is one."""
    from callboard.cli import doctor

    doctor.doctor(as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Examples: callboard models   |   callboard models fast openai/gpt-5")
def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Tiers or models; by default all tiers.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List tiers and models: what a million tokens cost, whether the key is there, and the circuit breaker's state."""
    from callboard.cli import models

    models.models(names or [], as_json=as_json)


@app.command(
    rich_help_panel=OPERATE, epilog="Examples: callboard tools --app helpdesk.py --role helpdesk   |   callboard tools"
)
def tools(
    app_: Annotated[
        str | None,
        typer.Option("--app", metavar="APP", help="A Python file or module; without one, only MCP servers are listed."),
    ] = None,
    role: Annotated[
        str | None, typer.Option("--role", metavar="ROLE", help="Only of this role; or several with commas between.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the tools of an app's roles and of MCP servers, what is true of them, and what the policies say."""
    from callboard.cli import tools

    tools.tools(app_, role, as_json=as_json)


@dead.callback(epilog="Examples: callboard dead --role writer   |   callboard dead show last")
def dead_list(
    context: typer.Context,
    role: OfRole = None,
    run_id: OfRun = None,
    reason: Annotated[str | None, typer.Option(help="Only where the reason has this text in it.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Those that were sent again, too.")] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List dead letters: messages that nobody can handle."""
    from callboard.cli import dead

    if context.invoked_subcommand is None:
        dead.listing(dead.Choice(role=role, run=run_id, reason=reason), redriven=all_, limit=limit, as_json=as_json)


@dead.command("show", epilog="Example: callboard dead show run/62398366@1.0")
def dead_show(letter: Letter, as_json: Json = False) -> None:
    """Show one dead letter: its envelope, its content, and what was done with it."""
    from callboard.cli import dead

    dead.show(letter, as_json=as_json)


@dead.command("edit", epilog='Example: callboard dead edit last \'{"topic": "tides"}\' --reason "a number is no topic"')
def dead_edit(
    letter: Letter,
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD", help="JSON or text; - reads standard input, @FILE a file.")
    ],
    reason: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    by: By = None,
    as_json: Json = False,
) -> None:
    """Give a dead letter another content, for when it is sent again. The original stays in the log."""
    from callboard.cli import dead

    dead.edit(letter, payload, reason=reason, by=by, as_json=as_json)


app.add_typer(dead, name="dead", rich_help_panel=OPERATE)


@app.command(
    rich_help_panel=OPERATE, epilog="Examples: callboard redrive last   |   callboard redrive --role writer --yes"
)
def redrive(
    letters: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Dead letters: ids of messages or tasks; may be cut.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="All of this role.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="All of this run.")] = None,
    reason: Annotated[str | None, typer.Option(help="All whose reason has this text in it.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask first.")] = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Send dead letters again, each as a new task of its run. One that was sent again already is left alone."""
    from callboard.cli import dead

    choice = dead.Choice(role=role, run=run_id, reason=reason, all=all_)
    dead.redrive(letters or [], choice, yes=yes, by=by, as_json=as_json)


@app.command(
    rich_help_panel=OPERATE,
    epilog="Examples: callboard resolve last --happened '{\"receipt\": 7}'   |   callboard resolve last --run",
)
def resolve(
    task: TaskId,
    happened: Annotated[
        str | None,
        typer.Option(
            metavar="RESULT", help="The tool was called, and gave this: JSON or text, as the tool returns it."
        ),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="It was not called, or may be called again: call it.")] = False,
    step: OneStep = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Say what became of a tool call whose outcome nobody knows, as its process was lost in the middle of it."""
    from callboard.cli import control

    control.resolve(task, happened=happened, run=run, step=step, by=by, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Example: callboard approvals --run last")
def approvals(run_id: OfRun = None, limit: Limit = 100, as_json: Json = False) -> None:
    """List what waits for somebody's approval, with what it is in full."""
    from callboard.cli import approvals

    approvals.listing(run=run_id, limit=limit, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Example: callboard approve 62398366 --by ann")
def approve(task: TaskId, step: OneStep = None, by: By = None, as_json: Json = False) -> None:
    """Approve what a task waits for: just what it asks now, and nothing that it may ask later."""
    from callboard.cli import approvals

    approvals.decide(task, approved=True, step=step, reason="", by=by, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog='Example: callboard deny 62398366 --reason "not to that address"')
def deny(
    task: TaskId,
    reason: Annotated[str, typer.Option(help="Why, for the log and for whoever asked.")] = "",
    step: OneStep = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Say no to what a task waits for."""
    from callboard.cli import approvals

    approvals.decide(task, approved=False, step=step, reason=reason, by=by, as_json=as_json)


@app.command(
    rich_help_panel=OPERATE,
    epilog='Examples: callboard cancel last --wait   |   callboard cancel 62398366 --reason "too late"',
)
def cancel(
    given: Annotated[str, typer.Argument(metavar="RUN|TASK", help="An id, its beginning or end, or `last` run.")],
    reason: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when all of it has ended.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 60.0,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Stop a run with all its tasks, or one task with all that it asked others for."""
    from callboard.cli import control

    control.cancel(given, reason=reason, wait_s=timeout_s if wait else None, by=by, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Example: callboard partitions writer 16")
def partitions(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="A role that was served before.")],
    count: Annotated[int, typer.Argument(metavar="N", min=1, max=256, help="How many; at least one a process.")],
    as_json: Json = False,
) -> None:
    """Spread a role's messages over another number of partitions, while it is served."""
    from callboard.cli import control

    control.partitions(role, count, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Example: callboard messages --role writer")
def messages(role: OfRole = None, run_id: OfRun = None, limit: Limit = 100, as_json: Json = False) -> None:
    """List messages that nobody has handled yet, timers, and dead letters."""
    from callboard.cli import health

    health.messages(role=role, run=run_id, limit=limit, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Examples: callboard lag   |   callboard lag --check --role writer")
def lag(
    role: Annotated[list[str] | None, typer.Option(help="Only this role; may be given several times.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="End with exit code 1 if nobody folds, or a partition has no owner.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how far projections and roles are behind, and who owns which partitions."""
    from callboard.cli import health

    health.lag(only=role or [], check=check, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Examples: callboard verify   |   callboard verify --json")
def verify(as_json: Json = False) -> None:
    """Check that the log is as it was written: name the first changed, missing or inserted event. Changes nothing."""
    from callboard.cli import checks

    checks.check_log(as_json=as_json)


@app.command(
    "check-ledger",
    rich_help_panel=OPERATE,
    epilog="Examples: callboard check-ledger   |   callboard check-ledger --repair",
)
def check_ledger(
    repair: Annotated[
        bool, typer.Option("--repair", help="If they differ, make the tables again from the log.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check that budgets and what is spent of them are as the log has them."""
    from callboard.cli import checks

    checks.ledger(repair=repair, as_json=as_json)


@app.command(rich_help_panel=OPERATE, epilog="Example: callboard rebuild costs audit")
def rebuild(
    names: Annotated[
        list[str], typer.Argument(metavar="PROJECTION...", help="Projections, as `callboard lag` lists them.")
    ],
    as_json: Json = False,
) -> None:
    """Make projections again from the log. While that lasts, what reads them waits, and so do takeovers."""
    from callboard.cli import checks

    checks.rebuild(names, as_json=as_json)


@services.command("up", epilog="Example: callboard services up")
def services_up(as_json: Json = False) -> None:
    """Start them, and leave them running."""
    from callboard.cli import health

    health.services_up(as_json=as_json)


@services.command("down", epilog="Example: callboard services down")
def services_down(
    force: Annotated[bool, typer.Option("--force", help="Also while other processes use them.")] = False,
    as_json: Json = False,
) -> None:
    """Stop them; their data stays."""
    from callboard.cli import health

    health.services_down(force=force, as_json=as_json)


@services.command("status", epilog="Example: callboard services status")
def services_status(as_json: Json = False) -> None:
    """Show whether they run, and where."""
    from callboard.cli import health

    health.services_status(as_json=as_json)


app.add_typer(services, name="services", rich_help_panel=OPERATE)
