#include "engine/node/state_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace papilio::node {
namespace {

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

}  // namespace

Result<StateDirectory> StateDirectory::open(const std::string& path) {
  StateDirectory directory(path);
  if (auto locked = directory.lock(); !locked) return locked.error();
  if (auto loaded = directory.load_identity(); !loaded) return loaded.error();
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

Status StateDirectory::load_identity() {
  auto identity = transport::Identity::load_or_create(identity_path(path_));
  if (!identity) return Error{identity.error().kind, "state-dir: " + identity.error().message};
  identity_.emplace(std::move(*identity));
  return Done{};
}

std::string identity_path(const std::string& directory) {
  return (std::filesystem::path(directory) / "identity.pem").string();
}

}  // namespace papilio::node
