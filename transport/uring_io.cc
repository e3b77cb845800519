#include "transport/uring_io.hpp"

#include <fcntl.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "transport/socket.hpp"

// Newer than the liburing of Debian 12, and part of the kernel's interface: <linux/io_uring.h>.
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3U)
#endif
#ifndef IORING_NOTIF_USAGE_ZC_COPIED
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31U)
#endif

namespace papilio::transport {

namespace {

class UringIo;

// Entries are small and flushed in the middle of a turn when they run out; completions come in bursts (a
// thousand connections become readable at once) and cost a system call more when they overflow.
constexpr unsigned kSubmissionEntries = 256;
constexpr unsigned kCompletionEntries = 4096;

// One turn moves at most about this much before it returns, so that now() does not grow stale and timers stay exact
// even if every socket is always ready.
constexpr std::size_t kTurnBytes = std::size_t{16} << 20U;
constexpr std::size_t kTurnItems = 4096;

TimePoint read_clock() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return TimePoint(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
}

class Handle;

// What a completion belongs to. Lives in its handle, so that no operation allocates.
struct Operation {
  enum class Kind : std::uint8_t {
    readable,
    writable,
    broken,  // waits for nothing but an error or a reset
    send_zero_copy,
    cancel,
    wake,        // of the UringIo itself
    event_loop,  // likewise
  };

  Operation(Handle* owner, Kind of_kind) : handle(owner), kind(of_kind) {}

  Handle* handle;
  Kind kind;
  bool posted = false;
};

// Something with a descriptor that operations wait on. Completions only leave their result and put the handle in the
// queue of its UringIo; everything else, above all every call to the owner and every new operation, happens when the
// queue is worked off: after the wait, in the same turn, with one `now`.
class Handle {
 public:
  Handle(UringIo& io, Descriptor descriptor);
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  virtual ~Handle() = default;

  // Called from the queue. May delete the object.
  virtual void process() = 0;
  // One completion of an operation of this handle; `result` and `flags` as the kernel gave them.
  virtual void complete(Operation& operation, int result, unsigned flags) = 0;
  // Nothing of the handle is left in the kernel: tells the owner. Deleted right after.
  virtual void gone() = 0;

  // Begins the end: cancels what is posted, closes the descriptor, and is `gone` when the kernel gave everything back.
  void dispose();
  // A step of it, from the queue. True when nothing is left.
  [[nodiscard]] bool finish_disposal();
  [[nodiscard]] bool has_operations() const { return operations_ > 0; }
  void handle_completion(Operation& operation, int result, unsigned flags);

  Handle* next_queued = nullptr;
  bool queued = false;
  bool disposed = false;
  std::size_t position = 0;  // among all of the UringIo

 protected:
  io_uring_sqe* begin(Operation& operation);
  void post_poll(Operation& operation, unsigned events);

  UringIo& io_;
  Descriptor descriptor_;
  // Each keeps this object alive; the first also keeps the descriptor's file open in the kernel.
  int operations_ = 0;
  int zero_copy_notifications_ = 0;

 private:
  Operation cancel_{this, Operation::Kind::cancel};
  bool cancelled_ = false;
};

class UringStream final : public Stream, public Handle {
 public:
  enum class State : std::uint8_t { connecting, open, failed, lingering };

  // An accepted connection.
  UringStream(UringIo& io, Descriptor descriptor, const Address& peer);
  // A connection being dialled, or one that could not be (then `error_number` is reported from the queue).
  UringStream(UringIo& io, Descriptor descriptor, const Address& peer, StreamEvents& events, int error_number);

  void read(std::span<const ReadBuffer> buffers, std::size_t at_least) override;
  void write(std::span<const WriteBuffer> buffers, WriteMode mode) override;
  void close() override;
  void abort() override;
  void set_events(StreamEvents& events) override { events_ = &events; }
  [[nodiscard]] StreamInfo info() const override;
  [[nodiscard]] Address peer_address() const override { return peer_; }
  void set_send_buffer(std::size_t bytes) override { set_send_buffer_bytes(descriptor_.get(), bytes); }

