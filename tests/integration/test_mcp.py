"""MCP servers as tools: real ones from PyPI, one of our own over streamable HTTP, and some that misbehave."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callboard import Actor, Context
from callboard.actors.tools.mcp import McpSessions, tool_name
from callboard.actors.tools.mcp_server import McpServer, preset
from callboard.actors.tools.registry import RegisteredTool, ToolInfo, Tools
from callboard.config import Config
from callboard.protocols import events as e
from callboard.protocols.errors import BadName, InvalidArguments, McpFailed, OutcomeUnknown, UnknownMcpServer
from callboard.testing import ScriptedModels, spec
from tests.actor_kit import bodies, worker
from tests.host_kit import becomes, stage

TROUBLEMAKER = str(Path(__file__).parents[1] / "mcp_troublemaker.py")
NONSENSE = str(Path(__file__).parents[1] / "mcp_nonsense.py")


def troublemaker(mode: str = "stdio", **options: Any) -> McpServer:
    return McpServer(command=sys.executable, args=(TROUBLEMAKER, mode), **options)


def nonsense(mode: str, **options: Any) -> McpServer:
    return McpServer(command=sys.executable, args=(NONSENSE, mode), **options)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "play.txt").write_text("Act one.\n")
    subprocess.run([*git, "add", "play.txt"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "Begin the play"], check=True)
    return tmp_path


@pytest.fixture
async def sessions() -> AsyncIterator[McpSessions]:
    """The troublemaker over stdio, as "it"."""
    secret = {"SESAME": "sesame-12345"}
    async with McpSessions({"it": troublemaker(env=secret, call_s=20)}) as opened:
        yield opened


async def tool_of(sessions: McpSessions, name: str, server: str = "it") -> RegisteredTool:
    return Tools(await sessions.tools(server)).get(tool_name(server, name))


async def call(sessions: McpSessions, name: str, server: str = "it", **arguments: Any) -> Any:
    tool = await tool_of(sessions, name, server)
    assert tool.function is not None
    return await tool.function(**tool.decode(msgspec.json.encode(arguments).decode()))


# -- real servers -------------------------------------------------------------------------------------------------


def agent(*tools: str) -> type[Actor]:
    async def todo(payload: Any, ctx: Context) -> str:
        return (await ctx.run_tools(str(payload))).text

    return worker(todo, model="m", tools=tools)


async def test_an_actor_s_model_uses_the_real_time_and_git_servers(repository: Path) -> None:
    zones = {"source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "Etc/UTC"}
    path = {"repo_path": str(repository)}
    script = [
        [("time__convert_time", zones), ("git__git_log", path)],
        [("git__git_create_branch", {**path, "branch_name": "x"})],
        "All done.",
    ]
    servers = {"time": preset("time"), "git": preset("git", repository=str(repository))}
    async with spec(agent("time", "git__git_*"), models=script, mcp=servers) as play:
        sent = await play.send("worker", "When, and what?")
        await play.until("approval.requested", within_s=60)
        [looked_up] = bodies(play.log, e.StepCompleted)
        offered = [info["name"] for infos in load(looked_up.result) for info in infos]
        assert {"time__convert_time", "git__git_log", "git__git_commit"} <= set(offered)
        done = {body.tool: body for body in bodies(play.log, e.ToolCompleted)}
        time, log = done["time__convert_time"], done["git__git_log"]
        assert '"time_difference": "-9.0h"' in load(time.result)
        assert "Begin the play" in load(log.result)
        assert (time.untrusted, log.untrusted) == (False, True)
        [asked] = bodies(play.log, e.ApprovalRequested)  # what others committed came before it
        assert asked.tool == "git__git_create_branch"
        decision = {"by": "ann", "outcome": "approve", "digest": asked.digest}
        await play.send(sent.actor, decision, kind="decision", task=sent.task, run=sent.run, step=asked.step)
        await play.until("task.completed", within_s=60)
        assert await play.result(sent) == "All done."
    assert (repository / ".git/refs/heads/x").exists()


async def test_a_task_goes_on_with_the_tools_that_it_had_though_their_server_is_gone() -> None:
    script = [[("it__add", {"a": 1, "b": 2})], [("it__add", {"a": 3, "b": 4})], "Well."]
    async with spec(agent("it__add"), models=script, mcp={"it": troublemaker()}) as play:
        await play.send("worker", "Add.")
        await play.until("task.completed", within_s=60)
        log, blobs = list(play.log), dict(play.store._blobs)
    cut = [it.type for it in log].index("tool.completed") + 1
    async with spec(agent("it__add"), models=script[1:], mcp={"it": McpServer(command="no-such-program")}) as play:
        await play.store.put_blobs(list(blobs.values()))
        await play.given_log(log[:cut])
        await play.until("task.completed", within_s=60)
        assert play.types("worker").count("tool.requested") == 2
        assert play.models.calls[0].tools[0]["function"]["name"] == "it__add"
        assert [it["content"] for it in play.models.calls[1].messages if it["role"] == "tool"] == [
            "3",
            "McpFailed: MCP server 'it' can't be started: there is no 'no-such-program'.",
        ]


async def test_a_call_whose_outcome_is_unknown_waits_for_a_person_and_is_not_repeated(tmp_path: Path) -> None:
    script = [[("it__note_and_die", {"file": str(tmp_path / "notes")})], "Well."]
    async with spec(agent("it"), models=script, mcp={"it": troublemaker(untrusted=False)}) as play:
        await play.send("worker", "Note it.")
        await play.until("tool.outcome_unknown", within_s=60)
        assert play.types("worker")[-2:] == ["tool.requested", "tool.outcome_unknown"]
        await play.crash()
        assert play.types("worker")[-1] in ("tool.outcome_unknown", "task.resumed")
    assert (tmp_path / "notes").read_text() == "called\n"


CONFIG = """
[mcp.it]
command = "{python}"
args = ["{troublemaker}", "stdio"]

