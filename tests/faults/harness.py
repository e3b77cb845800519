"""Groups of real nodes for the tests of faults, the soak and the measurements: starts fault-member processes, reads what
they say, strikes them, and shapes or cuts their lines. On loopback, or each in a network namespace of its own."""

import dataclasses
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
import frames  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 90  # a bound against hanging, not an expectation
LEAVE_S = 10
PORT = 31337


def load_links():
    """bench/links, for its namespaces."""
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("links", str(ROOT / "bench/links"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("links", loader))
    loader.exec_module(module)
    return module


def why_no_namespaces() -> str:
    """Empty: they can be made here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not all(shutil.which(tool) for tool in ("ip", "tc")):
        return "iproute2 is not installed"
    name = f"papilio-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here ({made.stderr.strip()})"
    try:
        for command in (["ip", "-n", name, "link", "add", "name", "left", "type", "veth", "peer", "name", "right"],
                        ["tc", "-n", name, "qdisc", "add", "dev", "left", "root", "tbf", "rate", "1mbit", "burst",
                         "10k", "latency", "50ms"],
                        ["ip", "-n", name, "link", "add", "name", "middle", "type", "bridge"]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return f"`{' '.join(command)}` fails here ({done.stderr.strip()})"
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=True)
    return ""


def free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to outgoing connections, so that no dialling node is given one of them."""
    candidates = list(range(10_000, 32_000))
    random.shuffle(candidates)
    ports: list[int] = []
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            break
    return ports


# ---- where members run

class Loopback:
    """All on one address. No line of its own for anybody, so rounds are short."""

    def __init__(self, members: int) -> None:
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(members)]

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def command(self, _: int, command: list[str]) -> list[str]:
        return command


class Hosts:
    """A namespace per member, joined by a bridge, each with a line of its own."""

    def __init__(self, members: int, rate_bps: float) -> None:
        self.links = load_links()
        self.rate_bps = rate_bps
        options = SimpleNamespace(rates=[rate_bps] * members, rtt=None, queue=0.05, keep=False, loss=0.0)
        self.network = self.links.Network(options, self.links.Children())
        self.addresses = [f"{address}:{PORT}" for address in self.network.addresses]

    def __enter__(self) -> "Hosts":
        self.network.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.network.remove()

    def command(self, host: int, command: list[str]) -> list[str]:
        return self.network.command(host, command)

    def shape(self, host: int, rate_bps: float) -> None:
        for namespace, interface in ((self.network.hosts[host], "eth0"), (self.network.switch, f"port{host}")):
            self.network.shape(namespace, interface, rate_bps)

    def cut(self, host: int) -> None:
        """As if somebody pulled the plug beyond the next switch: nothing arrives, and nobody is told."""
        self.links.run_tool("ip", "-n", self.network.switch, "link", "set", f"port{host}", "nomaster")

    def take_down(self, host: int) -> None:
        """The host's own interface; its kernel forgets the way, the others are told nothing."""
        self.links.run_tool("ip", "-n", self.network.hosts[host], "link", "set", "eth0", "down")

    def mend(self, host: int) -> None:
        self.links.run_tool("ip", "-n", self.network.switch, "link", "set", f"port{host}", "master", "bridge")
        self.shape(host, self.rate_bps)


def peer_id_of(state_directory: Path) -> str:
    """The id of the node that keeps its key there, found without its help: the hash of its public key."""
    public_key = subprocess.run(["openssl", "pkey", "-in", str(state_directory / "identity.pem"), "-pubout", "-outform", "DER"],
                                capture_output=True, check=True, timeout=PATIENCE_S).stdout
    return hashlib.sha256(public_key[-32:]).hexdigest()


class Proxy:
    """A line on loopback: passes connections on to `target`, at will in drips, damaged, or not at all."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.drip_bytes = 0  # per second and direction; 0: all there is
        self.to_damage = 0   # so many blocks get one wrong byte
        self.mutex = threading.Lock()
        self.closed = threading.Event()
        self.sockets: list[socket.socket] = [self.server]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while not self.closed.is_set():
            try:
                near, _ = self.server.accept()
                far = socket.create_connection(self.target)
            except OSError:
                continue
            with self.mutex:
                self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self.pass_on, args=(source, sink), daemon=True).start()

    def pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(self.drip_bytes or 1 << 18):
                if self.drip_bytes and self.closed.wait(1):
                    break
                sink.sendall(self.damaged(data))
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def damaged(self, data: bytes) -> bytes:
        with self.mutex:
            if self.to_damage == 0 or len(data) < 4096:
                return data
            self.to_damage -= 1
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1:]

    def close(self) -> None:
        self.closed.set()
        with self.mutex:
            for each in self.sockets:
                each.close()


class LyingLine(Proxy):
    """In front of a sound node, and makes a liar of it: what the node says in a round's shards is passed on frame by
    frame, until one of them is replaced by whatever `lie` makes of it: amid a round, once on each connection there is."""

    def __init__(self, target: str) -> None:
        self.lie = None  # from a Frame to the bytes that are sent in its place
        self.kind = frames.CONTRIBUTION
        self.amid = 2  # at the how manieth frame of that kind in a round
        self.told: list[int] = []  # the rounds in which it lied
        self.changed = threading.Condition()
        super().__init__(target)

    def pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            speaks = source.getpeername() == self.target
        except OSError:
            speaks = False  # gone already
        if not speaks:
            return super().pass_on(source, sink)
        try:
            self.pass_frames_on(source, sink)
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        return None

    def pass_frames_on(self, source: socket.socket, sink: socket.socket) -> None:
        round_ = shards = 0
        lied = self.lie is not None  # only those who knew it as an honest member
        while frame := frames.Frame.receive(source):
            words = frame.bytes()
            if frame.kind == self.kind:
                shards = shards + 1 if frame.get("round") == round_ else 1
                round_ = frame.get("round")
                if self.lie is not None and not lied and shards == self.amid:
                    words = self.lie(frame)
                    lied = True
                    with self.changed:
                        self.told.append(round_)
                        self.changed.notify_all()
            if not words:
                return
            sink.sendall(words)

    def wait_until_told(self) -> int:
        """The round in which it lied first."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.told, PATIENCE_S):
                raise AssertionError("there was no occasion to lie")
            return self.told[0]


