// What the real backends (libuv, io_uring) do to sockets in the same way: setting them up, asking them what they
// measured, and writing a payload without copying it. Kept apart from both so that a socket behaves the same whichever
// of them owns it.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "engine/base/result.hpp"
#include "transport/address.hpp"
#include "transport/io.hpp"

namespace papilio::transport {

// A file descriptor with one owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor() { reset(); }

  [[nodiscard]] int get() const { return number_; }
  [[nodiscard]] bool valid() const { return number_ >= 0; }
  // Gives up ownership.
  [[nodiscard]] int release() { return std::exchange(number_, -1); }
  // Closes it.
  void reset();

 private:
  int number_ = -1;
};

// A nonblocking, close-on-exec TCP socket for dialling `address`, with TCP_NODELAY and the options set; not yet
// connecting. On failure the descriptor is invalid and `error_number` says why.
Descriptor open_stream_socket(const Address& address, const SocketOptions& options, int& error_number);

// A nonblocking listening socket; accepted sockets inherit its options. `bound` receives the address with the port
// that was chosen for port 0. The error names the address, the reason and the remedy.
Result<Descriptor> open_listening_socket(const Address& address, const SocketOptions& options, Address& bound);

// Takes the connections that wait at a listening socket, one at a time: who is not taken yet costs the kernel's queue
// an entry and this process nothing, neither a descriptor nor memory, however fast strangers connect. (io_uring's
// multishot accept takes them all at once, as many as its completion queue holds: 10,000 connections then cost
// thousands of descriptors before anybody is asked whether they may stay.)
class AcceptQueue {
 public:
  struct Connection {
    Descriptor socket;
    Address peer;
  };

  AcceptQueue();
  // Nothing where nobody waits, or where one did and is gone. Where descriptors run out the first is reset, so that the
  // dialler is told instead of being left waiting.
  [[nodiscard]] std::optional<Connection> take(int listening_socket);

 private:
  void refuse_one(int listening_socket);

  Descriptor reserve_;  // given up for a moment when descriptors run out
};
// So many in a row; then others have their turn.
inline constexpr int kAcceptsPerTurn = 64;

// The pending error of the socket (SO_ERROR), 0 for none: how a nonblocking connect ended.
int take_socket_error(int socket);
// Makes the coming close(2) of the socket drop what is unsent and show the peer a reset.
void reset_on_close(int socket);

// Orderly close, in two steps. close(2) alone would answer bytes that the peer is still sending with a reset, and the
// reset would drop what was not delivered yet: so the writing side is shut first, what still comes in is discarded, and
// the descriptor is closed once `orderly_close_is_done`, or after kLongestLinger (the kernel then goes on alone).
inline constexpr Duration kLongestLinger = std::chrono::seconds(1);
inline constexpr Duration kLingerCheckInterval = std::chrono::milliseconds(5);
void begin_orderly_close(int socket);
// Discards what came in; true once the peer has acknowledged everything, ended its side, or is gone.
[[nodiscard]] bool orderly_close_is_done(int socket);

void set_send_buffer_bytes(int socket, std::size_t bytes);
// TCP_INFO without the byte counts, which are the backend's own.
StreamInfo read_stream_info(int socket);

// Payloads below this are copied even if borrowed: mapping pages costs about as much as copying 16 of them.
inline constexpr std::size_t kMinimumBorrowBytes = std::size_t{64} << 10U;

// Whether a borrowed payload of that size is worth passing by reference to that peer: towards other hosts splice gains
// nothing over a copy. Over loopback MSG_ZEROCOPY and SEND_ZC always copy, while vmsplice and splice move no bytes on
// the sending side. What that saves, the reader partly pays: it now copies from the owner's pages, not from the cache.
// CPU seconds per GB, sender + reader, 256 KiB payloads out of a 64 MiB buffer on a busy 2-core machine (single
// readings): copy 0.15 + 0.15; by reference from 4 KiB pages 0.10 + 0.21, from huge pages 0.07 + 0.13. So the owner
// should lend huge pages; small and cache-hot buffers are better copied (warm: copy 0.09 + 0.09, reference 0.10 +
// 0.10).
[[nodiscard]] bool pays_to_borrow(bool peer_is_local_host, WriteMode mode, std::size_t payload_bytes);

