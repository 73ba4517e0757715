"""One task at work: its handler, the steps that it does, and the messages that come for it."""
