"""Calls of tools that wait until a person says so, from outside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from callboard.actors.tools.policy import call_digest
from tests.cli_kit import Callboard, command_in, environment, read, until
from tests.fake_provider import Play, Tool
from tests.forking import Forks
from tests.process_kit import Processes, Provider, processes, provider
from tests.servers import Servers

APP = '''
from pathlib import Path

from callboard import Actor, Context, ToolPolicy, tool

@tool(parallel=True)
def mail(to: str, text: str) -> str:
    """Send a mail."""
    with Path("done").open("a") as done:
        done.write(f"mail to {to}\\n")
    return f"sent to {to}"

@tool()
def wire(amount: int) -> str:
    """Send money."""
    with Path("done").open("a") as done:
        done.write(f"wire {amount}\\n")
    return f"{amount} sent"

class Clerk(Actor):
    """Does what a model thinks right, if somebody agrees."""
    model = "openai/gpt-4o-mini"
    tools = (mail, wire)
    tool_policy = (
        ToolPolicy(action="allow", tool="mail", arguments={"to": "*@ours.example"}),
        ToolPolicy(action="approve", tool="mail", note="it leaves the house"),
    )

    async def handle(self, order: str, ctx: Context) -> str:
        return (await ctx.run_tools(order)).text
'''
CONFIG = """
[[tools.policies]]
tool = "wire"
action = "approve"
note = "the bank wants two pairs of eyes"
"""


class Office(NamedTuple):
    """The app, served by one process; files of what its tools have done."""

    callboard: Callboard
    provider: Provider
    processes: Processes
    folder: Path

    def order(self, *calls: Tool) -> Any:
        """Have the model call these tools in its next turn, and end after that; gives what waits for approval then."""
        self.provider.play(Play(text="", tools=list(calls)), Play(text="That was all."))
        run = read(self.callboard, "send", "clerk", "Do it.")["run"]
        return until(lambda: read(self.callboard, "approvals", "--run", run))

    def result(self, run: str) -> Any:
        """What the run gives, once it has ended."""
        found = until(lambda: report if (report := read(self.callboard, "run", run))["run"]["ended_at"] else None)
        return found["result"]

    def told(self) -> list[str]:
        """What the model was told of its last turn's calls."""
        messages = self.provider.seen()[-1].body["messages"]
        return [each["content"] for each in messages if each["role"] == "tool"]

    def done(self) -> list[str]:
        """What the tools have done since this was asked last."""
        file = self.folder / "done"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture(scope="module")
def office(servers: Servers, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    (folder / "app.py").write_text(APP)
    (folder / "callboard.toml").write_text(CONFIG)
    with provider() as there, environment(servers, folder) as made:
        environ = made | there.env | {"CALLBOARD_CONFIG": str(folder / "callboard.toml")}
        with processes(forks, environ, "app.py") as serving:
            serving.start("a")
            yield Office(command_in(environ, forks), there, serving, folder)


def mail(to: str, id_: str = "call_1") -> Tool:
    return Tool("mail", json.dumps({"to": to, "text": "Hello."}), id_)


def test_a_call_waits_until_somebody_approves_just_this_call(office: Office) -> None:
    (waiting,) = office.order(mail("ann@else.example"))
    assert (waiting["subject"], waiting["tool"], waiting["note"]) == ("tool", "mail", "mail: it leaves the house")
    assert waiting["arguments"] == {"to": "ann@else.example", "text": "Hello."}
    assert waiting["digest"] == call_digest("mail", waiting["arguments"])
    assert "ann@else.example" in office.callboard("approvals").stdout
    doctor = office.callboard("doctor", "--json")
    (finding,) = json.loads(doctor.stdout)["findings"]
    assert (doctor.returncode, finding["task"]) == (1, waiting["task"])
    assert f"callboard approve {waiting['task']}" in finding["help"]
    assert office.done() == []

    decided = read(office.callboard, "approve", waiting["task"], "--by", "bob")
    assert (decided["approved"], decided["by"], decided["digest"]) == (True, "bob", waiting["digest"])
    assert office.result(waiting["run"]) == "That was all."
    assert office.done() == ["mail to ann@else.example"]
    assert office.told() == ["sent to ann@else.example"]
    assert "bob" in office.callboard("audit", waiting["run"]).stdout
    assert read(office.callboard, "approvals") == []
    assert office.callboard("doctor").returncode == 0


def test_a_denial_tells_the_model_why_and_nothing_is_done(office: Office) -> None:
    (waiting,) = office.order(Tool("wire", '{"amount": 500}'))
    assert waiting["note"] == "wire: the bank wants two pairs of eyes"
    denied = read(office.callboard, "deny", waiting["task"], "--reason", "not on a Friday", "--by", "bob")
    assert denied["approved"] is False
    assert office.result(waiting["run"]) == "That was all."
    assert office.done() == []
    (told,) = office.told()
    assert "bob said no. not on a Friday" in told


def test_an_approval_is_given_while_nobody_serves(office: Office) -> None:
    (waiting,) = office.order(Tool("wire", '{"amount": 7}'))
    office.processes.kill("a")
    assert office.callboard("approve", waiting["task"][-8:]).returncode == 0
    assert office.done() == []
    office.processes.start("a")
    assert office.result(waiting["run"]) == "That was all."
    assert office.done() == ["wire 7"]


def test_of_several_calls_each_is_decided_by_itself(office: Office) -> None:
    waiting = office.order(mail("ann@else.example"), mail("bob@ours.example", "call_2"), mail("eve@bad.example", "c3"))
    waiting = until(
        lambda: it if len(it := read(office.callboard, "approvals", "--run", waiting[0]["run"])) == 2 else 0
    )
    steps = {each["arguments"]["to"]: each["step"] for each in waiting}
    assert set(steps) == {"ann@else.example", "eve@bad.example"}
    task = waiting[0]["task"]
    which = office.callboard("approve", task)
    assert which.returncode == 2
    assert all(step in which.stderr for step in steps.values())
    assert office.callboard("approve", task, "--step", steps["ann@else.example"]).returncode == 0
    assert (
        office.callboard("deny", task, "--step", steps["eve@bad.example"], "--reason", "who is that?").returncode == 0
    )
    assert office.result(waiting[0]["run"]) == "That was all."
    assert sorted(office.done()) == ["mail to ann@else.example", "mail to bob@ours.example"]
    assert [told.partition(":")[0] for told in office.told()] == [
        "sent to ann@else.example",
        "sent to bob@ours.example",
        "NotApproved",
    ]


@pytest.mark.parametrize("command", ["approve", "deny"])
def test_what_waits_for_nobody_can_t_be_decided(office: Office, command: str) -> None:
    office.provider.play(Play(text="Nothing to do."))
    sent = json.loads(office.callboard("send", "clerk", "Wait.", "--json").stdout)
    office.result(sent["run"])
    done = office.callboard(command, sent["task"])
    assert done.returncode == 2
    assert f"Task '{sent['task']}' waits for nobody's approval: it has ended, completed" in " ".join(
        done.stderr.split()
    )
    unknown = office.callboard(command, "0123456789")
    assert unknown.returncode == 2
    assert "0123456789" in unknown.stderr
