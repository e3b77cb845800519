// Linked into every libFuzzer program: `--write-seeds DIRECTORY` writes the target's seeds there, by number, and ends.
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  if (*argc != 3 || std::string_view((*argv)[1]) != "--write-seeds") return 0;
  const std::filesystem::path directory = (*argv)[2];
  std::filesystem::create_directories(directory);
  std::size_t number = 0;
  for (const papilio::fuzz::Bytes& seed : papilio::fuzz::seeds()) {
    std::ofstream file(directory / ("seed-" + std::to_string(number++)), std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
    if (!file.flush()) std::exit(3);
  }
  std::exit(0);
}
