"""What people do about money, from outside."""

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Callboard, read, until, up

DESK = '''
from callboard import Actor, Context

class Writer(Actor):
    """Asks a model."""
    model = "stand-in"
    async def handle(self, topic: str, ctx: Context) -> str:
        return (await ctx.model(f"Write on {topic}.", max_tokens=100)).text
'''
APP = ("desk.py", DESK)


@pytest.fixture(scope="module")
def served(environ: dict[str, str]) -> Iterator[Path]:
    """The app, served."""
    with up(environ, "desk.py", "--in-process", ready="ready") as log:
        yield log


def doctor(callboard: Callboard) -> Any:
    """What keeps runs from going on."""
    return json.loads(callboard("doctor", "--json").stdout)["findings"]


def test_without_budgets_the_list_says_how_to_make_one(callboard: Callboard) -> None:
    assert read(callboard, "budgets") == []
    done = callboard("budgets")
    assert "callboard budgets set run '*' 5 --per run" in done.stdout
    assert "No call of a model holds anything" in callboard("budgets", "--holds").stdout


def test_a_budget_lets_calls_in_until_it_is_used_up_and_more_is_given(callboard: Callboard, served: Path) -> None:
    made = read(
        callboard, "budgets", "set", "tenant", "acme", "1 XTS", "--per", "day", "--by", "ann", "--note", "trial"
    )
    assert made == {
        "budget": {"scope": "tenant", "target": "acme", "period": "day", "currency": "XTS"},
        "limit": "1",
        "over": "refuse",
        "by": "ann",
    }
    assert callboard("send", "writer", "tides", "--tenant", "acme", "--wait").returncode == 0
    (report,) = read(callboard, "budgets")
    (account,) = report["accounts"]
    assert account["target"] == "acme"
    assert 0 < float(account["spent"]) < 1
    assert account["held"] == account["lost"] == "0"

    callboard("budgets", "set", "tenant", "acme", account["spent"] + "XTS", "--per", "day", "--over", "refuse")
    refused = callboard("send", "writer", "tides", "--tenant", "acme", "--wait")
    assert refused.returncode == 1
    assert "The budget of tenant acme" in refused.stderr
    assert callboard("send", "writer", "tides", "--tenant", "other", "--wait").returncode == 0

    assert callboard("budgets", "topup", "tenant", "acme", "1 XTS", "--note", "it is worth it").returncode == 0
    assert callboard("send", "writer", "tides", "--tenant", "acme", "--wait").returncode == 0
    shown = callboard("budgets").stdout
    assert "tenant acme" in shown
    assert "XTS (demo)" in shown
    audit = callboard("audit").stdout
    assert "ann" in audit
    assert "it is worth it" in callboard("events", "budget/tenant:acme:day:XTS").stdout

    assert read(callboard, "budgets", "remove", "tenant", "acme")["limit"] is None
    assert read(callboard, "budgets") == []


