// papilio-node without its process: settings from flags and files, what it tells, how it takes signals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "tools/node/display.hpp"
#include "tools/node/outcome.hpp"
#include "tools/node/settings.hpp"
#include "tools/node/signals.hpp"

namespace papilio::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Reading {
  NodeSettings settings;
  Status status = Done{};
};

Reading read(std::vector<std::string> arguments) {
  Reading reading;
  CommandLine command_line(node_manual_page());
  add_node_options(command_line, reading.settings);
  reading.status = command_line.read_arguments(std::move(arguments));
  if (reading.status.ok()) reading.status = validate(reading.settings);
  return reading;
}

void expect_refused(std::vector<std::string> arguments, std::vector<std::string> words) {
  const Reading reading = read(std::move(arguments));
  ASSERT_FALSE(reading.status.ok()) << "expected: " << words[0];
  EXPECT_EQ(reading.status.error().kind, ErrorKind::usage);
  for (const std::string& word : words) EXPECT_THAT(reading.status.error().message, HasSubstr(word));
}

TEST(NodeSettings, FromFlags) {
  const Reading reading =
      read({"--listen", "127.0.0.1:7001", "--peer", "127.0.0.1:7002", "--peer", "[::1]:7003", "--rate", "200Mbps",
            "--chunk-bytes", "256K", "--round-timeout", "2s", "--slot", "2", "--exact-shares", "--target-batch", "96"});
  ASSERT_TRUE(reading.status.ok()) << reading.status.error().message;
  EXPECT_THAT(reading.settings.peers, ElementsAre("127.0.0.1:7002", "[::1]:7003"));
  const NodeConfig config = node_config_of(reading.settings, {1, 2}, 1000);
  EXPECT_EQ(config.group_size, 3U);
  EXPECT_EQ(config.rate_bytes_per_s, 25'000'000U);
  EXPECT_EQ(config.chunk_bytes, std::size_t{256} << 10U);
  EXPECT_EQ(config.round_timeout, std::chrono::seconds(2));
  const auto trainer = trainer_settings_of(reading.settings, {});
  EXPECT_EQ(trainer.slot, 2U);
  EXPECT_EQ(trainer.slots, 3U);
  EXPECT_EQ(trainer.target_batch, 96U);
  EXPECT_TRUE(trainer.exact_shares);
}

TEST(NodeSettings, WithoutASlotTheOrderComesFromTheName) {
  const Reading reading = read({"--listen", "127.0.0.1:7001", "--peer", "127.0.0.1:7002"});
  ASSERT_TRUE(reading.status.ok());
  PeerId one, other;
  other.bytes[0] = 1;
  const auto first = trainer_settings_of(reading.settings, one), second = trainer_settings_of(reading.settings, other);
  EXPECT_NE(first.slot, second.slot);
  EXPECT_EQ(first.share->count, 0U);
}

TEST(NodeSettings, AloneItTakesTheWholeBatch) {
  const Reading reading = read({"--listen", "127.0.0.1:0"});
  ASSERT_TRUE(reading.status.ok());
  const auto trainer = trainer_settings_of(reading.settings, {});
  EXPECT_EQ(trainer.slots, 1U);
  EXPECT_FALSE(trainer.share.has_value());
}

TEST(NodeSettings, MistakesAreNamedWithValueAndRemedy) {
  expect_refused({}, {"--listen", "--role client"});
  expect_refused({"--role", "validator"}, {"--role", "'validator'", "miner or client"});
  expect_refused({"--role", "king"}, {"--role", "'king'", "miner"});
  expect_refused({"--role", "client"}, {"--peer", "ADDRESS:PORT"});
  expect_refused({"--role", "client", "--listen", "127.0.0.1:1", "--peer", "127.0.0.1:2"},
                 {"--listen", "leave it out"});
  expect_refused({"--listen", "127.0.0.1"}, {"--listen", "'127.0.0.1'", "port"});
  expect_refused({"--listen", "127.0.0.1:0", "--slot", "1"}, {"--slot", "'1'", "--group-size"});
  expect_refused({"--listen", "127.0.0.1:0", "--group-size", "65"}, {"--group-size", "'65'", "64"});
  expect_refused({"--listen", "127.0.0.1:0", "--group-size", "2", "--exact-shares"}, {"--exact-shares", "--slot"});
  expect_refused({"--listen", "127.0.0.1:0", "--group-size", "4", "--target-batch", "3"},
                 {"--target-batch", "'3'", "4"});
  expect_refused({"--listen", "127.0.0.1:0", "--chunk-bytes", "100K"}, {"--chunk-bytes", "power of two"});
  expect_refused({"--listen", "127.0.0.1:0", "--chunk-bytes", "8M"}, {"--chunk-bytes", "4M"});
  expect_refused({"--listen", "127.0.0.1:0", "--round-timeout", "0"}, {"--round-timeout", "30s"});
  expect_refused({"--listen", "127.0.0.1:0", "--learning-rate", "0"}, {"--learning-rate"});
  expect_refused({"--listen", "127.0.0.1:0", "--learning-rate", "nan"}, {"--learning-rate", "nan"});
  expect_refused({"--listen", "127.0.0.1:0", "--steps", "0"}, {"--steps", "'0'"});
  expect_refused({"--listen", "127.0.0.1:0", "--stepz", "5"}, {"--stepz", "--steps"});
}

