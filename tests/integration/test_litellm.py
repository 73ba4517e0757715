"""Model calls through the real litellm, which makes the answer up itself: no network, no key."""

from decimal import Decimal

import pytest

from actors.models import Gateway
from protocols.errors import ModelFailed
from protocols.events import Usage

pytestmark = pytest.mark.filterwarnings("ignore")  # litellm's own

PROMPT = [{"role": "user", "content": "Say hello."}]


async def test_an_answer_has_its_tokens_and_its_exact_price() -> None:
    reply = await Gateway().complete("openai/gpt-4o-mini", PROMPT, {"mock_response": "Hello."})
    assert reply.text == "Hello."
    assert not reply.stand_in
    assert reply.usage == Usage(input=10, output=20)
    assert reply.cost is not None
    assert reply.cost.amount == 10 * Decimal("0.00000015") + 20 * Decimal("0.0000006")
    assert (reply.cost.currency, reply.cost.price.split()[0]) == ("USD", "litellm")


async def test_a_model_without_a_price_is_unpriced_and_not_free() -> None:
    reply = await Gateway().complete("openai/no-such-model", PROMPT, {"mock_response": "Hello."})
    assert reply.usage.total > 0
    assert reply.cost is None


async def test_a_call_without_a_key_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelFailed) as failed:
        await Gateway().complete("openai/gpt-4o-mini", PROMPT, {})
    assert failed.value.model == "openai/gpt-4o-mini"
    assert "key" in failed.value.message
