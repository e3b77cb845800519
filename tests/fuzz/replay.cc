// One fuzz target as an ordinary test: its seeds, everything in its corpus, the words of its dictionary, and a few
// hundred damaged copies of them, drawn alike every time. Any finding ends the program, as under libFuzzer.
//
//   fuzz-TARGET-replay [FILE|DIRECTORY|FILE.dict ...]
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/fuzz/fuzz_target.hpp"
#include "tests/kernels/hostile.h"

namespace papilio::fuzz {
namespace {

constexpr std::size_t kDamagedCopies = 400;

Bytes contents_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return bytes_of(text);
}

// What stands between the quotes of name="value": \xAB, \\ and \" are what they are in C.
Bytes unquoted(const std::string& line) {
  const std::size_t begin = line.find('"'), end = line.rfind('"');
  std::string word;
  for (std::size_t i = begin + 1; begin != std::string::npos && i < end; ++i) {
    if (line[i] == '\\' && line.compare(i, 2, "\\x") == 0 && i + 3 < end) {
      unsigned value = 0;
      std::from_chars(line.data() + i + 2, line.data() + i + 4, value, 16);
      word += static_cast<char>(value);
      i += 3;
    } else {
      if (line[i] == '\\') i += 1;
      word += line[i];
    }
  }
  return bytes_of(word);
}

void read_dictionary(const std::filesystem::path& path, std::vector<Bytes>& inputs) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.front() != '#') inputs.push_back(unquoted(line));
  }
}

void read_inputs(const std::filesystem::path& path, std::vector<Bytes>& inputs) {
  if (path.extension() == ".dict") return read_dictionary(path, inputs);
  if (!std::filesystem::is_directory(path)) return inputs.push_back(contents_of(path));
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) inputs.push_back(contents_of(file));
}

void try_input(const Bytes& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

}  // namespace
}  // namespace papilio::fuzz

int main(int argc, char** argv) {
  using namespace papilio::fuzz;
  std::vector<Bytes> inputs = {Bytes()};
  for (Bytes& seed : seeds()) inputs.push_back(std::move(seed));
  for (int i = 1; i < argc; ++i) {
    if (std::filesystem::exists(argv[i])) read_inputs(argv[i], inputs);  // a target may have no dictionary
  }
  for (const Bytes& input : inputs) try_input(input);
  papilio::Random random(1);
  for (std::size_t i = 0; i < kDamagedCopies; ++i) {
    try_input(papilio::kernels::damaged(random, inputs[random.below(inputs.size())]));
  }
  std::printf("%zu inputs and %zu damaged copies\n", inputs.size(), kDamagedCopies);
  return 0;
}
