"""A help desk: a model looks orders up, asks a colleague, and pays money back if a person approves it.

    callboard up examples/helpdesk.py                # with OPENAI_API_KEY, ANTHROPIC_API_KEY or another provider's key
    callboard send helpdesk '{"customer": "ann", "text": "My kettle is broken. I want my money back!"}'
    callboard approvals                              # what waits for you; then: callboard approve ...

The stand-in (--model stand-in) calls no tools: it is no language model.
"""

from decimal import Decimal

from callboard import Actor, Context, Struct, actor_tool, tool

ORDERS = {
    "ann": [{"order": "A-17", "item": "kettle", "price": "39.90"}],
    "bob": [{"order": "B-4", "item": "lamp", "price": "12.00"}],
}
GOODWILL = "Faults within two years: full refund. Otherwise a friendly word."


class Request(Struct):
    """What a customer writes."""

    customer: str
    text: str


class Case(Struct):
    """What the expert is asked about."""

    item: str
    complaint: str


@tool(writes=False)
def orders(customer: str) -> list[dict[str, str]]:
    """The orders of a customer.

    Args:
        customer: The customer's name, in lower case.
    """
    return ORDERS.get(customer, [])


@tool(approval=True)
def refund(order: str, amount: Decimal, idempotency_key: str) -> str:
    """Pay money back.

    Args:
        order: The number of the order, such as A-17.
        amount: How much, in euros, such as 39.90.
    """
    return f"{amount} EUR paid back for {order} (receipt {idempotency_key[-8:]})"


class Expert(Actor):
    """Knows whether a complaint about an item deserves a refund."""

    model = "fast"

    async def handle(self, case: Case, ctx: Context) -> str:
        """Judge a complaint."""
        question = f"{GOODWILL}\nItem: {case.item}\nComplaint: {case.complaint}\nWhat do we do? One sentence."
        return (await ctx.model(question)).text


class Helpdesk(Actor):
    """Answers what customers write."""

    model = "fast"
    tools = (orders, refund, actor_tool("expert", writes=False))

    async def handle(self, request: Request, ctx: Context) -> str:
        """Answer a customer."""
        answer = await ctx.run_tools(
            f"You are the help desk of a shop. Customer {request.customer} writes:\n{request.text}\n"
            "Look the order up, ask the expert, refund if it says so, and answer the customer."
        )
        return answer.text
