"""The parts of the A2A 1.0 data model (`lf.a2a.v1`) that travel in our messages, in its JSON form (camelCase)."""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType


class Part(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """One piece of content: exactly one of `text`, `raw` (bytes, base64 in JSON), `url` and `data` (any JSON)."""

    text: str | UnsetType = UNSET
    raw: bytes | UnsetType = UNSET
    url: str | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    media_type: str | None = None
    filename: str | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        given = (self.text is not UNSET) + (self.raw is not UNSET) + (self.url is not UNSET) + (self.data is not UNSET)
        if given != 1:
            raise ValueError(f"a part has exactly one of text, raw, url and data, not {given} of them")


class Artifact(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """Something that a task made: a name and its parts."""

    artifact_id: str
    parts: tuple[Part, ...]
    name: str | None = None
    description: str | None = None
    metadata: Mapping[str, Any] | None = None


class AgentSkill(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """One thing that an agent can do."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...]
    examples: tuple[str, ...] = ()
    input_modes: tuple[str, ...] = ()
    output_modes: tuple[str, ...] = ()


class AgentInterface(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """Where and how an agent is reached."""

    url: str
    protocol_binding: str
    protocol_version: str


class AgentCapabilities(Struct, frozen=True, rename="camel", kw_only=True):
    """What of A2A an agent's interface offers."""

    streaming: bool = False
    push_notifications: bool = False


class AgentCard(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """What an agent says of itself. All required fields of A2A 1.0 are always written.

    `supported_interfaces` is empty for a role that no gateway offers to the outside.
    """

    name: str
    description: str
    version: str
    supported_interfaces: tuple[AgentInterface, ...]
    capabilities: AgentCapabilities
    default_input_modes: tuple[str, ...]
    default_output_modes: tuple[str, ...]
    skills: tuple[AgentSkill, ...]
