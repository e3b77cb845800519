#!/usr/bin/env python3
"""NAME
       soak.py - thousands of rounds among members that are killed and started at random

SYNOPSIS
       tests/faults/soak.py [--rounds 2000] [--seed S] [--freezes] [--json FILE]

DESCRIPTION
       2 to 10 members average on loopback while one is killed (SIGKILL) or started
       every second or so, under its old name or as a newcomer. With --freezes, some
       are stopped for 3 to 6 s instead (SIGSTOP), for which they may be banned.
       Member 0 is never touched: its rounds are counted, and its memory and
       descriptors have to stay where they were. The members check every element of
       every result themselves. Looked for: a round beyond its deadline, results that
       differ among members of one round that are still connected, an innocent banned,
       a ban that was on disk before a kill and is not after it, memory or descriptors
       that grow.

EXIT STATUS
       0  nothing of that was found
       1  something was; the seed is printed"""

import argparse
import collections
import contextlib
import json
import random
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness  # noqa: E402

MOST = 10
LEAST = 2
ROUND_TIMEOUT_S = 20
PATIENCE_S = 2 * ROUND_TIMEOUT_S + 30
ELEMENTS = 1 << 22
FIRST_SAMPLE = "150ms"  # what a round's work takes, so that a run lasts for many disturbances
# The run begins with all members, and so with the pool as large as it gets: a slab of 512 KiB per connection. Memory is
# touched for the first time in the first rounds, which are not counted; from there on it stays.
WARM_UP_ROUNDS = 20
MEMORY_GROWTH_BYTES = 1 << 20
DESCRIPTOR_GROWTH = 20  # addresses being dialled; a leak would be one per kill
NEWCOMERS = 0.3  # share of starts
MID_ROUND = 0.7  # share of kills
FREEZES = 0.15  # share of disturbances
PLANTED = bytes.fromhex("f0" * 32)