[[tools.policies]]
tool = "it__environment"
action = "deny"
note = "it is nobody's business"
"""


async def test_a_process_uses_the_servers_and_policies_of_the_configuration(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "callboard.toml"
    config.write_text(CONFIG.format(python=sys.executable, troublemaker=TROUBLEMAKER))
    models = ScriptedModels([[("it__whoami", {}), ("it__environment", {"variable": "HOME"})], "Done."])
    monkeypatch.setattr(Config, "gateway", lambda _config, _model: models)
    async with stage(database_url, redis_url, agent("it"), config=config) as it:
        host = await it.host("a")
        [sent] = await it.client.send("worker", "Who is it?")
        assert await it.client.wait(sent) == "Done."
        pid, denied = (message["content"] for message in models.calls[1].messages if message["role"] == "tool")
        assert denied == "Denied: it is nobody's business"
        os.kill(int(pid), 0)
        await host.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def load(stored: e.Stored) -> Any:
    assert stored.inline is not msgspec.UNSET
    return msgspec.json.decode(bytes(stored.inline))


async def test_what_servers_say_of_their_tools_becomes_their_traits(repository: Path) -> None:
    servers = {"time": preset("time"), "git": preset("git", repository=str(repository))}
    async with McpSessions(servers) as sessions:
        tools = Tools([*await sessions.tools("time"), *await sessions.tools("git")])
    now, log, commit = (
        tools.get(name).traits for name in ("time__get_current_time", "git__git_log", "git__git_commit")
    )
    assert (now.writes, now.parallel, now.untrusted) == (False, True, False)
    assert (log.writes, log.parallel, log.untrusted) == (False, True, True)
    assert (commit.writes, commit.parallel, commit.idempotent, commit.untrusted) == (True, False, False, True)


# -- a server of our own over streamable HTTP ---------------------------------------------------------------------


class HttpServer:
    """The troublemaker over streamable HTTP."""

    def __init__(self) -> None:
        with closing(socket.socket()) as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> McpServer:
        return McpServer(url=f"http://127.0.0.1:{self.port}/mcp", connect_s=10, call_s=10)

    async def start(self) -> None:
        self._begin()
        await becomes(self._answers)

    def _begin(self) -> None:
        command = [sys.executable, TROUBLEMAKER, "http", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    async def _answers(self) -> bool:
        with closing(socket.socket()) as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def http() -> Iterator[HttpServer]:
    server = HttpServer()
    yield server
    server.stop()


async def test_a_server_over_http_is_used_and_after_its_restart_used_again(http: HttpServer) -> None:
    await http.start()
    async with McpSessions({"own": http.config}) as sessions:
        assert await call(sessions, "add", "own", a=1, b=2) == "3"
        first = await call(sessions, "whoami", "own")
        http.stop()
        await http.start()
        assert await call(sessions, "add", "own", a=2, b=2) == "4"
        assert await call(sessions, "whoami", "own") != first


async def test_a_call_that_can_not_have_reached_a_server_over_http_has_failed(http: HttpServer) -> None:
    await http.start()
    async with McpSessions({"own": http.config}) as sessions:
        fail = await tool_of(sessions, "fail", "own")
        http.stop()
        assert fail.function is not None
        for _ in range(2):
            with pytest.raises(McpFailed, match="MCP server 'own' can't be reached: All connection attempts failed"):
                await fail.function(why="it is away")


async def test_of_a_call_that_a_server_over_http_died_in_it_is_not_known_whether_it_happened(
    http: HttpServer, tmp_path: Path
) -> None:
    await http.start()
    async with McpSessions({"own": http.config}) as sessions:
        with pytest.raises(
            OutcomeUnknown, match="'own__note_and_die' did what it was called for is not known: MCP serv"
        ):
            await call(sessions, "note_and_die", "own", file=str(tmp_path / "notes"))
    assert (tmp_path / "notes").read_text() == "called\n"


async def test_a_page_that_is_no_mcp_server_is_told_from_one(http: HttpServer) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    page = await asyncio.start_server(answer, "127.0.0.1", http.port)
    async with page, McpSessions({"own": http.config}) as sessions:
        with pytest.raises(McpFailed, match="MCP server 'own' answers with HTTP status 403"):
            await sessions.tools("own")


# -- sessions -----------------------------------------------------------------------------------------------------


async def test_a_session_is_kept_open_and_calls_share_it(sessions: McpSessions) -> None:
    assert repr(sessions) == "McpSessions(it: closed)"
    pids = await asyncio.gather(*(call(sessions, "whoami") for _ in range(5)))
    assert len(set(pids)) == 1
    assert repr(sessions) == "McpSessions(it: open)"


async def test_a_server_that_died_between_two_calls_is_started_again(sessions: McpSessions) -> None:
    first = await call(sessions, "whoami")
    os.kill(int(first), signal.SIGKILL)
    await becomes(_closed(sessions))
    assert await call(sessions, "whoami") != first


async def test_what_a_server_listed_is_known_while_it_is_away(sessions: McpSessions) -> None:
    assert sessions.known() == ()
    pid = await call(sessions, "whoami")
    os.kill(int(pid), signal.SIGKILL)
    await becomes(_closed(sessions))
    assert "it__add" in [info.name for info in sessions.known()]
    assert [info.name for info in await sessions.infos("it")] == [info.name for info in sessions.known()]
    assert repr(sessions) == "McpSessions(it: closed)"


async def test_a_tool_that_is_known_from_the_log_is_called_without_a_listing(sessions: McpSessions) -> None:
    add = await tool_of(sessions, "add")
    stored = msgspec.json.encode(add.info)
    async with McpSessions({"it": troublemaker()}) as others:
        bound = others.bind(msgspec.json.decode(stored, type=ToolInfo))
        assert bound.function is not None
        assert repr(others) == "McpSessions(it: closed)"
        assert await bound.function(a=2, b=3) == "5"


async def test_leaving_ends_the_servers() -> None:
    async with McpSessions({"it": troublemaker()}) as opened:
        pid = int(await call(opened, "whoami"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_canceled_caller_leaves_the_session_to_the_others(sessions: McpSessions) -> None:
    pid = await call(sessions, "whoami")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await call(sessions, "wait", seconds=60)
    assert await call(sessions, "whoami") == pid


async def test_a_server_is_given_its_variables_and_none_of_ours(
    sessions: McpSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ours")
    assert await call(sessions, "environment", variable="SESAME") == "sesame-12345"
    assert await call(sessions, "environment", variable="OPENAI_API_KEY") == "(not set)"


async def test_secrets_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = troublemaker(env={"SESAME": "Bearer ${OUR_SESAME}"})
    async with McpSessions({"it": server}) as opened:
        with pytest.raises(McpFailed, match="'it' needs the environment's variable OUR_SESAME, which isn't set"):
            await opened.tools("it")
        monkeypatch.setenv("OUR_SESAME", "open-up")
        assert await call(opened, "environment", variable="SESAME") == "Bearer open-up"


def _closed(sessions: McpSessions) -> Any:
    async def closed() -> bool:
        return "closed" in repr(sessions)

    return closed


# -- names and choice ---------------------------------------------------------------------------------------------


async def test_names_fit_all_providers_and_stay_apart() -> None:
    async with McpSessions({"it": troublemaker("odd", allow=("odd*",))}) as opened:
        [odd] = await opened.infos("it")
        assert len(odd.name) == 64
        assert odd.name.startswith("it__odd_name_with_too_many_characters_in_it__xxxx")
        assert await call(opened, odd.origin.partition("/")[2]) == "odd"
    assert len({tool_name("it", name) for name in ("a.b", "a_b", "a/b", "x" * 80, "x" * 81)}) == 5


async def test_only_what_is_wanted_is_listed_for_the_roles_named() -> None:
    server = troublemaker(allow=("*d*",), deny=("note*", "odd*"), read_only=("die*",), roles=("planner",))
    async with McpSessions({"it": server}) as opened:
        assert [tool.name for tool in await opened.tools("it", "planner")] == ["it__add", "it__die_once"]
        assert await opened.tools("it", "writer") == ()
        assert not (await tool_of(opened, "die_once")).traits.writes


async def test_without_trust_in_its_hints_all_of_a_server_s_tools_write() -> None:
    async with McpSessions({"it": troublemaker(trust_hints=False, untrusted=False)}) as opened:
        traits = (await tool_of(opened, "add")).traits
    assert (traits.writes, traits.idempotent, traits.untrusted) == (True, False, False)


async def test_an_unknown_server_and_an_illegal_name_are_errors_that_say_what_is_allowed(sessions: McpSessions) -> None:
    with pytest.raises(UnknownMcpServer, match=r"no MCP server 'that' in the configuration. There are it"):
        await sessions.tools("that")
    with pytest.raises(BadName, match="'a__b' is not a legal name of an MCP server"):
        McpSessions({"a__b": troublemaker()})


# -- what servers do wrong ----------------------------------------------------------------------------------------


async def test_a_tool_s_own_error_is_told_in_its_words(sessions: McpSessions) -> None:
    with pytest.raises(McpFailed, match=r"MCP server 'it' says that fail failed: .*no paper"):
        await call(sessions, "fail", why="no paper")


async def test_arguments_are_checked_before_the_server_is_asked(sessions: McpSessions) -> None:
    with pytest.raises(InvalidArguments, match="'it__add' can't take these arguments: 'b' is a required property"):
        await call(sessions, "add", a=1)


async def test_of_a_call_that_a_server_died_in_it_is_not_known_whether_it_happened(
    sessions: McpSessions, tmp_path: Path
) -> None:
    with pytest.raises(OutcomeUnknown) as error:
        await call(sessions, "note_and_die", file=str(tmp_path / "notes"))
    assert "MCP server 'it' went away in the middle of the call. Its last words: out of memory" in str(error.value)
    assert "sesame-12345" not in str(error.value)
    assert (tmp_path / "notes").read_text() == "called\n"


async def test_what_may_be_called_twice_is_called_again_when_its_server_died(
    sessions: McpSessions, tmp_path: Path
) -> None:
    assert await call(sessions, "die_once", file=str(tmp_path / "notes")) == "the second time"
    assert (tmp_path / "notes").read_text() == "called\ncalled\n"


async def test_a_call_that_takes_too_long_has_an_unknown_outcome_unless_it_only_reads() -> None:
    async with McpSessions(
        {"it": troublemaker(call_s=1.5), "strict": troublemaker(call_s=1.5, trust_hints=False)}
    ) as two:
        with pytest.raises(McpFailed, match=r"MCP server 'it' gave no answer within 1\.5 s"):
            await call(two, "wait", seconds=60)
        with pytest.raises(OutcomeUnknown, match=r"MCP server 'strict' gave no answer within 1\.5 s"):
            await call(two, "wait", "strict", seconds=60)


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (McpServer(command="no-such-program"), "can't be started: there is no 'no-such-program'."),
        (nonsense("exits", env={"S": "sesame-12345"}), "went away. Its last words: no license for ***"),
        (nonsense("silent", connect_s=1), "gave no answer within 1 s."),
        (
            nonsense("garbage", connect_s=2),
            "gave no answer within 2 s, and wrote 2 lines that are no messages of MCP",
        ),
        (nonsense("many-pages"), "lists its tools on more than 100 pages."),
        (nonsense("wrong-listing"), "doesn't speak MCP (ValidationError)."),
        (McpServer(url="http://127.0.0.1:9/mcp"), "can't be reached: All connection attempts failed."),
    ],
    ids=lambda value: str(value) if isinstance(value, McpServer) else value[:20],
)
async def test_a_server_that_can_not_be_used_is_named_with_the_reason(
    server: McpServer, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with McpSessions({"it": server}) as opened:
        with pytest.raises(McpFailed) as error:
            await opened.tools("it")
    assert str(error.value).startswith(f"MCP server 'it' {says}")
    assert "sesame" not in caplog.text
    assert "Welcome" not in caplog.text


async def test_a_tool_that_can_not_be_used_is_left_out_and_the_others_are_offered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with McpSessions({"it": nonsense("bad-schema", call_s=20)}) as opened:
        assert [tool.name for tool in await opened.tools("it")] == ["it__good"]
    assert "a tool is left out: Tool 'it__odd' can't be used: its parameters" in caplog.text
    assert "a tool is left out: the schema of 'deep' is nested more than 200 levels deep" in caplog.text


async def test_an_answer_that_is_none_leaves_the_outcome_unknown() -> None:
    async with McpSessions({"it": nonsense("wrong-answers")}) as opened:
        with pytest.raises(OutcomeUnknown, match=r"MCP server 'it' gave an answer that is none \(ValidationError\)"):
            await call(opened, "odd")


async def test_one_server_s_trouble_is_not_another_s(sessions: McpSessions, tmp_path: Path) -> None:
    async with McpSessions({"good": troublemaker(), "bad": nonsense("exits")}) as two:
        with pytest.raises(McpFailed, match="'bad' went away"):
            await two.tools("bad")
        assert await call(two, "add", "good", a=1, b=1) == "2"
