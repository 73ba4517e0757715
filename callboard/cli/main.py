"""The commands that start, ask and show: their options, and what they say of themselves. What they do is imported when
they run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from callboard.cli.init import go_on_in_child
from callboard.cli.options import ASK, DEBUG, START, Json, Limit, OfRole, OfRun, RunId, app
from callboard.cli.text import tolerate_any_encoding
from callboard.protocols.errors import BadOption, CallboardError, UserError
from callboard.protocols.messages import Priority

__all__ = ["app", "main"]

SendKind = Literal["assign", "query", "review-request", "context-share", "artifact", "feedback", "decision", "cancel"]

OfState = Annotated[str | None, typer.Option("--state", help="Only in this state, such as failed.")]
Bodies = Annotated[bool, typer.Option("--bodies", help="With all contents: arguments, prompts, results, errors.")]
Tied = Annotated[bool, typer.Option("--tied", hidden=True, help="End when standard input ends.")]


def main() -> None:
    """The entry point. Exit codes: 0 it went well, 1 it did not, 2 bad input, 130 Ctrl-C."""
    go_on_in_child()
    tolerate_any_encoding()
    try:
        _check_arguments(sys.argv[1:])
        app(prog_name="callboard")
    except (CallboardError, BaseExceptionGroup) as raised:
        from callboard.cli.errors import error_in, in_a_line
        from callboard.cli.output import note, plain

        error = error_in(raised)
        if error is None:
            raise
        note(f"[bold red]error:[/] {plain(in_a_line(error))}")
        sys.exit(2 if isinstance(error, UserError) else 1)


def _check_arguments(given: Sequence[str]) -> None:
    """Raise BadOption for an argument that is no text and no file's name: bytes that are no UTF-8."""
    for number, argument in enumerate(given, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            if not Path(argument).exists():
                where = f"character {error.start + 1} is no UTF-8"
                raise BadOption(f"Argument {number}", argument, f"it is no text: {where}") from None


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
    epilog='Examples: callboard send writer \'{"topic": "tides"}\' --wait   |   callboard send topic/news @story.txt'
    "   |   callboard send writer @brief.json --delay 3600 --deadline 2030-01-01T09:00:00Z --priority low",
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
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Deliver it only after so many seconds.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|TIME", help="When the task fails: so many seconds from now, or an ISO 8601 time."
        ),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="On whose account it is: budgets may be set for tenants.")] = None,
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
        delay_s=delay,
        deadline=deadline,
        tenant=tenant,
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


@app.command(rich_help_panel=DEBUG, epilog="Example: callboard live last")
def live(
    run_id: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A run's id, its beginning or end, or `last`.")
    ] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="An object a line, as things happen.")] = False,
) -> None:
    """Show what a run's models answer while they do, until the run has ended."""
    from callboard.cli import live

    live.live(run_id, as_json=as_json)


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


# These commands come behind the ones above.
from callboard.cli import accounting as _accounting  # noqa: E402, F401
from callboard.cli import operate as _operate  # noqa: E402, F401