class Soak:
    def __init__(self, options: argparse.Namespace, group: harness.Group) -> None:
        self.options = options
        self.group = group
        self.draw = random.Random(options.seed)
        self.problems: list[str] = []
        self.alive: set[int] = set()
        self.gone: list[harness.Member] = []  # killed ones, for what they said
        self.bans: dict[int, set[bytes]] = collections.defaultdict(set)  # by directory, as seen on disk
        self.kills = self.starts = self.freezes = 0
        self.thaw_at: dict[int, float] = {}  # by member
        self.culprits: set[str] = set()      # who was ever frozen

    def run(self) -> dict:
        began = time.monotonic()
        self.group.members = [None] * MOST
        try:
            for index in range(MOST):
                self.group.start(index, "--group-size", str(MOST), peers=list(range(MOST)))
                self.alive.add(index)
            self.group.members[0].wait_for("round", members=MOST)
            self.disturb()
            return self.sum_up(time.monotonic() - began)
        finally:
            self.group.members = [member for member in self.group.members if member is not None]

    def disturb(self) -> None:
        watched = self.group.members[0]
        heard = 0
        while heard < self.options.rounds and not self.problems:
            # The disturbances keep a rhythm of their own, whatever the rounds do.
            threading.Event().wait(self.draw.uniform(0.5, 1.5))
            self.strike()
            self.look_for_the_dead()
            if not self.wait_for_more(watched, heard):
                self.problems.append(f"no round of {watched.name} for {PATIENCE_S} s\n" + self.tails())
            heard = len(watched.rounds())

    @staticmethod
    def wait_for_more(member: harness.Member, heard: int) -> bool:
        with member.changed:
            return member.changed.wait_for(
                lambda: sum(event["event"] == "round" for event in member.events) > heard or member.closed, PATIENCE_S)

    def strike(self) -> None:
        for index in [index for index, when in self.thaw_at.items() if time.monotonic() >= when]:
            del self.thaw_at[index]
            self.group.members[index].thaw()
        dead = sorted(set(range(MOST)) - self.alive)
        may_kill = len(self.alive) > LEAST
        awake = sorted(self.alive - {0} - set(self.thaw_at))
        if self.options.freezes and len(awake) > LEAST and self.draw.random() < FREEZES:
            index = self.draw.choice(awake)
            self.culprits.add(self.group.members[index].peer())
            self.group.members[index].freeze()
            self.thaw_at[index] = time.monotonic() + self.draw.uniform(3, 6)
            self.freezes += 1
            return
        if dead and (not may_kill or self.draw.random() < 0.5):
            index = self.draw.choice(dead)
            self.compare_bans(index)
            if self.draw.random() < NEWCOMERS:
                shutil.rmtree(self.group.directory / f"state-{index}", ignore_errors=True)
                self.bans.pop(index, None)
            self.group.start(index, "--join")
            self.alive.add(index)
            self.starts += 1
        elif may_kill:
            index = self.draw.choice(sorted(self.alive - {0}))
            if self.draw.random() < MID_ROUND:
                self.wait_for_begin(self.group.members[index])
            self.group.members[index].kill()
            self.bury(index)
            self.kills += 1

    @staticmethod
    def wait_for_begin(member: harness.Member) -> None:
        with member.changed:
            heard = len(member.events)
            member.changed.wait_for(lambda: any(event["event"] == "begin" for event in member.events[heard:]), 2)

    def bury(self, index: int) -> None:
        self.gone.append(self.group.members[index])
        self.thaw_at.pop(index, None)
        self.alive.discard(index)
        self.compare_bans(index)
        self.plant_ban(index)

    def look_for_the_dead(self) -> None:
        for index in sorted(self.alive):
            member = self.group.members[index]
            code = member.process.poll()
            if code is not None:
                self.problems.append(f"{member.name} ended by itself with {code}\n{member.tail()}")
                self.bury(index)

    # ---- bans on disk

    def read_bans(self, index: int) -> set[bytes]:
        path = self.group.directory / f"state-{index}" / "bans.sqlite"
        if not path.exists():
            return set()
        with contextlib.closing(sqlite3.connect(path)) as database:
            # A kill may have come before the node had made its table.
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'peers'").fetchone():
                return set()
            query = "SELECT peer FROM peers WHERE banned_until > ?"
            return {peer for (peer,) in database.execute(query, (time.time(),))}

    def compare_bans(self, index: int) -> None:
        now = self.read_bans(index)
        if lost := self.bans[index] & {PLANTED} - now:
            self.problems.append(f"member {index} lost bans: {[peer.hex()[:8] for peer in lost]}")
        self.bans[index] |= now

    def plant_ban(self, index: int) -> None:
        """A ban of somebody who never comes, to be kept through every kill."""
        path = self.group.directory / f"state-{index}" / "bans.sqlite"
        if PLANTED in self.bans[index] or not path.exists():
            return
        now = int(time.time())
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'peers'").fetchone():
                database.execute("INSERT OR REPLACE INTO peers VALUES (?,0,0,?,1,1,?,0,'slow','planted',?,?,?,NULL)",
                                 (PLANTED, now, now + 86400, now, now, now + 86400))
                self.bans[index].add(PLANTED)

    # ---- what came of it

    def sum_up(self, seconds: float) -> dict:
        members = self.gone + [self.group.members[index] for index in sorted(self.alive)]
        rounds = [(member, round_) for member in members for round_ in member.rounds()]
        self.check_rounds(rounds)
        self.check_agreement(rounds)
        watched = self.group.members[0].rounds()
        memory = self.growth(watched, lambda round_: round_.resident_bytes)
        # One connection per peer, whose number changes.
        descriptors = self.growth(watched, lambda round_: round_.descriptors - round_.members)
        if memory > MEMORY_GROWTH_BYTES:
            self.problems.append(f"memory of member 0 grew by {memory} bytes")
        if descriptors > DESCRIPTOR_GROWTH:
            self.problems.append(f"member 0 holds {descriptors} more descriptors")
        sizes = [round_.members for round_ in watched]
        return {"seed": self.options.seed, "rounds": len(watched), "seconds": seconds, "kills": self.kills,
                "starts": self.starts, "freezes": self.freezes, "members_least": min(sizes, default=0),
                "members_most": max(sizes, default=0),
                "resident_bytes_by_tenth": self.tenths(watched, lambda round_: round_.resident_bytes),
                "round_seconds_median": statistics.median([r.seconds for r in watched] or [0]),
                "round_seconds_most": max((r.seconds for _, r in rounds), default=0), "memory_growth_bytes": memory,
                "descriptor_growth": descriptors, "reports": len(rounds),
                "could_not_run": sum(bool(r.error) for _, r in rounds),
                "with_local_chunks": sum(r.local_chunks > 0 for _, r in rounds),
                "bans_on_disk": sum(len(bans) for bans in self.bans.values()), "problems": self.problems}

    def check_rounds(self, rounds: list) -> None:
        for member, round_ in rounds:
            if round_.error:
                continue
            if round_.wrong:
                self.problems.append(f"{member.name}, epoch {round_.epoch}: {round_.wrong} wrong elements")
            if round_.seconds > ROUND_TIMEOUT_S + 1:
                self.problems.append(f"{member.name}, epoch {round_.epoch}: {round_.seconds:.1f} s")
            if banned := round_.banned() - self.culprits:
                named = {peer: round_.of(peer)["evidence"] for peer in banned}
                self.problems.append(f"{member.name}, epoch {round_.epoch}: banned innocents {named}")

    def check_agreement(self, rounds: list) -> None:
        """Who was in the same round, has averages of everything, and did not lose the other, holds the same."""
        by_roster = collections.defaultdict(list)
        for member, round_ in rounds:
            if not round_.error and round_.local_chunks == 0:
                by_roster[round_.epoch, tuple(each["peer"] for each in round_.peers)].append((member, round_))
        for (epoch, _), reports in by_roster.items():
            for place, (one, of_one) in enumerate(reports):
                for other, of_other in reports[:place]:
                    apart = one.peer() in of_other.cut_off() or other.peer() in of_one.cut_off()
                    if not apart and of_one.digest != of_other.digest:
                        self.problems.append(f"{one.name} and {other.name} differ in epoch {epoch}")

    @staticmethod
    def tenths(rounds: list, value) -> list[int]:
        """The medians of ten stretches of the run."""
        values = [value(round_) for round_ in rounds if not round_.error][WARM_UP_ROUNDS:]
        bounds = [len(values) * tenth // 10 for tenth in range(11)]
        return [int(statistics.median(values[begin:end])) for begin, end in zip(bounds, bounds[1:]) if end > begin]

    def growth(self, rounds: list, value) -> int:
        """From the first tenth to the last."""
        tenths = self.tenths(rounds, value)
        return tenths[-1] - tenths[0] if tenths else 0

    def tails(self) -> str:
        return "\n".join(self.group.members[index].tail() for index in sorted(self.alive))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--freezes", action="store_true")
    parser.add_argument("--program", type=Path, default=harness.ROOT / "build/tests/faults/fault-member")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if not options.program.is_file():
        parser.error(f"no fault-member at {options.program}; build it (ninja -C build) or name it with --program")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="papilio-soak-") as directory, \
            harness.Group(str(options.program.resolve()), harness.Loopback(MOST), Path(directory), ELEMENTS,
                          ("--round-timeout", f"{ROUND_TIMEOUT_S}s", "--first-sample-time", FIRST_SAMPLE),
                          target_batch=LEAST) as group:
        result = Soak(options, group).run()
    print(json.dumps({key: value for key, value in result.items() if key != "problems"}))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    for problem in result["problems"][:20]:
        print(f"PROBLEM: {problem}")
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
