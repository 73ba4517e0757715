"""What the demo tells at its end: the timeline, the costs, the proof, and where to look further."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from callboard.bootstrap import pid_in
from callboard.cli.words import count, duration, model_word, money, one_line, short
from callboard.demo import timeline
from callboard.demo.proof import Proof, Resumption
from callboard.demo.run import Outcome
from callboard.demo.timeline import Lane

MIN_BAR, MAX_BAR = 20, 60  # characters
GAP = 2  # between columns
RESUMED_SHOWN = 8


def epilogue(outcome: Outcome, width: int) -> RenderableType:
    """All of it, for a terminal of so many characters a line."""
    parts = (
        _heading(outcome),
        _timeline(outcome, width),
        _costs(outcome),
        _verdict(outcome),
        Text("\n".join(_where_to_look(outcome))),
    )
    return Group(*(each for part in parts for each in (part, Text())))


def _heading(outcome: Outcome) -> Text:
    summary = outcome.summary
    text = Text()
    text.append(f"{count(summary.findings, 'finding')} in {count(summary.files, 'file')}", "bold")
    text.append(f" of {outcome.tree}")
    if summary.skipped:
        text.append(f" ({count(summary.skipped, 'file')} not reviewed)")
    text.append(f", {count(summary.comments, 'comment')} by {model_word(outcome.model)}\n")
    text.append(
        f"{duration(outcome.run_s)} for the run, {duration(outcome.total_s)} with the start of all processes; "
        f"{count(outcome.proof.tasks, 'task')}, {count(outcome.proof.events, 'event')}"
    )
    return text


def _timeline(outcome: Outcome, width: int) -> Table:
    """A bar for each process: the higher, the more tasks it had at work."""
    lanes = outcome.lanes
    end = max((until for lane in lanes for _, until in lane.spans), default=0.0)
    names = [_who(lane, outcome) for lane in lanes]
    length = min(MAX_BAR, max(MIN_BAR, width - max(map(len, names), default=0) - GAP))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column("who was at work", no_wrap=True)
    table.add_column(f"0 s{duration(end):>{length - 3}}", no_wrap=True)
    for lane, name, bar in zip(lanes, names, timeline.bars(lanes, length), strict=True):
        table.add_row(name, Text(bar, "red" if _was_killed(lane, outcome) else "cyan"))
    return table


def _who(lane: Lane, outcome: Outcome) -> str:
    return _name(lane.process) + (", killed" if _was_killed(lane, outcome) else "")


def _name(process: str) -> str:
    return f"{process.partition('@')[0]} (pid {pid_in(process)})"


def _was_killed(lane: Lane, outcome: Outcome) -> bool:
    return outcome.killed is not None and pid_in(lane.process) == outcome.killed.pid


def _costs(outcome: Outcome) -> RenderableType:
    if not outcome.costs:
        return Text("no model was asked")
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("model costs of")
    for column in ("calls", "failed", "tokens", "cost"):
        table.add_column(column, justify="right")
    for row in outcome.costs:
        table.add_row(
            row.role, f"{row.calls:,}", f"{row.failed:,}", f"{row.tokens:,}", money(row.amounts, row.unpriced)
        )
    return table


def _verdict(outcome: Outcome) -> Text:
    proof, killed = outcome.proof, outcome.killed
    text = Text()
    if killed is not None:
        text.append(
            f"{killed.process} (pid {killed.pid}) was killed with SIGKILL {duration(killed.at_s)} into the demo.\n"
        )
    for line in _resumed(proof):
        text.append(f"{line}\n")
    if killed is not None and not proof.resumed:
        text.append("It had no task whose claim was in the log: what it had read went to another process as new.\n")
    if proof.holds:
        text.append("Proved from the log: ", "bold green")
        text.append(
            f"each of {count(proof.outcomes, 'step')} of {count(proof.tasks, 'task')} has exactly one outcome; "
            "no recorded step ran twice, and nothing is left undone."
        )
    else:
        text.append("The log does not show what it should: ", "bold red")
        text.append(
            f"twice: {', '.join(proof.repeated) or 'nothing'}; not ended: {', '.join(proof.unended) or 'nothing'}"
        )
    return text


def _resumed(proof: Proof) -> Iterator[str]:
    """The tasks that went on after the kill, and what became of their steps."""
    if proof.resumed:
        again = sum(len(each.in_flight) for each in proof.resumed)
        yield (
            f"{count(len(proof.resumed), 'task')} went on behind the last recorded step; "
            f"{count(again, 'step')} whose outcome was unknown ran again:"
        )
    for each in proof.resumed[:RESUMED_SHOWN]:
        yield f"  {short(each.actor)}, now in {_name(each.process)}: {_steps(each)}"
    if len(proof.resumed) > RESUMED_SHOWN:
        yield f"  and {len(proof.resumed) - RESUMED_SHOWN} more"


def _steps(resumed: Resumption) -> str:
    parts = (
        ("from the record", resumed.kept),
        ("again", resumed.in_flight),
        ("for the first time", resumed.after),
    )
    return "; ".join(f"{one_line(', '.join(steps), 60)} {how}" for how, steps in parts if steps) or "no steps"


def _where_to_look(outcome: Outcome) -> Iterator[str]:
    run = outcome.run[-8:]
    yield f"The report:                {outcome.summary.report}"
    yield f"Every step, as it went:    callboard replay {run}"
    yield f"The tasks and their costs: callboard run {run}"
    if outcome.proof.resumed:
        yield f"A task that was resumed:   callboard events {short(outcome.proof.resumed[0].actor)}"
