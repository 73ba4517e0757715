"""The commands about money: their options, and what they say of themselves. What they do is imported when they run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from callboard.cli.options import DEBUG, OPERATE, By, Json, OfRun, app

Dimension = Literal["role", "agent", "model", "run", "day", "tenant", "outcome"]
Scope = Literal["tenant", "run", "role", "agent"]
Period = Literal["run", "day", "month", "ever"]
Over = Literal["refuse", "wait", "ask"]

# An amount below zero is no option: it is told what is wrong with it.
AMOUNTS = {"ignore_unknown_options": True}

budgets = typer.Typer(help="List budgets: what may be spent, and what is.", invoke_without_command=True)

Whose = Annotated[Scope, typer.Argument(metavar="SCOPE", help="tenant, run, role or agent.")]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="Which one; an agent as role/key; '*': each by itself.")]
Per = Annotated[Period | None, typer.Option("--per", help="Of which window, where there are several.")]
Currency = Annotated[str | None, typer.Option(help="Of which currency, where there are several.")]
Since = Annotated[str | None, typer.Option(metavar="DAY", help="Only from this day on (UTC), as 2030-12-31.")]
Until = Annotated[str | None, typer.Option(metavar="DAY", help="Only up to this day, inclusive.")]
Note = Annotated[str, typer.Option(help="Why, for the log.")]


@app.command(
    rich_help_panel=DEBUG,
    epilog="Examples: callboard costs --by model --run last   |   callboard costs --agent writer/dave --days 7",
)
def costs(
    by: Annotated[Dimension, typer.Option(help="What to group by.")] = "role",
    run_id: OfRun = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent: a role, or role/key.")] = None,
    since: Since = None,
    until: Until = None,
    days: Annotated[int | None, typer.Option(min=1, help="Only of the last so many days; 1 is today.")] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="CSV for spreadsheets, with a column of costs a currency.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add up calls of models, attempts, tokens and costs."""
    from callboard.cli import costs

    chosen = costs.Choice(by=by, run=run_id, agent=agent, since=since, until=until, days=days)
    costs.costs(chosen, csv=csv, as_json=as_json)


@app.command(
    rich_help_panel=DEBUG,
    epilog="Examples: callboard reprice --by model   |   callboard reprice --config next-year.toml --since 2030-01-01",
)
def reprice(
    by: Annotated[Dimension, typer.Option(help="What to group by.")] = "role",
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A configuration with other [prices]; by default the one of CALLBOARD_CONFIG."
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> None:
    """Tell what all calls of models would cost at the prices that hold now, or at others. Nothing is changed."""
    from callboard.cli import reprice

    reprice.reprice(by=by, config=config, since=since, until=until, as_json=as_json)


@budgets.callback(epilog="Examples: callboard budgets   |   callboard budgets --holds")
def budgets_list(
    context: typer.Context,
    holds: Annotated[
        bool, typer.Option("--holds", help="List the calls of models that hold something: under way, or lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List budgets: what may be spent, and what is."""
    from callboard.cli import budgets

    if context.invoked_subcommand is None:
        (budgets.holds if holds else budgets.listing)(as_json=as_json)


@budgets.command(
    "set",
    context_settings=AMOUNTS,
    epilog="Examples: callboard budgets set run '*' 5 --per run   |   callboard budgets set tenant acme '200 EUR' "
    "--per month --over ask",
)
def budgets_set(
    scope: Whose,
    target: Target,
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help="As 12.50, which is USD, or as '12.50 EUR'.")],
    per: Annotated[Period, typer.Option("--per", help="The window: UTC days and months, or each run by itself.")],
    over: Annotated[
        Over, typer.Option(help="A call that may go beyond it fails, waits for room, or asks a person.")
    ] = "refuse",
    note: Note = "",
    by: By = None,
    as_json: Json = False,
) -> None:
    """Make a budget, or change its limit. It holds at once; what was spent in its present window counts."""
    from callboard.cli import budgets

    chosen = budgets.Chosen(scope=scope, target=target, period=per)
    budgets.set_(chosen, limit, over=over, note=note, by=by, as_json=as_json)


@budgets.command(
    "topup",
    context_settings=AMOUNTS,
    epilog="Examples: callboard budgets topup run last 2.50   |   callboard budgets topup tenant acme 50 --per month",
)
def budgets_topup(
    scope: Whose,
    target: Target,
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="As 12.50, or as '12.50 EUR'.")],
    per: Per = None,
    currency: Currency = None,
    run: Annotated[str | None, typer.Option(help="The run, where the budget of another scope is per run.")] = None,
    note: Note = "",
    by: By = None,
    as_json: Json = False,
) -> None:
    """Give more for the present window: of the target's own budget or, without one, of the budget for each."""
    from callboard.cli import budgets

    chosen = budgets.Chosen(scope=scope, target=target, period=per, currency=currency, run=run)
    budgets.top_up(chosen, amount, note=note, by=by, as_json=as_json)


@budgets.command("remove", epilog="Example: callboard budgets remove run '*'")
def budgets_remove(
    scope: Whose, target: Target, per: Per = None, currency: Currency = None, by: By = None, as_json: Json = False
) -> None:
    """Take a budget away. What was spent stays known."""
    from callboard.cli import budgets

    chosen = budgets.Chosen(scope=scope, target=target, period=per, currency=currency)
    budgets.remove(chosen, by=by, as_json=as_json)


@budgets.command(
    "release",
    context_settings=AMOUNTS,
    epilog="Example: callboard budgets release 62398366 0.02 --note 'as the provider bills it'",
)
def budgets_release(
    attempt: Annotated[
        str, typer.Argument(metavar="ATTEMPT", help="As `budgets --holds` lists it, or its task; may be cut.")
    ],
    cost: Annotated[str, typer.Argument(metavar="COST", help="What it cost; 0 if nothing.")],
    held: Annotated[bool, typer.Option("--held", help="Also if it is under way, as far as anybody knows.")] = False,
    note: Note = "",
    by: By = None,
    as_json: Json = False,
) -> None:
    """Say what a call of a model cost whose outcome nobody knows, so that no more than that counts."""
    from callboard.cli import budgets

    budgets.release(attempt, cost, held=held, note=note, by=by, as_json=as_json)


app.add_typer(budgets, name="budgets", rich_help_panel=OPERATE)
