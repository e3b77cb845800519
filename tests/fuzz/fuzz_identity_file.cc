// The file with a node's key: any bytes in it are a key or an error that says what to do.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/fuzz/fuzz_target.hpp"
#include "transport/identity.hpp"

namespace papilio::fuzz {
namespace {

// One file per process, gone with it.
struct KeyFile {
  KeyFile()
      : path((std::filesystem::temp_directory_path() / ("papilio-fuzz-key-" + std::to_string(::getpid()))).string()) {}
  ~KeyFile() { std::remove(path.c_str()); }
  KeyFile(const KeyFile&) = delete;
  KeyFile& operator=(const KeyFile&) = delete;

  void write(std::span<const std::uint8_t> bytes) const {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    file.close();
    FUZZ_CHECK(file.good() && ::chmod(path.c_str(), 0600) == 0);
  }
  std::string path;
};

const KeyFile& key_file() {
  static const KeyFile file;
  return file;
}

}  // namespace

std::vector<Bytes> seeds() {
  const std::string path = key_file().path;
  std::remove(path.c_str());
  FUZZ_CHECK(transport::Identity::load_or_create(path).ok());
  std::ifstream file(path, std::ios::binary);
  const std::string key{std::istreambuf_iterator<char>(file), {}};
  return {bytes_of(key), bytes_of(key + key), bytes_of("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")};
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace papilio::fuzz;
  using papilio::transport::Identity;
  if (size == 0) return 0;
  const std::span<const std::uint8_t> bytes(data, size);
  key_file().write(bytes);
  const auto loaded = Identity::load_or_create(key_file().path);
  if (!loaded) {
    FUZZ_CHECK(loaded.error().message.find(key_file().path) != std::string::npos);
    return 0;
  }
  FUZZ_CHECK(loaded->id() == papilio::transport::peer_id_of(loaded->public_key()));
  const Bytes message = bytes_of("message");
  FUZZ_CHECK(papilio::transport::verify(loaded->public_key(), "domain", message, loaded->sign("domain", message)));
  return 0;
}
