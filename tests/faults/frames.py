"""Frames as they travel (transport/frame.hpp, schemas/frames.fbs), written down a second time and from outside: what
somebody needs who knows the protocol well enough to lie in it."""

import ctypes
import ctypes.util
import socket
import struct

PREAMBLE = struct.Struct("<IBBHII")  # magic, type, version, header words, payload bytes, checksum
HEAD_BYTES = 128
CONTRIBUTION, AVERAGE = 6, 7
# Number and format of each field.
OF_CONTRIBUTION = {"round": (0, "Q"), "checksum": (1, "Q"), "chunk": (2, "I"), "weight": (3, "f"), "codec": (4, "B"),
                   "model": (5, "Q"), "group": (6, "Q"), "compression": (7, "B")}
OF_AVERAGE = {"round": (0, "Q"), "checksum": (1, "Q"), "coverage": (2, "Q"), "chunk": (3, "I"), "total_weight": (4, "f"),
              "codec": (5, "B"), "model": (7, "Q"), "group": (8, "Q"), "reducer": (9, "I"),
              "compression": (10, "B")}
FIELDS = {CONTRIBUTION: OF_CONTRIBUTION, AVERAGE: OF_AVERAGE}
ZSTD = 1  # as a shard's compression


def hash_of(data: bytes, seed: int = 0) -> int:
    """XXH3-64, from the library whose headers the engine is built with."""
    library = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    library.XXH3_64bits_withSeed.restype = ctypes.c_uint64
    library.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    return library.XXH3_64bits_withSeed(bytes(data), len(data), seed)


def zstd_frame(declared: int, held: int) -> bytes:
    """A frame (RFC 8878) that says it holds so many zeros, and holds so many: 4 bytes for every 128 KiB."""
    most = 128 << 10
    frame = bytearray(struct.pack("<IBBQ", 0xfd2fb528, 0xc0, 0x38, declared))  # 8 bytes of size, a window of 128 KiB
    while held > 0:
        count = min(held, most)
        held -= count
        repeated = 1
        frame += struct.pack("<I", count << 3 | repeated << 1 | (held == 0))[:3] + b"\0"
    return bytes(frame)


def table_of(kind: int, values: dict[str, float]) -> bytes:
    """A FlatBuffer with one table: root offset, vtable, fields each at a multiple of its size."""
    fields = {FIELDS[kind][name][0]: (FIELDS[kind][name][1], value) for name, value in values.items()}
    slots = [0] * (max(fields) + 1)
    vtable_bytes = 4 + 2 * len(slots)
    table_at = (4 + vtable_bytes + 7) // 8 * 8
    content = bytearray(struct.pack("<i", table_at - 4))
    for number, (form, value) in fields.items():
        size = struct.calcsize("<" + form)
        content += bytes(-len(content) % size)
        slots[number] = len(content)
        content += struct.pack("<" + form, value)
    vtable = struct.pack(f"<HH{len(slots)}H", vtable_bytes, len(content), *slots)
    return (struct.pack("<I", table_at) + vtable).ljust(table_at, b"\0") + bytes(content)


class Frame:
    """Header and payload, to be looked at, changed and sealed."""

    def __init__(self, header: bytearray, payload: bytes) -> None:
        self.header = header
        self.payload = payload

    @classmethod
    def receive(cls, source: socket.socket) -> "Frame | None":
        head = receive_exactly(source, HEAD_BYTES)
        if head is None:
            return None
        _, _, _, words, payload_bytes, _ = PREAMBLE.unpack_from(head)
        rest = receive_exactly(source, 8 * words - HEAD_BYTES)
        payload = receive_exactly(source, payload_bytes)
        if rest is None or payload is None:
            return None
        return cls(head + rest, bytes(payload))

    @classmethod
    def make(cls, kind: int, values: dict[str, float], payload: bytes, version: int) -> "Frame":
        table = table_of(kind, values)
        size = max(HEAD_BYTES, (PREAMBLE.size + len(table) + 7) // 8 * 8)
        header = bytearray(PREAMBLE.pack(0x314c5050, kind, version, size // 8, len(payload), 0) + table)
        return cls(header + bytes(size - len(header)), payload).sealed()

    @property
    def kind(self) -> int:
        return self.header[4]

    @property
    def version(self) -> int:
        return self.header[5]

    def place(self, name: str) -> int:
        """Where a field's value lies; 0: it is not there, and has its default."""
        number, _ = FIELDS[self.kind][name]
        table = PREAMBLE.size + struct.unpack_from("<I", self.header, PREAMBLE.size)[0]
        vtable = table - struct.unpack_from("<i", self.header, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", self.header, vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", self.header, vtable + 4 + 2 * number)[0]
        return table + offset if offset else 0

    def get(self, name: str) -> float:
        place = self.place(name)
        return struct.unpack_from("<" + FIELDS[self.kind][name][1], self.header, place)[0] if place else 0

    def values(self) -> dict[str, float]:
        return {name: self.get(name) for name in FIELDS[self.kind]}

    def changed(self, **fields: float) -> "Frame":
        """The same shard with other words in its header, and a checksum that belongs to them."""
        return Frame.make(self.kind, self.values() | fields, self.payload, self.version)

    def with_payload(self, payload: bytes) -> "Frame":
        """Other bytes, with the checksum that belongs to them."""
        return Frame.make(self.kind, self.values() | {"checksum": hash_of(payload)}, payload, self.version)

    def with_preamble(self, kind: int | None = None, words: int | None = None,
                      payload_bytes: int | None = None) -> "Frame":
        """What it says of itself changed, and nothing else."""
        old = PREAMBLE.unpack_from(self.header)
        header = bytearray(self.header)
        PREAMBLE.pack_into(header, 0, old[0], old[1] if kind is None else kind, old[2], old[3] if words is None else words,
                           old[4] if payload_bytes is None else payload_bytes, 0)
        return Frame(header, self.payload).sealed()

    def sealed(self) -> "Frame":
        first, second = struct.unpack("<QI", self.header[:12])
        seed = first ^ (second * 0x9e3779b97f4a7c15 & (1 << 64) - 1)
        struct.pack_into("<I", self.header, 12, hash_of(bytes(self.header[PREAMBLE.size:]), seed) & 0xffffffff)
        return self

    def bytes(self) -> bytes:
        return bytes(self.header) + self.payload


def receive_exactly(source: socket.socket, count: int) -> bytearray | None:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        received = source.recv_into(view)
        if received == 0:
            return None
        view = view[received:]
    return data
