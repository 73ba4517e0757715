"""Tools: what a model may have called, how it is described to it, and the loop in which it is."""
