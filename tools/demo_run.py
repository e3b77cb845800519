#!/usr/bin/env python3
"""NAME
       tools/demo - several local nodes train one model on real text

SYNOPSIS
       tools/demo [--nodes N] [--steps K] [--kill-one] [--stop-one]
                  [--transport auto|uring|uv] [--codec NAME] [--data FILE]
                  [--model NAME] [--json FILE] [-- NODE-OPTION...]

DESCRIPTION
       Installs what is missing (Debian 12), builds, starts N papilio-node
       processes that find each other on the loopback interface, shows node 0's
       lines while they train, and sums up: whether the loss fell and whether all
       nodes ended with the same model, bit for bit. Ctrl-C ends all of them.

OPTIONS
       --help, -h
              Print this page and exit.
       --nodes N
              How many processes. Default: 4.
       --steps K
              How many rounds, each one step of the optimiser. Default: 100.
       --kill-one
              Half-way, kill the last node (SIGKILL). The others go on.
       --stop-one
              Half-way, freeze a node (SIGSTOP) until the others are done. They notice
              and go on without it.
       --transport auto|uring|uv
              What moves the bytes: io_uring or libuv. Default: auto.
       --codec NAME
              What gradients are sent in: fp32, bf16, fp16 or int8, each also with
              +zstd, or auto. Default: fp32, which is exact.
       --data FILE
              The text to learn. Default: the licences that Debian installs.
       --model NAME
              The model's size or file, as papilio-node --model takes it.
       --json FILE
              Write the results to FILE as JSON. With - they go to standard output
              and nothing else does.
       -- NODE-OPTION...
              Passed on to every node, see papilio-node --help.

EXIT STATUS
       0  the loss fell and all nodes hold the same model
       1  that is not so, or a node failed
       2  wrong usage
       3  the set-up or the build failed

EXAMPLES
       tools/demo
       tools/demo --nodes 8 --steps 50 --transport uv
       tools/demo --kill-one --json - -- --target-batch 128"""

import argparse
import ctypes
import dataclasses
import json
import math
import os
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

EXIT_DONE, EXIT_NOT_SO, EXIT_USAGE, EXIT_RUNTIME = 0, 1, 2, 3
EXIT_HELP = 100  # told to tools/demo, which has nothing left to do then

CODECS = ("auto", "fp32", "bf16", "fp16", "int8", "fp32+zstd", "bf16+zstd", "fp16+zstd", "int8+zstd")
PATIENCE_S = 300        # for starting, joining and leaving together
PATIENCE_PER_STEP_S = 60  # twice a round's deadline: a bound against hanging, not an expectation
LEAVE_S = 3             # from Ctrl-C to SIGKILL for a node that does not leave by itself


class Usage(Exception):
    """What was wrong, with which value, and what to do."""


class ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise Usage(message)

    def print_help(self, file=None) -> None:
        print(__doc__, file=file or sys.stdout)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    node_options: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, node_options = arguments[:split], arguments[split + 1:]
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--nodes", default="4")
    parser.add_argument("--steps", default="100")
    parser.add_argument("--kill-one", action="store_true")
    parser.add_argument("--stop-one", action="store_true")
    parser.add_argument("--transport", default="auto")
    parser.add_argument("--codec", default="fp32")
    parser.add_argument("--data")
    parser.add_argument("--model")
    parser.add_argument("--json")
    # From tools/demo, and from tests:
    parser.add_argument("--directory", default=".")
    parser.add_argument("--program", default="build/tools/papilio-node")
    parser.add_argument("--only-check-usage", action="store_true")
    options = parser.parse_args(arguments)
    options.node_options = node_options
    if options.help:
        return options
    options.nodes = whole_number("--nodes", options.nodes, 1, 64)
    options.steps = whole_number("--steps", options.steps, 2, 1_000_000)
    victims = options.kill_one + options.stop_one
    if options.nodes <= victims:
        raise Usage(f"--nodes: {options.nodes} leaves nobody to go on; give at least {victims + 1}")
    if options.transport not in ("auto", "uring", "uv"):
        raise Usage(f"--transport: '{options.transport}' is not one of auto, uring, uv")
    if options.codec not in CODECS:
        raise Usage(f"--codec: '{options.codec}' is not one of {', '.join(CODECS)}")
    # Files are named as seen from where the user is.
    if options.data is not None:
        options.data = os.path.join(options.directory, options.data)
        if not os.access(options.data, os.R_OK) or os.path.isdir(options.data):
            raise Usage(f"--data: '{options.data}' is not a readable file; name one that is")
    if options.json is not None and options.json != "-":
        options.json = os.path.join(options.directory, options.json)
        try:
            open(options.json, "ab").close()
        except OSError as error:
            raise Usage(f"--json: '{options.json}' cannot be written ({error.strerror}); name a file in a directory "
                        "that exists and is yours, or - for standard output") from error
    return options