  void process() override;
  void complete(Operation& operation, int result, unsigned flags) override;
  void gone() override;
  void linger(TimePoint now);
  [[nodiscard]] bool has_events() const { return events_ != nullptr; }

 private:
  [[nodiscard]] bool usable() const { return state_ == State::open && !disposed; }
  [[nodiscard]] bool pays_to_send_zero_copy(WriteMode mode, std::size_t payload_bytes) const;
  void finish_connecting();
  bool try_read();
  void try_write();
  void complete_zero_copy(int result, unsigned flags);
  void fail(IoStatus status);
  void post_what_has_to_wait();
  void post_zero_copy();
  void end_operations();
  void handle_poll_result(int result);

  State state_;
  StreamEvents* events_ = nullptr;
  Address peer_;
  bool peer_is_local_host_;
  bool ready_to_read_ = false;   // a guess: reading may still find nothing
  bool ready_to_write_ = false;  // likewise
  bool broken_ = false;          // the kernel reported an error or a reset; waiting would never end or never begin

  bool reading_ = false;
  ScatterReader reader_;

  bool writing_ = false;
  bool written_ = false;  // on_written is due
  int write_error_ = 0;   // on_failed is due, once what came in before is read
  SpliceSender sender_;
  WriteBuffer zero_copy_payload_;  // what is left to send by reference to another host, after the sender's message
  bool zero_copy_copies_ = false;  // the kernel copied after all: not tried again

  std::uint64_t bytes_received_ = 0, bytes_started_ = 0;
  TimePoint linger_until_{};

  Operation readable_{this, Operation::Kind::readable};
  Operation writable_{this, Operation::Kind::writable};
  Operation watch_{this, Operation::Kind::broken};
  Operation send_zero_copy_{this, Operation::Kind::send_zero_copy};
};

class UringListener final : public Listener, public Handle {
 public:
  UringListener(UringIo& io, Descriptor descriptor, const Address& address, ListenerEvents& events);
  UringListener(const UringListener&) = delete;
  UringListener& operator=(const UringListener&) = delete;

  [[nodiscard]] Address address() const override { return address_; }
  void close() override;

  void process() override;
  void complete(Operation& operation, int result, unsigned flags) override;
  void gone() override {}

 private:
  Address address_;
  ListenerEvents& events_;
  AcceptQueue queue_;
  Operation acceptable_{this, Operation::Kind::readable};
};

class UringIo final : public Io {
 public:
  UringIo() = default;
  UringIo(const UringIo&) = delete;
  UringIo& operator=(const UringIo&) = delete;
  ~UringIo() override;
  Status start();

  [[nodiscard]] std::string_view name() const override { return "uring"; }
  [[nodiscard]] TimePoint now() const override { return now_; }
  Result<Listener*> listen(const Address& address, const SocketOptions& options, ListenerEvents& events) override;
  Stream& connect(const Address& address, const SocketOptions& options, StreamEvents& events) override;
  void run_once(TimePoint until) override;
  void wake() noexcept override;
  [[nodiscard]] uv_loop_s* event_loop() override { return &loop_; }
  [[nodiscard]] std::size_t open_handles() const override { return all_.size(); }

  // A free entry to fill in. Only within run_once.
  io_uring_sqe* begin(Operation& operation);
  [[nodiscard]] bool has_zero_copy() const { return has_zero_copy_; }
  void add(Handle& handle);
  void remove(Handle& handle);
  void enqueue(Handle& handle);
  void count_moved(std::size_t bytes) { moved_bytes_ += bytes; }
  void add_lingering(UringStream& stream);
  void remove_lingering(UringStream& stream) { std::erase(lingering_, &stream); }

 private:
  void enable();
  void wait(TimePoint until);
  void sleep(Duration time);
  void take_what_is_there();
  void take_completions();
  void complete_own(Operation& operation, int result);
  TimePoint prepare_event_loop();
  void turn_event_loop();
  void work_off_queue();
  void check_lingering();
  void cancel_everything();

