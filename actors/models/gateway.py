"""The gateway: which models are tried for a call, what they may cost, and attempts at them.

Attempts go to litellm, or, for the model named "stand-in", to a stand-in that needs no network and no key.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from callboard.actors.models import library
from callboard.actors.models.call import Call, Live, ModelReply, Rates
from callboard.actors.models.deadlines import Deadlines
from callboard.actors.models.prices import PriceTable
from callboard.actors.models.provider import Provider
from callboard.actors.models.stand_in import STAND_IN, StandIn
from callboard.actors.models.tiers import Tiers
from callboard.protocols.errors import MissingKey, UnknownModel
from callboard.protocols.events import Cost
from callboard.protocols.ports import Breaker


class Gateway:
    """Real models, and the stand-in. `override`, if set, takes the place of every other model or tier."""

    def __init__(
        self,
        override: str | None = None,
        *,
        tiers: Tiers | None = None,
        prices: PriceTable | None = None,
        rates: Mapping[str, Rates] | None = None,
        breaker: Breaker | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.tiers = tiers or Tiers()
        self.prices = prices or PriceTable()
        self._override = override
        self._rates = rates or {}
        self._without_limits = Rates(breaker=breaker or Breaker())
        self._stand_in = StandIn()
        self._provider = Provider(self.prices, deadlines or Deadlines())

    def __repr__(self) -> str:
        loaded = "loaded" if library.is_loaded() else "not loaded"
        return f"Gateway({self._override or 'as the roles say'}, {self.prices.version}, {loaded})"

    def chain(self, models: Sequence[str]) -> tuple[str, ...]:
        """The models that are tried for a call that names these models and tiers, in order.

        Those whose provider's key is not set are left out. Raises UnknownModel, and MissingKey if none is left.
        """
        return self.tiers.chain((self._override,) if self._override else models)

    def worst_case(self, chain: Sequence[str], call: Call) -> Cost | None:
        """The most that the call can cost at the dearest model of the chain; None if `call.model` has no price."""
        if call.model == STAND_IN:
            return self._stand_in.worst_case(call)
        return self.prices.worst_case([model for model in chain if model != STAND_IN], call)

    def rates(self, model: str) -> Rates:
        """What the settings allow of a model."""
        return self._rates.get(model, self._without_limits)

    async def prepare(self, models: Sequence[str]) -> None:
        """Load litellm if calls that name these models and tiers go to it. A missing key is no matter until then."""
        with suppress(UnknownModel, MissingKey):
            if set(self.chain(models)) - {STAND_IN}:
                await library.load()

    async def complete(self, call: Call, live: Live | None = None) -> ModelReply:
        """Make one attempt; raises AttemptFailed."""
        if call.model == STAND_IN:
            return await self._stand_in.complete(call, live)
        return await self._provider.complete(call, live)

    async def aclose(self) -> None:
        """Close the connections to providers."""
        await library.close()
