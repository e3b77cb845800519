// Whom a node lets in, as its owner says it: flags and keys, lists in files, and every mistake with its value and what
// to do about it.
#include "tools/node/admission_options.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace papilio::tools {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// 64 digits: this one throughout.
std::string text_of(char digit) { return std::string(64, digit); }

PeerId id_of(char digit) {
  PeerId id;
  const auto value = static_cast<std::uint8_t>(digit <= '9' ? digit - '0' : digit - 'a' + 10);
  id.bytes.fill(static_cast<std::uint8_t>(value << 4U | value));
  return id;
}

class AdmissionOptions : public ::testing::Test {
 protected:
  AdmissionOptions() {
    std::string pattern = ::testing::TempDir() + "papilio-admission-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~AdmissionOptions() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << text;
    return directory_ + "/" + name;
  }
  static Result<node::AdmissionConfig> read(std::vector<std::string> arguments) {
    CommandLine command_line({.name = "example", .summary = "an example"});
    command_line.add_config_file();
    AdmissionSettings settings;
    add_admission_options(command_line.app(), settings);
    if (auto status = command_line.read_arguments(std::move(arguments)); !status) return status.error();
    return admission_of(settings);
  }
  static void expect_refused(std::vector<std::string> arguments, const std::vector<std::string>& words) {
    const auto config = read(std::move(arguments));
    ASSERT_FALSE(config.ok()) << "expected: " << words[0];
    EXPECT_EQ(config.error().kind, ErrorKind::usage);
    for (const std::string& word : words) EXPECT_THAT(config.error().message, HasSubstr(word));
  }

  std::string directory_;
};

TEST_F(AdmissionOptions, BySayingNothingEverybodyIsLetInOverTls) {
  const auto config = read({});
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->security, node::Security::tls);
  EXPECT_FALSE(config->allowed.has_value());
  EXPECT_THAT(config->denied, IsEmpty());
  EXPECT_THAT(config->judges, IsEmpty());
  EXPECT_EQ(config->minimum.up_bps, 100'000'000U);
  EXPECT_EQ(config->minimum.down_bps, 100'000'000U);
  EXPECT_EQ(config->minimum.round_trip, milliseconds(200));
  EXPECT_EQ(config->clock_skew, minutes(5));
  EXPECT_EQ(config->door.elsewhere.connections, core::DoorConfig().elsewhere.connections);
  EXPECT_TRUE(node::check(*config).ok());
}

TEST_F(AdmissionOptions, FlagsAndFilesAddUp) {
  const std::string allowed =
      write("allowed", "# the group\n" + text_of('b') + "\n\n  " + text_of('c') + "  # ours, too\r\n" + text_of('d'));
  const std::string denied = write("denied", text_of('e') + "\n");
  const std::string certificate = write("one.certificate", "bytes");
  const auto config = read({"--allow",         text_of('a'), "--allow",       text_of('9'),
                            "--allow-file",    allowed,      "--deny",        text_of('1'),
                            "--deny-file",     denied,       "--judge",       text_of('2') + "," + text_of('3'),
                            "--judges-needed", "2",          "--certificate", certificate,
                            "--min-up",        "50Mbps",     "--min-down",    "1Gbps",
                            "--max-rtt",       "80ms",       "--clock-skew",  "30s"});
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_THAT(*config->allowed, ElementsAre(id_of('a'), id_of('9'), id_of('b'), id_of('c'), id_of('d')));
  EXPECT_THAT(config->denied, ElementsAre(id_of('1'), id_of('e')));
  EXPECT_THAT(config->judges, ElementsAre(id_of('2'), id_of('3')));
  EXPECT_EQ(config->judges_needed, 2U);
  EXPECT_THAT(config->certificates, ElementsAre(certificate));
  EXPECT_EQ(config->minimum.up_bps, 50'000'000U);
  EXPECT_EQ(config->minimum.down_bps, 1'000'000'000U);
  EXPECT_EQ(config->minimum.round_trip, milliseconds(80));
  EXPECT_EQ(config->clock_skew, seconds(30));

  const core::AdmissionPolicy policy = node::policy_of(*config, id_of('7'), "run");
  EXPECT_EQ(policy.self, id_of('7'));
  EXPECT_EQ(policy.run_id, "run");
  EXPECT_EQ(policy.allowed->size(), 5U);
  EXPECT_EQ(policy.denied.count(id_of('e')), 1U);
  EXPECT_TRUE(policy.requires_certificates());
  EXPECT_EQ(policy.judges_needed, 2U);
  EXPECT_EQ(policy.minimum.round_trip, milliseconds(80));
  EXPECT_EQ(policy.clock_skew, seconds(30));
}

TEST_F(AdmissionOptions, KeysAreTheFlags) {
  const std::string file =
      write("node.toml", "security = \"none\"\ndeny = [\"" + text_of('1') + "\", \"" + text_of('2') +
                             "\"]\nmin-up = \"20Mbps\"\n[door]\nconnections = 77\nattempts-per-second = 2.5\n"
                             "local-handshakes = 9\nconnections-in-total = 100\naddresses = 100\n"
                             "bytes-per-handshake = \"16K\"\n");
  const auto config = read({"--config", file});
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->security, node::Security::none);
  EXPECT_THAT(config->denied, ElementsAre(id_of('1'), id_of('2')));
  EXPECT_EQ(config->minimum.up_bps, 20'000'000U);
  EXPECT_EQ(config->door.elsewhere.connections, 77U);
  EXPECT_DOUBLE_EQ(config->door.elsewhere.attempts_per_s, 2.5);
  EXPECT_EQ(config->door.local_host.handshakes, 9U);
  EXPECT_EQ(config->door.connections_in_total, 100U);
  EXPECT_EQ(config->door.blocks, 100U);
  EXPECT_EQ(config->door.bytes_per_handshake, 16384U);
}

