"""One call of `ctx.model`: the attempts at it, each of them two events, until one model of the chain answers."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from actors.fold import StepRecord
from actors.models import ChatMessage, ModelReply, Prompt, chat
from actors.steps import fingerprint
from actors.values import load_value, store_value
from protocols import events as e
from protocols.errors import ModelFailed, NoModel
from protocols.messages import ErrorInfo, encode_json

if TYPE_CHECKING:
    from actors.work import Work


async def call_model(
    work: "Work",
    step: str,
    record: StepRecord | None,
    prompt: Prompt,
    models: Sequence[str],
    parameters: Mapping[str, Any],
) -> ModelReply:
    """The recorded answer, or the first that a model of the chain gives. Raises ModelFailed, NoModel.

    Models that failed before (by the record) are not tried again; an attempt whose outcome was lost is.
    """
    if record is not None and isinstance(record.result, e.ModelCompleted):
        return await _recorded_reply(work, record.result)
    chain = work.cell.runtime.gateway.chain(models)
    if not chain:
        raise NoModel(work.definition.role)
    failed, attempts = (record.failures, record.attempt) if record is not None else (0, 0)
    messages = chat(prompt)
    mark = fingerprint((prompt, parameters))
    digests = await work.store.put_blobs([encode_json(message) for message in messages])
    last = record.error if record is not None else None
    for model in chain[failed:]:
        attempts += 1
        requested = e.ModelRequested(
            step=step,
            fingerprint=mark,
            attempt=attempts,
            model=model,
            messages=tuple(digests),
            parameters=parameters,
        )
        try:
            return await _attempt(work, requested, messages)
        except ModelFailed as error:
            last = ErrorInfo(type=error.type, message=error.message)
    assert last is not None
    raise ModelFailed(chain[-1], last.type, last.message)


async def _attempt(work: "Work", requested: e.ModelRequested, messages: Sequence[ChatMessage]) -> ModelReply:
    step, attempt, model = requested.step, requested.attempt, requested.model
    work.write(requested)
    await work.cell.journal.durable()
    begun = time.monotonic()
    with work.effect():
        try:
            reply = await work.cell.runtime.gateway.complete(model, messages, requested.parameters)
        except ModelFailed as error:
            info = ErrorInfo(type=error.type, message=error.message)
            duration_ms = round((time.monotonic() - begun) * 1000)
            work.write(e.ModelFailed(step=step, attempt=attempt, model=model, error=info, duration_ms=duration_ms))
            raise
        duration_ms = round((time.monotonic() - begun) * 1000)
        text = await store_value(work.store, encode_json(reply.text))
        completed = e.ModelCompleted(
            step=step,
            attempt=attempt,
            model=reply.model,
            text=text,
            usage=reply.usage,
            cost=reply.cost,
            finish_reason=reply.finish_reason,
            duration_ms=duration_ms,
            stand_in=reply.stand_in,
        )
        work.write(completed)
    return reply


async def _recorded_reply(work: "Work", completed: e.ModelCompleted) -> ModelReply:
    return ModelReply(
        text=msgspec.json.decode(await load_value(work.store, completed.text), type=str),
        model=completed.model,
        usage=completed.usage,
        cost=completed.cost,
        finish_reason=completed.finish_reason,
        stand_in=completed.stand_in,
    )
