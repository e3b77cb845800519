#!/usr/bin/env python3
"""Real processes, real faults: five members average, one of them (or its line) is struck in the middle of a round, and
the others have to finish that round by its deadline with the same values, say who it was and what was wrong, blame
nobody else, and go on. Every element of every result is checked by the members themselves.
Usage: faults_test.py [--freeze SECONDS] FAULT-MEMBER [TEST...]. With network namespaces (root) each member has a line of
its own; without them all share loopback, and the test says which faults it leaves out. --freeze: for how long the frozen
member stays frozen while the others go on: 6 s, or as long as you like."""

import argparse
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "faults"))
import frames  # noqa: E402
import harness  # noqa: E402


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freeze", type=float, default=6.0, metavar="SECONDS")
    parser.add_argument("program", nargs="?", default="")
    parser.add_argument("tests", nargs="*")
    return parser.parse_args()


OPTIONS = parse_options()
PROGRAM = os.path.abspath(OPTIONS.program) if OPTIONS.program else ""
NO_NAMESPACES = harness.why_no_namespaces()
MEMBERS = 5
ROUND_TIMEOUT_S = 30
RATE_BPS = 200e6
LINE_ELEMENTS = 3 << 20      # a round of 0.8 s at that rate
LOOPBACK_ELEMENTS = 8 << 20  # long enough to be struck
SLOW = {"slow", "never-started", "condemned"}
NEED_LINES = ("test_plug_pulled", "test_link_down", "test_a_line_of_1_mbit")
BAD_LINE = SLOW | {"not-done"}  # where the others had everything already, and it had not


def proposer_order(round_: int, peer: bytes) -> int:
    """Whose turn it is to propose: the lowest. As engine/core/roster.cc has it, so that it can be killed in time."""
    mask = (1 << 64) - 1

    def mix(value: int) -> int:
        value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9 & mask
        value = (value ^ value >> 27) * 0x94d049bb133111eb & mask
        return value ^ value >> 31

    hash_ = 3
    for word in (round_, *struct.unpack("<4Q", peer)):
        hash_ = mix(hash_ ^ mix((word + 0x9e3779b97f4a7c15) & mask))
    return hash_


class FaultsTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="papilio-faults-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def start(self, place, elements: int, *arguments: str) -> harness.Group:
        place = self.enter(place)
        group = harness.Group(PROGRAM, place, self.directory, elements,
                              ("--round-timeout", f"{ROUND_TIMEOUT_S}s", *arguments))
        return self.enter(group)

    def enter(self, context):
        entered = context.__enter__()

        def leave() -> None:
            context.__exit__(None, None, None)
        self.addCleanup(leave)
        return entered

    def five(self, *arguments: str) -> harness.Group:
        """Five with lines of their own where that can be had."""
        if NO_NAMESPACES:
            group = self.start(harness.Loopback(MEMBERS), LOOPBACK_ELEMENTS, *arguments)
        else:
            group = self.start(harness.Hosts(MEMBERS, RATE_BPS), LINE_ELEMENTS, *arguments)
        return group

    # ---- what every fault has in common

    def middle_of_a_round(self, group: harness.Group, epoch: int = 1) -> None:
        """Returns when everybody is in that round, and about a third of it is over."""
        before = [member.round(epoch - 1) for member in group.members]
        for round_ in before:
            self.assert_right(round_)
            self.assertEqual(round_.cut_off(), {})
        for member in group.members:
            member.wait_for("begin", epoch=epoch)
        # The time is the fault's: there is no event in the middle of a round.
        threading.Event().wait(min(round_.seconds for round_ in before) / 3)

    def assert_right(self, round_: harness.Round) -> None:
        self.assertEqual(round_.error, "")
        self.assertEqual(round_.wrong, 0, "elements that are not what the report says")
        self.assertFalse(round_.canceled)
        self.assertLessEqual(round_.seconds, ROUND_TIMEOUT_S + 1)

    def assert_agreement(self, rounds: list[harness.Round]) -> None:
        for round_ in rounds:
            self.assert_right(round_)
        self.assertEqual(len({round_.digest for round_ in rounds}), 1, [round_.json for round_ in rounds])

    def expect_cut_off(self, live: list[harness.Member], culprit: str, reasons: set[str], epoch: int = 1,
                       rounds_until: int = 1, others: int = MEMBERS) -> list[harness.Round]:
        """The live ones finish `epoch` (or one of the next, where the fault takes effect later) without the culprit,
        agree, and blame nobody else. Returns that round's reports."""
        for each in range(epoch, epoch + rounds_until):
            rounds = [member.round(each) for member in live]
            self.assert_agreement(rounds)
            if any(round_.cut_off() or round_.members < others for round_ in rounds):
                break
        for member, round_ in zip(live, rounds):
            named = round_.cut_off()
            if round_.of(culprit) is None:
                continue  # it had left the roster before the round began
            self.assertEqual(set(named), {culprit}, member.tail())
            self.assertIn(named[culprit]["reason"], reasons, member.tail())
            self.assertLessEqual(round_.banned(), {culprit})
        return rounds

    def expect_training_goes_on(self, live: list[harness.Member], culprit: str | None, after: int,
                                count: int = 2) -> None:
        innocent = {member.peer() for member in live}
        for epoch in range(after + 1, after + 1 + count):
            rounds = [member.round(epoch) for member in live]
            self.assert_agreement(rounds)
            for round_ in rounds:
                self.assertEqual(round_.local_chunks, 0)
                self.assertEqual(set(round_.cut_off()) - {culprit}, set())
                self.assertEqual(round_.banned() & innocent, set())
                self.assertLessEqual(innocent, {each["peer"] for each in round_.peers})

    # ---- the faults

    def test_killed(self) -> None:
        group = self.five()
        group.start_all()
        self.middle_of_a_round(group)
        victim, live = group.members[-1], group.members[:-1]
        victim.kill()
        rounds = self.expect_cut_off(live, victim.peer(), {"connection-lost", "condemned"}, rounds_until=2)
        for round_ in rounds:
            self.assertEqual(round_.local_chunks, 0, "its part goes to a successor")
        self.expect_training_goes_on(live, victim.peer(), after=rounds[0].epoch)

    def test_a_reducer_killed_amid_its_averages(self) -> None:
        """At the moment when the first average of its part is on its way to one of the others."""
        group, line = self.behind(harness.LyingLine, MEMBERS - 1)
        victim, live = group.members[-1], group.members[:-1]
        for member in group.members:
            self.assertEqual(member.round(0).cut_off(), {})

        def strike(frame: frames.Frame) -> bytes:
            victim.kill()
            return frame.bytes()
        line.kind, line.amid = frames.AVERAGE, 1
        line.lie = strike
        epoch = line.wait_until_told() - 1
        rounds = [member.round(epoch) for member in live]
        self.assert_agreement(rounds)
        for member, round_ in zip(live, rounds):
            self.assertEqual(round_.local_chunks, 0, "what one has goes to the others, the rest to a successor")
            self.assertEqual(set(round_.cut_off()), {victim.peer()}, member.tail())
            self.assertIn(round_.of(victim.peer())["reason"], {"connection-lost", "condemned"})
            self.assertLessEqual(round_.banned(), {victim.peer()})
        self.expect_training_goes_on(live, victim.peer(), after=epoch)

    def test_a_client_killed(self) -> None:
        group = self.five()
        for index in range(MEMBERS):
            group.start(index, *(("--role", "client") if index == 0 else ()))
        self.middle_of_a_round(group)
        victim, live = group.members[0], group.members[1:]
        victim.kill()
        rounds = self.expect_cut_off(live, victim.peer(), {"connection-lost", "condemned"}, rounds_until=2)
        self.expect_training_goes_on(live, victim.peer(), after=rounds[0].epoch)

    def test_frozen_and_thawed(self) -> None:
        group = self.five()
        group.start_all()
        self.middle_of_a_round(group)
        victim, live = group.members[2], group.others(group.members[2])
        victim.freeze()
        thaw_at = time.monotonic() + OPTIONS.freeze
        rounds = self.expect_cut_off(live, victim.peer(), SLOW, rounds_until=2)
        named = [entry for round_ in rounds if (entry := round_.of(victim.peer())) is not None]
        if named:  # struck between two rounds, it is not in the next
            self.assertTrue(any(entry["evidence"] for entry in named), "nobody gives evidence")
        self.expect_training_goes_on(live, victim.peer(), after=rounds[0].epoch)
        epoch = rounds[0].epoch + 2
        while time.monotonic() < thaw_at:
            self.expect_training_goes_on(live, victim.peer(), after=epoch, count=1)
            epoch += 1
        victim.thaw()
        own = victim.round(1)  # ends for it as well, with what it has
        self.assertEqual((own.error, own.wrong), ("", 0))
        self.assertEqual(own.banned(), set(), "who was away itself bans nobody")
        victim.wait_for_log("refuses this node: banned until|is banned here until|joined from")
        self.expect_training_goes_on(live, victim.peer(), after=epoch)

    def test_the_proposer_killed(self) -> None:
        """Three times in a row, the member whose turn it is to propose the next round dies before it can."""
        group = self.five("--log-level", "debug")
        group.start_all()
        live, epoch = list(group.members), 0
        while len(live) > 2:
            self.assert_agreement([member.round(epoch) for member in live])
            victim = min(live, key=lambda member: proposer_order(epoch + 2, self.full_id(group, member)))
            # The next round is number epoch + 2, and due as soon as this one is over.
            victim.wait_for("round", epoch=epoch)
            victim.kill()
            live.remove(victim)
            epoch += 1
            rounds = [member.round(epoch) for member in live]
            self.assert_agreement(rounds)
            for round_ in rounds:
                self.assertLessEqual(set(round_.cut_off()), {victim.peer()})
            epoch += 1
        self.assert_agreement([member.round(epoch) for member in live])
        self.expect_training_goes_on(live, None, after=epoch)
        # That it was them: whenever the first in the order lived, it was its proposal that was taken.
        first = min(group.members, key=lambda member: proposer_order(1, self.full_id(group, member)))
        live[0].wait_for_log(f"round 1: 5 members, group [0-9a-f]+, attempt 1 by {first.peer()}")

    def full_id(self, group: harness.Group, member: harness.Member) -> bytes:
        index = group.members.index(member)
        return bytes.fromhex(harness.peer_id_of(self.directory / f"state-{index}"))

    def test_killed_and_started_again(self) -> None:
        """Under its old name, in the middle of the run: it gets in, and disturbs nobody on the way."""
        group = self.five()
        group.start_all()
        self.middle_of_a_round(group)
        victim, live = group.members[3], group.others(group.members[3])
        victim.kill()
        rounds = self.expect_cut_off(live, victim.peer(), {"connection-lost", "condemned"}, rounds_until=2)
        again = group.start(3, "--join")
        self.assertEqual(again.peer(), victim.peer())
        epoch = again.wait_for("round", error="")["epoch"]
        for each in range(rounds[0].epoch + 1, epoch):
            self.assert_agreement([member.round(each) for member in live])
        for each in range(epoch, epoch + 3):
            rounds = [member.round(each) for member in group.members]
            self.assert_agreement(rounds)
            for round_ in rounds:
                self.assertEqual((round_.members, round_.coverage, round_.cut_off(), round_.banned()),
                                 (MEMBERS, 1, {}, set()))

    def test_all_others_killed(self) -> None:
        group = self.five()
        group.start_all()
        self.middle_of_a_round(group)
        survivor = group.members[0]
        for member in group.others(survivor):
            member.kill()
        killed = {member.peer() for member in group.others(survivor)}
        epoch, named = 1, set()
        while named != killed and epoch < 4:  # some may have been through with a round in which others were struck
            round_ = survivor.round(epoch)
            self.assert_right(round_)
            for each in round_.cut_off().values():
                self.assertIn(each["reason"], {"connection-lost", "condemned"}, survivor.tail())
            named |= set(round_.cut_off())
            if round_.members == 1:
                break
            epoch += 1
        self.assertTrue(named, "nobody is named")
        self.assertLessEqual(named, killed)
        for each in range(epoch + 1, epoch + 3):  # training goes on alone
            alone = survivor.round(each)
            self.assert_right(alone)
            self.assertEqual((alone.members, alone.cut_off()), (1, {}))

    def test_one_that_never_calls(self) -> None:
        group = self.five()
        for index in range(MEMBERS):
            group.start(index, *(("--idle-from", "1") if index == 3 else ()))
        idle, live = group.members[3], group.others(group.members[3])
        idle.wait_for("idle")
        rounds = self.expect_cut_off(live, idle.peer(), SLOW)
        for round_ in rounds:
            self.assertEqual(round_.local_chunks, 0, "its part goes to a successor")
        self.expect_training_goes_on(live, idle.peer(), after=1)

    def test_patience_is_as_configured(self) -> None:
        group = self.start(harness.Loopback(MEMBERS), LOOPBACK_ELEMENTS)
        for index in range(MEMBERS):
            group.start(index, "--patience-first-shard-grace", "2500ms",
                        *(("--idle-from", "1") if index == 3 else ()))
        idle, live = group.members[3], group.others(group.members[3])
        idle.wait_for("idle")
        rounds = self.expect_cut_off(live, idle.peer(), SLOW)
        said = [round_.of(idle.peer())["evidence"] for round_ in rounds]
        self.assertTrue(any("no shard within 2.5 s" in each for each in said), said)

    def test_strangers_with_bad_manners(self) -> None:
        """Whoever is not a member cannot disturb a round."""
        group = self.start(harness.Loopback(MEMBERS), LOOPBACK_ELEMENTS)
        group.start_all()
        self.middle_of_a_round(group)
        noise = [b"GET / HTTP/1.1\r\n\r\n", os.urandom(1 << 16), b"\0" * 4096, b"\xff" * 4096, b""]
        strangers = []
        for address in group.place.addresses:
            host, port = address.rsplit(":", 1)
            for each in noise:
                stranger = socket.create_connection((host, int(port)))
                strangers.append(stranger)
                try:
                    stranger.sendall(each)
                except OSError:
                    pass  # shown the door already
        for epoch in range(1, 4):
            rounds = [member.round(epoch) for member in group.members]
            self.assert_agreement(rounds)
            for round_ in rounds:
                self.assertEqual((round_.cut_off(), round_.banned(), round_.coverage), ({}, set(), 1))
        for stranger in strangers:
            stranger.close()

    # ---- faults of lines

    def behind(self, kind: type[harness.Proxy], index: int) -> tuple[harness.Group, harness.Proxy]:
        """On loopback; all that one member says and hears goes through the proxy."""
        # A line that looks for a certain frame has to see them.
        security = ("--security", "none") if kind is harness.LyingLine else ()
        group = self.start(harness.Loopback(MEMBERS), LOOPBACK_ELEMENTS, *security)
        proxy = kind(group.place.addresses[index])
        self.addCleanup(proxy.close)
        group.reached_at[index] = proxy.address
        for each in range(MEMBERS):
            group.start(each, "--group-size", str(MEMBERS), peers=[] if each == index else None)
        return group, proxy

    def test_one_shard_a_second(self) -> None:
        group, proxy = self.behind(harness.Proxy, 4)
        self.middle_of_a_round(group)
        proxy.drip_bytes = 64 << 10
        victim, live = group.members[4], group.members[:4]
        rounds = self.expect_cut_off(live, victim.peer(), BAD_LINE, rounds_until=2)
        self.expect_training_goes_on(live, victim.peer(), after=rounds[0].epoch)

    def test_damaged_bytes(self) -> None:
        group, proxy = self.behind(harness.Proxy, 4)
        self.middle_of_a_round(group)
        proxy.to_damage = 1
        victim = group.members[4]
        for epoch in range(1, 5):
            rounds = [member.round(epoch) for member in group.members]
            for round_ in rounds:
                self.assert_right(round_)
                self.assertEqual(round_.banned(), set(), "one damaged block bans nobody")
            # Those on one side of the bad line may blame those on the other, and nobody else.
            for member, round_ in zip(group.members, rounds):
                if member is not victim:
                    self.assertLessEqual(set(round_.cut_off()), {victim.peer()})

    def test_plug_pulled(self) -> None:
        group = self.five()
        group.start_all()
        self.middle_of_a_round(group)
        group.place.cut(1)
        victim, live = group.members[1], group.others(group.members[1])
        rounds = self.expect_cut_off(live, victim.peer(), BAD_LINE, rounds_until=2)
        own = victim.round(1)
        self.assert_right(own)
        self.assertEqual(own.banned(), set(), "who was cut off itself bans nobody")
        self.expect_training_goes_on(live, victim.peer(), after=rounds[0].epoch)

    def test_link_down(self) -> None:
        group = self.five()
        group.start_all()
        self.middle_of_a_round(group)
        victim, live = group.members[2], group.others(group.members[2])
        group.place.take_down(2)
        rounds = self.expect_cut_off(live, victim.peer(), BAD_LINE, rounds_until=2)
        own = victim.round(1)
        self.assert_right(own)
        self.assertEqual(own.banned(), set(), "who was cut off itself bans nobody")
        self.expect_training_goes_on(live, victim.peer(), after=rounds[0].epoch)

    def test_a_line_of_1_mbit(self) -> None:
        group = self.five()
        group.start_all()
        self.middle_of_a_round(group)
        group.place.shape(0, 1e6)
        victim, live = group.members[0], group.members[1:]
        rounds = self.expect_cut_off(live, victim.peer(), BAD_LINE, rounds_until=2)
        self.expect_training_goes_on(live, victim.peer(), after=rounds[0].epoch)


def main() -> int:
    if not PROGRAM:
        print("left out: all faults (no fault-member was built)")
        return 77
    names = OPTIONS.tests or unittest.defaultTestLoader.getTestCaseNames(FaultsTest)
    for name in names:
        if NO_NAMESPACES and name in NEED_LINES:
            print(f"left out: {name} (no lines of their own: {NO_NAMESPACES})", flush=True)
    tests = unittest.TestSuite(FaultsTest(name) for name in names if not (NO_NAMESPACES and name in NEED_LINES))
    if tests.countTestCases() == 0:
        return 77
    return 0 if unittest.TextTestRunner(verbosity=2).run(tests).wasSuccessful() else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
