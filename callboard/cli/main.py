"""The commands: their options, and what they say of themselves. What they do is imported when they run."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from protocols.errors import CallboardError, UserError
from protocols.messages import Priority

app = typer.Typer(
    name="callboard",
    help="An event-sourced actor system for LLM agents: nothing lost, nothing done twice, every cost accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
services = typer.Typer(
    help="The local PostgreSQL and Valkey, for where no server is named by URL.", no_args_is_help=True
)

START, ASK, DEBUG, OPERATE = "Start", "Ask", "Understand", "Operate"

SendKind = Literal["assign", "query", "review-request", "context-share", "artifact", "feedback", "decision", "cancel"]
Dimension = Literal["role", "agent", "model", "run", "day"]

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning or end, or `last`.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines, and nothing else, on standard output.")]
OfRun = Annotated[str | None, typer.Option("--run", help="Only of this run: its id, its beginning or end, or `last`.")]
OfRole = Annotated[str | None, typer.Option("--role", help="Only of this role.")]
OfState = Annotated[str | None, typer.Option("--state", help="Only in this state, such as failed.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")]
Bodies = Annotated[bool, typer.Option("--bodies", help="With all contents: arguments, prompts, results, errors.")]
Tied = Annotated[bool, typer.Option("--tied", hidden=True, help="End when standard input ends.")]


def main() -> None:
    """The entry point. Exit codes: 0 it went well, 1 it did not, 2 bad input, 130 Ctrl-C."""
    try:
        app()
    except (CallboardError, BaseExceptionGroup) as raised:
        from callboard.cli.errors import error_in, in_a_line
        from callboard.cli.output import note, plain

        error = error_in(raised)
        if error is None:
            raise
        note(f"[bold red]error:[/] {plain(in_a_line(error))}")
        sys.exit(2 if isinstance(error, UserError) else 1)


# -- start -----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=START, epilog="Example: callboard demo ~/my-project --model openai/gpt-5-mini")
def demo(
    path: Annotated[
        Path | None, typer.Argument(help="A folder with Python source; by default Callboard's own.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model that litellm knows; it is sent the findings and the code around them. "
            "Without one, a stand-in that is no language model comments on the findings."
        ),
    ] = None,
    kill: Annotated[bool, typer.Option("--kill/--no-kill", help="Kill one process in the middle of it.")] = True,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes; by default ./callboard-review.md.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """See it work: a crew of actors reviews a source tree, and goes on when one of its processes is killed."""
    from callboard.cli import demo

    demo.demo(path, model=model, kill=kill, report=report, as_json=as_json)


@app.command(rich_help_panel=START, epilog="Example: callboard up newsroom.py --processes writer=3")
def up(
    app_: Annotated[str, typer.Argument(metavar="APP", help="A Python file or module with Actor classes.")],
    processes: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=N", help="Processes of a role; 1 if not said.")
    ] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="Serve all roles in this one process.")] = False,
    model: Annotated[
        str | None, typer.Option(help='The model for every call; "stand-in" needs no key and no network.')
    ] = None,
) -> None:
    """Serve an app: a process for each role, kept up until Ctrl-C."""
    from callboard.cli import serve

    serve.up(app_, processes or [], in_process=in_process, model=model)


@app.command(rich_help_panel=START, epilog="Example: callboard actor writer,reviewer --app newsroom.py")
def actor(
    roles: Annotated[str, typer.Argument(metavar="ROLE", help="A role, several with commas between, or `all`.")],
    app_: Annotated[str, typer.Option("--app", metavar="APP", help="A Python file or module with Actor classes.")],
    name: Annotated[str | None, typer.Option(help="What to call this process in logs.")] = None,
    tied: Tied = False,
) -> None:
    """Serve one role, or several, in one process."""
    from callboard.cli import serve

    serve.actor(roles, app_, name=name, tied=tied)


@app.command(rich_help_panel=START, epilog="Example: callboard projections")
def projections(tied: Tied = False) -> None:
    """Keep the read models up to date, and serve nothing else."""
    from callboard.cli import serve

    serve.projections(tied=tied)


# -- ask -------------------------------------------------------------------------------------------------------


@app.command(
    rich_help_panel=ASK,
    epilog='Examples: callboard send writer \'{"topic": "tides"}\' --wait   |   callboard send topic/news @story.txt',
)
def send(
    to: Annotated[str, typer.Argument(metavar="TO", help="A role, an actor (role/key), or topic/NAME.")],
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD", help="JSON or text; - reads standard input, @FILE a file.")
    ],
    key: Annotated[str | None, typer.Option(help="The role's actor of this name, instead of a fresh one.")] = None,
    run: Annotated[str | None, typer.Option(help="Send into this run, instead of a new one.")] = None,
    task: Annotated[str | None, typer.Option(help="Send to this task, which is at work.")] = None,
    kind: Annotated[SendKind, typer.Option(help="The kind of the message.")] = "assign",
    priority: Annotated[Priority, typer.Option(help="Its priority.")] = "normal",
    deadline_s: Annotated[float | None, typer.Option(min=0, help="Seconds that the task may take.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result, and print it.")] = False,
    timeout_s: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
    as_json: Json = False,
) -> None:
    """Send a message to an actor: a task, or something for a task at work.

    It is in the log when this command says so, also while no process serves the role.
    """
    from callboard.cli.send import Order, payload_of
    from callboard.cli.send import send as send_

    order = Order(
        to=to,
        payload=payload_of(payload),
        key=key,
        run=run,
        task=task,
        kind=kind,
        priority=priority,
        deadline_s=deadline_s,
        wait=wait,
        timeout_s=timeout_s,
    )
    send_(order, as_json=as_json)


# -- understand ------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard runs --state failed")
def runs(state: OfState = None, limit: Limit = 20, as_json: Json = False) -> None:
    """List runs, newest first."""
    from callboard.cli import reports

    reports.runs(state=state, limit=limit, as_json=as_json)


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard run last")
def run(run_id: RunId, as_json: Json = False) -> None:
    """Show one run in full: its tasks as a tree, times, costs, and what it waits for."""
    from callboard.cli import reports

    reports.run(run_id, as_json=as_json)


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard tasks --run last --state input-required")
def tasks(
    run_id: OfRun = None, role: OfRole = None, state: OfState = None, limit: Limit = 50, as_json: Json = False
) -> None:
    """List tasks, newest first."""
    from callboard.cli import reports

    reports.tasks(run=run_id, role=role, state=state, limit=limit, as_json=as_json)


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard agents --role writer")
def agents(role: OfRole = None, as_json: Json = False) -> None:
    """List agents, and what each has done and spent."""
    from callboard.cli import reports

    reports.agents(role=role, as_json=as_json)


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard costs --by model --run last")
def costs(
    by: Annotated[Dimension, typer.Option(help="What to group by.")] = "role",
    run_id: OfRun = None,
    as_json: Json = False,
) -> None:
    """Add up tokens and costs."""
    from callboard.cli import reports

    reports.costs(by=by, run=run_id, as_json=as_json)


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard audit last")
def audit(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's id, its beginning or end, or `last`.")
    ] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Only what stands behind this position of the log.")] = None,
    limit: Limit = 200,
    as_json: Json = False,
) -> None:
    """Tell who did what and when: of one run, or the newest of all."""
    from callboard.cli import history

    history.audit(run_id, after=after, limit=limit, as_json=as_json)


@app.command(rich_help_panel=DEBUG, epilog="Examples: callboard events writer/dave   |   callboard events run/last")
def events(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="A stream: role/key, or run/ID; the id may be cut.")],
    after: Annotated[int, typer.Option(min=0, help="Only what stands behind this version of the stream.")] = 0,
    limit: Limit = 200,
    bodies: Bodies = False,
    as_json: Json = False,
) -> None:
    """List the events of one stream."""
    from callboard.cli import history

    history.events(stream, after=after, limit=limit, bodies=bodies, as_json=as_json)


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard replay last --at 1234 --step")
def replay(
    run_id: RunId,
    at: Annotated[int | None, typer.Option(min=1, help="Stop at this position of the log.")] = None,
    step: Annotated[bool, typer.Option("--step", help="Wait for Enter after each event.")] = False,
    bodies: Bodies = False,
    as_json: Json = False,
) -> None:
    """Go through all events of a run in order, and show its actors as these leave them."""
    from callboard.cli import history

    history.replay(run_id, at=at, step=step, bodies=bodies, as_json=as_json)


# -- operate ---------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=OPERATE, epilog="Example: callboard messages --dead")
def messages(
    role: OfRole = None,
    run_id: OfRun = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only those that can't be handled.")] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List messages that nobody has handled yet, timers, and dead letters."""
    from callboard.cli import health

    health.messages(role=role, run=run_id, dead=dead, limit=limit, as_json=as_json)


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
