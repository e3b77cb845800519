#include "transport/uv_io.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <optional>
#include <vector>

#include "transport/socket.hpp"

namespace papilio::transport {

namespace {

class UvIo;

// One turn moves at most about this much before it returns, so that now() does not grow stale and timers stay exact
// even if every socket is always ready.
constexpr std::size_t kTurnBytes = std::size_t{4} << 20U;
constexpr std::size_t kTurnItems = 4096;

TimePoint read_clock() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return TimePoint(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
}

// Something in the loop with a descriptor that libuv watches. libuv's callbacks only put it in the queue of its UvIo;
// everything else, above all every call to the owner, happens when the queue is worked off: after the wait, in the same
// turn, with one `now`.
class Watched {
 public:
  Watched(UvIo& io, Descriptor descriptor);
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
  virtual ~Watched() = default;

  // Called from the queue. May delete the object.
  virtual void process() = 0;
  // The handle is closed and the descriptor with it: tells the owner. Deleted right after.
  virtual void gone() = 0;
  // Ends the watching and closes the descriptor now; `gone` follows once libuv let go of its handle.
  void dispose();

  bool queued_ = false;
  bool disposed_ = false;
  bool handle_closed_ = false;
  std::size_t position_ = 0;  // among all of the UvIo

 protected:
  // Starts the handle once; 0 or the negative errno of libuv.
  int open_handle();
  // Changes what is watched. libuv takes the descriptor out of its epoll set and puts it back: two system calls.
  void watch(int events);

  UvIo& io_;
  Descriptor descriptor_;
  int watched_ = 0;
  bool ready_to_read_ = false;   // a guess: reading may still find nothing
  bool ready_to_write_ = false;  // likewise
  bool broken_ = false;          // the kernel reported an error or a reset, and libuv watches no longer

 private:
  uv_poll_t handle_{};
  bool has_handle_ = false;
};

class UvStream final : public Stream, public Watched {
 public:
  enum class State : std::uint8_t { connecting, open, failed, lingering };

  // An accepted connection.
  UvStream(UvIo& io, Descriptor descriptor, const Address& peer);
  // A connection being dialled, or one that could not be (then `error_number` is reported from the queue).
  UvStream(UvIo& io, Descriptor descriptor, const Address& peer, StreamEvents& events, int error_number);

  void read(std::span<const ReadBuffer> buffers, std::size_t at_least) override;
  void write(std::span<const WriteBuffer> buffers, WriteMode mode) override;
  void close() override;
  void abort() override;
  void set_events(StreamEvents& events) override { events_ = &events; }
  [[nodiscard]] StreamInfo info() const override;
  [[nodiscard]] Address peer_address() const override { return peer_; }
  void set_send_buffer(std::size_t bytes) override { set_send_buffer_bytes(descriptor_.get(), bytes); }

  void process() override;
  void gone() override;
  void linger(TimePoint now);
  [[nodiscard]] bool has_events() const { return events_ != nullptr; }

 private:
  [[nodiscard]] bool usable() const { return state_ == State::open && !disposed_; }
  void finish_connecting();
  bool try_read();
  void try_write();
  void fail(IoStatus status);
  void update_watch();
  void end_operations();

  State state_;
  StreamEvents* events_ = nullptr;
  Address peer_;
  bool peer_is_local_host_;

  bool reading_ = false;
  ScatterReader reader_;

  bool writing_ = false;
  bool written_ = false;  // on_written is due
  int write_error_ = 0;   // on_failed is due, once what came in before is read
  SpliceSender sender_;

  std::uint64_t bytes_received_ = 0, bytes_started_ = 0;
  TimePoint linger_until_{};
};

class UvListener final : public Listener, public Watched {
 public:
  UvListener(UvIo& io, Descriptor descriptor, const Address& address, ListenerEvents& events);

  [[nodiscard]] Address address() const override { return address_; }
  void close() override { dispose(); }

  // 0 or a negative errno of libuv.
  int start();
  void process() override;
  void gone() override {}

 private:
  Address address_;
  ListenerEvents& events_;
  AcceptQueue queue_;
};

class UvIo final : public Io {
 public:
  UvIo() = default;
  UvIo(const UvIo&) = delete;
  UvIo& operator=(const UvIo&) = delete;
  ~UvIo() override;
  Status start();

