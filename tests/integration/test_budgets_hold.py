"""A budget holds whoever calls at the same time, whoever is killed meanwhile, and whatever is delivered again."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from callboard.actors.outside.client import Sent
from callboard.eventstore.ledger import Ledger
from callboard.eventstore.ledger_tables import check_ledger
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, entry_of
from callboard.protocols.ledger import Account
from tests.cli_kit import Callboard, command_in, environment, read, until
from tests.fake_provider import Play
from tests.forking import Forks
from tests.process_kit import Processes, Provider, ended, forget, inside, log_of, processes, provider, send
from tests.servers import Servers

APP = '''
from callboard import Actor, Context

class Caller(Actor):
    """Asks a model once."""
    model = "openai/gpt-4o-mini"
    async def handle(self, number: int, ctx: Context) -> str:
        return (await ctx.model(f"Question {number}", max_tokens=1000)).text
'''
CONFIG = """
[prices."openai/gpt-4o-mini"]
input = 0
cached_input = 0
cache_write = 0
output = 50
"""
USAGE = {"prompt_tokens": 10, "completion_tokens": 1000, "total_tokens": 1010}  # $0.05, by the prices above
ANSWER = Play(text="Yes.", usage=USAGE)


class Company(NamedTuple):
    """Processes that call a model, on a budget of 1 USD."""

    environ: dict[str, str]
    callboard: Callboard
    provider: Provider
    processes: Processes

    def account(self) -> Any:
        """The budget's only account, as people see it."""
        (budget,) = read(self.callboard, "budgets")
        (account,) = budget["accounts"]
        return {name: Decimal(account[name]) for name in ("spent", "held", "lost", "left")}

    def outcomes(self, sent: Collection[Sent]) -> Counter[str]:
        """How many of these tasks end in which way: completed, or with which error."""
        ends = ended(self.environ, sent).values()
        return Counter("completed" if isinstance(it, e.TaskCompleted) else it.error.type for it in ends)

    def requested(self) -> int:
        """How many attempts are in the log."""
        return sum(it.type == "model.requested" for it in log_of(self.environ))

    def started(self) -> Counter[str]:
        """How many tasks each process has begun."""
        bodies = [body_of(it) for it in log_of(self.environ)]
        return Counter(body.process.partition("@")[0] for body in bodies if isinstance(body, e.TaskStarted))


@contextmanager
def company(servers: Servers, forks: Forks, folder: Path) -> Iterator[Company]:
    """Three processes, ready."""
    (folder / "app.py").write_text(APP)
    (folder / "callboard.toml").write_text(CONFIG)
    with provider() as there, environment(servers, folder) as made:
        there.otherwise(ANSWER)
        environ = made | there.env | {"CALLBOARD_CONFIG": str(folder / "callboard.toml")}
        with processes(forks, environ, "app.py") as serving:
            serving.start("a", "b", "c")
            it = Company(environ, command_in(environ, forks), there, serving)
            done = it.callboard("budgets", "set", "role", "caller", "1 USD", "--per", "ever")
            assert done.returncode == 0, done.stderr
            yield it


def accounts(log: Sequence[e.Event]) -> list[Account]:
    """The budget's account after each event that changes it. Raises BudgetExceeded where one was not to be admitted."""
    ledger, found = Ledger(), []
    for event in log:
        entry = (
            entry_of(body_of(event), event.stream, event.meta) if event.type.startswith(("model.", "budget.")) else None
        )
        if entry is not None:
            ledger.charge([entry], event.recorded_at)
            found += ledger.accounts.values()
    return found


def prove(it: Company, most: str) -> None:
    """Never was more committed than there was, and so much at the most; the tables say the same as the log."""
    found = accounts(log_of(it.environ))
    assert all(account.left >= 0 for account in found)
    assert max(account.committed for account in found) == Decimal(most)
    assert inside(it.environ, lambda stack: check_ledger(stack.store.pool)) == []


def test_of_a_hundred_calls_from_three_processes_a_budget_admits_just_as_many_as_it_can_pay(
    servers: Servers, forks: Forks, tmp_path: Path
) -> None:
    with company(servers, forks, tmp_path) as it:
        sent = send(it.environ, "caller", range(100))
        assert it.outcomes(sent) == {"completed": 20, "CallRefused": 80}
        assert set(it.started()) == {"a", "b", "c"}
        assert len(it.provider.seen()) == it.requested() == 20
        assert it.account() == {"spent": 1, "held": 0, "lost": 0, "left": 0}
        prove(it, most="1")


def test_what_a_killed_process_held_stays_counted_until_somebody_says_what_it_cost(
    servers: Servers, forks: Forks, tmp_path: Path
) -> None:
    with company(servers, forks, tmp_path) as it:
        it.provider.otherwise(Play(text="Yes.", usage=USAGE, silent_s=4))
        sent = send(it.environ, "caller", range(20))
        until(lambda: len(it.provider.seen()) == 20)
        ((busiest, calls),) = it.started().most_common(1)
        it.processes.kill(busiest)
        assert it.outcomes(sent) == {"completed": 20 - calls, "CallRefused": calls}
        lost = read(it.callboard, "budgets", "--holds")
        assert [each["state"] for each in lost] == ["lost"] * calls
        cents = Decimal("0.05") * calls
        assert it.account() == {"spent": 1 - cents, "held": 0, "lost": cents, "left": 0}

        it.provider.otherwise(ANSWER)
        for each in lost[:2]:  # nothing was charged for these
            done = it.callboard("budgets", "release", each["attempt"], "0", "--by", "ann")
            assert done.returncode == 0, done.stderr
        assert it.outcomes(send(it.environ, "caller", range(4))) == {"completed": 2, "CallRefused": 2}
        assert it.account() == {"spent": Decimal("1.1") - cents, "held": 0, "lost": cents - Decimal("0.1"), "left": 0}
        prove(it, most="1")


def test_what_is_delivered_again_costs_nothing_more(servers: Servers, forks: Forks, tmp_path: Path) -> None:
    with company(servers, forks, tmp_path) as it:
        it.outcomes(send(it.environ, "caller", range(10)))
        it.provider.otherwise(Play(text="Yes.", usage=USAGE, silent_s=1))
        sent = send(it.environ, "caller", range(5))
        until(lambda: len(it.provider.seen()) == 15)
        forget(it.environ)  # in mid-call
        it.processes.stop()
        sent += send(it.environ, "caller", range(10))
        forget(it.environ)  # nobody has them
        it.processes.start("d")
        assert it.outcomes(sent) == {"completed": 10, "CallRefused": 5}
        assert len(it.provider.seen()) == it.requested() == 20
        (role,) = read(it.callboard, "costs", "--by", "role")
        assert (role["amounts"], role["calls"], role["attempts"], role["refused"]) == ({"USD": "1"}, 20, 20, 5)
        assert it.account() == {"spent": 1, "held": 0, "lost": 0, "left": 0}
        prove(it, most="1")
