#include "engine/training/corpus.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "engine/base/assert.hpp"

namespace papilio::training {
namespace {

constexpr const char* kRemedy =
    "name a readable text file with --data FILE, or leave --data out to use the licences of base-files";

constexpr const char* kDefaultDirectory = "/usr/share/common-licenses/";
// In every Debian and Ubuntu of the last ten years. A fixed list, because all nodes of a run should see one text.
constexpr std::array<const char*, 11> kDefaultFiles = {"GPL-3",      "GPL-2",    "GPL-1",    "LGPL-3",
                                                       "LGPL-2.1",   "LGPL-2",   "GFDL-1.3", "MPL-2.0",
                                                       "Apache-2.0", "Artistic", "MPL-1.1"};

Error data_error(const std::string& path, const std::string& what) {
  return usage_error("--data: '" + path + "' " + what + "; " + kRemedy);
}

Result<std::vector<std::uint8_t>> read_file(const std::string& path) {
  // O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return data_error(path, std::string("cannot be opened (") + std::strerror(errno) + ")");
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    return data_error(path, S_ISDIR(status.st_mode) ? "is a directory" : "is not a regular file");
  }
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(status.st_size));
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got = ::read(descriptor, bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error_number = errno;
      ::close(descriptor);
      return data_error(path, std::string("cannot be read (") + std::strerror(error_number) + ")");
    }
    if (got == 0) break;  // it became shorter meanwhile
    filled += static_cast<std::size_t>(got);
  }
  ::close(descriptor);
  bytes.resize(filled);
  return bytes;
}

}  // namespace

Result<Corpus> Corpus::load(const std::string& path, std::size_t context) {
  auto bytes = read_file(path);
  if (!bytes) return bytes.error();
  return from_bytes(path, *bytes, context);
}

Result<Corpus> Corpus::load_default(std::size_t context) {
  std::vector<std::uint8_t> text;
  for (const char* file : kDefaultFiles) {
    auto bytes = read_file(std::string(kDefaultDirectory) + file);
    if (!bytes) return bytes.error();
    text.insert(text.end(), bytes->begin(), bytes->end());
  }
  return from_bytes(std::string(kDefaultDirectory) + "*", text, context);
}

Result<Corpus> Corpus::from_bytes(std::string name, std::span<const std::uint8_t> bytes, std::size_t context) {
  PAPILIO_ASSERT(context > 0);
  if (bytes.empty()) return data_error(name, "is empty");
  if (bytes.size() < context + 1) {
    return usage_error("--data: '" + name + "' has " + std::to_string(bytes.size()) + " bytes, but a context of " +
                       std::to_string(context) + " needs at least " + std::to_string(context + 1) +
                       "; name a longer file with --data or a smaller --context");
  }
  std::array<bool, kMaximumSymbols> occurs{};
  for (const std::uint8_t byte : bytes) occurs[byte] = true;

  Corpus corpus;
  corpus.name_ = std::move(name);
  corpus.context_ = context;
  std::array<std::uint8_t, kMaximumSymbols> token_of{};
  for (std::size_t byte = 0; byte < kMaximumSymbols; ++byte) {
    if (!occurs[byte]) continue;
    token_of[byte] = static_cast<std::uint8_t>(corpus.symbols_.size());
    corpus.symbols_.push_back(static_cast<std::uint8_t>(byte));
  }
  corpus.tokens_.reserve(bytes.size());
  for (const std::uint8_t byte : bytes) corpus.tokens_.push_back(token_of[byte]);
  return corpus;
}

void Corpus::window(std::size_t offset, std::span<std::int64_t> inputs, std::span<std::int64_t> targets) const {
  PAPILIO_ASSERT_VALUES(offset < windows(), offset, windows());
  PAPILIO_ASSERT_VALUES(inputs.size() == context_ && targets.size() == context_, inputs.size(), targets.size());
  for (std::size_t i = 0; i < context_; ++i) {
    inputs[i] = tokens_[offset + i];
    targets[i] = tokens_[offset + i + 1];
  }
}

}  // namespace papilio::training
