"""One process: its actors in memory, what it owns, what it does every few seconds, and how it ends."""
