"""State machines: which trigger is legal in which state.

`transitions` defines and checks them; its table is compiled once, so that the guard on the hot path is a look-up
(0.2 us, against 13 us for a trigger of the library's own). Folding events never asks the machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from transitions import Machine as TransitionsMachine
from transitions.core import MachineError

from callboard.protocols.errors import BadDefinition, IllegalTrigger, listed
from callboard.protocols.states import AT_REST, AT_WORK, LIFECYCLE, StateChange


class Machine:
    """A compiled machine: the states, the first of them, and where each trigger leads from each state."""

    def __init__(self, name: str, initial: str, table: Mapping[tuple[str, str], str]) -> None:
        self.name = name
        self.initial = initial
        self._table = dict(table)

    def fire(self, trigger: str, state: str) -> StateChange:
        """The change that a trigger brings in a state; raises IllegalTrigger."""
        dest = self._table.get((trigger, state))
        if dest is None:
            allowed = [t for t, source in self._table if source == state]
            raise IllegalTrigger(self.name, trigger, state, listed(allowed))
        return StateChange(trigger, state, dest)


def compile_machine(name: str, machine: TransitionsMachine) -> Machine:
    """The table of a machine of the transitions library. Conditions and callbacks are not part of it."""
    table = {
        (trigger, source): choices[0].dest or source
        for trigger, event in machine.events.items()
        for source, choices in event.transitions.items()
    }
    return Machine(name, str(machine.initial), table)


def role_machine(
    actor: str, states: Sequence[str], transitions: Sequence[Mapping[str, Any]], initial: str
) -> Machine | None:
    """The machine that a role declares, or None; raises BadDefinition."""
    if not states:
        if transitions or initial:
            raise BadDefinition(actor, "it declares transitions or an initial state, but no states")
        return None
    if initial and initial not in states:
        raise BadDefinition(actor, f"its initial state {initial!r} is not one of its states: {listed(states)}")
    try:
        machine = TransitionsMachine(
            model=None,
            states=list(states),
            transitions=[dict(t) for t in transitions],
            initial=initial or states[0],
            auto_transitions=False,
        )
    except (MachineError, ValueError, TypeError, AttributeError) as error:
        raise BadDefinition(actor, f"its states and transitions don't make a machine ({error})") from error
    for trigger, event in machine.events.items():
        for source, choices in event.transitions.items():
            _check_transition(actor, states, trigger, source, choices)
    return compile_machine(actor, machine)


def _check_transition(actor: str, states: Sequence[str], trigger: str, source: str, choices: Sequence[Any]) -> None:
    for state in (source, *(choice.dest for choice in choices if choice.dest is not None)):
        if state not in states:
            raise BadDefinition(actor, f"trigger {trigger!r} names {state!r}, which is no state of its")
    if len(choices) > 1 or choices[0].conditions:
        raise BadDefinition(actor, f"trigger {trigger!r} is conditional: decide in the handler instead")


LIFECYCLE_MACHINE: Final = compile_machine(
    "the lifecycle",
    TransitionsMachine(
        model=None,
        states=[*AT_REST, *AT_WORK],
        transitions=[{"trigger": t, "source": list(sources), "dest": dest} for t, sources, dest in LIFECYCLE],
        initial="idle",
        auto_transitions=False,
    ),
)
