"""One call of `ctx.model`: its attempts, each recorded before and after, until one answers or nothing is left to try.

    conversation   what was said before, if the call remembers it, cut to the role's window
    cache          an answer that was given to the same call, if the role allows it
    each attempt   let in by the model's circuit breaker and its rates, admitted by every budget, made, recorded

What is tried next, after which failures, is `callboard.actors.models.failures.plan`: a function of the log, so that
another process goes on where this one ended. Every wait is a timer of the task.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from callboard.actors.log.model_replies import as_stored, completed_at, reply_of
from callboard.actors.log.values import load_value
from callboard.actors.models.call import Call, ChatMessage, ModelReply, Prompt, chat, free, storable
from callboard.actors.models.failures import AttemptFailed, plan, policy
from callboard.actors.models.history import about_tokens, shorten
from callboard.actors.models.structured import AnswerType, repair
from callboard.actors.state.policies import Cache
from callboard.actors.state.steps import fingerprint, ordered_fingerprint
from callboard.actors.task.approvals import approval
from callboard.actors.task.attempt import Attempt
from callboard.actors.task.cancellation import new_ground
from callboard.actors.task.conversation import conversation
from callboard.actors.task.function_calls import ms_since
from callboard.actors.task.pauses import finish_pauses, pause, pause_again, pauses_so_far
from callboard.protocols import events as e
from callboard.protocols.codec import digest
from callboard.protocols.errors import (
    BadAnswer,
    BudgetExceeded,
    CallRefused,
    ModelFailed,
    NoModel,
    NotAdmitted,
    NotApproved,
)
from callboard.protocols.ledger import Period, window_end
from callboard.protocols.live import Piece, Telling
from callboard.protocols.messages import encode_json, error_info

if TYPE_CHECKING:
    from callboard.actors.state.step_record import StepRecord

BUDGET_PAUSE_S: Final = (1.0, 900.0)  # between two looks whether a budget has room again: first and longest, doubled


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a call asks, of which models or tiers."""

    prompt: Prompt
    models: tuple[str, ...]
    parameters: Mapping[str, Any] = {}
    tools: tuple[Mapping[str, Any], ...] = ()
    answer: AnswerType | None = None
    memory: bool = False
    cache: Cache | None = None
    stream: bool = False

    @property
    def fingerprint(self) -> str:
        """Of what the handler asks: the prompt, the parameters, and the names of the type and the tools, if any.

        What a tool says of itself may change while a task is at work.
        """
        tools = [tool["function"]["name"] for tool in self.tools]
        more = (self.answer.name if self.answer else None, tools) if self.answer or tools else ()
        return fingerprint((self.prompt, self.parameters, *more))


async def call_model(work: Attempt, step: str, ask: Ask) -> ModelReply:
    """The recorded answer, or the first that a model of the chain gives.

    Raises ModelFailed, BadAnswer, CallRefused, LimitReached, NoModel, UnknownModel, MissingKey.
    """
    record = work.fold.steps.get(step)
    if record is not None and isinstance(record.result, e.ModelCompleted):
        return await reply_of(work.store, record.result)
    if record is not None and record.refused and record.error is not None:
        raise CallRefused(step, record.error.type, record.error.message)
    return await _ModelCall(work, step, ask).run()


