"""The command line.

main      the commands, their options and help texts; imports nothing heavy
demo      demo
serve     up, actor, projections
send      send
reports   runs, run, tasks, agents
costs, reprice, budgets        the commands of those names; accounting has their options
checks    verify, check-ledger, rebuild
history   audit, events, replay
health    messages, lag, services
session, output, words, story, errors      what they share
"""

from callboard.cli.main import main

__all__ = ["main"]