class NodeFiles : public ::testing::Test {
 protected:
  NodeFiles() {
    std::string pattern = ::testing::TempDir() + "papilio-node-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~NodeFiles() override { std::filesystem::remove_all(directory_); }
  std::string write(const std::string& text) const {
    std::ofstream(directory_ + "/node.toml") << text;
    return directory_ + "/node.toml";
  }

  std::string directory_;
};

TEST_F(NodeFiles, KeysAreTheFlagsAndFlagsWin) {
  const std::string config = write(
      "listen = \"127.0.0.1:7001\"\npeer = [\"127.0.0.1:7002\", \"127.0.0.1:7003\"]\nsteps = 7\nrate = \"1Gbps\"\n"
      "learning-rate = 0.01\nslot = 0\nexact-shares = true\n");
  const Reading reading = read({"--config", config, "--steps", "9"});
  ASSERT_TRUE(reading.status.ok()) << reading.status.error().message;
  EXPECT_EQ(reading.settings.steps, 9U);
  EXPECT_EQ(reading.settings.peers.size(), 2U);
  EXPECT_EQ(reading.settings.rate_bps, 1'000'000'000U);
  EXPECT_DOUBLE_EQ(reading.settings.learning_rate, 0.01);
  EXPECT_TRUE(reading.settings.exact_shares);
}

TEST_F(NodeFiles, MistakesInTheFileAreNamedWithTheirLine) {
  expect_refused({"--config", write("steps = 7\nlisten_on = \"127.0.0.1:1\"\n")}, {"node.toml:2", "listen_on"});
  expect_refused({"--config", write("steps = \"many\"\n")}, {"node.toml:1", "steps", "'many'"});
  expect_refused({"--config", write("steps = \n")}, {"node.toml:1"});
  expect_refused({"--config", write("round-timeout = 30\n")}, {"node.toml:1", "round-timeout", "30"});
  expect_refused({"--config", directory_ + "/missing.toml"}, {"missing.toml"});
}

TEST_F(NodeFiles, TheStateDirectoryIsMade) {
  const std::string state = directory_ + "/a/b";
  const Reading reading = read({"--listen", "127.0.0.1:0", "--state-dir", state});
  ASSERT_TRUE(reading.status.ok()) << reading.status.error().message;
  EXPECT_TRUE(std::filesystem::is_directory(state));
  expect_refused({"--listen", "127.0.0.1:0", "--state-dir", write("a file")}, {"--state-dir", "node.toml"});
}

TEST_F(NodeFiles, TheEvidenceDirectoryIsMade) {
  const std::string evidence = directory_ + "/c/d";
  const Reading reading = read({"--listen", "127.0.0.1:0", "--evidence-dir", evidence, "--evidence-files", "7"});
  ASSERT_TRUE(reading.status.ok()) << reading.status.error().message;
  EXPECT_TRUE(std::filesystem::is_directory(evidence));
  const NodeConfig config = node_config_of(reading.settings, {1, 2}, 1000);
  EXPECT_EQ(config.evidence_dir, evidence);
  EXPECT_EQ(config.evidence_files, 7U);
  EXPECT_TRUE(node_config_of(read({"--listen", "127.0.0.1:0"}).settings, {1, 2}, 1000).evidence_dir.empty());
  expect_refused({"--listen", "127.0.0.1:0", "--evidence-dir", write("a file")}, {"--evidence-dir", "node.toml"});
  expect_refused({"--listen", "127.0.0.1:0", "--evidence-files", "0"}, {"--evidence-files", "'0'"});
}

TEST(NodeFingerprint, DependsOnAllThatKeepsModelsEqual) {
  const auto fingerprint = [](const NodeSettings& settings, std::vector<std::uint8_t> symbols) {
    auto model = training::resolve_model(model_settings_of(settings));
    auto learner = training::Learner::create(*model, optimiser_settings_of(settings), symbols.size());
    return fingerprint_of(settings, **learner, symbols);
  };
  NodeSettings settings;
  settings.model = "tiny";
  const std::vector<std::uint8_t> symbols = {'a', 'b', 'c'};
  const Fingerprint reference = fingerprint(settings, symbols);
  EXPECT_EQ(fingerprint(settings, symbols), reference);
  EXPECT_NE(fingerprint(settings, {'a', 'b', 'd'}), reference);
  const auto changed = [&](auto change) {
    NodeSettings other = settings;
    change(other);
    return fingerprint(other, symbols);
  };
  EXPECT_NE(changed([](NodeSettings& other) { other.run_id = "other"; }), reference);
  EXPECT_NE(changed([](NodeSettings& other) { other.seed = 2; }), reference);
  EXPECT_NE(changed([](NodeSettings& other) { other.layers = 1; }), reference);
  EXPECT_NE(changed([](NodeSettings& other) { other.learning_rate = 1e-3; }), reference);
  EXPECT_EQ(changed([](NodeSettings& other) { other.steps = 3; }), reference);
}

training::RoundLine example_round(std::uint64_t epoch, double loss) {
  training::RoundLine line;
  line.epoch = epoch;
  line.step = epoch + 1;
  line.loss = loss;
  line.samples = 16;
  line.global_samples = 64;
  line.bytes_sent = 1000;
  line.bytes_received = 500;
  line.members = 4;
  line.coverage = 0.75;
  line.model_digest = 0xabc;
  line.peers.resize(2);
  line.peers[0].peer = PeerId{{0xde, 0xad}};
  line.peers[0].cut_off = true;
  line.peers[0].reason = "slow";
  line.peers[0].evidence = "31 kB/s";
  line.peers[0].lag_ms = 3200;
  line.peers[0].limit_ms = 3000;
  line.peers[1].peer = PeerId{{0xbe, 0xef}};
  line.peers[1].round_trip_ms = 0.5;
  line.cut_off.push_back(line.peers[0]);
  return line;
}

TEST(Outcome, TellsTheContract) {
  Outcome outcome;
  outcome.set_node("00ff", "uring", 42, 7);
  EXPECT_TRUE(outcome.document()["loss_first"].is_null());
  EXPECT_EQ(outcome.document()["model_digest"], "0000000000000007");
  outcome.add_round(example_round(3, 4.5));
  outcome.add_round(example_round(4, 3.5));
  outcome.set_agreement({.in_agreement = 4, .in_sync = false, .out_of_sync = 2});
  const auto document = outcome.document();
  EXPECT_EQ(document["peer_id"], "00ff");
  EXPECT_EQ(document["steps"], 2);
  EXPECT_EQ(document["epochs"], 5);
  EXPECT_EQ(document["loss_first"], 4.5);
  EXPECT_EQ(document["loss_last"], 3.5);
  EXPECT_EQ(document["losses"].size(), 2U);
  EXPECT_EQ(document["model_digest"], "0000000000000abc");
  EXPECT_EQ(document["bytes_sent"], 2000);
  EXPECT_EQ(document["parameters"], 42);
  EXPECT_EQ(document["in_agreement"], 4);
  EXPECT_EQ(document["in_sync"], false);
  EXPECT_EQ(document["out_of_sync"], 2);
  EXPECT_EQ(document["rounds"][1]["epoch"], 4);
  EXPECT_EQ(document["rounds"][1]["coverage"], 0.75);
  EXPECT_EQ(document["rounds"][1]["cut_off"][0]["reason"], "slow");
  EXPECT_EQ(document["rounds"][0]["cut_off"][0]["evidence"], "31 kB/s");
  EXPECT_EQ(document["rounds"][1]["cut_off"][0]["lag_ms"], 3200);
  EXPECT_TRUE(document["rounds"][1]["cut_off"][0]["round_trip_ms"].is_null()) << "never measured";
  ASSERT_EQ(document["peers"].size(), 2U) << "of the last round";
  EXPECT_EQ(document["peers"][1]["round_trip_ms"], 0.5);
  EXPECT_EQ(document["peers"][1]["cut_off"], false);
  EXPECT_THAT(document["rounds"][1]["cut_off"][0]["peer"].get<std::string>(), ::testing::StartsWith("dead"));
  EXPECT_FALSE(document.contains("error"));
}

TEST(Display, ALineNamesWhoWasCutOff) {
  const std::string text = round_text(example_round(3, 4.5));
  for (const char* part :
       {"epoch    3", "loss 4.5000", "samples 16/64", "members 4", "coverage 75%", "dead0000 (slow: 31 kB/s)"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(Signals, TheFirstAsks) {
  std::promise<void> asked;
  const SignalWatcher watcher([&] { asked.set_value(); }, [] { std::_Exit(9); });
  ::kill(::getpid(), SIGINT);
  EXPECT_EQ(asked.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
}

TEST(SignalsDeathTest, TheSecondEndsNow) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        const SignalWatcher watcher([] { ::kill(::getpid(), SIGTERM); }, [] { std::_Exit(9); });
        ::kill(::getpid(), SIGTERM);
        std::promise<void>().get_future().wait_for(std::chrono::seconds(30));
      },
      ::testing::ExitedWithCode(9), "");
}

}  // namespace
}  // namespace papilio::tools
