"""An actor's pen and eyes: what it writes into the log, and reads in it."""
