#!/usr/bin/env python3
"""Members that break the protocol amid a round, as real processes: a relay that knows the protocol stands before one of
five nodes and changes a single frame of what it says to each of the others. Those have to cut the liar off, write down
its ban with evidence, finish the round with everything else averaged, and blame nobody else.
Usage: lies_test.py PROGRAM... [TEST...]: fault-member, and papilio-node if it was built, which then reads the bans"""

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "faults"))
import frames  # noqa: E402
import harness  # noqa: E402

PROGRAMS = {Path(path).name: os.path.abspath(path) for path in sys.argv[1:] if os.path.isfile(path)}
NAMES = [argument for argument in sys.argv[1:] if not os.path.isfile(argument)]
MEMBERS = 5
LIAR = MEMBERS - 1
ELEMENTS = 2 << 20  # three or four chunks per part
ROUND_TIMEOUT_S = 30
BEYOND_ALL_CHUNKS = 1 << 20
GARBAGE = 0x7fffffff


def with_broken_table(frame: frames.Frame) -> bytes:
    header = bytearray(frame.header)
    struct.pack_into("<I", header, frames.PREAMBLE.size, GARBAGE)  # where the table is said to begin
    return frames.Frame(header, frame.payload).sealed().bytes()


def with_table_cut_short(frame: frames.Frame) -> bytes:
    """Its last bytes are missing, while the rest refers to them."""
    vtable = frames.PREAMBLE.size + 4
    header = bytearray(frame.header[:vtable + 6])
    header += bytes(len(frame.header) - len(header) - 1) + b"\x01"
    struct.pack_into("<I", header, frames.PREAMBLE.size, len(frame.header) - frames.PREAMBLE.size - 2)
    return frames.Frame(header, frame.payload).sealed().bytes()


def with_nan(frame: frames.Frame) -> bytes:
    return frame.with_payload(struct.pack("<f", float("nan")) + frame.payload[4:]).bytes()


def with_frame(frame: frames.Frame, declared: int, held: int) -> bytes:
    return frame.with_payload(frames.zstd_frame(declared, held)).changed(compression=frames.ZSTD).bytes()


def average_of_somebody_elses_chunk(frame: frames.Frame) -> bytes:
    """The receiver's own chunk, which nobody averages for it; what it should get follows."""
    values = frame.values()
    average = {"round": values["round"], "checksum": values["checksum"], "coverage": (1 << MEMBERS) - 1,
               "chunk": values["chunk"], "total_weight": 5.0, "codec": 0, "model": values["model"],
               "group": values["group"], "reducer": 0}
    return frames.Frame.make(frames.AVERAGE, average, frame.payload, frame.version).bytes() + frame.bytes()


class LiesTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="papilio-lies-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def start(self) -> tuple[harness.Group, harness.LyingLine]:
        place = harness.Loopback(MEMBERS)
        group = harness.Group(PROGRAMS["fault-member"], place, self.directory, ELEMENTS,
                              # A line that changes frames has to see them.
                              ("--round-timeout", f"{ROUND_TIMEOUT_S}s", "--security", "none"))
        group.__enter__()
        self.addCleanup(lambda: group.__exit__(None, None, None))
        line = harness.LyingLine(place.addresses[LIAR])
        self.addCleanup(line.close)
        group.reached_at[LIAR] = line.address
        for each in range(MEMBERS):
            group.start(each, "--group-size", str(MEMBERS), peers=[] if each == LIAR else None)
        return group, line

    def bans_of(self, index: int) -> dict[str, dict]:
        """As its user sees them; by the first letters of the peer's id, as logs and reports have it."""
        directory = self.directory / f"state-{index}"
        if "papilio-node" in PROGRAMS:
            listed = subprocess.run([PROGRAMS["papilio-node"], "bans", "list", "--state-dir", str(directory), "--json", "-"],
                                    capture_output=True, text=True, check=True, timeout=harness.PATIENCE_S)
            rows = [(each["peer"], each["reason"], each["evidence"]) for each in json.loads(listed.stdout)["peers"]
                    if each["banned"]]
        else:
            with contextlib.closing(sqlite3.connect(directory / "bans.sqlite")) as database:
                rows = database.execute("SELECT lower(hex(peer)), offence, evidence FROM peers WHERE banned_until > ?",
                                        (time.time(),)).fetchall()
        return {peer: {"reason": reason, "evidence": evidence} for peer, reason, evidence in rows}

    def run_lie(self, lie, reason: str, evidence: str, offence: str | None, may_be_mended: bool = False) -> None:
        """`offence`: what the ban is for; none: a strike, which is no ban yet. `may_be_mended`: over a new connection it
        may go on within the round, and is then not cut off."""
        group, line = self.start()
        liar, live = group.members[LIAR], group.members[:LIAR]
        for member in group.members:
            self.assertEqual(member.round(0).cut_off(), {})
        name = liar.peer()
        line.lie = lie
        epoch = line.wait_until_told() - 1  # rounds are counted from 1
        rounds = [member.round(epoch) for member in live]
        for member, round_ in zip(live, rounds):
            self.assertEqual((round_.error, round_.wrong, round_.local_chunks), ("", 0, 0), member.tail())
            self.assertLessEqual(round_.seconds, ROUND_TIMEOUT_S + 1)
            self.assertGreaterEqual(round_.coverage, (MEMBERS - 1) / MEMBERS - 1e-9, "everything else is averaged")
            # Who hears of the trouble first may take the lie for a message that crossed with it, and go on with the liar.
            self.assertLessEqual(set(round_.cut_off()) | round_.banned(), {name}, member.tail())
            self.assertIn(round_.of(name)["reason"], {reason, "condemned", ""}, member.tail())
        self.assertEqual(len({round_.digest for round_ in rounds}), 1)
        accusers = [index for index, round_ in enumerate(rounds) if round_.of(name)["reason"] == reason]
        self.assertTrue(accusers or may_be_mended, [round_.of(name) for round_ in rounds])
        for index in accusers:
            self.assertIn(evidence, rounds[index].of(name)["evidence"], "the report says what it did")
            self.assertEqual(rounds[index].of(name)["banned"], offence is not None, live[index].tail())
            bans = {peer[:len(name)]: ban for peer, ban in self.bans_of(index).items()}
            self.assertEqual(set(bans), {name} if offence else set())
            if offence:
                self.assertEqual(bans[name]["reason"], offence)
                self.assertIn(evidence, bans[name]["evidence"])
        own = liar.round(epoch)  # ends for it as well
        self.assertEqual((own.error, own.wrong), ("", 0))
        self.assertEqual(own.banned(), set())
        # Those who were not lied to may still know it, and it may leave others out of the rounds that it proposes.
        for member in live:
            for round_ in member.rounds_after(epoch, 3):
                self.assertEqual((round_.error, round_.wrong), ("", 0), member.tail())
                self.assertLessEqual(set(round_.cut_off()) | round_.banned(), {name}, member.tail())

    # ---- frames that are none

    def test_a_payload_too_long(self) -> None:
        self.run_lie(lambda frame: frame.with_preamble(payload_bytes=0xffffffff).bytes(), "protocol",
                     "frame length out of bounds", "protocol")

    def test_a_header_too_long(self) -> None:
        self.run_lie(lambda frame: frame.with_preamble(words=0xffff).bytes(), "protocol", "frame length out of bounds",
                     "protocol")

    def test_a_header_cut_short(self) -> None:
        self.run_lie(lambda frame: frame.with_preamble(words=frames.HEAD_BYTES // 8 - 1).bytes(), "protocol",
                     "frame length out of bounds", "protocol")

    def test_an_unknown_type(self) -> None:
        self.run_lie(lambda frame: frame.with_preamble(kind=99).bytes(), "protocol", "unknown frame type", "protocol")

    def test_another_protocol(self) -> None:
        self.run_lie(lambda frame: b"GET / HTTP/1.1\r\n" * 100, "protocol", "not the Papilio protocol", "protocol")

    def test_a_table_that_points_nowhere(self) -> None:
        self.run_lie(with_broken_table, "protocol", "malformed frame header", "protocol")

    def test_a_table_cut_short(self) -> None:
        self.run_lie(with_table_cut_short, "protocol", "malformed frame header", "protocol")

    def test_an_unknown_codec(self) -> None:
        self.run_lie(lambda frame: frame.changed(codec=77).bytes(), "protocol", "malformed frame header", "protocol")

    # ---- shards that no member may send

    def test_a_shard_twice(self) -> None:
        self.run_lie(lambda frame: 2 * frame.bytes(), "protocol", "duplicate", "protocol")

    def test_a_chunk_that_does_not_exist(self) -> None:
        self.run_lie(lambda frame: frame.changed(chunk=BEYOND_ALL_CHUNKS).bytes(), "protocol", "out-of-range", "protocol")

    def test_an_average_that_nobody_asked_for(self) -> None:
        self.run_lie(average_of_somebody_elses_chunk, "protocol", "unasked", "protocol")

    def test_a_weight_that_is_no_number(self) -> None:
        self.run_lie(lambda frame: frame.changed(weight=float("nan")).bytes(), "protocol", "weight", "protocol")

    def test_a_weight_below_zero(self) -> None:
        self.run_lie(lambda frame: frame.changed(weight=-1.0).bytes(), "protocol", "weight", "protocol")

    def test_a_shard_of_another_size(self) -> None:
        self.run_lie(lambda frame: frame.with_payload(frame.payload[:-4]).bytes(), "wrong-model", "size", "wrong-model")

    def test_a_shard_of_another_model(self) -> None:
        self.run_lie(lambda frame: frame.changed(model=1).bytes(), "wrong-model", "another model", "wrong-model")

    def test_a_shard_of_another_group(self) -> None:
        self.run_lie(lambda frame: frame.changed(group=1).bytes(), "wrong-group", "another group", None)

    def test_a_value_that_is_no_number(self) -> None:
        self.run_lie(with_nan, "non-finite", "nan", "non-finite")

    def test_a_compressed_shard_of_a_gigabyte(self) -> None:
        """In 32 KiB, which are fewer than the chunk's."""
        self.run_lie(lambda frame: with_frame(frame, 1 << 30, 1 << 30), "protocol", "not a compressed frame", "protocol")

    def test_a_compressed_shard_that_hides_a_gigabyte(self) -> None:
        self.run_lie(lambda frame: with_frame(frame, len(frame.payload), 1 << 30), "protocol", "not a compressed frame",
                     "protocol")

    # ---- what lines do as well, and what is therefore no ban at once

    def test_a_wrong_byte(self) -> None:
        self.run_lie(lambda frame: bytes(frame.header) + b"\x55" + frame.payload[1:], "connection-lost", "checksum", None,
                     may_be_mended=True)

    def test_a_payload_with_a_hole(self) -> None:
        """Half of it is left out, and the next frame follows in its place."""
        self.run_lie(lambda frame: bytes(frame.header) + frame.payload[:len(frame.payload) // 2], "connection-lost",
                     "checksum", None, may_be_mended=True)

    def test_a_frame_without_an_end(self) -> None:
        """The connection closes in the middle of it."""
        self.run_lie(lambda frame: b"", "connection-lost", "", None, may_be_mended=True)


def main() -> int:
    if "fault-member" not in PROGRAMS:
        print("left out: all lies (no fault-member was built)")
        return 77
    names = NAMES or unittest.defaultTestLoader.getTestCaseNames(LiesTest)
    tests = unittest.TestSuite(LiesTest(name) for name in names)
    return 0 if unittest.TextTestRunner(verbosity=2).run(tests).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