class _ModelCall:
    """A call that has no answer yet."""

    def __init__(self, work: Attempt, step: str, ask: Ask) -> None:
        self.work = work
        self.step = step
        self.ask = ask
        self.mark = ask.fingerprint  # of the whole prompt, so it is made once
        self.models = work.services.gateway
        self.throttle = work.services.throttle
        self.chain: tuple[str, ...] = ()
        self.messages: list[ChatMessage] = []
        self.cache_key = ""
        self.beyond = False

    @property
    def record(self) -> "StepRecord | None":
        """What the log has of it."""
        return self.work.fold.steps.get(self.step)

    @property
    def failed(self) -> list[e.ModelFailed]:
        """The attempts that gave no answer, in order."""
        return self.record.failed if self.record is not None else []

    async def run(self) -> ModelReply:
        """The answer."""
        await new_ground(self.work)
        self.chain = self.models.chain(self.ask.models)
        if not self.chain:
            raise NoModel(self.work.definition.role)
        if self.record is None or self.record.again:
            self.work.check_caps("model", self.mark)
        elif self.record.open:
            self.work.lose(self.step)
        self.messages = await self._conversation()
        if self.record is None and (known := await self._cached()) is not None:
            return known
        await finish_pauses(self.work, self.step)
        while (following := plan(self.chain, self.failed)) is not None:
            if following.pause_s:
                seconds = following.pause_s if following.exact else random.uniform(0, following.pause_s)
                await pause(self.work, f"{self.step}/wait#{len(self.failed)}", seconds, "before the next attempt")
            model, skipped = await self._let_in(following.models)
            reply = await self._attempt(model, skipped, following.trims)
            if reply is not None:
                return reply
        raise self._failure()

    def _failure(self) -> ModelFailed | BadAnswer:
        last = self.failed[-1]
        if last.kind == "bad_answer" and self.ask.answer is not None:
            bad = sum(each.kind == "bad_answer" for each in self.failed)
            return BadAnswer(last.model, self.ask.answer.name, bad, last.error.message, self.step)
        return ModelFailed(last.model, last.error.type, last.error.message, self.step, last.kind)

    async def _conversation(self) -> list[ChatMessage]:
        return (
            await conversation(self.work, self.ask.prompt, self._summary) if self.ask.memory else chat(self.ask.prompt)
        )

    async def _summary(self, prompt: Sequence[ChatMessage]) -> str:
        """A summary that a model makes: a call like any other, and a step of the task by what is summarised."""
        step = f"summary/{ordered_fingerprint(prompt)}"
        return (await call_model(self.work, step, Ask(prompt=prompt, models=self.ask.models))).text

    # -- before an attempt -----------------------------------------------------------------------------------------

    async def _let_in(self, models: Sequence[str]) -> tuple[str, Mapping[str, str]]:
        """The first of these models whose breaker and rates let a call in, and why those before it did not."""
        while True:
            skipped: dict[str, str] = {}
            waits = []
            for model in models:
                allowed = self.models.rates(model)
                if wait_s := await self._take(model, allowed.requests, allowed.tokens):
                    await pause_again(self.work, self.step, "rate", wait_s, f"{model}: requests or tokens a minute")
                    break
                wait_s = await self.throttle.enter(f"model:{model}", allowed.breaker)
                if not wait_s:
                    return model, skipped
                skipped[model] = f"it failed too often: not before another {wait_s:.1f} s"
                waits.append(wait_s)
            else:
                note = f"{', '.join(models)}: the circuit is open"
                await pause_again(self.work, self.step, "circuit", min(waits), note)

    async def _take(self, model: str, requests: int | None, tokens: int | None) -> float:
        """Take a call from what a tenant may ask of a model in a minute: 0, or the seconds to wait before that."""
        of = f"{model}:{self.work.message.tenant or ''}"
        if requests is not None and (wait_s := await self.throttle.take(f"requests:{of}", 1, requests)):
            return wait_s
        if tokens is None:
            return 0.0
        parameters = self.ask.parameters
        answer = int(parameters.get("max_completion_tokens") or parameters.get("max_tokens") or 0)
        amount = sum(map(about_tokens, self.messages)) + answer
        return await self.throttle.take(f"tokens:{of}", amount, tokens)

    async def _request(self, model: str, skipped: Mapping[str, str], trims: int) -> tuple[e.ModelRequested, Call]:
        ask, prompts = self.ask, self.work.services.prompts
        messages = shorten(self.messages, trims)
        for each in self.failed:
            if each.kind == "bad_answer" and each.answer is not None:
                answer = msgspec.json.decode(await load_value(self.work.store, each.answer), type=str)
                messages = repair(messages, answer, each.error.message)
        call = Call(
            model=model,
            messages=tuple(messages),
            parameters=ask.parameters,
            tools=ask.tools,
            returns=ask.answer.schema if ask.answer else None,
            stream=ask.stream,
        )
        request = e.ModelRequested(
            step=self.step,
            fingerprint=self.mark,
            attempt=self.record.attempt + 1 if self.record is not None else 1,
            model=model,
            messages=await prompts.keep(messages),
            parameters=ask.parameters,
            tools=(await prompts.keep_one(ask.tools, inline=False)).blob if ask.tools else None,
            returns=(await prompts.keep_one(call.returns, inline=False)).blob if call.returns else None,
            hold=self.models.worst_case(self.chain, call),
            stream=ask.stream,
            memory=ask.memory,
            cache=self.cache_key,
            skipped=skipped,
            beyond=self.beyond,
        )
        return request, call

    async def _wait_for_budget(self, request: e.ModelRequested, error: NotAdmitted) -> None:
        """Do what the budget says: wait until there may be room, ask somebody, or refuse the call."""
        over = error.over if isinstance(error, BudgetExceeded) else "refuse"
        if over == "wait":
            assert isinstance(error, BudgetExceeded)
            await pause_again(self.work, self.step, "budget", self._until_room(error), str(error))
            return
        refusal: NotAdmitted | NotApproved = error
        if over == "ask":
            what = digest(encode_json((self.step, request.hold)))
            try:
                note = f"a call beyond a budget ({str(error).rstrip('.')})"
                await approval(self.work, f"{self.step}/beyond", "budget", what, note)
            except NotApproved as no:
                refusal = no
            else:
                self.beyond = True
                return
        info = error_info(refusal)
        self.work.write(e.ModelRefused(step=self.step, fingerprint=self.mark, error=info))
        raise CallRefused(self.step, info.type, info.message) from refusal

    def _until_room(self, error: BudgetExceeded) -> float:
        """The seconds until a budget is worth another look: more each time, but not beyond the end of its window."""
        first_s, longest_s = BUDGET_PAUSE_S
        seconds = min(first_s * 2.0 ** min(pauses_so_far(self.work, self.step, "budget"), 32), longest_s)
        now = self.work.services.clock.now()
        ends_at = window_end(cast("Period", error.period), now)
        return seconds if ends_at is None else min(seconds, (ends_at - now).total_seconds())

    # -- an attempt ------------------------------------------------------------------------------------------------

    async def _attempt(self, model: str, skipped: Mapping[str, str], trims: int) -> ModelReply | None:
        """Make one attempt as soon as all budgets admit it; None: it has failed, and that is recorded."""
        request, call = await self._request(model, skipped, trims)
        while True:
            with self.work.effect():
                try:
                    await self.work.reserve(request)
                except NotAdmitted as error:
                    refused = error
                else:
                    return await self._made(request, call)
            await self.throttle.leave(f"model:{model}")
            await self._wait_for_budget(request, refused)
            request = msgspec.structs.replace(request, beyond=self.beyond)

    async def _made(self, request: e.ModelRequested, call: Call) -> ModelReply | None:
        """Make an attempt whose request is in the log."""
        begun, target = time.monotonic(), f"model:{call.model}"
        breaker = self.models.rates(call.model).breaker
        try:
            live = self._live(request) if call.stream else None
            reply = as_stored(storable(await self.models.complete(call, live)))
            if live is not None:
                live.end()
            if self.ask.answer is not None and not reply.tool_calls:
                _check_answer(self.ask.answer, reply, call.model)
        except AttemptFailed as error:
            await self._record_failure(request, error, begun)
            sick = policy(error.kind).sick
            await self.throttle.report(
                target, breaker, ok=not sick, retry_after_s=error.retry_after_s if sick else None
            )
            return None
        except asyncio.CancelledError:
            if not self.work.ended:
                self.work.lose(self.step)
                self.work.services.spawn(self.throttle.leave(target))
            raise
        await self._record(request, reply, begun)
        await self.throttle.report(target, breaker, ok=True)
        return reply

    async def _record(self, request: e.ModelRequested, reply: ModelReply, begun: float) -> None:
        message = await self.work.services.prompts.keep_one(reply.message, inline=not request.memory)
        self.work.write(
            e.ModelCompleted(
                step=self.step,
                attempt=request.attempt,
                model=reply.model,
                deployment=request.model,
                message=message,
                usage=reply.usage,
                cost=reply.cost,
                reported=reply.reported,
                finish_reason=reply.finish_reason,
                duration_ms=ms_since(begun),
                first_token_ms=reply.first_token_ms,
                calls=len(reply.tool_calls),
                stand_in=reply.stand_in,
            )
        )

    async def _record_failure(self, request: e.ModelRequested, error: AttemptFailed, begun: float) -> None:
        duration_ms = ms_since(begun)
        answer = await self.work.services.prompts.keep_one(error.answer) if error.answer is not None else None
        self.work.write(
            e.ModelFailed(
                step=self.step,
                attempt=request.attempt,
                model=request.model,
                kind=error.kind,
                error=error.info,
                duration_ms=duration_ms,
                usage=error.usage,
                cost=error.cost,
                reported=error.reported,
                retry_after_s=error.retry_after_s,
                answer=answer,
            )
        )

    def _live(self, request: e.ModelRequested) -> Telling:
        """Shows the answer's pieces to whoever watches the run. They are provisional: an attempt may fail."""
        message = self.work.message
        first = Piece(message.run, message.task, message.to, self.step, request.attempt, "")
        return Telling(self.work.services.show, first)

    # -- answers that were given before ----------------------------------------------------------------------------

    async def _cached(self) -> ModelReply | None:
        """An answer to a call that was the same, given at no cost."""
        ask, work = self.ask, self.work
        if ask.cache is None or ask.memory:
            return None
        scope = {"run": work.message.run, "role": work.definition.role}.get(ask.cache.scope, "")
        returns = ask.answer.schema if ask.answer else None
        content = (ask.cache.scope, scope, self.chain, self.messages, ask.parameters, ask.tools, returns)
        self.cache_key = digest(encode_json(content))
        since = work.services.clock.now() - timedelta(seconds=ask.cache.seconds)
        await work.journal.durable()  # it may be this task that asked before
        address = await work.services.answers.find(self.cache_key, since)
        given = await completed_at(work.store, address) if address is not None else None
        if given is None or address is None:
            return None
        cost = None if given.cost is None else free(given.cost)
        again = msgspec.structs.replace(
            given,
            step=self.step,
            attempt=0,
            usage=e.Usage(),
            cost=cost,
            reported=msgspec.UNSET,
            duration_ms=0,
            first_token_ms=None,
            cached=address,
            fingerprint=self.mark,
        )
        work.write(again)
        return await reply_of(work.store, again)


def _check_answer(wanted: AnswerType, reply: ModelReply, model: str) -> None:
    """Raise AttemptFailed for an answer that is not of the type; it has been paid for."""
    try:
        wanted.decode(reply.text, reply.finish_reason)
    except msgspec.DecodeError as error:
        raise AttemptFailed(
            model,
            "bad_answer",
            type(error).__name__,
            str(error),
            usage=reply.usage,
            cost=reply.cost,
            reported=reply.reported,
            answer=reply.text,
        ) from error
