#include "transport/socket.hpp"

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <limits>
#include <system_error>

namespace papilio::transport {

namespace {

constexpr int kListenBacklog = 4096;

std::string reason_of(int error_number) { return std::generic_category().message(error_number); }

bool set_integer(int socket, int level, int name, std::size_t value) {
  const int number = static_cast<int>(std::min<std::size_t>(value, std::numeric_limits<int>::max()));
  return ::setsockopt(socket, level, name, &number, sizeof number) == 0;
}

// Buffer sizes are wishes (the kernel clamps them); the congestion control was asked for by name and has to be there.
bool apply_options(int socket, const SocketOptions& options) {
  if (!set_integer(socket, IPPROTO_TCP, TCP_NODELAY, 1)) return false;
  if (options.send_buffer_bytes > 0) set_integer(socket, SOL_SOCKET, SO_SNDBUF, options.send_buffer_bytes);
  if (options.receive_buffer_bytes > 0) set_integer(socket, SOL_SOCKET, SO_RCVBUF, options.receive_buffer_bytes);
  if (options.unsent_low_water_bytes > 0) {
    set_integer(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, options.unsent_low_water_bytes);
  }
  const std::string& control = options.congestion_control;
  return control.empty() ||
         ::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, control.data(), static_cast<socklen_t>(control.size())) == 0;
}

Descriptor open_socket(const Address& address) {
  return Descriptor(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

std::string listen_remedy(int error_number) {
  switch (error_number) {
    case EADDRINUSE: return "stop the program that listens there or choose another port";
    case EADDRNOTAVAIL: return "choose an address of this machine, or 0.0.0.0 for all of them";
    case EACCES: return "ports below 1024 need privileges: choose a higher one";
    case EAFNOSUPPORT: return "write an IPv4 or IPv6 address";
    case EMFILE:
    case ENFILE: return "raise the limit of open files (ulimit -n)";
    default: return "check the address and the machine's network set-up";
  }
}

Error listen_error(const Address& address, int error_number) {
  return runtime_error("cannot listen on " + address.to_string() + ": " + reason_of(error_number) + "; " +
                       listen_remedy(error_number));
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    reset();
    number_ = other.release();
  }
  return *this;
}

void Descriptor::reset() {
  if (number_ >= 0) ::close(release());
}

Descriptor open_stream_socket(const Address& address, const SocketOptions& options, int& error_number) {
  Descriptor socket = open_socket(address);
  if (!socket.valid() || !apply_options(socket.get(), options)) {
    error_number = errno;
    return {};
  }
  return socket;
}

Result<Descriptor> open_listening_socket(const Address& address, const SocketOptions& options, Address& bound) {
  Descriptor socket = open_socket(address);
  if (!socket.valid()) return listen_error(address, errno);
  if (!apply_options(socket.get(), options)) {
    return usage_error("congestion control '" + options.congestion_control + "': " + reason_of(errno) +
                       "; choose one that /proc/sys/net/ipv4/tcp_available_congestion_control lists");
  }
  // A restarted node has to get its port back while connections of the last run are in TIME_WAIT.
  set_integer(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(socket.get(), address.data(), address.size()) != 0) return listen_error(address, errno);
  if (::listen(socket.get(), kListenBacklog) != 0) return listen_error(address, errno);
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
    return listen_error(address, errno);
  }
  bound = Address::from_socket(reinterpret_cast<const sockaddr*>(&storage), length);
  return socket;
}

AcceptQueue::AcceptQueue() : reserve_(::open("/dev/null", O_RDONLY | O_CLOEXEC)) {}

std::optional<AcceptQueue::Connection> AcceptQueue::take(int listening_socket) {
  sockaddr_storage peer{};
  socklen_t length = sizeof peer;
  auto* const peer_pointer = reinterpret_cast<sockaddr*>(&peer);
  Descriptor socket(::accept4(listening_socket, peer_pointer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket.valid()) return Connection{std::move(socket), Address::from_socket(peer_pointer, length)};
  if (errno == EMFILE || errno == ENFILE) refuse_one(listening_socket);
  return std::nullopt;
}

void AcceptQueue::refuse_one(int listening_socket) {
  reserve_.reset();
  Descriptor refused(::accept4(listening_socket, nullptr, nullptr, SOCK_CLOEXEC));
  if (refused.valid()) reset_on_close(refused.get());
  refused.reset();  // before the reserve takes its place
  reserve_ = Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

int take_socket_error(int socket) {
  int error_number = 0;
  socklen_t length = sizeof error_number;
  if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error_number, &length) != 0) return errno;
  return error_number;
}

void reset_on_close(int socket) {
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void begin_orderly_close(int socket) { ::shutdown(socket, SHUT_WR); }

bool orderly_close_is_done(int socket) {
  std::array<std::byte, 65536> sink;
  // As much as a receive buffer may hold, not more: a peer that never stops sending must not hold the loop.
  for (int i = 0; i < 128; ++i) {
    const ssize_t discarded = ::recv(socket, sink.data(), sink.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (discarded == 0) return true;
    if (discarded > 0 || errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return true;
    break;
  }
  int unacknowledged = 0;
  return ::ioctl(socket, SIOCOUTQ, &unacknowledged) != 0 || unacknowledged == 0;
}

void set_send_buffer_bytes(int socket, std::size_t bytes) { set_integer(socket, SOL_SOCKET, SO_SNDBUF, bytes); }

StreamInfo read_stream_info(int socket) {
  StreamInfo info;
  tcp_info kernel{};
  socklen_t length = sizeof kernel;
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &kernel, &length) != 0) return info;
  info.round_trip = std::chrono::microseconds(kernel.tcpi_rtt);
  constexpr std::uint32_t kUnknown = std::numeric_limits<std::uint32_t>::max();
  info.minimum_round_trip = std::chrono::microseconds(kernel.tcpi_min_rtt == kUnknown ? 0 : kernel.tcpi_min_rtt);
  info.delivery_rate_bytes_per_s = kernel.tcpi_delivery_rate;
  info.retransmits = kernel.tcpi_total_retrans;
  info.segment_bytes = kernel.tcpi_snd_mss;
  int unacknowledged = 0;
  if (::ioctl(socket, SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0) {
    info.bytes_unacknowledged = static_cast<std::uint64_t>(unacknowledged);
  }
  return info;
}

bool pays_to_borrow(bool peer_is_local_host, WriteMode mode, std::size_t payload_bytes) {
  return mode == WriteMode::borrow && peer_is_local_host && payload_bytes >= kMinimumBorrowBytes;
}

void SpliceSender::start(std::span<const WriteBuffer> buffers, bool by_reference) {
  PAPILIO_ASSERT_VALUES(idle(), remaining_bytes_, buffers.size());
  PAPILIO_ASSERT_VALUES(!buffers.empty() && buffers.size() <= buffers_.size(), buffers.size(), buffers_.size());
  std::copy(buffers.begin(), buffers.end(), buffers_.begin());
  first_ = 0;
  count_ = buffers.size();
  for (const WriteBuffer& buffer : buffers) remaining_bytes_ += buffer.size();
  PAPILIO_ASSERT(remaining_bytes_ > 0);
  by_reference_ = by_reference && !cannot_splice_;
  skip_empty_buffers();
}

SpliceSender::Progress SpliceSender::advance(int socket, bool more_follows) {
  while (remaining_bytes_ > 0) {
    const bool payload_is_next = first_ + 1 == count_;
    if (piped_bytes_ == 0 && by_reference_ && payload_is_next) fill_pipe();
    const Step step = piped_bytes_ > 0 ? splice_pipe(socket, more_follows) : send_copied(socket, more_follows);
    if (step == Step::blocked) return Progress::blocked;
    if (step == Step::failed) return Progress::failed;
  }
  return Progress::done;
}

void SpliceSender::cancel() {
  remaining_bytes_ = piped_bytes_ = first_ = count_ = 0;
  pipe_in_.reset();
  pipe_out_.reset();
}

SpliceSender::Step SpliceSender::send_copied(int socket, bool more_follows) {
  std::array<iovec, kMaximumBuffersPerOperation> vectors;
  // By reference, only what comes before the payload is copied; the payload follows in the pipe.
  const std::size_t end = by_reference_ ? count_ - 1 : count_;
  std::size_t used = 0;
  for (std::size_t i = first_; i < end; ++i) {
    vectors[used++] = {const_cast<std::byte*>(buffers_[i].data()), buffers_[i].size()};
  }
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = used;
  const int more = by_reference_ || more_follows ? MSG_MORE : 0;
  const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT | more);
  if (sent < 0) {
    if (errno == EINTR) return Step::again;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Step::blocked;
    error_number_ = errno;
    return Step::failed;
  }
  auto left = static_cast<std::size_t>(sent);
  remaining_bytes_ -= left;
  while (left > 0) {
    const std::size_t part = std::min(left, buffers_[first_].size());
    buffers_[first_] = buffers_[first_].subspan(part);
    left -= part;
    skip_empty_buffers();
  }
  return Step::again;
}

SpliceSender::Step SpliceSender::splice_pipe(int socket, bool more_follows) {
  const bool more = remaining_bytes_ > piped_bytes_ || more_follows;
  const unsigned flags = SPLICE_F_NONBLOCK | (more ? SPLICE_F_MORE : 0U);
  const ssize_t moved = ::splice(pipe_out_.get(), nullptr, socket, nullptr, piped_bytes_, flags);
  if (moved > 0) {
    piped_bytes_ -= static_cast<std::size_t>(moved);
    remaining_bytes_ -= static_cast<std::size_t>(moved);
    spliced_bytes_ += static_cast<std::uint64_t>(moved);
    return Step::again;
  }
  const int error_number = moved == 0 ? EINVAL : errno;
  if (error_number == EINTR) return Step::again;
  if (error_number == EAGAIN) return Step::blocked;
  if (error_number == EINVAL || error_number == ENOSYS || error_number == EOPNOTSUPP) {
    fall_back_to_copy();
    return Step::again;
  }
  error_number_ = error_number;
  return Step::failed;
}

// Maps the next pages of the payload into the empty pipe.
void SpliceSender::fill_pipe() {
  if (!pipe_in_.valid() && !open_pipe()) return fall_back_to_copy();
  WriteBuffer& payload = buffers_[count_ - 1];
  const iovec vector{const_cast<std::byte*>(payload.data()), payload.size()};
  ssize_t mapped = 0;
  do {
    mapped = ::vmsplice(pipe_in_.get(), &vector, 1, SPLICE_F_NONBLOCK);
  } while (mapped < 0 && errno == EINTR);
  if (mapped <= 0) return fall_back_to_copy();
  piped_bytes_ = static_cast<std::size_t>(mapped);
  payload = payload.subspan(piped_bytes_);
}

bool SpliceSender::open_pipe() {
  // send takes MSG_NOSIGNAL, splice has no such flag: a peer that went away must be EPIPE, not the end of the process.
  [[maybe_unused]] static const bool ignored = [] {
    struct sigaction action {};
    ::sigaction(SIGPIPE, nullptr, &action);
    return action.sa_handler != SIG_DFL || std::signal(SIGPIPE, SIG_IGN) != SIG_ERR;
  }();
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return false;
  pipe_out_ = Descriptor(ends[0]);
  pipe_in_ = Descriptor(ends[1]);
  // The kernel gives each user so many pages of pipe; the last streams get smaller ones, down to what a pipe has
  // anyway.
  for (int bytes = 1 << 20; bytes >= static_cast<int>(kMinimumBorrowBytes); bytes /= 4) {
    if (::fcntl(pipe_in_.get(), F_SETPIPE_SZ, bytes) >= bytes) return true;
  }
  return ::fcntl(pipe_in_.get(), F_GETPIPE_SZ) >= static_cast<int>(kMinimumBorrowBytes);
}

// What lies in the pipe is put back in front of the payload before the pipe goes.
void SpliceSender::fall_back_to_copy() {
  WriteBuffer& payload = buffers_[count_ - 1];
  payload = {payload.data() - piped_bytes_, payload.size() + piped_bytes_};
  first_ = std::min(first_, count_ - 1);
  piped_bytes_ = 0;
  by_reference_ = false;
  cannot_splice_ = true;
  pipe_in_.reset();
  pipe_out_.reset();
}

// The last buffer stays current even if all of it is in the pipe: a fall-back puts it back.
void SpliceSender::skip_empty_buffers() {
  while (first_ + 1 < count_ && buffers_[first_].empty()) ++first_;
}

void ScatterReader::start(std::span<const ReadBuffer> buffers, std::size_t at_least) {
  PAPILIO_ASSERT_VALUES(buffers.size() <= buffers_.size(), buffers.size(), buffers_.size());
  std::size_t total = 0;
  first_ = count_ = received_bytes_ = latest_bytes_ = 0;
  for (const ReadBuffer& buffer : buffers) {
    if (!buffer.empty()) buffers_[count_++] = {buffer.data(), buffer.size()};
    total += buffer.size();
  }
  PAPILIO_ASSERT_VALUES(at_least >= 1 && at_least <= total, at_least, total);
  at_least_ = at_least;
}

ScatterReader::Progress ScatterReader::advance(int socket) {
  latest_bytes_ = 0;
  ssize_t received = 0;
  do {
    received = ::readv(socket, &buffers_[first_], static_cast<int>(count_ - first_));
  } while (received < 0 && errno == EINTR);
  if (received == 0) return Progress::ended;
  if (received < 0) {
    error_number_ = errno;
    return errno == EAGAIN || errno == EWOULDBLOCK ? Progress::blocked : Progress::failed;
  }
  auto left = latest_bytes_ = static_cast<std::size_t>(received);
  received_bytes_ += left;
  while (first_ < count_ && left >= buffers_[first_].iov_len) left -= buffers_[first_++].iov_len;
  if (first_ < count_) {
    iovec& next = buffers_[first_];
    next = {static_cast<std::byte*>(next.iov_base) + left, next.iov_len - left};
  }
  return received_bytes_ < at_least_ ? Progress::partial : Progress::done;
}

}  // namespace papilio::transport
