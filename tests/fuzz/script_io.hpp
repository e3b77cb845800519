// A network of one machine whose other side is whoever holds it: connections come, bytes arrive in pieces of any size
// and connections end when the target says so, and time passes when it says so. An Io that keeps the rules of
// transport/io.hpp and does nothing by itself, so that one input is one course of events, thousands of times a second.
#pragma once

#include <algorithm>
#include <cstring>
#include <list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/fuzz/fuzz_target.hpp"
#include "transport/frame.hpp"
#include "transport/io.hpp"

namespace papilio::fuzz {

class ScriptIo;

class ScriptStream final : public transport::Stream {
 public:
  ScriptStream(const transport::Address& address, transport::StreamEvents* events, bool is_dialled)
      : address_(address), events_(events), is_connected_(!is_dialled), knows_it_is_connected_(!is_dialled) {}

  // ---- what the other side does; the owner hears of it in the next run_once
  void connect() { is_connected_ = true; }
  void feed(std::span<const std::byte> bytes) {
    if (!ending_) arrived_.insert(arrived_.end(), bytes.begin(), bytes.end());
  }
  // After everything that was fed.
  void end(transport::IoCode code) {
    if (!ending_) ending_ = transport::IoStatus{.code = code, .error_number = 0};
  }
  // Whether the other side takes bytes; what is written waits until it does.
  void set_takes_bytes(bool takes_bytes) { room_ = takes_bytes ? kEndless : 0; }
  // It takes writes until they have so many bytes: for owners that always have more to write.
  void set_room(std::size_t bytes) { room_ = bytes; }
  // What was written since it was last asked for.
  std::vector<std::byte> take_written() { return std::exchange(written_, {}); }
  void set_key(const transport::PublicKey& key) { key_ = std::make_unique<transport::PublicKey>(key); }

  [[nodiscard]] bool is_connected() const { return is_connected_; }
  // The owner wants no more of it.
  [[nodiscard]] bool is_left() const { return closing_; }
  [[nodiscard]] std::size_t unread() const { return arrived_.size() - taken_; }

  // ---- what the owner does
  void read(std::span<const transport::ReadBuffer> buffers, std::size_t at_least) override {
    FUZZ_CHECK(!closing_ && reading_.empty() && !buffers.empty() && at_least > 0);
    std::size_t room = 0;
    for (const transport::ReadBuffer& buffer : buffers) room += buffer.size();
    FUZZ_CHECK(at_least <= room && buffers.size() <= transport::kMaximumBuffersPerOperation);
    reading_.assign(buffers.begin(), buffers.end());
    at_least_ = at_least;
    read_ = 0;
  }
  void write(std::span<const transport::WriteBuffer> buffers, transport::WriteMode) override {
    FUZZ_CHECK(!closing_ && writing_.empty() && !buffers.empty());
    FUZZ_CHECK(buffers.size() <= transport::kMaximumBuffersPerOperation);
    writing_.assign(buffers.begin(), buffers.end());
  }
  void close() override { closing_ = true; }
  void abort() override { closing_ = true; }
  void set_events(transport::StreamEvents& events) override { events_ = &events; }
  [[nodiscard]] transport::StreamInfo info() const override {
    transport::StreamInfo info;
    info.round_trip = info.minimum_round_trip = std::chrono::milliseconds(1);
    info.bytes_received = received_ + (reading_.empty() ? 0 : read_);
    info.bytes_sent = sent_;
    return info;
  }
  [[nodiscard]] transport::Address peer_address() const override { return address_; }
  void set_send_buffer(std::size_t) override {}
  [[nodiscard]] const transport::PublicKey* peer_key() const override { return key_.get(); }

 private:
  friend class ScriptIo;
  static constexpr std::size_t kEndless = SIZE_MAX;

  // Tells the owner one thing that happened; false: nothing did.
  bool deliver() {
    if (closing_) return false;
    if (is_connected_ && !knows_it_is_connected_) {
      knows_it_is_connected_ = true;
      events_->on_connected(*this);
      return true;
    }
    if (is_connected_ && room_ > 0 && !writing_.empty()) {
      for (const transport::WriteBuffer& buffer : writing_) {
        written_.insert(written_.end(), buffer.begin(), buffer.end());
        sent_ += buffer.size();
        if (room_ != kEndless) room_ -= std::min(room_, buffer.size());
      }
      writing_.clear();
      events_->on_written(*this);
      return true;
    }
    if (fill()) return true;
    if (!ending_ || knows_it_failed_) return false;
    knows_it_failed_ = true;
    reading_.clear();
    writing_.clear();
    events_->on_failed(*this, *ending_);
    return true;
  }
  bool fill() {
    if (!is_connected_ || reading_.empty() || unread() == 0) return false;
    std::size_t skip = read_;
    for (const transport::ReadBuffer& buffer : reading_) {
      const std::size_t filled = std::min(skip, buffer.size());
      const std::size_t count = std::min(buffer.size() - filled, unread());
      std::memcpy(buffer.data() + filled, arrived_.data() + taken_, count);
      taken_ += count;
      read_ += count;
      skip -= filled;
    }
    if (unread() == 0) arrived_.clear(), taken_ = 0;
    if (read_ < at_least_) return false;
    received_ += read_;
    reading_.clear();
    events_->on_read(*this, read_);
    return true;
  }

