#include "engine/training/corpus.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

namespace papilio::training {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CorpusFiles : public ::testing::Test {
 protected:
  CorpusFiles() {
    std::string pattern = ::testing::TempDir() + "papilio-corpus-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~CorpusFiles() override { std::filesystem::remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }

 private:
  std::string directory_;
};

void expect_refused(const std::string& path, std::size_t context, const std::string& what) {
  const auto corpus = Corpus::load(path, context);
  ASSERT_FALSE(corpus.ok());
  EXPECT_EQ(corpus.error().kind, ErrorKind::usage);
  EXPECT_THAT(corpus.error().message, AllOf(HasSubstr(path), HasSubstr(what), HasSubstr("--data")));
}

TEST_F(CorpusFiles, BadFilesAreRefusedWithValueAndRemedy) {
  expect_refused(path("missing"), 8, "No such file");
  expect_refused(path("."), 8, "is a directory");
  expect_refused(write("empty", ""), 8, "is empty");
  expect_refused(write("short", "12345678"), 8, "has 8 bytes");
}

TEST_F(CorpusFiles, AFifoThatNobodyWritesToDoesNotHang) {
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  expect_refused(path("fifo"), 8, "is not a regular file");
}

TEST_F(CorpusFiles, AFileWithoutReadPermissionIsRefused) {
  const std::string locked = write("locked", "some text that nobody may read");
  ASSERT_EQ(::chmod(locked.c_str(), 0), 0);
  if (::access(locked.c_str(), R_OK) == 0) {
    EXPECT_TRUE(Corpus::load(locked, 8).ok());  // root reads everything
  } else {
    expect_refused(locked, 8, "Permission denied");
  }
}

TEST_F(CorpusFiles, OneByteMoreThanTheContextIsEnough) {
  const auto corpus = Corpus::load(write("just", "abcabcabc"), 8);
  ASSERT_TRUE(corpus.ok()) << corpus.error().message;
  EXPECT_EQ(corpus->windows(), 1U);
  EXPECT_THAT(corpus->symbols(), ElementsAre('a', 'b', 'c'));
}

TEST_F(CorpusFiles, TargetsAreTheInputsMovedOnByOne) {
  const auto corpus = Corpus::load(write("text", "badcafe"), 3);
  ASSERT_TRUE(corpus.ok());
  std::array<std::int64_t, 3> inputs{}, targets{};
  corpus->window(1, inputs, targets);
  EXPECT_THAT(inputs, ElementsAre(0, 3, 2));   // a d c in the alphabet a b c d e f
  EXPECT_THAT(targets, ElementsAre(3, 2, 0));  // d c a
  corpus->window(3, inputs, targets);
  EXPECT_THAT(targets, ElementsAre(0, 5, 4));  // up to the last symbol
}

TEST_F(CorpusFiles, EveryByteValueIsASymbol) {
  std::vector<std::uint8_t> bytes(kMaximumSymbols);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  const auto corpus = Corpus::from_bytes("bytes", bytes, 4);
  ASSERT_TRUE(corpus.ok());
  EXPECT_EQ(corpus->symbols().size(), kMaximumSymbols);
}

TEST(DefaultCorpus, IsRealTextOfUsefulLength) {
  const auto corpus = Corpus::load_default(64);
  ASSERT_TRUE(corpus.ok()) << corpus.error().message;
  EXPECT_GT(corpus->size(), 35'000U);
  EXPECT_GT(corpus->symbols().size(), 60U);
}

}  // namespace
}  // namespace papilio::training
