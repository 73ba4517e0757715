"""What goes before a prompt: the actor's conversation so far, cut to the window that its role remembers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from callboard.actors.models.call import ChatMessage, Prompt, chat
from callboard.actors.models.history import about_tokens, newest, split_system
from callboard.actors.state.policies import Memory
from callboard.actors.task.attempt import Attempt

SUMMARISE: Final = (
    "Summarise this conversation for somebody who has to go on with it: facts, decisions, open questions, and what "
    "each side asked for. Be brief, and leave nothing out that may matter later."
)
SUMMARY: Final = "Summary of the conversation so far:\n"

Summarise = Callable[[Sequence[ChatMessage]], Awaitable[str]]  # asks a model with this prompt, once


async def conversation(work: Attempt, prompt: Prompt, summarise: Summarise) -> list[ChatMessage]:
    """The messages of a prompt, behind what the actor remembers of those before."""
    system, new = split_system(chat(prompt))
    first, earlier = split_system(await work.services.prompts.load(work.fold.memory))
    memory = work.definition.actor.memory
    tokens = None if memory.tokens is None else max(memory.tokens - sum(map(about_tokens, new)), 0)
    last = None if memory.last is None else max(memory.last - len(new), 0)
    if not _fits(earlier, last, tokens):
        if memory.over == "trim":
            earlier = _newest(earlier, last, tokens)
        else:
            earlier = await _summarised(earlier, memory, summarise)
    return [*(system or first), *earlier, *new]


async def _summarised(messages: Sequence[ChatMessage], memory: Memory, summarise: Summarise) -> list[ChatMessage]:
    """The newest half of what is allowed, behind a summary of all that is older.

    Half, or every further call would need a summary of its own; and whatever the prompt is, so that the turns of a loop
    share one.
    """
    last, tokens = memory.last, memory.tokens
    kept = _newest(messages, None if last is None else last // 2, None if tokens is None else tokens // 2)
    older = messages[: len(messages) - len(kept)]
    text = "\n\n".join(f"{it['role']}: {it.get('content') or it.get('tool_calls')}" for it in older)
    summary = await summarise([{"role": "system", "content": SUMMARISE}, {"role": "user", "content": text}])
    return [{"role": "user", "content": SUMMARY + summary}, *kept]


def _fits(messages: Sequence[ChatMessage], last: int | None, tokens: int | None) -> bool:
    return (last is None or len(messages) <= last) and (tokens is None or sum(map(about_tokens, messages)) <= tokens)


def _newest(messages: Sequence[ChatMessage], last: int | None, tokens: int | None) -> list[ChatMessage]:
    kept = list(messages[newest(messages, last=last, tokens=tokens) :])
    return kept if _fits(kept, last, tokens) else []