  transport::Address address_;
  transport::StreamEvents* events_;
  bool is_connected_, knows_it_is_connected_;
  bool knows_it_failed_ = false, closing_ = false;
  std::size_t room_ = kEndless;
  std::vector<std::byte> arrived_;
  std::size_t taken_ = 0;  // of arrived_
  std::vector<transport::ReadBuffer> reading_;
  std::size_t at_least_ = 0, read_ = 0;
  std::vector<transport::WriteBuffer> writing_;
  std::vector<std::byte> written_;
  std::uint64_t received_ = 0, sent_ = 0;
  std::optional<transport::IoStatus> ending_;
  std::unique_ptr<transport::PublicKey> key_;
};

class ScriptIo final : public transport::Io {
 public:
  // What the other side sees of one connection; null after the owner's on_closed.
  using Handle = std::shared_ptr<ScriptStream*>;

  [[nodiscard]] std::string_view name() const override { return "script"; }
  [[nodiscard]] TimePoint now() const override { return now_; }
  Result<transport::Listener*> listen(const transport::Address& address, const transport::SocketOptions&,
                                      transport::ListenerEvents& events) override {
    listener_.address_ = address;
    listener_.events_ = &events;
    return static_cast<transport::Listener*>(&listener_);
  }
  transport::Stream& connect(const transport::Address& address, const transport::SocketOptions&,
                             transport::StreamEvents& events) override {
    return make(address, &events, true);
  }
  // Everything that can happen happens; without anything time passes.
  void run_once(TimePoint until) override {
    bool any = false;
    for (std::size_t turns = 0; deliver_one(); ++turns) {
      any = true;
      FUZZ_CHECK(turns < 1'000'000);  // it would go on for ever
    }
    if (!any && until != kNever && until > now_) now_ = until;
  }
  void wake() noexcept override {}
  [[nodiscard]] uv_loop_s* event_loop() override { return nullptr; }
  [[nodiscard]] std::size_t open_handles() const override {
    return streams_.size() + (listener_.events_ != nullptr ? 1 : 0);
  }

  // ---- the other side
  void advance_to(TimePoint time) { now_ = std::max(now_, time); }
  [[nodiscard]] bool listens() const { return listener_.events_ != nullptr; }
  // Somebody dials; the owner hears of it at once, as from within run_once.
  Handle accept(const transport::Address& from) {
    ScriptStream& stream = make(from, nullptr, false);
    Handle handle = streams_.back().handle;
    listener_.events_->on_accepted(stream);
    return handle;
  }
  // Connections that the owner dialled since it was last asked.
  std::vector<Handle> take_dialled() { return std::exchange(dialled_, {}); }

 private:
  struct Entry {
    std::unique_ptr<ScriptStream> stream;
    Handle handle;
  };
  struct ScriptListener final : transport::Listener {
    [[nodiscard]] transport::Address address() const override { return address_; }
    void close() override { events_ = nullptr; }
    transport::Address address_;
    transport::ListenerEvents* events_ = nullptr;
  };

  ScriptStream& make(const transport::Address& address, transport::StreamEvents* events, bool is_dialled) {
    auto stream = std::make_unique<ScriptStream>(address, events, is_dialled);
    ScriptStream& made = *stream;
    Handle handle = std::make_shared<ScriptStream*>(&made);
    if (is_dialled) dialled_.push_back(handle);
    streams_.push_back({std::move(stream), std::move(handle)});
    return made;
  }
  bool deliver_one() {
    for (auto entry = streams_.begin(); entry != streams_.end(); ++entry) {
      if (entry->stream->deliver()) return true;
      if (!entry->stream->closing_) continue;
      const Entry gone = std::move(*entry);
      streams_.erase(entry);
      *gone.handle = nullptr;
      gone.stream->events_->on_closed(*gone.stream);
      return true;
    }
    return false;
  }

  TimePoint now_{std::chrono::seconds(100)};
  std::list<Entry> streams_;
  std::vector<Handle> dialled_;
  ScriptListener listener_;
};

// ---- frames over such a connection

inline void feed_frame(ScriptStream& stream, const transport::Header& header, std::span<const std::byte> payload = {}) {
  transport::HeaderBytes bytes;
  transport::encode_frame_header(header, payload.size(), bytes);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  stream.feed(bytes);
}

// What was written, as hear(header, payload); `rest` keeps what is not a whole frame yet. The owner's own frames are
// sound, or it is a finding.
template <typename Hear>
void take_frames(ScriptStream& stream, Bytes& rest, Hear hear) {
  const std::vector<std::byte> written = stream.take_written();
  rest.insert(rest.end(), written.begin(), written.end());
  std::size_t at = 0;
  while (rest.size() - at >= transport::kFrameHeadBytes) {
    const auto left = std::span(rest).subspan(at);
    const transport::FrameSizes sizes = transport::parse_frame_head(left.first(transport::kFrameHeadBytes));
    FUZZ_CHECK(sizes.fault == transport::FrameFault::none);
    if (left.size() < sizes.header_bytes + sizes.payload_bytes) break;
    const auto header = left.first(sizes.header_bytes);
    const transport::ParsedHeader parsed =
        transport::parse_frame_header(transport::HeaderBytes(header.begin(), header.end()));
    FUZZ_CHECK(parsed.fault == transport::FrameFault::none);
    hear(parsed.header, left.subspan(sizes.header_bytes, sizes.payload_bytes));
    at += sizes.header_bytes + sizes.payload_bytes;
  }
  rest.erase(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(at));
}

}  // namespace papilio::fuzz
