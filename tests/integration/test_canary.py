"""Keys planted where keys get to by accident occur nowhere afterwards: not in the log, its blobs and read models, not
in what processes log, and not in what the commands show.
"""

import json
from pathlib import Path

import asyncpg

from tests.cli_kit import Callboard, command_in, environment, until, up
from tests.conftest import run
from tests.fake_provider import KEY, Play, failing
from tests.forking import Forks
from tests.process_kit import provider
from tests.servers import Servers

CANARY = "c4nary/7f3a+9b2e51"  # known by the name of its variable
FORM = "ghp_c4nary0123456789abcdefghijklmnop"  # known by its form
SECRETS = (CANARY, FORM, KEY)

APP = f'''
import logging
import os

from callboard import Actor, Context, errors, tool

log = logging.getLogger("shop")
FORM = "{FORM}"


@tool(idempotent=True)
async def buy(key: str, headers: dict[str, str]) -> str:
    return "bought"


class Shop(Actor):
    """Lets keys get to where they should not be."""

    model = "openai/gpt-4o-mini"
    stream = True

    async def handle(self, topic: str, ctx: Context) -> str:
        key = os.environ["SHOP_API_KEY"]
        log.warning("the keys are %s and %s", key, FORM)
        try:
            await ctx.step(self.break_with, key)
        except errors.StepFailed as error:
            log.exception("it broke: %s", error)
        await ctx.tool(buy, key=key, headers={{"Authorization": f"Bearer {{FORM}}"}})
        try:
            await ctx.model(f"They told me {{key}} and {{FORM}}: what now?", stream=False)
        except errors.ModelFailed as error:
            log.warning("no answer: %s", error)
        answer = await ctx.model(f"My keys are\\n{{key}}\\n{{FORM}}\\nand nothing else.")
        raise ValueError(f"in vain, with {{key}}: {{answer.text}}")

    def break_with(self, key: str) -> None:
        url = f"postgresql://ann:{{key}}@db/shop"
        raise LookupError(f"no {{url}} and no {{FORM}}")
'''


def stored(database_url: str) -> dict[str, str]:
    """All rows of all tables, as text."""
    rows: dict[str, str] = {}

    async def fetch() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            for (table,) in await connection.fetch("select tablename from pg_tables where schemaname = 'public'"):
                rows[table] = "\n".join(repr(tuple(row)) for row in await connection.fetch(f"select * from {table}"))
        finally:
            await connection.close()

    run(fetch())
    return rows


def shown(callboard: Callboard, actor: str) -> dict[str, str]:
    """What the commands show of the last run."""
    commands = [
        ("run", "last"),
        ("replay", "last", "--bodies"),
        ("replay", "last", "--bodies", "--json"),
        ("events", actor, "--bodies"),
        ("audit", "last"),
        ("doctor",),
    ]
    done = {" ".join(command): callboard(*command) for command in commands}
    return {command: it.stdout + it.stderr for command, it in done.items()}


def test_planted_keys_occur_nowhere(servers: Servers, forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with provider() as there, environment(servers, tmp_path) as made:
        environ = made | there.env | {"SHOP_API_KEY": CANARY, "CALLBOARD_LOG_LEVEL": "DEBUG"}
        callboard = command_in(environ, forks)
        quoted = f"Incorrect API key provided: {KEY}. You sent {CANARY} and {FORM}."
        there.play(failing(401, quoted), Play(echo=True))
        with up(environ, "shop.py", "--in-process", ready="ready: serves shop") as log:
            sent = callboard("send", "shop", "tides", "--wait")
            assert "in vain" in sent.stderr, sent.stderr + log.read_text()
            (receipt,) = json.loads(callboard("tasks", "--json").stdout)
            told = shown(callboard, f"shop/{receipt['key']}")
            until(lambda: "ValueError" in log.read_text())
            places = told | stored(environ["CALLBOARD_DATABASE_URL"]) | {"send": sent.stdout + sent.stderr}
            places["log"] = log.read_text()

        went_out = there.text()
        assert all(secret in went_out for secret in SECRETS), "the keys were not even used"
        assert {"events", "blobs", "tasks", "audit"} <= set(places)
        for secret in SECRETS:
            assert {place for place, text in places.items() if secret in text} == set(), secret
        assert "it broke: " in places["log"]
        assert "LookupError: no postgresql://ann:[redacted]@db/shop" in places["log"]
        assert "My keys are" in places["blobs"] + places["events"]
        assert "[redacted]" in places["events"]
