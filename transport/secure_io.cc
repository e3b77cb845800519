#include "transport/secure_io.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "engine/base/assert.hpp"
#include "transport/frame.hpp"
#include "transport/tls.hpp"

namespace papilio::transport {
namespace {

// Ciphertext is read and written in pieces of this size: some records at once, and still in the cache when they are
// worked on. Each connection keeps up to three: 252 of them (63 peers, 4 flows) 48 MiB. Larger ones are no faster.
constexpr std::size_t kPieceBytes = 4 * kTlsRecordBytes;
// What encryption adds to a full record: header, content type and tag, rounded up.
constexpr std::size_t kRecordOverhead = 32;
// Ciphertext that may come without plaintext in it. Frames of 128 bytes are the smallest; changes of keys, which cost
// more than they weigh, come every gigabytes.
constexpr std::uint64_t kMostOverhead = std::uint64_t{128} << 10U;

class SecureIo;

class SecureStream final : public Stream, private StreamEvents {
 public:
  SecureStream(SecureIo& io, TlsSide side);

  // Once: what it runs over.
  void run_over(Stream& below) { below_ = &below; }
  void run_over_accepted(Stream& below);
  StreamEvents& events_of_below() { return *this; }
  // Of an accepted one, unless its owner has turned it away: the dialler speaks first.
  void start();

  void read(std::span<const ReadBuffer> buffers, std::size_t at_least) override;
  void write(std::span<const WriteBuffer> buffers, WriteMode mode) override;
  void close() override;
  void abort() override;
  void set_events(StreamEvents& events) override { events_ = &events; }
  [[nodiscard]] StreamInfo info() const override;
  [[nodiscard]] Address peer_address() const override { return below_->peer_address(); }
  void set_send_buffer(std::size_t bytes) override { below_->set_send_buffer(bytes); }
  [[nodiscard]] const PublicKey* peer_key() const override {
    return tls_ && tls_->is_established() ? &tls_->peer_key() : nullptr;
  }

  [[nodiscard]] bool has_events() const { return events_ != nullptr; }
  // From run_once: what could be done without waiting, but not inside a call of the owner's.
  void work();

  std::list<SecureStream>::iterator position;
  bool queued = false;

 private:
  void on_connected(Stream& below) override;
  void on_read(Stream& below, std::size_t bytes) override;
  void on_written(Stream& below) override;
  void on_failed(Stream& below, IoStatus status) override;
  void on_closed(Stream& below) override;

  [[nodiscard]] bool usable() const { return !closing_ && !failed_; }
  void begin();
  void shake_hands();
  void read_on();
  void write_on();
  void send_output();
  void ask_for_input();
  bool fill_read();
  void fail(IoStatus status);
  void fail_by_tls();
  void refuse_plain();

  SecureIo& io_;
  StreamEvents* events_ = nullptr;
  Stream* below_ = nullptr;
  TlsSide side_;
  std::optional<TlsSession> tls_;  // from the first use on: who is turned away at once costs next to nothing
  bool connected_ = false;         // below
  bool closing_ = false;
  bool failed_ = false;
  bool working_ = false;
  bool has_last_word_ = false;  // after a failure: it says why, and is still to reach the other side

  std::vector<std::byte> input_;  // ciphertext that came in
  bool input_asked_ = false;
  std::size_t handshake_bytes_ = 0;   // that came in before the handshake was done
  std::uint64_t received_bytes_ = 0;  // and since
  std::vector<std::byte> sending_;    // ciphertext on its way out
  bool sending_now_ = false;

  std::array<ReadBuffer, kMaximumBuffersPerOperation> read_buffers_;
  std::size_t read_first_ = 0, read_count_ = 0;
  std::size_t read_bytes_ = 0, read_at_least_ = 0;
  bool reading_ = false;

  std::array<WriteBuffer, kMaximumBuffersPerOperation> write_buffers_;
  std::size_t write_first_ = 0, write_count_ = 0;
  bool writing_ = false;

  std::uint64_t plain_received_ = 0, plain_sent_ = 0;
};

class SecureListener final : public Listener, private ListenerEvents {
 public:
  SecureListener(SecureIo& io, ListenerEvents& events) : io_(io), events_(events) {}

  Status listen(Io& below, const Address& address, const SocketOptions& options);
  [[nodiscard]] Address address() const override { return below_->address(); }
  void close() override;

  std::list<SecureListener>::iterator position;

 private:
  void on_accepted(Stream& below) override;