def test_a_task_that_waits_for_a_budget_goes_on_when_its_run_is_given_more(callboard: Callboard, served: Path) -> None:
    callboard("budgets", "set", "run", "*", "0 XTS", "--per", "run", "--over", "wait")
    run = json.loads(callboard("send", "writer", "tides", "--json").stdout)["run"]
    (report,) = read(callboard, "budgets")
    assert report["budget"]["target"] == "*"
    waits = until(lambda: [each for each in doctor(callboard) if each["check"] == "budget" and each["task"]])
    assert [each["runs"] for each in waits] == [[run]]
    assert "has 0 left of 0 XTS" in waits[0]["what"]
    assert callboard("budgets", "topup", "run", run[-8:], "1 XTS").returncode == 0
    until(lambda: read(callboard, "run", run)["run"]["state"] == "TASK_STATE_COMPLETED")
    told = [each["type"] for each in read(callboard, "events", f"run/{run}")]
    assert told == ["run.started", "run.continued"], "it was told to look at once"
    assert callboard("budgets", "remove", "run", "*").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "tenant", "acme", "-5", "--per", "day"), "'-5 USD' is no limit of a budget: it is from 0"),
        (("set", "tenant", "acme", "five", "--per", "day"), "'five' is no such amount: write it as 12.50"),
        (("set", "team", "acme", "5", "--per", "day"), "'team' is not one of"),
        (("set", "tenant", "acme", "5", "--per", "week"), "'week' is not one of"),
        (("set", "tenant", "acme", "5 DOLLAR", "--per", "day"), "write it as 12.50"),
        (("set", "role", "Writer", "5", "--per", "day"), "'Writer' is no role of a budget"),
        (("topup", "tenant", "nobody", "5"), "There is no budget of tenant nobody"),
        (("remove", "role", "writer"), "There is no budget of role writer"),
        (("release", "nothing", "5"), "No attempt 'nothing' holds anything"),
        (("set", "run", "nothing", "5", "--per", "run"), "There is no run 'nothing'"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_can_t_be_is_told_and_changes_nothing(callboard: Callboard, arguments: tuple[str, ...], said: str) -> None:
    done = callboard("budgets", *arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert read(callboard, "budgets") == []


def test_a_tenant_has_a_name(callboard: Callboard, served: Path) -> None:
    done = callboard("send", "writer", "tides", "--tenant", "")
    assert done.returncode == 2
    assert "not a legal tenant" in done.stderr


# -- reports -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(callboard: Callboard, served: Path) -> str:
    """A run that has asked a model."""
    return json.loads(callboard("send", "writer", "tides", "--tenant", "reporter", "--wait", "--json").stdout)["run"]


def test_costs_are_told_by_tenant_and_outcome_of_a_period(callboard: Callboard, asked: str) -> None:
    (of_run,) = read(callboard, "costs", "--by", "tenant", "--run", asked)
    assert (of_run["by"], of_run["calls"], of_run["attempts"], of_run["success_rate"]) == (["reporter"], 1, 1, 1.0)
    assert float(of_run["amounts"]["XTS"]) > 0
    outcomes = {group["by"][0]: group for group in read(callboard, "costs", "--by", "outcome", "--days", "2")}
    assert outcomes["ok"]["attempts"] >= 1
    assert read(callboard, "costs", "--until", "2020-01-01") == []
    by_agent, by_run = (read(callboard, "costs", "--by", by) for by in ("agent", "run"))
    assert sum(each["attempts"] for each in by_agent) == sum(each["attempts"] for each in by_run)


def test_costs_are_written_for_spreadsheets(callboard: Callboard, asked: str) -> None:
    done = callboard("costs", "--by", "run", "--run", asked, "--csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["run"], row["calls"], row["failed"]) == (asked, "1", "0")
    assert Decimal(row["cost_XTS"]) > 0


def test_costs_are_shown(callboard: Callboard, asked: str) -> None:
    shown = callboard("costs", "--agent", "writer", "--days", "7").stdout
    for word in ("calls", "attempts", "success", "latency", "100%", "XTS (demo)"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("costs", "--since", "yesterday"), "a day is written as 2030-12-31"),
        (("costs", "--days", "3", "--since", "2030-01-01"), "--since says already"),
        (("costs", "--csv", "--json"), "choose one of them"),
        (("costs", "--by", "week"), "'week' is not one of"),
        (("reprice", "--config", "nowhere.toml"), "nowhere.toml"),
        (("reprice", "--config", "broken.toml"), "input"),
        (("reprice", "--since", "2030-01-02", "--until", "2030-01-01"), "it is behind --until"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_a_report_that_makes_no_sense_is_refused(
    callboard: Callboard, environ: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    (Path(environ["PWD"]) / "broken.toml").write_text('[prices."openai/gpt-5"]\ninput = "cheap"\noutput = 1\n')
    done = callboard(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_history_is_told_at_other_prices_and_stays_as_it_is(
    callboard: Callboard, environ: dict[str, str], asked: str
) -> None:
    (Path(environ["PWD"]) / "dearer.toml").write_text('[prices."openai/gpt-5"]\ninput = 100\noutput = 1\n')
    before = read(callboard, "costs", "--by", "model")
    report = read(callboard, "reprice", "--by", "model", "--config", "dearer.toml")
    assert " + " in report["prices"]
    (group,) = report["groups"]
    assert group["attempts"] == sum(each["attempts"] for each in before)
    assert group["repriced"] == group["recorded"]  # a stand-in's prices are its own
    assert "Nothing that was recorded has been changed" in callboard("reprice").stdout
    assert read(callboard, "costs", "--by", "model") == before