  [[nodiscard]] std::string_view name() const override { return "uv"; }
  [[nodiscard]] TimePoint now() const override { return now_; }
  Result<Listener*> listen(const Address& address, const SocketOptions& options, ListenerEvents& events) override;
  Stream& connect(const Address& address, const SocketOptions& options, StreamEvents& events) override;
  void run_once(TimePoint until) override;
  void wake() noexcept override { ::uv_async_send(&waker_); }
  [[nodiscard]] uv_loop_s* event_loop() override { return &loop_; }
  [[nodiscard]] std::size_t open_handles() const override { return all_.size(); }

  uv_loop_t* loop() { return &loop_; }
  void add(Watched& watched);
  void remove(Watched& watched);
  void enqueue(Watched& watched);
  void count_moved(std::size_t bytes) { moved_bytes_ += bytes; }
  void add_lingering(UvStream& stream);
  void remove_lingering(UvStream& stream) { std::erase(lingering_, &stream); }

 private:
  void wait(TimePoint until);
  void wait_below_a_millisecond(Duration time);
  void work_off_queue();
  void check_lingering();

  uv_loop_t loop_{};
  uv_async_t waker_{};
  uv_timer_t timer_{};
  bool started_ = false;
  bool something_happened_ = false;
  TimePoint now_ = read_clock();