# ---- members

@dataclasses.dataclass
class Round:
    """One member's report of one round, and what it says about one peer."""
    json: dict

    def __getattr__(self, name: str):
        return self.json[name]

    def of(self, peer: str) -> dict | None:
        return next((each for each in self.json["peers"] if each["peer"] == peer), None)

    def cut_off(self) -> dict[str, dict]:
        return {each["peer"]: each for each in self.json["peers"] if each["cut_off"]}

    def banned(self) -> set[str]:
        return {each["peer"] for each in self.json["peers"] if each["banned"]}


class Member:
    """One fault-member process; its lines are collected as they come."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.log_path = log
        self.changed = threading.Condition()
        self.events: list[dict] = []
        self.closed = False
        self.frozen = False
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                                            text=True, errors="replace", start_new_session=True)
        self.thread = threading.Thread(target=self.collect, daemon=True)
        self.thread.start()

    def collect(self) -> None:
        with self.process.stdout:
            for line in self.process.stdout:
                with self.changed:
                    self.events.append(json.loads(line))
                    self.changed.notify_all()
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def tail(self) -> str:
        events = [json.dumps(event)[:300] for event in self.events[-3:]]
        return f"--- {self.name}\n" + "\n".join(events + self.log().splitlines()[-25:])

    def find(self, event: str, **fields) -> dict | None:
        return next((each for each in self.events
                     if each["event"] == event and all(each.get(key) == value for key, value in fields.items())), None)

    def wait_for(self, event: str, patience_s: float = PATIENCE_S, **fields) -> dict:
        with self.changed:
            self.changed.wait_for(lambda: self.find(event, **fields) or self.closed, patience_s)
            found = self.find(event, **fields)
        if found is None:
            raise AssertionError(f"no {event} {fields} came from {self.name}\n{self.tail()}")
        return found

    def wait_for_log(self, pattern: str, patience_s: float = PATIENCE_S) -> str:
        give_up = time.monotonic() + patience_s
        while not (found := re.search(pattern, self.log())):
            if time.monotonic() > give_up:
                raise AssertionError(f"{self.name} never said {pattern!r}\n{self.tail()}")
            with self.changed:
                self.changed.wait(0.05)  # logs make no event
        return found.group()

    def peer(self) -> str:
        return self.wait_for("start")["peer"]

    def round(self, epoch: int) -> Round:
        return Round(self.wait_for("round", epoch=epoch))

    def rounds(self) -> list[Round]:
        with self.changed:
            return [Round(event) for event in self.events if event["event"] == "round"]

    def rounds_after(self, epoch: int, count: int) -> list[Round]:
        """The next so many in which it took part, whatever their numbers."""
        def found() -> list[Round]:
            return [Round(event) for event in self.events if event["event"] == "round" and event["epoch"] > epoch]
        with self.changed:
            if not self.changed.wait_for(lambda: len(found()) >= count or self.closed, PATIENCE_S) or self.closed:
                raise AssertionError(f"no {count} rounds after epoch {epoch} came from {self.name}\n{self.tail()}")
            return found()[:count]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.frozen = True
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.signal(signal.SIGCONT)

    def leave(self) -> int:
        """Asks it to leave; its exit code."""
        if self.process.poll() is None:
            if self.frozen:
                self.thaw()
            self.signal(signal.SIGINT)
            try:
                self.process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} does not leave\n{self.tail()}") from None
        self.thread.join(PATIENCE_S)
        return self.process.returncode


class Group:
    """Members that know each other's addresses. Ends all of them on exit, by their ids."""

    def __init__(self, program: str, place, directory: Path, elements: int, arguments: tuple[str, ...] = (),
                 target_batch: int = 0) -> None:
        self.program = program
        self.place = place
        self.directory = directory
        self.elements = elements
        self.arguments = arguments
        self.target_batch = target_batch or len(place.addresses)
        self.reached_at = list(place.addresses)  # where the others dial each one
        self.members: list[Member] = []

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, error, *_: object) -> None:
        problems = []
        for member in self.members:
            try:
                member.leave()
            except AssertionError as problem:
                problems.append(str(problem))
        if problems and error is None:
            raise AssertionError("\n".join(problems))

    def start(self, index: int, *arguments: str, peers: list[int] | None = None) -> Member:
        everybody = range(len(self.place.addresses)) if peers is None else peers
        dialled = [word for i in everybody if i != index for word in ("--peer", self.reached_at[i])]
        command = [self.program, "--listen", self.place.addresses[index], *dialled, "--elements", str(self.elements),
                   "--target-batch", str(self.target_batch), "--state-dir",
                   str(self.directory / f"state-{index}"), *self.arguments, *arguments]
        member = Member(f"member {index}", self.place.command(index, command), self.directory / f"{index}.log")
        if index < len(self.members):
            self.members[index] = member
        else:
            self.members.append(member)
        return member

    def start_all(self, *arguments: str) -> None:
        for index in range(len(self.place.addresses)):
            self.start(index, *arguments)

    def others(self, *without: Member) -> list[Member]:
        return [member for member in self.members if member not in without]
