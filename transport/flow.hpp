// One connection, seen as frames: reads headers and steers each payload straight into the slab that its owner chose,
// and pulls the next frame to send whenever the connection can take one. Pulling (not pushing) is what lets several
// flows of one link share work: a flow behind a slow path simply asks less often.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "transport/frame.hpp"
#include "transport/io.hpp"
#include "transport/slab_pool.hpp"

namespace papilio::transport {

class Flow;

// What to do with a frame whose header is in and whose payload is not.
enum class PayloadVerdict : std::uint8_t {
  accept,   // read it into the slab
  discard,  // read it and forget it
  hold,     // not now: stop reading this flow until resume(), which asks again
};
struct PayloadDecision {
  PayloadVerdict verdict = PayloadVerdict::discard;
  Slab slab;  // for accept: at least as large as the payload
};

struct OutgoingFrame {
  HeaderBytes header;
  WriteBuffer payload;  // stays valid until on_frame_sent (WriteMode::copy) or as WriteMode::borrow says
  WriteMode mode = WriteMode::copy;
  std::uint64_t tag = 0;  // the owner's, given back in on_frame_sent
};

// Why a flow is of no more use.
struct FlowFailure {
  FrameFault frame_fault = FrameFault::none;  // the peer sent what no peer may send
  IoStatus io;                                // or the connection ended
  [[nodiscard]] bool is_protocol_violation() const { return frame_fault != FrameFault::none; }
  [[nodiscard]] std::string to_string() const;
};

class FlowEvents {
 public:
  virtual void on_flow_connected(Flow& flow) = 0;
  // A contribution's or average's header is in, checked and parsed.
  virtual PayloadDecision on_payload_header(Flow& flow, const Header& header, std::size_t payload_bytes) = 0;
  // The whole frame is in. The slab is empty for frames without payload and for discarded ones (those are not
  // reported).
  virtual void on_frame(Flow& flow, const Header& header, Slab payload, std::size_t payload_bytes) = 0;
  // The flow can send: fill in `frame` and say true, or say false and call flow.wake_sender() later.
  virtual bool next_frame(Flow& flow, OutgoingFrame& frame) = 0;
  virtual void on_frame_sent(Flow& flow, std::uint64_t tag) = 0;
  // At most once; the flow aborts itself after it.
  virtual void on_flow_failed(Flow& flow, const FlowFailure& failure) = 0;
  // Last. The flow may be destroyed in it.
  virtual void on_flow_closed(Flow& flow) = 0;

 protected:
  ~FlowEvents() = default;
};

// Bytes of control frames on one flow that the socket has not taken. For an honest peer a few frames wait, behind one
// payload at most.
inline constexpr std::size_t kMostWaitingWords = std::size_t{4} << 20U;

class Flow final : private StreamEvents {
 public:
  explicit Flow(FlowEvents& events) : events_(events) {}
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;
  ~Flow();

  // One of the two, once.
  void dial(Io& io, const Address& address, const SocketOptions& options);
  void adopt(Stream& accepted);

  // Small frames without payload, sent before anything that next_frame offers. A peer that lets more than
  // kMostWaitingWords of them wait does not read, or too slowly to be of use: the flow then fails, from the next turn.
  void send_control(const Header& header);
  // Asks next_frame if nothing is on its way.
  void wake_sender();
  // Asks on_payload_header again after a hold.
  void resume();

  // Sends what send_control queued, then ends the stream in order.
  void close_after_sending();
  void abort();

  [[nodiscard]] bool is_open() const { return stream_ != nullptr && !closing_; }
  [[nodiscard]] bool holds() const { return holding_; }
  [[nodiscard]] bool is_idle() const { return !writing_ && control_.empty(); }
  [[nodiscard]] StreamInfo info() const { return stream_ != nullptr ? stream_->info() : StreamInfo{}; }
  // Payload that has come so far, that of an unfinished frame included.
  [[nodiscard]] std::uint64_t payload_received() const;
  // See Stream::peer_key.
  [[nodiscard]] const PublicKey* peer_key() const { return stream_ != nullptr ? stream_->peer_key() : nullptr; }
  [[nodiscard]] Address peer_address() const { return stream_ != nullptr ? stream_->peer_address() : Address{}; }
  void set_send_buffer(std::size_t bytes) {
    if (is_open()) stream_->set_send_buffer(bytes);
  }

  // The owner's, untouched by the flow.
  void* context = nullptr;

 private:
  void on_connected(Stream& stream) override;
  void on_read(Stream& stream, std::size_t bytes) override;
  void on_written(Stream& stream) override;
  void on_failed(Stream& stream, IoStatus status) override;
  void on_closed(Stream& stream) override;

  void read_head();
  void parse_frames();
  void begin_payload();
  void read_payload();
  void finish_payload(std::size_t bytes);
  void read_discarded();
  void fail(FrameFault fault);
  void send_next();

  enum class Reading : std::uint8_t { head, rest_of_header, payload, discarded };

  FlowEvents& events_;
  Stream* stream_ = nullptr;
  bool connected_ = false;
  bool closing_ = false;
  bool close_when_sent_ = false;
  bool failed_ = false;

  Reading reading_ = Reading::head;
  bool holding_ = false;
  std::uint64_t payload_when_held_ = 0;
  alignas(16) std::array<std::byte, kFrameHeadBytes> head_{};  // tables are read where they lie
  std::size_t head_filled_ = 0;
  HeaderBytes long_header_;
  FrameSizes sizes_;
  Header header_;
  Slab slab_;
  std::size_t left_to_discard_ = 0;
  std::uint64_t header_bytes_ = 0;  // of all frames so far

  bool writing_ = false;
  bool writing_control_ = false;
  OutgoingFrame outgoing_;
  std::deque<HeaderBytes> control_;
  std::size_t control_bytes_ = 0;  // of control_
  bool unread_ = false;            // ended for kMostWaitingWords
};

}  // namespace papilio::transport