def whole_number(flag: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise Usage(f"{flag}: '{text}' is not a whole number from {least} to {most}")
    return int(text)


@dataclasses.dataclass
class Member:
    """One papilio-node process."""
    index: int
    process: subprocess.Popen
    report_path: pathlib.Path
    log_path: pathlib.Path
    fate: str = "runs"  # or "killed", "stopped": what the demo did to it

    def report(self) -> dict:
        try:
            return json.loads(self.report_path.read_text())
        except (OSError, ValueError):
            return {}

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


class Demo:
    def __init__(self, options: argparse.Namespace, directory: pathlib.Path):
        self.options = options
        self.directory = directory
        self.out = sys.stderr if options.json == "-" else sys.stdout
        self.members: list[Member] = []
        self.half_way = threading.Event()
        self.harmed_after = 0  # rounds

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def run(self) -> int:
        options = self.options
        self.say(f"{options.nodes} nodes, {options.steps} steps, transport {options.transport}, "
                 f"codec {options.codec}")
        deadline = time.monotonic() + PATIENCE_S + PATIENCE_PER_STEP_S * options.steps
        try:
            self.start()
            failure = self.watch(deadline)
        finally:
            self.end_all()
        if failure:
            self.say(failure)
        return self.sum_up(failed=failure is not None)

    def start(self) -> None:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(self.options.nodes)]
        victims = self.victims()
        for index, address in enumerate(addresses):
            command = [self.options.program, "--listen", address]
            for other in addresses[:index] + addresses[index + 1:]:
                command += ["--peer", other]
            report, log = self.directory / f"node-{index}.json", self.directory / f"node-{index}.log"
            command += ["--slot", str(index), "--group-size", str(self.options.nodes), "--steps",
                        str(self.options.steps), "--transport", self.options.transport, "--codec", self.options.codec,
                        "--json", str(report)]
            for flag in ("data", "model"):
                if getattr(self.options, flag) is not None:
                    command += [f"--{flag}", getattr(self.options, flag)]
            command += self.options.node_options
            stdout = self.out if index == 0 else subprocess.PIPE if index in victims else subprocess.DEVNULL
            with log.open("wb") as log_file:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=log_file,
                                           env=node_environment(self.options.nodes), start_new_session=True,
                                           preexec_fn=die_with_parent)
            self.members.append(Member(index, process, report, log))
        if victims:
            # A node prints a line per round. Only the first victim is listened to; both are read, so that neither
            # blocks on a full pipe.
            for place, index in enumerate(victims):
                threading.Thread(target=self.count_rounds, args=(self.members[index], place == 0), daemon=True).start()

    def victims(self) -> list[int]:
        """The last nodes: node 0 is the one whose lines are shown."""
        count = self.options.kill_one + self.options.stop_one
        return list(range(self.options.nodes - count, self.options.nodes))

    def count_rounds(self, member: Member, tells: bool) -> None:
        rounds = 0
        for _ in member.process.stdout:
            rounds += 1
            if tells and not self.half_way.is_set():
                self.harmed_after = rounds
            if tells and rounds >= max(1, self.options.steps // 2):
                self.half_way.set()

    def watch(self, deadline: float) -> str | None:
        """Until every node that was left alone has ended. Returns what went wrong, if something did."""
        victims = self.victims()
        while True:
            waited_for = [member for member in self.members if member.fate == "runs"]
            failed = next((m for m in waited_for if m.process.poll() not in (None, 0)), None)
            if failed is not None:
                return (f"node {failed.index} failed with exit code {failed.process.returncode}; its last lines:\n"
                        f"{failed.log_tail()}")
            if all(member.process.poll() is not None for member in waited_for):
                break
            if time.monotonic() > deadline:
                slow = [str(m.index) for m in waited_for if m.process.poll() is None]
                return f"node {', '.join(slow)} did not end within the demo's bound; its last lines:\n" + \
                    self.members[int(slow[0])].log_tail()
            if victims and self.half_way.is_set():
                self.harm(victims)
                victims = []
            time.sleep(0.05)
        if victims:
            return "the nodes were done before one could be killed or stopped; give more --steps"
        return self.wake_the_stopped()

    def harm(self, victims: list[int]) -> None:
        victims = list(victims)
        if self.options.kill_one:
            member = self.members[victims.pop()]
            member.fate = "killed"
            member.process.kill()
            member.process.wait()
            self.say(f"-- node {member.index} (process {member.process.pid}) was killed")
        if self.options.stop_one:
            member = self.members[victims.pop()]
            member.fate = "stopped"
            member.process.send_signal(signal.SIGSTOP)
            self.say(f"-- node {member.index} (process {member.process.pid}) was stopped")

    def wake_the_stopped(self) -> str | None:
        for member in self.members:
            if member.fate == "stopped":
                member.process.send_signal(signal.SIGCONT)
                self.say(f"-- node {member.index} continues")
                # Its group is gone; what it makes of that is its own affair, as long as it leaves when asked.
                member.process.send_signal(signal.SIGINT)
                try:
                    member.process.wait(LEAVE_S)
                except subprocess.TimeoutExpired:
                    return f"node {member.index}, stopped and continued, does not leave; its last lines:\n" + \
                        member.log_tail()
        return None

    def end_all(self) -> None:
        """Every node gets the chance to say goodbye, then is ended: nothing survives the demo."""
        alive = [member.process for member in self.members if member.process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT)
        give_up = time.monotonic() + LEAVE_S
        for process in alive:
            try:
                process.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def sum_up(self, failed: bool) -> int:
        reports = {m.index: m.report() for m in self.members if m.fate == "runs"}
        result = summary_of(self.options, {index: report for index, report in reports.items() if report})
        complete = not failed and len(result["model_digests"]) == len(reports)
        result["in_sync"] = complete and len(set(result["model_digests"])) == 1
        fell = None not in (result["loss_first"], result["loss_last"]) and result["loss_last"] < result["loss_first"]
        self.print_summary(result, fell)
        if self.options.json is not None:
            text = json.dumps(result, indent=2) + "\n"
            if self.options.json == "-":
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                pathlib.Path(self.options.json).write_text(text)
        return EXIT_DONE if result["in_sync"] and fell else EXIT_NOT_SO

    def print_summary(self, result: dict, fell: bool) -> None:
        if result["loss_first"] is None:
            self.say("no node finished a round")
            return
        digests = sorted(set(result["model_digests"]))
        sync = (f"all {len(result['model_digests'])} nodes hold the same model, {digests[0]}" if result["in_sync"]
                else "the nodes do NOT hold the same model: " + ", ".join(result["model_digests"]))
        times = [entry["seconds"] for entry in result["rounds"]]
        coverage = statistics.fmean(entry["coverage"] for entry in result["rounds"])
        self.say("")
        self.say(f"  model     {result['parameters']:,} parameters; {sync}")
        self.say(f"  loss      {result['loss_first']:.3f} at the first step, {result['loss_last']:.3f} at the last"
                 + ("" if fell else ": it did NOT fall"))
        self.say(f"  rounds    {len(times)}, of {1e3 * statistics.median(times):.1f} ms (median), coverage "
                 f"{100 * coverage:.1f}%, over {result['transport'].split(' ')[0].rstrip(':,;') or 'nothing'}")
        harmed = [f"node {member.index} was {member.fate}" for member in self.members if member.fate != "runs"]
        after = result["rounds"][self.harmed_after + 1:]  # the one under way belongs to neither
        if harmed and after:
            self.say(f"  fault     {' and '.join(harmed)} after {self.harmed_after} rounds; the others did {len(after)} more "
                     f"among {min(entry['members'] for entry in after)}, the slowest in "
                     f"{1e3 * max(entry['seconds'] for entry in after):.0f} ms")
        self.say(f"  traffic   {human_size(result['bytes_sent'])} sent by all nodes, in {result['seconds']:.1f} s")


def summary_of(options: argparse.Namespace, reports: dict[int, dict]) -> dict:
    """The results as CONTRACT names them, from the reports of the nodes that were left alone."""
    everyone = list(reports.values())
    longest = max(everyone, key=lambda report: len(report.get("rounds", [])), default={})

    def mean_loss(place: int) -> float | None:
        values = [report["losses"][place] for report in everyone if report.get("losses")]
        values = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
        return statistics.fmean(values) if values else None

    return {
        "nodes": options.nodes,
        "steps": options.steps,
        "transport": longest.get("transport", ""),
        "parameters": longest.get("parameters", 0),
        "loss_first": mean_loss(0),
        "loss_last": mean_loss(-1),
        "seconds": max((report.get("seconds", 0) for report in everyone), default=0),
        "model_digests": [report["model_digest"] for report in everyone if "model_digest" in report],
        "in_sync": False,
        "rounds": [{key: entry.get(key) for key in ("epoch", "seconds", "coverage", "members", "banned")}
                   for entry in longest.get("rounds", [])],
        "bytes_sent": sum(report.get("bytes_sent", 0) for report in everyone),
        "bytes_received": sum(report.get("bytes_received", 0) for report in everyone),
        "losses": [{"node": index, "losses": report.get("losses", [])} for index, report in reports.items()],
    }


def free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives to outgoing connections: a node that dials one not yet listening could
    otherwise be given that very port, and meet itself."""
    try:
        lowest_outgoing = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        lowest_outgoing = 32768
    candidates = list(range(10_000, lowest_outgoing)) if lowest_outgoing > 11_000 else list(range(10_000, 60_000))
    random.shuffle(candidates)
    ports = []
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no free ports on the loopback interface")


def node_environment(nodes: int) -> dict[str, str]:
    """The nodes share this machine's cores; threads that fight over them make all of them slower."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nodes)))
    return environment


def die_with_parent() -> None:
    """In the child, before it becomes the node: if the demo is killed outright, the kernel ends the nodes."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def human_size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def main() -> int:
    try:
        options = parse_arguments(sys.argv[1:])
    except Usage as error:
        print(f"tools/demo: {error}; see --help", file=sys.stderr)
        return EXIT_USAGE
    if options.help:
        print(__doc__)
        return EXIT_HELP if options.only_check_usage else EXIT_DONE
    if options.only_check_usage:
        return EXIT_DONE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="papilio-demo-") as directory:
            return Demo(options, pathlib.Path(directory)).run()
    except KeyboardInterrupt:
        print("\nended by a signal; so are the nodes", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"tools/demo: {error}", file=sys.stderr)
        return EXIT_RUNTIME


if __name__ == "__main__":
    sys.exit(main())
