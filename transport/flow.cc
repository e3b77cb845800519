#include "transport/flow.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace papilio::transport {

namespace {

// Where discarded payload goes. Several flows of a thread write nonsense over each other here: nobody reads it.
std::span<std::byte> scratch() {
  thread_local std::array<std::byte, std::size_t{64} << 10U> bytes;
  return bytes;
}

}  // namespace

std::string FlowFailure::to_string() const {
  if (is_protocol_violation()) return std::string(transport::to_string(frame_fault));
  return io.to_string();
}

Flow::~Flow() { PAPILIO_ASSERT(stream_ == nullptr); }

void Flow::dial(Io& io, const Address& address, const SocketOptions& options) {
  PAPILIO_ASSERT(stream_ == nullptr);
  stream_ = &io.connect(address, options, *this);
}

void Flow::adopt(Stream& accepted) {
  PAPILIO_ASSERT(stream_ == nullptr);
  stream_ = &accepted;
  stream_->set_events(*this);
  connected_ = true;
  read_head();
}

void Flow::on_connected(Stream&) {
  connected_ = true;
  read_head();
  events_.on_flow_connected(*this);
  send_next();
}

// ---- reading

void Flow::read_head() {
  reading_ = Reading::head;
  const ReadBuffer rest(head_.data() + head_filled_, head_.size() - head_filled_);
  stream_->read({&rest, 1}, rest.size());
}

void Flow::on_read(Stream&, std::size_t bytes) {
  switch (reading_) {
    case Reading::head: head_filled_ += bytes; break;
    case Reading::rest_of_header: break;  // the header is whole now
    case Reading::payload: finish_payload(bytes); break;
    case Reading::discarded:
      left_to_discard_ -= bytes;
      if (left_to_discard_ > 0) return read_discarded();
      head_filled_ = 0;
      reading_ = Reading::head;
      break;
  }
  parse_frames();
}

// Handles every frame that is already in memory, then posts the next read.
void Flow::parse_frames() {
  while (is_open()) {
    std::span<const std::byte> header_bytes(head_);
    if (reading_ == Reading::rest_of_header) {
      header_bytes = long_header_;
    } else {
      if (head_filled_ < head_.size()) return read_head();
      sizes_ = parse_frame_head(head_);
      if (sizes_.fault != FrameFault::none) return fail(sizes_.fault);
      if (sizes_.header_bytes > head_.size()) {
        long_header_.assign(sizes_.header_bytes, std::byte{0});
        std::memcpy(long_header_.data(), head_.data(), head_.size());
        reading_ = Reading::rest_of_header;
        const ReadBuffer rest(long_header_.data() + head_.size(), long_header_.size() - head_.size());
        return stream_->read({&rest, 1}, rest.size());
      }
    }
    ParsedHeader parsed = parse_frame_header(header_bytes);
    if (parsed.fault != FrameFault::none) return fail(parsed.fault);
    header_ = std::move(parsed.header);
    header_bytes_ += sizes_.header_bytes;
    head_filled_ = 0;
    reading_ = Reading::head;
    if (sizes_.payload_bytes > 0) {
      return begin_payload();  // goes on with a completion, or with resume()
    }
    events_.on_frame(*this, header_, {}, 0);
  }
}

std::uint64_t Flow::payload_received() const {
  if (holding_) return payload_when_held_;  // what lies unread in the kernel says nothing yet
  const std::uint64_t headers = header_bytes_ + (reading_ == Reading::head ? head_filled_ : 0);
  const std::uint64_t all = info().bytes_received;
  return all > headers ? all - headers : 0;
}

