"""What a person has to approve first: a step of the task's, which ends with their decision."""

from typing import Any

from callboard.actors.log.values import store_value
from callboard.actors.task.attempt import Attempt
from callboard.protocols import events as e
from callboard.protocols.errors import NotApproved
from callboard.protocols.redaction import redact_json
from callboard.protocols.values import encode_value


async def approval(
    work: Attempt, step: str, subject: e.Subject, digest: str, note: str, *, tool: str = "", arguments: Any = None
) -> None:
    """Return when a person has approved what has this digest. Raises NotApproved if they say no, also on a replay."""
    record = work.fold.steps.get(step)
    if record is None or record.again:
        encoded = None if arguments is None else encode_value(arguments, f"the arguments of {tool}")
        stored = None if encoded is None else await store_value(work.store, redact_json(encoded))
        work.write(
            e.ApprovalRequested(
                step=step,
                fingerprint=digest[:16],
                subject=subject,
                digest=digest,
                note=note,
                tool=tool,
                arguments=stored,
            )
        )
    if not work.fold.steps[step].done:
        with work.step(step):
            await work.wait(step)
    decided = work.fold.steps[step].result
    assert isinstance(decided, e.ApprovalDecided)
    if not decided.approved:
        raise NotApproved(note, decided.by, decided.reason, step)
