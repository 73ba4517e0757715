"""The errors that Callboard raises: their docstrings are the messages, and what a message names is an attribute, too.

A handler meets `StepFailed`, `TaskFailed`, `ModelFailed` and others: docs/add-an-actor.md says when.
"""

from callboard.protocols.errors import *  # noqa: F403
