"""The command line's app, and the arguments and options that several commands have."""

from typing import Annotated

import typer

app = typer.Typer(
    name="callboard",
    help="An event-sourced actor system for LLM agents: nothing lost, nothing done twice, every cost accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

START, ASK, DEBUG, OPERATE = "Start", "Ask", "Understand", "Operate"

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning or end, or `last`.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines, and nothing else, on standard output.")]
OfRun = Annotated[str | None, typer.Option("--run", help="Only of this run: its id, its beginning or end, or `last`.")]
OfRole = Annotated[str | None, typer.Option("--role", help="Only of this role.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")]
By = Annotated[str | None, typer.Option(help="Who does it, for the log; by default the user of this computer.")]