TEST_F(AdmissionOptions, WhatIsNoIdIsQuoted) {
  for (const char* const flag : {"--allow", "--deny", "--judge"}) {
    for (const std::string& text : {std::string("abc"), text_of('a') + "0", text_of('A'), text_of('g')}) {
      expect_refused({flag, text}, {flag, "'" + text + "'", "64 hexadecimal digits", "papilio-node id"});
    }
  }
  for (const char* const flag : {"--allow-file", "--deny-file"}) {
    const std::string file = write("list", text_of('a') + "\nnobody\x1b\n");
    expect_refused({flag, file}, {flag, file, "line 2", "'nobody?'", "64 hexadecimal digits"});
  }
}

TEST_F(AdmissionOptions, FilesThatCannotBeUsed) {
  for (const char* const flag : {"--allow-file", "--deny-file", "--certificate"}) {
    expect_refused({flag, directory_ + "/none"}, {flag, directory_ + "/none", "No such file", "name a file"});
    expect_refused({flag, directory_}, {flag, directory_, "name a file"});
  }
  // An empty allow list would keep everybody out.
  expect_refused({"--allow-file", write("empty", "# nobody yet\n")}, {"--allow-file", "names nobody"});
}

TEST_F(AdmissionOptions, WhatDoesNotGoTogether) {
  expect_refused({"--security", "ssl"}, {"--security", "'ssl'", "tls", "none"});
  expect_refused({"--security", "none", "--allow", text_of('a')}, {"--allow", "'none'", "choose tls"});
  expect_refused({"--security", "none", "--judge", text_of('a')}, {"--judge", "'none'", "choose tls"});
  expect_refused({"--judges-needed", "2"}, {"--judges-needed", "'2'", "name whose certificates"});
  expect_refused({"--judge", text_of('a'), "--judge", text_of('a'), "--judges-needed", "2"},
                 {"--judges-needed", "'2'", "1 judges"});
  expect_refused({"--clock-skew", "1500ms"}, {"--clock-skew", "whole number of seconds"});
  expect_refused({"--clock-skew", "25h"}, {"--clock-skew", "24h"});
  expect_refused({"--max-rtt", "0"}, {"--max-rtt", "200ms"});
  expect_refused({"--door-connections", "0"}, {"--door-connections", "'0'", "1 to 1048576"});
  expect_refused({"--door-local-attempts-per-second", "0"}, {"--door-local-attempts-per-second", "'0'"});
  expect_refused({"--door-addresses", "100"}, {"--door-addresses", "'100'", "connections-in-total (8192)"});
  expect_refused({"--door-bytes-per-handshake", "1K"}, {"--door-bytes-per-handshake", "8K to 16M"});
}

// One list may name whole organisations, the other take single members out again.
TEST_F(AdmissionOptions, DenyWinsOverAllow) {
  const auto config = read({"--allow", text_of('a'), "--allow", text_of('b'), "--deny", text_of('a')});
  ASSERT_TRUE(config.ok()) << config.error().message;
  const core::Admission admission(node::policy_of(*config, id_of('7'), "run"));
  EXPECT_EQ(admission.objection_to(id_of('a'), nullptr)->reason, core::Refused::denied);
  EXPECT_FALSE(admission.objection_to(id_of('b'), nullptr).has_value());
}

}  // namespace
}  // namespace papilio::tools
