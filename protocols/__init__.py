"""The words that all rooms share: names, messages, events, states, errors, and the ports to the outside. No I/O."""
