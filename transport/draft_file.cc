#include "transport/draft_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "transport/socket.hpp"

namespace papilio::transport {

bool write_draft(const std::string& draft, std::span<const std::byte> bytes, mode_t mode) {
  ::unlink(draft.c_str());
  const Descriptor file(::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (file.valid() && ::write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) &&
      ::fsync(file.get()) == 0) {
    return true;
  }
  const int error = errno;
  if (file.valid()) ::unlink(draft.c_str());
  errno = error;
  return false;
}

}  // namespace papilio::transport