void Flow::begin_payload() {
  PayloadDecision decision = events_.on_payload_header(*this, header_, sizes_.payload_bytes);
  if (!is_open()) return;
  payload_when_held_ = payload_received();
  holding_ = decision.verdict == PayloadVerdict::hold;
  if (decision.verdict == PayloadVerdict::accept) {
    slab_ = std::move(decision.slab);
    PAPILIO_ASSERT_VALUES(slab_.bytes().size() >= sizes_.payload_bytes, slab_.bytes().size(), sizes_.payload_bytes);
    read_payload();
  } else if (decision.verdict == PayloadVerdict::discard) {
    left_to_discard_ = sizes_.payload_bytes;
    read_discarded();
  }
}

// The payload into its slab and, in the same system call, the next frame's head if it is there already.
void Flow::read_payload() {
  reading_ = Reading::payload;
  const std::array<ReadBuffer, 2> buffers{slab_.bytes().first(sizes_.payload_bytes), ReadBuffer(head_)};
  stream_->read(buffers, sizes_.payload_bytes);
}

void Flow::finish_payload(std::size_t bytes) {
  head_filled_ = bytes - sizes_.payload_bytes;
  reading_ = Reading::head;
  events_.on_frame(*this, header_, std::move(slab_), sizes_.payload_bytes);
}

void Flow::read_discarded() {
  reading_ = Reading::discarded;
  const ReadBuffer part = scratch().first(std::min(left_to_discard_, scratch().size()));
  stream_->read({&part, 1}, part.size());
}

void Flow::resume() {
  if (!holding_ || !is_open()) return;
  holding_ = false;
  begin_payload();
}

void Flow::fail(FrameFault fault) {
  failed_ = true;
  events_.on_flow_failed(*this, FlowFailure{.frame_fault = fault, .io = {}});
  abort();
}

// ---- sending

void Flow::send_control(const Header& header) {
  if (!is_open()) return;
  HeaderBytes bytes;
  encode_frame_header(header, 0, bytes);
  control_bytes_ += bytes.size();
  control_.push_back(std::move(bytes));
  send_next();
  if (control_bytes_ <= kMostWaitingWords || !is_open()) return;
  unread_ = true;
  abort();
}

void Flow::wake_sender() { send_next(); }

void Flow::send_next() {
  if (!is_open() || !connected_ || writing_) return;
  if (!control_.empty()) {
    writing_ = writing_control_ = true;
    const WriteBuffer buffer(control_.front());
    stream_->write({&buffer, 1}, WriteMode::copy);
  } else if (close_when_sent_) {
    closing_ = true;
    stream_->close();
  } else if (events_.next_frame(*this, outgoing_)) {
    writing_ = true;
    const std::array<WriteBuffer, 2> buffers{WriteBuffer(outgoing_.header), outgoing_.payload};
    stream_->write(std::span(buffers).first(outgoing_.payload.empty() ? 1 : 2), outgoing_.mode);
  }
}

void Flow::on_written(Stream&) {
  writing_ = false;
  if (writing_control_) {
    writing_control_ = false;
    control_bytes_ -= control_.front().size();
    control_.pop_front();
  } else {
    events_.on_frame_sent(*this, outgoing_.tag);
  }
  send_next();
}

// ---- ending

void Flow::close_after_sending() {
  if (!is_open()) return;
  close_when_sent_ = true;
  if (!connected_) return abort();
  send_next();
}

void Flow::abort() {
  if (stream_ == nullptr || closing_) return;
  closing_ = true;
  stream_->abort();
}

void Flow::on_failed(Stream&, IoStatus status) {
  if (!failed_ && !closing_) {
    failed_ = true;
    events_.on_flow_failed(*this, FlowFailure{.frame_fault = FrameFault::none, .io = status});
  }
  abort();
}

void Flow::on_closed(Stream&) {
  if (unread_ && !failed_) {
    failed_ = true;
    events_.on_flow_failed(
        *this, FlowFailure{.frame_fault = FrameFault::none,
                           .io = {.code = IoCode::timed_out, .detail = "the peer does not read what it is told"}});
  }
  stream_ = nullptr;
  slab_.release();
  events_.on_flow_closed(*this);
}

}  // namespace papilio::transport