  io_uring ring_{};
  bool has_ring_ = false;
  bool enabled_ = false;
  bool has_zero_copy_ = false;
  std::thread::id thread_;  // the one that may use the ring, once enabled

  uv_loop_t loop_{};
  bool has_loop_ = false;
  bool loop_is_ready_ = false;
  Operation event_loop_{nullptr, Operation::Kind::event_loop};

  Descriptor waker_;
  std::atomic<bool> woken_ = false;
  Operation wake_{nullptr, Operation::Kind::wake};

  bool something_happened_ = false;
  TimePoint now_ = read_clock();

  std::vector<Handle*> all_;
  // Linked through the handles: no turn allocates.
  Handle* queue_first_ = nullptr;
  Handle* queue_last_ = nullptr;
  std::size_t moved_bytes_ = 0;
  std::vector<UringStream*> lingering_;
  TimePoint next_linger_check_ = kNever;
};

// ---- Handle ----

Handle::Handle(UringIo& io, Descriptor descriptor) : io_(io), descriptor_(std::move(descriptor)) { io_.add(*this); }

io_uring_sqe* Handle::begin(Operation& operation) {
  PAPILIO_ASSERT(!operation.posted);
  operation.posted = true;
  ++operations_;
  return io_.begin(operation);
}

void Handle::post_poll(Operation& operation, unsigned events) {
  if (operation.posted) return;
  io_uring_sqe* entry = begin(operation);
  ::io_uring_prep_poll_add(entry, descriptor_.get(), events);
}

void Handle::handle_completion(Operation& operation, int result, unsigned flags) {
  const bool zero_copy = operation.kind == Operation::Kind::send_zero_copy;
  if ((flags & IORING_CQE_F_NOTIF) != 0) {
    --zero_copy_notifications_;
  } else if (zero_copy || (flags & IORING_CQE_F_MORE) == 0) {
    operation.posted = false;
    --operations_;
    if (zero_copy && (flags & IORING_CQE_F_MORE) != 0) ++zero_copy_notifications_;
  }
  complete(operation, result, flags);
  if (disposed && operations_ == 0) io_.enqueue(*this);
}

void Handle::dispose() {
  if (disposed) return;
  disposed = true;
  // Otherwise the file stays open in the kernel until the operations on it are cancelled.
  if (operations_ == 0) descriptor_.reset();
  io_.enqueue(*this);
}

bool Handle::finish_disposal() {
  if (operations_ > 0) {
    if (!std::exchange(cancelled_, true)) {
      io_uring_sqe* entry = begin(cancel_);
      ::io_uring_prep_cancel_fd(entry, descriptor_.get(), IORING_ASYNC_CANCEL_ALL);
    }
    return false;
  }
  descriptor_.reset();
  return zero_copy_notifications_ == 0;
}

// ---- UringStream ----

UringStream::UringStream(UringIo& io, Descriptor descriptor, const Address& peer)
    : Handle(io, std::move(descriptor)), state_(State::open), peer_(peer), peer_is_local_host_(peer.is_local_host()) {
  // The dialler speaks first, so its bytes are likely here already.
  ready_to_read_ = ready_to_write_ = true;
}

UringStream::UringStream(UringIo& io, Descriptor descriptor, const Address& peer, StreamEvents& events,
                         int error_number)
    : Handle(io, std::move(descriptor)),
      state_(State::connecting),
      events_(&events),
      peer_(peer),
      peer_is_local_host_(peer.is_local_host()),
      write_error_(error_number) {
  io_.enqueue(*this);
}

void UringStream::read(std::span<const ReadBuffer> buffers, std::size_t at_least) {
  PAPILIO_ASSERT(usable() && !reading_);
  reader_.start(buffers, at_least);
  reading_ = true;
  if (ready_to_read_ || !readable_.posted) io_.enqueue(*this);
}

void UringStream::write(std::span<const WriteBuffer> buffers, WriteMode mode) {
  PAPILIO_ASSERT(usable() && !writing_ && !written_);
  writing_ = true;
  const std::size_t payload_bytes = buffers.back().size();
  if (pays_to_send_zero_copy(mode, payload_bytes)) {
    zero_copy_payload_ = buffers.back();
    buffers = buffers.first(buffers.size() - 1);
    bytes_started_ += payload_bytes;
  }
  const bool any = std::any_of(buffers.begin(), buffers.end(), [](WriteBuffer buffer) { return !buffer.empty(); });
  if (any) sender_.start(buffers, pays_to_borrow(peer_is_local_host_, mode, payload_bytes));
  bytes_started_ += sender_.remaining_bytes();
  // The bytes leave now, not after the turn; only the news of it has to wait.
  if (ready_to_write_ && write_error_ == 0) try_write();
  io_.enqueue(*this);
}

// Over loopback the kernel copies anyway, and splicing is cheaper.
bool UringStream::pays_to_send_zero_copy(WriteMode mode, std::size_t payload_bytes) const {
  return mode == WriteMode::borrow && payload_bytes >= kMinimumBorrowBytes && !peer_is_local_host_ &&
         !zero_copy_copies_ && io_.has_zero_copy();
}

void UringStream::close() {
  if (disposed || state_ == State::lingering) return;
  const bool orderly = state_ == State::open;
  end_operations();
  if (!orderly) return dispose();
  begin_orderly_close(descriptor_.get());
  if (orderly_close_is_done(descriptor_.get()) && zero_copy_notifications_ == 0) return dispose();
  state_ = State::lingering;
  linger_until_ = saturating_add(io_.now(), kLongestLinger);
  io_.add_lingering(*this);
  io_.enqueue(*this);
}

void UringStream::abort() {
  if (disposed) return;
  end_operations();
  if (descriptor_.valid()) reset_on_close(descriptor_.get());
  dispose();
}

StreamInfo UringStream::info() const {
  StreamInfo info;
  if (descriptor_.valid()) info = read_stream_info(descriptor_.get());
  info.bytes_received = bytes_received_;
  info.bytes_sent = bytes_started_ - sender_.remaining_bytes() - zero_copy_payload_.size();
  return info;
}

void UringStream::process() {
  if (state_ == State::lingering) {
    linger(io_.now());
    if (!disposed) post_poll(readable_, POLLIN | POLLRDHUP);
    return;
  }
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
  post_what_has_to_wait();
  if (written_ || (reading_ && ready_to_read_) || write_error_ != 0) io_.enqueue(*this);
}

void UringStream::complete(Operation& operation, int result, unsigned flags) {
  switch (operation.kind) {
    case Operation::Kind::readable: ready_to_read_ = true; break;
    case Operation::Kind::writable: ready_to_write_ = true; break;
    case Operation::Kind::send_zero_copy: complete_zero_copy(result, flags); break;
    default: break;
  }
  const bool is_poll = operation.kind == Operation::Kind::readable || operation.kind == Operation::Kind::writable ||
                       operation.kind == Operation::Kind::broken;
  if (is_poll && (result < 0 || (result & (POLLERR | POLLHUP)) != 0)) {
    broken_ = ready_to_read_ = ready_to_write_ = true;
  }
  if (!disposed) io_.enqueue(*this);
}

void UringStream::linger(TimePoint now) {
  if (disposed) return;
  const bool done = orderly_close_is_done(descriptor_.get()) && zero_copy_notifications_ == 0;
  if (!done && now < linger_until_ && !broken_) return;
  // Pages that the kernel still refers to would not come back for as long as the peer reads nothing.
  if (zero_copy_notifications_ > 0) reset_on_close(descriptor_.get());
  dispose();
}

void UringStream::gone() {
  if (state_ == State::lingering) io_.remove_lingering(*this);
  events_->on_closed(*this);
}

void UringStream::finish_connecting() {
  if (write_error_ == 0 && !ready_to_write_) return post_poll(writable_, POLLOUT);
  if (write_error_ == 0) write_error_ = take_socket_error(descriptor_.get());
  if (write_error_ == 0 && broken_) write_error_ = ECONNRESET;
  if (write_error_ != 0) return fail(IoStatus::from_errno(write_error_));
  state_ = State::open;
  events_->on_connected(*this);
}

// One call to the kernel. Returns whether it brought something; the read may be completed or the stream have failed.
bool UringStream::try_read() {
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
  if (progress == ScatterReader::Progress::partial) return true;
  reading_ = false;
  events_->on_read(*this, reader_.received_bytes());
  return true;
}

void UringStream::try_write() {
  const std::size_t before = sender_.remaining_bytes();
  const SpliceSender::Progress progress = sender_.advance(descriptor_.get(), !zero_copy_payload_.empty());
  io_.count_moved(before - sender_.remaining_bytes());
  switch (progress) {
    case SpliceSender::Progress::done:
      if (!zero_copy_payload_.empty()) return;  // posted from the queue
      writing_ = false;
      written_ = true;
      return;
    case SpliceSender::Progress::blocked:
      ready_to_write_ = false;
      if (broken_) write_error_ = ECONNRESET;  // nothing would announce room any more
      return;
    case SpliceSender::Progress::failed:
      write_error_ = sender_.error_number();
      ready_to_read_ = true;
      return;
  }
}

void UringStream::complete_zero_copy(int result, unsigned flags) {
  if ((flags & IORING_CQE_F_NOTIF) != 0) {
    // Loopback-like devices, veth and cards without scatter and gather copy, and the bookkeeping came on top of that.
    if ((static_cast<unsigned>(result) & IORING_NOTIF_USAGE_ZC_COPIED) != 0) zero_copy_copies_ = true;
    return;
  }
  if (!usable() || !writing_) return;
  if (result == -EAGAIN) {
    ready_to_write_ = false;
  } else if (result == -ENOBUFS || result == -ENOMEM || result == -EOPNOTSUPP || result == -EINVAL) {
    // No room for pinned pages (the limit of locked memory), or not for this kind of socket: copied from now on.
    zero_copy_copies_ = true;
    const WriteBuffer rest = std::exchange(zero_copy_payload_, {});
    sender_.start({&rest, 1}, false);
  } else if (result < 0) {
    write_error_ = -result;
    ready_to_read_ = true;
  } else {
    zero_copy_payload_ = zero_copy_payload_.subspan(static_cast<std::size_t>(result));
    if (zero_copy_payload_.empty()) {
      writing_ = false;
      written_ = true;
    }
  }
}

void UringStream::fail(IoStatus status) {
  end_operations();
  state_ = State::failed;
  events_->on_failed(*this, status);
}

void UringStream::end_operations() {
  reading_ = writing_ = written_ = false;
  bytes_started_ -= sender_.remaining_bytes() + zero_copy_payload_.size();
  zero_copy_payload_ = {};
  sender_.cancel();
}

void UringStream::post_what_has_to_wait() {
  if (writing_ && write_error_ == 0 && ready_to_write_ && sender_.idle() && !send_zero_copy_.posted) post_zero_copy();
  if (broken_) return;
  if (reading_ && !ready_to_read_) post_poll(readable_, POLLIN | POLLRDHUP);
  if (writing_ && !ready_to_write_) post_poll(writable_, POLLOUT);
  // A reset is to be noticed even while nothing is wanted.
  if (!reading_ && !writing_) post_poll(watch_, 0);
}

void UringStream::post_zero_copy() {
  io_uring_sqe* entry = begin(send_zero_copy_);
  ::io_uring_prep_send_zc(entry, descriptor_.get(), zero_copy_payload_.data(), zero_copy_payload_.size(),
                          MSG_WAITALL | MSG_NOSIGNAL, IORING_SEND_ZC_REPORT_USAGE);
}

// ---- UringListener ----

UringListener::UringListener(UringIo& io, Descriptor descriptor, const Address& address, ListenerEvents& events)
    : Handle(io, std::move(descriptor)), address_(address), events_(events) {
  io_.enqueue(*this);
}

void UringListener::close() {
  if (disposed) return;
  // At once, not when the posted poll is cancelled: from here on diallers are refused and the port is free.
  ::shutdown(descriptor_.get(), SHUT_RDWR);
  dispose();
}

void UringListener::process() {
  for (int i = 0; i < kAcceptsPerTurn && !disposed; ++i) {
    std::optional<AcceptQueue::Connection> accepted = queue_.take(descriptor_.get());
    if (!accepted) break;
    auto* stream = new UringStream(io_, std::move(accepted->socket), accepted->peer);
    events_.on_accepted(*stream);
    PAPILIO_ASSERT(stream->has_events());
    io_.enqueue(*stream);
  }
  // Completes at once where somebody is left.
  if (!disposed) post_poll(acceptable_, POLLIN);
}

void UringListener::complete(Operation& operation, int, unsigned) {
  if (operation.kind == Operation::Kind::readable && !disposed) io_.enqueue(*this);
}

// ---- UringIo ----

std::string why_no_ring(int error_number) {
  switch (error_number) {
    case ENOSYS: return "this kernel is built without io_uring, or a sandbox hides it";
    case EPERM:
    case EACCES: return "io_uring is forbidden here: by kernel.io_uring_disabled (sysctl) or by the sandbox's filter";
    case EINVAL: return "this kernel's io_uring is too old: Linux 6.1 or later is needed";
    case EMFILE:
    case ENFILE: return "no descriptor is left for io_uring: raise the limit of open files (ulimit -n)";
    case ENOMEM: return "no memory for io_uring: raise the limit of locked memory (ulimit -l)";
    default: return "io_uring cannot start: " + std::generic_category().message(error_number);
  }
}

Status UringIo::start() {
  io_uring_params parameters{};
  // One thread uses the ring, and the kernel finishes operations only while that thread waits: no interruptions, and
  // everything that became ready during a turn is worked off together. Which thread it is shows in the first run_once.
  parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                     IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL;
  parameters.cq_entries = kCompletionEntries;
  if (const int error = ::io_uring_queue_init_params(kSubmissionEntries, &ring_, &parameters); error != 0) {
    return runtime_error(why_no_ring(-error));
  }
  has_ring_ = true;
  constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE;
  if ((parameters.features & kNeeded) != kNeeded) return runtime_error(why_no_ring(EINVAL));
  io_uring_probe* probe = ::io_uring_get_probe_ring(&ring_);
  if (probe == nullptr) return runtime_error(why_no_ring(EPERM));
  bool complete = true;
  for (const int code : {IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL}) {
    complete = complete && ::io_uring_opcode_supported(probe, code) != 0;
  }
  has_zero_copy_ = ::io_uring_opcode_supported(probe, IORING_OP_SEND_ZC) != 0;
  ::io_uring_free_probe(probe);
  if (!complete) return runtime_error(why_no_ring(EINVAL));

  waker_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!waker_.valid()) return runtime_error(why_no_ring(errno));
  if (const int error = ::uv_loop_init(&loop_); error != 0) {
    return runtime_error(std::string("libuv cannot start its loop: ") + ::uv_strerror(error) +
                         "; raise the limit of open files (ulimit -n)");
  }
  has_loop_ = true;
  return Done{};
}

UringIo::~UringIo() {
  for (Handle* handle : all_) handle->dispose();
  // From another thread the ring cannot be used; the kernel then cancels by itself a moment after the ring is gone.
  if (enabled_ && thread_ == std::this_thread::get_id()) cancel_everything();
  for (Handle* handle : all_) delete handle;
  if (has_ring_) ::io_uring_queue_exit(&ring_);
  if (!has_loop_) return;
  // Delivers what the owner's handles in event_loop() still have to say about being closed.
  ::uv_run(&loop_, UV_RUN_NOWAIT);
  const int error = ::uv_loop_close(&loop_);
  PAPILIO_ASSERT_VALUES(error == 0, error, 0);  // EBUSY: the owner left handles of its own there
}

// Ports are free and peers are told when the destructor returns, not some time later.
void UringIo::cancel_everything() {
  const auto still_posted = [](Handle* handle) { return !handle->finish_disposal() && handle->has_operations(); };
  while (std::count_if(all_.begin(), all_.end(), still_posted) > 0) {
    sleep(std::chrono::milliseconds(100));
    take_completions();
  }
}

Result<Listener*> UringIo::listen(const Address& address, const SocketOptions& options, ListenerEvents& events) {
  Address bound;
  Result<Descriptor> socket = open_listening_socket(address, options, bound);
  if (!socket) return socket.error();
  return static_cast<Listener*>(new UringListener(*this, std::move(*socket), bound, events));
}

Stream& UringIo::connect(const Address& address, const SocketOptions& options, StreamEvents& events) {
  int error_number = 0;
  Descriptor socket = open_stream_socket(address, options, error_number);
  if (socket.valid() && ::connect(socket.get(), address.data(), address.size()) != 0 && errno != EINPROGRESS) {
    error_number = errno;
  }
  return *new UringStream(*this, std::move(socket), address, events, error_number);
}

void UringIo::wake() noexcept {
  if (woken_.exchange(true)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(waker_.get(), &one, sizeof one);
}

io_uring_sqe* UringIo::begin(Operation& operation) {
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    ::io_uring_submit(&ring_);
    entry = ::io_uring_get_sqe(&ring_);
  }
  ::io_uring_sqe_set_data(entry, &operation);  // liburing's preparing functions leave it alone
  return entry;
}

void UringIo::enable() {
  // liburing 2.3 declares a function for this and does not export it.
  const long error = ::syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  PAPILIO_ASSERT_VALUES(error == 0, error, errno);
  // Spares the kernel a look-up per call; there is a small number of places for it in each thread.
  ::io_uring_register_ring_fd(&ring_);
  thread_ = std::this_thread::get_id();
  enabled_ = true;
}

void UringIo::run_once(TimePoint until) {
  if (!enabled_) enable();
  wait(std::min(until, next_linger_check_));
  if (now_ >= next_linger_check_) check_lingering();
  work_off_queue();
}

void UringIo::wait(TimePoint until) {
  something_happened_ = false;
  for (;;) {
    if (!wake_.posted) {
      // Never read: what counts is each new write to it, and its count cannot run over in a lifetime.
      ::io_uring_prep_poll_multishot(begin(wake_), waker_.get(), POLLIN);
      wake_.posted = true;
    }
    const TimePoint loop_due = prepare_event_loop();
    const TimePoint end = std::min(until, loop_due);
    const bool busy = queue_first_ != nullptr || something_happened_;
    const Duration time = busy ? Duration::zero() : end - std::min(end, read_clock());
    time > Duration::zero() ? sleep(time) : take_what_is_there();
    take_completions();
    now_ = read_clock();
    if (loop_is_ready_ || now_ >= loop_due) turn_event_loop();
    if (busy || something_happened_ || queue_first_ != nullptr || now_ >= until) return;
  }
}

void UringIo::sleep(Duration time) {
  io_uring_cqe* completion = nullptr;
  const auto longest = std::min(time, Duration(std::chrono::hours(1)));
  __kernel_timespec timeout{.tv_sec = longest / std::chrono::seconds(1),
                            .tv_nsec = (longest % std::chrono::seconds(1)).count()};
  const int error = ::io_uring_submit_and_wait_timeout(&ring_, &completion, 1, &timeout, nullptr);
  // EEXIST: run_once was called from two threads. It would return at once for ever.
  PAPILIO_ASSERT_VALUES(error != -EEXIST && error != -EBADF && error != -EINVAL && error != -EFAULT, error, 0);
}

// No system call where there is nothing to say or to hear.
void UringIo::take_what_is_there() {
  const unsigned kernel_flags = __atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED);
  if (::io_uring_sq_ready(&ring_) > 0 || (kernel_flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0) {
    ::io_uring_submit_and_get_events(&ring_);
  }
}

void UringIo::take_completions() {
  unsigned head = 0;
  unsigned count = 0;
  io_uring_cqe* completion = nullptr;
  io_uring_for_each_cqe(&ring_, head, completion) {
    ++count;
    auto* operation = static_cast<Operation*>(::io_uring_cqe_get_data(completion));
    if (operation == nullptr) continue;
    if ((completion->flags & IORING_CQE_F_MORE) == 0 && operation->handle == nullptr) operation->posted = false;
    if (operation->handle == nullptr) {
      complete_own(*operation, completion->res);
    } else {
      operation->handle->handle_completion(*operation, completion->res, completion->flags);
    }
  }
  ::io_uring_cq_advance(&ring_, count);
}

void UringIo::complete_own(Operation& operation, int) {
  if (operation.kind == Operation::Kind::event_loop) {
    loop_is_ready_ = true;
  } else {
    woken_.exchange(false);  // reads what the waking thread wrote before
    something_happened_ = true;
  }
}

// libuv is one descriptor in our wait, as its documentation has a loop embedded in another. The poll is a single one,
// posted again after every turn of libuv, because it then looks at the state and not only at changes of it.
TimePoint UringIo::prepare_event_loop() {
  if (::uv_loop_alive(&loop_) == 0) return kNever;
  // libuv tells epoll about new interests only when it waits itself.
  void* first = nullptr;
  std::memcpy(&first, &loop_.watcher_queue, sizeof first);
  if (first != &loop_.watcher_queue) turn_event_loop();
  if (!event_loop_.posted) {
    ::io_uring_prep_poll_add(begin(event_loop_), ::uv_backend_fd(&loop_), POLLIN);
    event_loop_.posted = true;
  }
  ::uv_update_time(&loop_);
  const int timeout_ms = ::uv_backend_timeout(&loop_);
  return timeout_ms < 0 ? kNever : read_clock() + std::chrono::milliseconds(timeout_ms);
}

void UringIo::turn_event_loop() {
  loop_is_ready_ = false;
  ::uv_run(&loop_, UV_RUN_NOWAIT);
  something_happened_ = true;
}

void UringIo::work_off_queue() {
  moved_bytes_ = 0;
  for (std::size_t i = 0; queue_first_ != nullptr && i < kTurnItems && moved_bytes_ < kTurnBytes; ++i) {
    Handle& handle = *queue_first_;
    queue_first_ = handle.next_queued;
    handle.next_queued = nullptr;
    handle.queued = false;
    if (!handle.disposed) {
      handle.process();
    } else if (handle.finish_disposal()) {
      remove(handle);
      handle.gone();
      delete &handle;
    }
  }
}

void UringIo::check_lingering() {
  for (UringStream* stream : lingering_) stream->linger(now_);
  next_linger_check_ = lingering_.empty() ? kNever : now_ + kLingerCheckInterval;
}

void UringIo::add(Handle& handle) {
  handle.position = all_.size();
  all_.push_back(&handle);
}

void UringIo::remove(Handle& handle) {
  all_.back()->position = handle.position;
  std::swap(all_[handle.position], all_.back());
  all_.pop_back();
}

void UringIo::enqueue(Handle& handle) {
  if (handle.queued) return;
  handle.queued = true;
  (queue_first_ == nullptr ? queue_first_ : queue_last_->next_queued) = &handle;
  queue_last_ = &handle;
}

void UringIo::add_lingering(UringStream& stream) {
  lingering_.push_back(&stream);
  next_linger_check_ = std::min(next_linger_check_, now_ + kLingerCheckInterval);
}

}  // namespace

Result<std::unique_ptr<Io>> make_uring_io() {
  auto io = std::make_unique<UringIo>();
  if (Status status = io->start(); !status) return status.error();
  return std::unique_ptr<Io>(std::move(io));
}

}  // namespace papilio::transport