  std::vector<Watched*> all_;
  // Works as a ring that empties in every turn or nearly so; capacity is kept, so no turn allocates.
  std::vector<Watched*> queue_;
  std::size_t queue_head_ = 0;
  std::size_t moved_bytes_ = 0;
  std::vector<UvStream*> lingering_;
  TimePoint next_linger_check_ = kNever;
};

// ---- Watched ----

Watched::Watched(UvIo& io, Descriptor descriptor) : io_(io), descriptor_(std::move(descriptor)) { io_.add(*this); }

int Watched::open_handle() {
  if (has_handle_) return 0;
  if (const int error = ::uv_poll_init(io_.loop(), &handle_, descriptor_.get()); error != 0) return error;
  handle_.data = this;
  has_handle_ = true;
  return 0;
}

void Watched::watch(int events) {
  if (events == watched_ || broken_ || disposed_) return;
  PAPILIO_ASSERT(has_handle_);
  watched_ = events;
  const int error = ::uv_poll_start(&handle_, events, [](uv_poll_t* handle, int status, int ready) {
    auto& self = *static_cast<Watched*>(handle->data);
    // Priority data does not exist in our protocol: libuv reports it when the kernel reports nothing but an error or
    // hang-up and nothing else is watched.
    if (status < 0 || (ready & UV_PRIORITIZED) != 0) {
      ::uv_poll_stop(handle);
      self.watched_ = 0;
      self.broken_ = self.ready_to_read_ = self.ready_to_write_ = true;
    }
    if ((ready & UV_READABLE) != 0) self.ready_to_read_ = true;
    if ((ready & UV_WRITABLE) != 0) self.ready_to_write_ = true;
    self.io_.enqueue(self);
  });
  PAPILIO_ASSERT_VALUES(error == 0, error, events);
}

void Watched::dispose() {
  if (disposed_) return;
  disposed_ = true;
  if (!has_handle_) {
    descriptor_.reset();
    handle_closed_ = true;
    io_.enqueue(*this);
    return;
  }
  // libuv forgets the descriptor within uv_close, so it can be closed at once.
  ::uv_close(reinterpret_cast<uv_handle_t*>(&handle_), [](uv_handle_t* handle) {
    auto& self = *static_cast<Watched*>(handle->data);
    self.handle_closed_ = true;
    self.io_.enqueue(self);
  });
  descriptor_.reset();
}

// ---- UvStream ----

UvStream::UvStream(UvIo& io, Descriptor descriptor, const Address& peer)
    : Watched(io, std::move(descriptor)), state_(State::open), peer_(peer), peer_is_local_host_(peer.is_local_host()) {
  // The dialler speaks first, so its bytes are likely here already.
  ready_to_read_ = ready_to_write_ = true;
  if (const int error = open_handle(); error != 0) {
    write_error_ = -error;
    io_.enqueue(*this);
  }
}

UvStream::UvStream(UvIo& io, Descriptor descriptor, const Address& peer, StreamEvents& events, int error_number)
    : Watched(io, std::move(descriptor)),
      state_(State::connecting),
      events_(&events),
      peer_(peer),
      peer_is_local_host_(peer.is_local_host()),
      write_error_(error_number) {
  if (write_error_ == 0) write_error_ = -open_handle();
  if (write_error_ == 0) {
    watch(UV_WRITABLE);
  } else {
    io_.enqueue(*this);
  }
}

void UvStream::read(std::span<const ReadBuffer> buffers, std::size_t at_least) {
  PAPILIO_ASSERT(usable() && !reading_);
  reader_.start(buffers, at_least);
  reading_ = true;
  if (ready_to_read_ || (watched_ & UV_READABLE) == 0) io_.enqueue(*this);
}

void UvStream::write(std::span<const WriteBuffer> buffers, WriteMode mode) {
  PAPILIO_ASSERT(usable() && !writing_ && !written_);
  writing_ = true;
  sender_.start(buffers, pays_to_borrow(peer_is_local_host_, mode, buffers.back().size()));
  bytes_started_ += sender_.remaining_bytes();
  // The bytes leave now, not after the turn; only the news of it has to wait.
  if (ready_to_write_ && write_error_ == 0) try_write();
  io_.enqueue(*this);
}

void UvStream::close() {
  if (disposed_ || state_ == State::lingering) return;
  const bool orderly = state_ == State::open;
  end_operations();
  if (!orderly) return dispose();
  begin_orderly_close(descriptor_.get());
  if (orderly_close_is_done(descriptor_.get())) return dispose();
  state_ = State::lingering;
  linger_until_ = saturating_add(io_.now(), kLongestLinger);
  io_.add_lingering(*this);
  watch(UV_READABLE);
}

void UvStream::abort() {
  if (disposed_) return;
  end_operations();
  if (descriptor_.valid()) reset_on_close(descriptor_.get());
  dispose();
}

StreamInfo UvStream::info() const {
  StreamInfo info;
  if (descriptor_.valid()) info = read_stream_info(descriptor_.get());
  info.bytes_received = bytes_received_;
  info.bytes_sent = bytes_started_ - sender_.remaining_bytes();
  return info;
}

void UvStream::process() {
  if (state_ == State::lingering) return linger(io_.now());
  if (state_ == State::connecting) finish_connecting();
  if (usable() && written_) {
    written_ = false;
    events_->on_written(*this);
  }
  bool progress = false;
  if (usable() && reading_ && ready_to_read_) progress = try_read();
  if (usable() && writing_ && ready_to_write_ && write_error_ == 0) try_write();
  if (!usable()) return;
  // A peer that refuses us writes why, then closes; if our write failed over that, its words still come first.
  const bool words_first = progress && reading_;
  if (write_error_ != 0 && !words_first) return fail(IoStatus::from_errno(write_error_));
  if (broken_ && !reading_ && !writing_ && !written_) {
    const int error = take_socket_error(descriptor_.get());
    return fail(IoStatus::from_errno(error == 0 ? ECONNRESET : error));
  }
  update_watch();
  if (written_ || (reading_ && ready_to_read_) || write_error_ != 0) io_.enqueue(*this);
}

void UvStream::linger(TimePoint now) {
  if (disposed_) return;
  if (broken_ || now >= linger_until_ || orderly_close_is_done(descriptor_.get())) dispose();
}

void UvStream::gone() {
  if (state_ == State::lingering) io_.remove_lingering(*this);
  events_->on_closed(*this);
}

void UvStream::finish_connecting() {
  if (write_error_ == 0) write_error_ = take_socket_error(descriptor_.get());
  if (write_error_ == 0 && broken_) write_error_ = ECONNRESET;
  if (write_error_ != 0) return fail(IoStatus::from_errno(write_error_));
  state_ = State::open;
  ready_to_write_ = true;
  events_->on_connected(*this);
}

// One call to the kernel. Returns whether the read was completed; the stream may have failed instead.
bool UvStream::try_read() {
  const ScatterReader::Progress progress = reader_.advance(descriptor_.get());
  io_.count_moved(reader_.latest_bytes());
  bytes_received_ += reader_.latest_bytes();
  switch (progress) {
    case ScatterReader::Progress::ended: fail({IoCode::closed_by_peer, 0}); return false;
    case ScatterReader::Progress::failed: fail(IoStatus::from_errno(reader_.error_number())); return false;
    case ScatterReader::Progress::blocked:
      ready_to_read_ = false;
      if (broken_) fail(IoStatus::from_errno(ECONNRESET));
      return false;
    case ScatterReader::Progress::partial:
    case ScatterReader::Progress::done: break;
  }
  // (After an error nothing will announce the rest: keep on reading.)
  if (reader_.drained_socket()) ready_to_read_ = broken_;
  if (progress == ScatterReader::Progress::partial) return false;
  reading_ = false;
  events_->on_read(*this, reader_.received_bytes());
  return true;
}

void UvStream::try_write() {
  const std::size_t before = sender_.remaining_bytes();
  const SpliceSender::Progress progress = sender_.advance(descriptor_.get());
  io_.count_moved(before - sender_.remaining_bytes());
  switch (progress) {
    case SpliceSender::Progress::done:
      writing_ = false;
      written_ = true;
      return;
    case SpliceSender::Progress::blocked: ready_to_write_ = false; return;
    case SpliceSender::Progress::failed:
      write_error_ = sender_.error_number();
      ready_to_read_ = true;
      return;
  }
}

void UvStream::fail(IoStatus status) {
  end_operations();
  state_ = State::failed;
  if (!broken_ && watched_ != 0) watch(0);
  events_->on_failed(*this, status);
}

void UvStream::end_operations() {
  reading_ = writing_ = written_ = false;
  bytes_started_ -= sender_.remaining_bytes();
  sender_.cancel();
}

// Interest is level-triggered, so it is dropped only when it reports what nobody asked for: in a steady flow of
// messages it never changes.
void UvStream::update_watch() {
  if (broken_) return;
  int events = watched_ & (UV_READABLE | UV_WRITABLE);
  if (reading_ && !ready_to_read_) events |= UV_READABLE;
  if (!reading_ && ready_to_read_) events &= ~UV_READABLE;
  if (writing_ && !ready_to_write_) events |= UV_WRITABLE;
  if (!writing_ && ready_to_write_) events &= ~UV_WRITABLE;
  // A reset is to be noticed even while nothing is wanted.
  watch(events != 0 ? events : UV_PRIORITIZED);
}

// ---- UvListener ----

UvListener::UvListener(UvIo& io, Descriptor descriptor, const Address& address, ListenerEvents& events)
    : Watched(io, std::move(descriptor)), address_(address), events_(events) {}

int UvListener::start() {
  const int error = open_handle();
  if (error == 0) watch(UV_READABLE);
  return error;
}

// Who is left is reported again: the watch is level-triggered.
void UvListener::process() {
  for (int i = 0; i < kAcceptsPerTurn && !disposed_; ++i) {
    std::optional<AcceptQueue::Connection> accepted = queue_.take(descriptor_.get());
    if (!accepted) return;
    auto* stream = new UvStream(io_, std::move(accepted->socket), accepted->peer);
    events_.on_accepted(*stream);
    PAPILIO_ASSERT(stream->has_events());
    io_.enqueue(*stream);
  }
}

// ---- UvIo ----

Status UvIo::start() {
  if (const int error = ::uv_loop_init(&loop_); error != 0) {
    return runtime_error(std::string("libuv cannot start its loop: ") + ::uv_strerror(error) +
                         "; raise the limit of open files (ulimit -n)");
  }
  started_ = true;
  const int error = ::uv_async_init(
      &loop_, &waker_, [](uv_async_t* waker) { static_cast<UvIo*>(waker->data)->something_happened_ = true; });
  // The loop itself took the descriptors that this needs.
  PAPILIO_ASSERT_VALUES(error == 0, error, 0);
  waker_.data = this;
  ::uv_timer_init(&loop_, &timer_);
  timer_.data = this;
  return Done{};
}

UvIo::~UvIo() {
  if (!started_) return;
  for (Watched* watched : all_) watched->dispose();
  ::uv_close(reinterpret_cast<uv_handle_t*>(&waker_), nullptr);
  ::uv_close(reinterpret_cast<uv_handle_t*>(&timer_), nullptr);
  ::uv_run(&loop_, UV_RUN_DEFAULT);
  const int error = ::uv_loop_close(&loop_);
  PAPILIO_ASSERT_VALUES(error == 0, error, 0);  // EBUSY: the owner left handles of its own in event_loop()
  for (Watched* watched : all_) delete watched;
}

Result<Listener*> UvIo::listen(const Address& address, const SocketOptions& options, ListenerEvents& events) {
  Address bound;
  Result<Descriptor> socket = open_listening_socket(address, options, bound);
  if (!socket) return socket.error();
  auto* listener = new UvListener(*this, std::move(*socket), bound, events);
  if (const int error = listener->start(); error != 0) {
    listener->close();
    return runtime_error("cannot wait for connections on " + bound.to_string() + ": " + ::uv_strerror(error));
  }
  return static_cast<Listener*>(listener);
}

Stream& UvIo::connect(const Address& address, const SocketOptions& options, StreamEvents& events) {
  int error_number = 0;
  Descriptor socket = open_stream_socket(address, options, error_number);
  if (socket.valid() && ::connect(socket.get(), address.data(), address.size()) != 0 && errno != EINPROGRESS) {
    error_number = errno;
  }
  return *new UvStream(*this, std::move(socket), address, events, error_number);
}

void UvIo::run_once(TimePoint until) {
  wait(std::min(until, next_linger_check_));
  now_ = read_clock();
  if (now_ >= next_linger_check_) check_lingering();
  work_off_queue();
}

void UvIo::wait(TimePoint until) {
  something_happened_ = false;
  for (;;) {
    const bool busy = queue_head_ < queue_.size();
    const Duration time = busy ? Duration::zero() : until - std::min(until, read_clock());
    if (time < std::chrono::milliseconds(1)) {
      ::uv_run(&loop_, UV_RUN_NOWAIT);
      if (busy || time == Duration::zero() || something_happened_ || !queue_.empty()) return;
      return wait_below_a_millisecond(time);
    }
    bool timer_fired = false;
    timer_.data = &timer_fired;
    const auto longest = std::chrono::milliseconds(std::chrono::hours(1));
    const auto whole = std::min(std::chrono::duration_cast<std::chrono::milliseconds>(time), longest);
    ::uv_update_time(&loop_);
    ::uv_timer_start(
        &timer_, [](uv_timer_t* timer) { *static_cast<bool*>(timer->data) = true; },
        static_cast<std::uint64_t>(whole.count()), 0);
    ::uv_run(&loop_, UV_RUN_ONCE);
    ::uv_timer_stop(&timer_);
    // Without the timer, something did happen, be it only a signal handler of the owner's in event_loop().
    if (!timer_fired || something_happened_ || !queue_.empty()) return;
  }
}

// libuv's timers count whole milliseconds; the rest of a wait is slept in poll, on libuv's own descriptor, which is how
// its documentation has a loop embedded in another.
void UvIo::wait_below_a_millisecond(Duration time) {
  pollfd descriptor{.fd = ::uv_backend_fd(&loop_), .events = POLLIN, .revents = 0};
  const timespec timeout{.tv_sec = 0, .tv_nsec = static_cast<long>(time.count())};
  if (::ppoll(&descriptor, 1, &timeout, nullptr) > 0) ::uv_run(&loop_, UV_RUN_NOWAIT);
}

void UvIo::work_off_queue() {
  moved_bytes_ = 0;
  for (std::size_t i = 0; queue_head_ < queue_.size() && i < kTurnItems && moved_bytes_ < kTurnBytes; ++i) {
    Watched& watched = *queue_[queue_head_++];
    watched.queued_ = false;
    if (!watched.disposed_) {
      watched.process();
    } else if (watched.handle_closed_) {
      remove(watched);
      watched.gone();
      delete &watched;
    }
  }
  if (queue_head_ == queue_.size()) {
    queue_.clear();
    queue_head_ = 0;
  } else if (queue_head_ > queue_.size() / 2) {
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(queue_head_));
    queue_head_ = 0;
  }
}

void UvIo::check_lingering() {
  for (UvStream* stream : lingering_) stream->linger(now_);
  next_linger_check_ = lingering_.empty() ? kNever : now_ + kLingerCheckInterval;
}

void UvIo::add(Watched& watched) {
  watched.position_ = all_.size();
  all_.push_back(&watched);
}

void UvIo::remove(Watched& watched) {
  all_.back()->position_ = watched.position_;
  std::swap(all_[watched.position_], all_.back());
  all_.pop_back();
}

void UvIo::enqueue(Watched& watched) {
  if (watched.queued_) return;
  watched.queued_ = true;
  queue_.push_back(&watched);
}

void UvIo::add_lingering(UvStream& stream) {
  lingering_.push_back(&stream);
  next_linger_check_ = std::min(next_linger_check_, now_ + kLingerCheckInterval);
}

}  // namespace

Result<std::unique_ptr<Io>> make_uv_io() {
  auto io = std::make_unique<UvIo>();
  if (Status status = io->start(); !status) return status.error();
  return std::unique_ptr<Io>(std::move(io));
}

}  // namespace papilio::transport
