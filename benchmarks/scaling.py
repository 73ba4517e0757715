"""The pipeline's hand-off with 1, 2 and 4 processes a role: its rate must not fall where processes are added.

    uv run python benchmarks/scaling.py [--processes 1 2 4] [--runs 2000] [--at-a-time 50] [--rounds 3] [--json]

Runs of three actors in sequence (see pipeline.py), each role in real processes, as `callboard up` starts them, and a
further one that folds the projections. On a machine with few cores the processes only compete, so the question is what
that costs: the lowest rate must be at least 0.8 of the best. Each round measures all counts, on a fresh database each;
the median ratio of the rounds is shown.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import pipeline
from benchmarks.kit import fresh_database, processes, servers
from callboard.bootstrap import Stack, collect_rarely, connected
from callboard.services.local import Urls
from callboard.settings import Settings

ROLES: Final = ("first", "second", "third")
TARGET: Final = 0.8  # of the best rate


async def shared_evenly(stack: Stack, count: int) -> None:
    """Return when each role's partitions are divided evenly among so many processes."""
    with anyio.fail_after(60):
        while True:
            owned = Counter((it.role, it.owner) for it in await stack.leases.partitions() if it.owner)
            roles = {role: [number for (of, _), number in owned.items() if of == role] for role in ROLES}
            if all(len(each) == count and max(each) - min(each) <= 1 for each in roles.values()):
                return
            await anyio.sleep(0.05)


async def rate(where: Urls, count: int, runs: int, at_a_time: int, log: Path) -> float:
    """Runs a second, with so many processes a role."""
    async with fresh_database(where.database_url) as database:
        settings = Settings(database_url=database, redis_url=where.redis_url)
        counts = dict.fromkeys(ROLES, count)
        async with (
            connected(settings, "benchmark") as stack,
            processes(Path(pipeline.__file__), counts, settings, {}, log),
            stack.client() as client,
        ):
            await shared_evenly(stack, count)
            call = partial(client.call, "first", pipeline.PAYLOAD)
            await pipeline.measure("warm-up", 100, at_a_time, call)
            return (await pipeline.measure("hand-off", runs, at_a_time, call)).runs_per_s


def main() -> None:
    """Print rates and ratios; exit 1 if one is too low."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--at-a-time", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    collect_rarely()
    with servers() as where, TemporaryDirectory() as folder:
        log = Path(folder, "log")

        def one(count: int) -> float:
            return asyncio.run(rate(where, count, options.runs, options.at_a_time, log))

        rounds = [{count: one(count) for count in options.processes} for _ in range(options.rounds)]
    rates = {count: statistics.median(each[count] for each in rounds) for count in options.processes}
    ratios = {count: statistics.median(each[count] / max(each.values()) for each in rounds) for count in rates}
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"runs_per_s": rates, "ratios": ratios, "load": load}))
    else:
        for count, runs_per_s in rates.items():
            print(f"{count} a role: {runs_per_s:,.0f} runs/s, {ratios[count]:.2f} of the best ({load=:.1f})")
    sys.exit(min(ratios.values()) < TARGET)


if __name__ == "__main__":
    main()
