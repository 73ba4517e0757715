"""A newsroom: a writer drafts an article, a reviewer comments on it, and the writer revises.

    callboard up examples/newsroom.py --model stand-in     # no key, no network: the stand-in is no language model
    callboard send writer '{"topic": "tides"}' --wait

With the key of a provider (OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY ...) leave out --model: the tiers below
take a model of that provider. Any model that litellm knows takes their place by --model gemini/gemini-2.5-flash.
"""

from callboard import Actor, Context, Struct, handler

ROUNDS = 2  # reviews of one article at most


class Brief(Struct):
    """What to write."""

    topic: str
    words: int = 300


class Draft(Struct):
    """What the writer has so far."""

    topic: str
    text: str


class Review(Struct):
    """What the reviewer thinks of a draft."""

    accepted: bool
    notes: str


class Article(Struct):
    """What comes out: the text, and the review of it."""

    text: str
    review: Review


class Writer(Actor):
    """Writes an article and has it reviewed."""

    model = "high_reasoning"  # a tier; or a model, or several that are tried in this order
    states = ("drafting", "reviewing", "done")
    initial = "done"  # nothing is open
    transitions = (
        {"trigger": "draft", "source": "*", "dest": "drafting"},
        {"trigger": "submit", "source": "drafting", "dest": "reviewing"},
        {"trigger": "finish", "source": "reviewing", "dest": "done"},
    )

    async def handle(self, brief: Brief, ctx: Context) -> Article:
        """Write on a topic."""
        await ctx.trigger("draft")
        text = (await ctx.model(f"Write {brief.words} words on {brief.topic}.")).text
        review = await self.review(brief, text, ctx)
        for _ in range(ROUNDS - 1):
            if review.accepted:
                break
            await ctx.trigger("draft")
            text = (
                await ctx.model(
                    f"Revise this article on {brief.topic} by the notes below it.\n\n{text}\n\n{review.notes}"
                )
            ).text
            review = await self.review(brief, text, ctx)
        await ctx.trigger("finish")
        await ctx.artifact(f"{brief.topic}.md", text, media_type="text/markdown")
        return Article(text, review)

    async def review(self, brief: Brief, text: str, ctx: Context) -> Review:
        """What the reviewer says."""
        await ctx.trigger("submit")
        review: Review = await ctx.ask("reviewer", Draft(brief.topic, text), kind="review-request", returns=Review)
        return review


class Reviewer(Actor):
    """Says of a draft whether it can be printed, and if not, what to change."""

    model = "fast"

    @handler("review-request")
    async def review(self, draft: Draft, ctx: Context) -> Review:
        """Review a draft."""
        question = f"Review this article on {draft.topic}: can it be printed, and if not, what has to change?"
        return await ctx.model(f"{question}\n\n{draft.text}", returns=Review)
