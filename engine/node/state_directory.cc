#include "engine/node/state_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

namespace papilio::node {
namespace {

constexpr std::size_t kIdDigits = 2 * sizeof(PeerId::bytes);

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  [[nodiscard]] int get() const { return value_; }
  [[nodiscard]] bool is_open() const { return value_ >= 0; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

Error failed(const std::string& path, const std::string& doing) {
  return runtime_error("state-dir: '" + path + "' cannot be " + doing + " (" + std::strerror(errno) +
                       "): name a directory that is yours, on a disk with room");
}

std::string read_start(int descriptor, std::size_t most) {
  std::string text(most, '\0');
  const ssize_t got = ::pread(descriptor, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

std::optional<PeerId> id_of(const std::string& text) {
  PeerId id;
  if (text.size() != kIdDigits + 1 || text.back() != '\n') return std::nullopt;
  for (std::size_t i = 0; i < kIdDigits; ++i) {
    const char digit = text[i];
    unsigned value = 0;
    if (digit >= '0' && digit <= '9') {
      value = static_cast<unsigned>(digit - '0');
    } else if (digit >= 'a' && digit <= 'f') {
      value = static_cast<unsigned>(digit - 'a') + 10;
    } else {
      return std::nullopt;
    }
    id.bytes[i / 2] = static_cast<std::uint8_t>(id.bytes[i / 2] << 4U | value);
  }
  return id;
}

// The whole file under its name, or nothing: it is written under another and renamed.
Status write_id(const std::string& directory, const std::string& path, const PeerId& id) {
  const std::string draft = path + ".new";
  const std::string text = to_hex(id, kIdDigits) + "\n";
  const Descriptor file(::open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.is_open() || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::fsync(file.get()) != 0 || ::rename(draft.c_str(), path.c_str()) != 0) {
    return failed(path, "written");
  }
  const Descriptor folder(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.is_open() || ::fsync(folder.get()) != 0) return failed(directory, "written");
  return Done{};
}

}  // namespace

Result<PeerId> random_peer_id() {
  PeerId id;
  if (getrandom(id.bytes.data(), id.bytes.size(), 0) != static_cast<ssize_t>(id.bytes.size())) {
    return runtime_error("the system gives no random numbers");
  }
  return id;
}

Result<StateDirectory> StateDirectory::open(const std::string& path) {
  StateDirectory directory(path);
  if (auto locked = directory.lock(); !locked) return locked.error();
  if (auto read = directory.read_or_draw_id(); !read) return read.error();
  return Result<StateDirectory>(std::move(directory));
}

StateDirectory::~StateDirectory() {
  if (lock_ >= 0) ::close(lock_);
}

Status StateDirectory::lock() {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path_, ignored)) {
    return usage_error("state-dir: '" + path_ + "' is not a directory; create it, or name another");
  }
  const std::string path = (std::filesystem::path(path_) / "lock").string();
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.is_open()) return failed(path, "opened");
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return failed(path, "locked");
    std::string holder = read_start(file.get(), 20);
    while (!holder.empty() && (holder.back() < '0' || holder.back() > '9')) holder.pop_back();
    return runtime_error("state-dir: '" + path_ + "' is in use by another node" +
                         (holder.empty() ? "" : " (process " + holder + ")") +
                         ": end that one, or name another directory for this one");
  }
  // Only for the message above: that it cannot be written is no reason not to start.
  const std::string self = std::to_string(::getpid()) + "\n";
  if (::ftruncate(file.get(), 0) != 0 || ::pwrite(file.get(), self.data(), self.size(), 0) < 0) errno = 0;
  lock_ = file.release();
  return Done{};
}

Status StateDirectory::read_or_draw_id() {
  const std::string path = (std::filesystem::path(path_) / "peer-id").string();
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.is_open()) {
    const std::optional<PeerId> id = id_of(read_start(file.get(), kIdDigits + 2));
    if (!id) {
      return runtime_error("state-dir: '" + path +
                           "' is not what a node wrote there (64 hexadecimal digits): put it back from a copy, or "
                           "remove it and begin under a new id");
    }
    id_ = *id;
    return Done{};
  }
  if (errno != ENOENT) return failed(path, "read");
  auto id = random_peer_id();
  if (!id) return id.error();
  id_ = *id;
  return write_id(path_, path, id_);
}

}  // namespace papilio::node