// Writes one message at a time to a nonblocking socket, resuming where the socket was full. Payloads can go by
// reference: vmsplice maps the owner's pages into a pipe of this sender, splice hands them from there to the socket.
// Where that cannot be set up (no descriptors left, pipe quota used up, not supported) the sender copies, from then on
// for good. Order is kept: what lies in the pipe leaves it before anything else is sent.
class SpliceSender {
 public:
  enum class Progress : std::uint8_t {
    done,     // the message was taken whole
    blocked,  // the socket is full: call advance again when it is writable
    failed,   // see error_number()
  };

  // Takes a message of 1 to kMaximumBuffersPerOperation buffers; the previous one has to be done. With `by_reference`
  // the last buffer goes by reference, the others are copied. Sends nothing yet.
  void start(std::span<const WriteBuffer> buffers, bool by_reference);
  // Sends as much as the socket takes. `more_follows` says that another message will be started at once: the tail of
  // this one may wait for it to fill its packet.
  Progress advance(int socket, bool more_follows = false);

  // Forgets the message and closes the pipe with what lies in it. For streams that are aborted or closed.
  void cancel();

  [[nodiscard]] bool idle() const { return remaining_bytes_ == 0; }
  // Of the current message, not yet taken by the socket.
  [[nodiscard]] std::size_t remaining_bytes() const { return remaining_bytes_; }
  [[nodiscard]] int error_number() const { return error_number_; }
  // Whether this stream went back to copying for good.
  [[nodiscard]] bool fell_back_to_copy() const { return cannot_splice_; }
  // Payload bytes handed over by reference since the start.
  [[nodiscard]] std::uint64_t spliced_bytes() const { return spliced_bytes_; }

 private:
  enum class Step : std::uint8_t { again, blocked, failed };

  Step send_copied(int socket, bool more_follows);
  Step splice_pipe(int socket, bool more_follows);
  void fill_pipe();
  bool open_pipe();
  void fall_back_to_copy();
  void skip_empty_buffers();

  std::array<WriteBuffer, kMaximumBuffersPerOperation> buffers_;  // what is neither sent nor in the pipe
  std::size_t first_ = 0;                                         // of buffers_, not exhausted
  std::size_t count_ = 0;                                         // end of buffers_ in use
  std::size_t remaining_bytes_ = 0;                               // in buffers_ and in the pipe
  std::size_t piped_bytes_ = 0;                                   // just before what is left of the last buffer
  std::uint64_t spliced_bytes_ = 0;
  int error_number_ = 0;
  bool by_reference_ = false;
  bool cannot_splice_ = false;
  Descriptor pipe_out_;
  Descriptor pipe_in_;
};

// Fills the buffers of one read at a time from a nonblocking socket: the other half of SpliceSender.
class ScatterReader {
 public:
  enum class Progress : std::uint8_t {
    done,     // at least what was asked for is in: received_bytes()
    partial,  // something came, not enough yet
    blocked,  // the socket is empty
    ended,    // orderly end of stream
    failed,   // see error_number()
  };

  // Takes 1 to kMaximumBuffersPerOperation buffers, to be filled in order. 1 <= at_least <= their total. Reads nothing
  // yet.
  void start(std::span<const ReadBuffer> buffers, std::size_t at_least);
  // One call to the kernel.
  Progress advance(int socket);

  // In this read so far.
  [[nodiscard]] std::size_t received_bytes() const { return received_bytes_; }
  // By the latest advance.
  [[nodiscard]] std::size_t latest_bytes() const { return latest_bytes_; }
  // The latest advance got less than there was room for: the socket has nothing more for now.
  [[nodiscard]] bool drained_socket() const { return first_ < count_; }
  [[nodiscard]] int error_number() const { return error_number_; }

 private:
  std::array<iovec, kMaximumBuffersPerOperation> buffers_{};
  std::size_t first_ = 0;  // of buffers_, not full
  std::size_t count_ = 0;
  std::size_t at_least_ = 0;
  std::size_t received_bytes_ = 0;
  std::size_t latest_bytes_ = 0;
  int error_number_ = 0;
};

}  // namespace papilio::transport