  SecureIo& io_;
  ListenerEvents& events_;
  Listener* below_ = nullptr;
};

class SecureIo final : public Io {
 public:
  SecureIo(std::unique_ptr<Io> below, TlsContext context, const SecureOptions& options)
      : below_(std::move(below)), context_(std::move(context)), options_(options) {}

  [[nodiscard]] std::string_view name() const override { return below_->name(); }
  [[nodiscard]] TimePoint now() const override { return below_->now(); }
  Result<Listener*> listen(const Address& address, const SocketOptions& options, ListenerEvents& events) override;
  Stream& connect(const Address& address, const SocketOptions& options, StreamEvents& events) override;
  void run_once(TimePoint until) override;
  void wake() noexcept override { below_->wake(); }
  [[nodiscard]] uv_loop_s* event_loop() override { return below_->event_loop(); }
  [[nodiscard]] std::size_t open_handles() const override { return below_->open_handles(); }

  [[nodiscard]] const TlsContext& context() const { return context_; }
  [[nodiscard]] const SecureOptions& options() const { return options_; }
  SecureStream& add(TlsSide side);
  void remove(SecureStream& stream);
  void remove(SecureListener& listener) { listeners_.erase(listener.position); }
  void enqueue(SecureStream& stream);

 private:
  std::unique_ptr<Io> below_;
  TlsContext context_;
  SecureOptions options_;
  std::list<SecureStream> streams_;
  std::list<SecureListener> listeners_;
  std::vector<SecureStream*> queue_;
  std::size_t queue_head_ = 0;
};

// ---- SecureStream

SecureStream::SecureStream(SecureIo& io, TlsSide side) : io_(io), side_(side) {}

void SecureStream::start() {
  if (!usable()) return;
  begin();
  ask_for_input();
}

void SecureStream::begin() {
  if (!tls_) tls_.emplace(io_.context(), side_, io_.options().records_per_key);
}

void SecureStream::run_over_accepted(Stream& below) {
  below_ = &below;
  connected_ = true;
  below.set_events(*this);
}

void SecureStream::read(std::span<const ReadBuffer> buffers, std::size_t at_least) {
  PAPILIO_ASSERT(usable() && !reading_ && buffers.size() <= read_buffers_.size());
  std::copy(buffers.begin(), buffers.end(), read_buffers_.begin());
  read_first_ = 0;
  read_count_ = buffers.size();
  read_bytes_ = 0;
  read_at_least_ = at_least;
  reading_ = true;
  if (working_) return;  // goes on when the owner returns
  begin();
  if (tls_->input_left() > 0 || (tls_->is_established() && tls_->has_plaintext())) {
    io_.enqueue(*this);
  } else {
    ask_for_input();
  }
}

void SecureStream::write(std::span<const WriteBuffer> buffers, WriteMode) {
  PAPILIO_ASSERT(usable() && !writing_ && buffers.size() <= write_buffers_.size());
  std::copy(buffers.begin(), buffers.end(), write_buffers_.begin());
  write_first_ = 0;
  write_count_ = buffers.size();
  writing_ = true;
  write_on();
}

void SecureStream::close() {
  if (closing_) return;
  closing_ = true;
  reading_ = writing_ = false;
  if (!sending_now_ && !failed_ && tls_ && tls_->is_established()) {
    tls_->end();
    send_output();
  }
  below_->close();
}

void SecureStream::abort() {
  if (closing_) return;
  closing_ = true;
  reading_ = writing_ = false;
  has_last_word_ ? below_->close() : below_->abort();
}

StreamInfo SecureStream::info() const {
  StreamInfo info = below_->info();
  info.bytes_received = plain_received_;
  info.bytes_sent = plain_sent_;
  return info;
}

void SecureStream::on_connected(Stream&) {
  connected_ = true;
  begin();
  work();
}

void SecureStream::on_read(Stream&, std::size_t bytes) {
  input_asked_ = false;
  tls_->give_input(std::span<const std::byte>(input_).first(bytes));
  if (tls_->is_established()) {
    received_bytes_ += bytes;
    if (received_bytes_ > kMostOverhead + 4 * plain_received_) {
      return fail({.code = IoCode::not_secure, .detail = "many records with next to nothing in them"});
    }
  } else {
    handshake_bytes_ += bytes;
    if (handshake_bytes_ == bytes && !looks_like_tls({input_.data(), bytes})) return refuse_plain();
  }
  work();
}

void SecureStream::on_written(Stream&) {
  sending_now_ = false;
  sending_.clear();
  work();
}

void SecureStream::on_failed(Stream&, IoStatus status) {
  if (!usable()) return;
  const bool gone = status.code == IoCode::reset || status.code == IoCode::closed_by_peer;
  if (gone && connected_ && (!tls_ || !tls_->is_established())) {
    status.detail = "in the TLS handshake: was the other side started with --security none?";
  }
  fail(status);
}

void SecureStream::on_closed(Stream&) {
  events_->on_closed(*this);
  io_.remove(*this);
}

void SecureStream::work() {
  if (working_ || !tls_) return;
  working_ = true;
  if (usable() && !tls_->failure().empty()) fail_by_tls();
  if (usable() && !tls_->is_established()) shake_hands();
  if (usable() && tls_->is_established()) write_on();
  if (usable() && tls_->is_established()) read_on();
  working_ = false;
}

void SecureStream::shake_hands() {
  const TlsOutcome outcome = tls_->shake_hands();
  send_output();
  if (outcome == TlsOutcome::ended) return fail({.code = IoCode::not_secure, .detail = "it ended the TLS handshake"});
  if (outcome == TlsOutcome::failed) return fail_by_tls();
  if (outcome == TlsOutcome::wants_input) {
    if (handshake_bytes_ >= io_.options().handshake_bytes) {
      return fail({.code = IoCode::not_secure, .detail = "too many bytes before it has proved who it is"});
    }
    return ask_for_input();
  }
  if (side_ == TlsSide::dialler) events_->on_connected(*this);
}

// Reads on as long as something is asked for and at hand.
void SecureStream::read_on() {
  while (usable() && reading_) {
    if (!fill_read()) return;
    reading_ = false;
    events_->on_read(*this, read_bytes_);
  }
}

// Whether the read is complete; the stream may have failed instead, or have asked for more input.
bool SecureStream::fill_read() {
  while (read_first_ < read_count_) {
    ReadBuffer& buffer = read_buffers_[read_first_];
    if (buffer.empty()) {
      ++read_first_;
      continue;
    }
    std::size_t bytes = 0;
    const TlsOutcome outcome = tls_->read(buffer, bytes);
    if (outcome != TlsOutcome::done) {
      send_output();
      if (read_bytes_ >= read_at_least_) return true;  // how it ended is found out by the next one
      if (outcome == TlsOutcome::wants_input) {
        ask_for_input();
      } else if (outcome == TlsOutcome::ended) {
        fail({IoCode::closed_by_peer, 0});
      } else {
        fail_by_tls();
      }
      return false;
    }
    buffer = buffer.subspan(bytes);
    read_bytes_ += bytes;
    plain_received_ += bytes;
  }
  return true;
}

// Encrypts the next piece while the one before is on its way, and tells the owner when the last is out.
void SecureStream::write_on() {
  if (!tls_ || !tls_->is_established()) return;
  while (writing_ && write_first_ < write_count_ && tls_->output().size() < kPieceBytes) {
    WriteBuffer& buffer = write_buffers_[write_first_];
    const std::size_t records = (kPieceBytes - tls_->output().size()) / (kTlsRecordBytes + kRecordOverhead);
    const WriteBuffer part = buffer.first(std::min(buffer.size(), std::max<std::size_t>(records, 1) * kTlsRecordBytes));
    if (!part.empty() && tls_->write(part) != TlsOutcome::done) {
      // Only from run_once: this may be a call of the owner's.
      io_.enqueue(*this);
      return;
    }
    plain_sent_ += part.size();
    buffer = buffer.subspan(part.size());
    if (buffer.empty()) ++write_first_;
    if (tls_->output().size() >= kPieceBytes) send_output();
  }
  send_output();
  if (!working_ || !writing_ || write_first_ < write_count_ || sending_now_ || !tls_->output().empty()) return;
  writing_ = false;
  events_->on_written(*this);
}

void SecureStream::send_output() {
  if (sending_now_ || tls_->output().empty() || below_ == nullptr || !connected_) return;
  sending_.swap(tls_->output());
  sending_now_ = true;
  const WriteBuffer buffer(sending_);
  below_->write({&buffer, 1}, WriteMode::copy);
}

void SecureStream::ask_for_input() {
  if (input_asked_ || !connected_) return;
  PAPILIO_ASSERT_VALUES(tls_->input_left() == 0, tls_->input_left(), 0);
  // A stranger is not worth much memory, not even when it has proved a key: until something came from it.
  const std::size_t room = plain_received_ > 0      ? kPieceBytes + 8 * kRecordOverhead
                           : tls_->is_established() ? kTlsRecordBytes
                                                    : io_.options().handshake_bytes - handshake_bytes_;
  if (input_.size() != room) input_.resize(room);
  input_asked_ = true;
  const ReadBuffer buffer(input_);
  below_->read({&buffer, 1}, 1);
}

// Whoever sends frames without encryption is told so in a frame that it can read.
void SecureStream::refuse_plain() {
  constexpr std::string_view kWhatToDo =
      "this node takes encrypted connections only: start the other side without --security none";
  const FrameSizes sizes =
      handshake_bytes_ >= kFrameHeadBytes ? parse_frame_head(std::span(input_).first(kFrameHeadBytes)) : FrameSizes{};
  const bool is_first_frame = sizes.type == FrameType::hello || sizes.type == FrameType::test_request;
  if (side_ == TlsSide::acceptor && is_first_frame && sizes.header_bytes > 0) {
    encode_frame_header(Refusal{.reason = RefusalReason::security, .detail = std::string(kWhatToDo)}, 0,
                        tls_->output());
    send_output();
    has_last_word_ = true;
  }
  fail({.code = IoCode::not_secure, .detail = "what it sends is not TLS: was it started with --security none?"});
}

void SecureStream::fail_by_tls() {
  has_last_word_ = true;
  fail({.code = tls_->is_damaged() ? IoCode::damaged : IoCode::not_secure, .detail = tls_->failure()});
}

void SecureStream::fail(IoStatus status) {
  if (!usable()) return;
  failed_ = true;
  reading_ = writing_ = false;
  events_->on_failed(*this, status);
}

// ---- SecureListener

Status SecureListener::listen(Io& below, const Address& address, const SocketOptions& options) {
  auto listening = below.listen(address, options, *this);
  if (!listening) return listening.error();
  below_ = *listening;
  return papilio::Done{};
}

void SecureListener::close() {
  below_->close();
  io_.remove(*this);
}

void SecureListener::on_accepted(Stream& below) {
  SecureStream& stream = io_.add(TlsSide::acceptor);
  stream.run_over_accepted(below);
  events_.on_accepted(stream);
  PAPILIO_ASSERT(stream.has_events());
  stream.start();
}

// ---- SecureIo

Result<Listener*> SecureIo::listen(const Address& address, const SocketOptions& options, ListenerEvents& events) {
  SecureListener& listener = listeners_.emplace_back(*this, events);
  listener.position = std::prev(listeners_.end());
  if (auto listening = listener.listen(*below_, address, options); !listening) {
    remove(listener);
    return listening.error();
  }
  return static_cast<Listener*>(&listener);
}

Stream& SecureIo::connect(const Address& address, const SocketOptions& options, StreamEvents& events) {
  SecureStream& stream = add(TlsSide::dialler);
  stream.set_events(events);
  stream.run_over(below_->connect(address, options, stream.events_of_below()));
  return stream;
}

void SecureIo::run_once(TimePoint until) {
  below_->run_once(queue_head_ < queue_.size() ? below_->now() : until);
  // Ends by itself: every stream has at most one piece at hand, and more comes only with the next turn.
  while (queue_head_ < queue_.size()) {
    SecureStream& stream = *queue_[queue_head_++];
    stream.queued = false;
    stream.work();
  }
  queue_.clear();
  queue_head_ = 0;
}

SecureStream& SecureIo::add(TlsSide side) {
  SecureStream& stream = streams_.emplace_back(*this, side);
  stream.position = std::prev(streams_.end());
  return stream;
}

void SecureIo::remove(SecureStream& stream) {
  if (stream.queued) std::erase(queue_, &stream);
  streams_.erase(stream.position);
}

void SecureIo::enqueue(SecureStream& stream) {
  if (std::exchange(stream.queued, true)) return;
  queue_.push_back(&stream);
  below_->wake();  // the next wait is over before it begins
}

}  // namespace

Result<std::unique_ptr<Io>> make_secure_io(std::unique_ptr<Io> io, const Identity& identity,
                                           const SecureOptions& options) {
  auto context = TlsContext::create(identity);
  if (!context) return context.error();
  return std::unique_ptr<Io>(std::make_unique<SecureIo>(std::move(io), std::move(context).value(), options));
}

}  // namespace papilio::transport
