"""W3C Trace Context: the `traceparent` that travels with messages, so that a run is one trace."""

import random
import re

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_span_ids = random.Random()  # seeded by the system; ids need to be unlike, not secret


def root_traceparent(run: str) -> str:
    """The traceparent of a run: its id is the trace's id (32 hex digits, as the standard asks)."""
    return f"00-{run}-{_span_id()}-01"


def child_traceparent(parent: str | None) -> str | None:
    """The same trace with a span of its own; None where the parent is none or malformed."""
    if parent is None or not _TRACEPARENT.fullmatch(parent):
        return None
    return f"{parent[:36]}{_span_id()}{parent[52:]}"


def _span_id() -> str:
    return f"{_span_ids.getrandbits(64) or 1:016x}"
