// The network as a parameter. Everything above this interface (framing, links, rounds) runs unchanged over io_uring,
// over libuv, and over a simulated network with a simulated clock. It is a completion interface: the owner posts one
// read and one write at a time per stream and is told when they are done, because a kernel ring works that way and
// readiness (epoll) can imitate it, while the reverse costs a copy.
//
// Rules that every implementation keeps (tests/transport/io_conformance_test.cc):
//   * every posted operation ends in exactly one of: its completion, or the stream's on_failed, or (after close or
//   abort)
//     the stream's on_closed;
//   * no callback ever runs inside a call of the owner's: all come from run_once;
//   * buffers of a posted operation stay the implementation's until it ended; after close or abort they do so until
//     on_closed, which comes only when the kernel let go of everything;
//   * on_closed is the last callback of a stream, comes exactly once after close or abort, and the stream is gone after
//   it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "transport/address.hpp"
#include "transport/identity.hpp"

struct uv_loop_s;

namespace papilio::transport {

enum class IoCode : std::uint8_t {
  ok,
  closed_by_peer,    // orderly end of stream
  reset,             // connection lost or reset
  refused,           // nobody listens there
  unreachable,       // no route
  timed_out,         // the operating system gave up
  out_of_resources,  // descriptors, memory or ports
  not_secure,        // the other side has not proved who it is, or does not speak TLS 1.3
  damaged,           // what came in was not what was sent
  failed,            // anything else: see error_number
};
[[nodiscard]] std::string_view to_string(IoCode code);

struct IoStatus {
  IoCode code = IoCode::ok;
  int error_number = 0;          // errno, 0 where there is none
  std::string_view detail = {};  // in words, living as long as the program; empty where there are none

  static IoStatus from_errno(int error_number);
  [[nodiscard]] std::string to_string() const;
};

using ReadBuffer = std::span<std::byte>;
using WriteBuffer = std::span<const std::byte>;
inline constexpr std::size_t kMaximumBuffersPerOperation = 4;

// Who may touch written bytes after on_written.
enum class WriteMode : std::uint8_t {
  // The kernel has its own copy: the owner may reuse them.
  copy,
  // The implementation may have handed the pages themselves to the kernel (no copy): the owner keeps the bytes
  // unchanged
  // until the peer has shown at the protocol's level that it read them, or until the stream was aborted and the peer
  // checks what it reads. Implementations without a cheaper way treat it as `copy`.
  borrow,
};

// How a socket is set up. Zero or empty leaves the kernel's default.
struct SocketOptions {
  std::string congestion_control;          // "cubic", "bbr": TCP_CONGESTION
  std::size_t send_buffer_bytes = 0;       // SO_SNDBUF
  std::size_t receive_buffer_bytes = 0;    // SO_RCVBUF
  std::size_t unsent_low_water_bytes = 0;  // TCP_NOTSENT_LOWAT: bounds what waits in the kernel behind a slow path
};

// What the kernel measured on one connection (TCP_INFO; the simulator fills in its own).
struct StreamInfo {
  Duration round_trip{};  // smoothed
  Duration minimum_round_trip{};
  std::uint64_t delivery_rate_bytes_per_s = 0;
  std::uint64_t retransmits = 0;
  std::uint64_t bytes_received = 0;        // by the application, counted as they arrive, also within an unfinished read
  std::uint64_t bytes_sent = 0;            // handed to the kernel
  std::uint64_t bytes_unacknowledged = 0;  // of them, not yet acknowledged by the peer's
  std::uint32_t segment_bytes = 0;         // payload of a full packet (MSS without options); 0: not known
};

class Stream;

class StreamEvents {
 public:
  // A dialled stream is connected (accepted streams are from the start).
  virtual void on_connected(Stream& stream) = 0;
  // The posted read holds `bytes` bytes: at least what was asked for.
  virtual void on_read(Stream& stream, std::size_t bytes) = 0;
  // The posted write was taken whole.
  virtual void on_written(Stream& stream) = 0;
  // The connection is of no more use; posted operations have ended without completion. At most once. Close it then.
  virtual void on_failed(Stream& stream, IoStatus status) = 0;
  virtual void on_closed(Stream& stream) = 0;

 protected:
  ~StreamEvents() = default;
};

class Stream {
 public:
  // Fills the buffers in order, until at least `at_least` bytes are in. One read at a time. 1 <= at_least <= total.
  virtual void read(std::span<const ReadBuffer> buffers, std::size_t at_least) = 0;
  // Writes all the buffers. One write at a time, total > 0. With `borrow` only bytes of the last buffer are borrowed:
  // the others (headers) are the owner's again at on_written.
  virtual void write(std::span<const WriteBuffer> buffers, WriteMode mode) = 0;
  // Orderly: what was written is still delivered, then end of stream. Posted operations end.
  virtual void close() = 0;
  // At once: the peer sees a reset, unsent bytes are dropped.
  virtual void abort() = 0;

  virtual void set_events(StreamEvents& events) = 0;
  [[nodiscard]] virtual StreamInfo info() const = 0;
  [[nodiscard]] virtual Address peer_address() const = 0;
  // Resizes SO_SNDBUF, from measured bandwidth times delay.
  virtual void set_send_buffer(std::size_t bytes) = 0;
  // Whose key the other side has proved to hold; null on streams that are not encrypted, and before the handshake.
  [[nodiscard]] virtual const PublicKey* peer_key() const { return nullptr; }

 protected:
  ~Stream() = default;
};

class ListenerEvents {
 public:
  // The stream's events go nowhere until set_events, which has to happen inside this call.
  virtual void on_accepted(Stream& stream) = 0;

 protected:
  ~ListenerEvents() = default;
};

// For who is not even listened to: within on_accepted, in place of set_events.
void turn_away(Stream& accepted);

class Listener {
 public:
  [[nodiscard]] virtual Address address() const = 0;  // with the port that was chosen for port 0
  virtual void close() = 0;                           // no on_accepted after this; the listener is gone

 protected:
  ~Listener() = default;
};

class Io {
 public:
  virtual ~Io() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // Monotonic; constant between two calls of run_once.
  [[nodiscard]] virtual TimePoint now() const = 0;
  // Errors name the address and the reason (port in use, no permission).
  virtual Result<Listener*> listen(const Address& address, const SocketOptions& options, ListenerEvents& events) = 0;
  // Never fails at once: what goes wrong comes as on_failed.
  virtual Stream& connect(const Address& address, const SocketOptions& options, StreamEvents& events) = 0;
  // Waits until something happened, wake() was called or `until` passed, and delivers what there is.
  virtual void run_once(TimePoint until) = 0;
  // Ends the current or next wait of run_once. The only call that other threads may make.
  virtual void wake() noexcept = 0;
  // libuv's loop, turned by run_once in the same thread (signals, terminals); null where there is none.
  [[nodiscard]] virtual uv_loop_s* event_loop() = 0;
  // Streams and listeners not yet gone: 0 after everything was closed and delivered.
  [[nodiscard]] virtual std::size_t open_handles() const = 0;
};

enum class IoBackend : std::uint8_t { automatic, uring, uv };

// auto, uring or uv. The error says so.
Result<IoBackend> parse_io_backend(std::string_view name);

// `automatic` takes io_uring where the running kernel has what is needed; `why` then says in one line what was taken
// and, where it was not io_uring, why not. Asking for a backend that cannot run here is an error that says the same.
Result<std::unique_ptr<Io>> make_io(IoBackend backend, std::string* why);

}  // namespace papilio::transport
