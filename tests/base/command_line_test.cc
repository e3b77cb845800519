#include "tools/common/command_line.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

namespace papilio::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

ManualPage example_page() {
  return {.name = "papilio-example",
          .summary = "shows how",
          .synopsis = {"[options]", "bans list [options]"},
          .description = "Does one thing.\n\nAnd another.",
          .not_so = "the results are wrong",
          .examples = {"papilio-example --steps 3"}};
}

// Every kind of option once.
class CommandLineTest : public ::testing::Test {
 protected:
  CommandLineTest() {
    CLI::App& app = line_.app();
    add_size(app, "--begin", begin_, "First size.");
    add_duration(app, "--timeout", timeout_, "How long to wait.");
    add_rate(app, "--rate", rate_, "This node's rate.");
    add_count(app, "--steps", steps_, 1, 1000, "How many steps.");
    add_number(app, "--learning-rate", learning_rate_, 0, 1, "Step size.");
    add_choice(app, "--transport", transport_, {"auto", "uring", "uv"}, "Which backend.");
    add_address(app, "--listen", listen_, "Where to listen.");
    add_addresses(app, "--peer", peers_, "Another peer.");
    app.add_flag("--quiet", quiet_, "Say nothing.");
    add_duration(app, "--grace-first", first_grace_, "Of the first.")->group("Grace");
    line_.add_config_file();
    bans_ = &line_.add_command("bans", {.name = "papilio-example bans",
                                        .summary = "lists bans",
                                        .synopsis = {"[options]"},
                                        .description = "Lists them.",
                                        .not_so = "",
                                        .examples = {}});
  }

  std::string error_of(std::vector<std::string> arguments) {
    const Status status = line_.read_arguments(std::move(arguments));
    if (status.ok()) return "";
    EXPECT_EQ(status.error().kind, ErrorKind::usage);
    return status.error().message;
  }

  CommandLine line_{example_page()};
  std::uint64_t begin_ = 65536;
  Duration timeout_ = std::chrono::seconds(2);
  Duration first_grace_{};
  std::uint64_t rate_ = 0;
  std::uint64_t steps_ = 10;
  double learning_rate_ = 0.001;
  std::string transport_ = "auto";
  std::string listen_;
  std::vector<std::string> peers_;
  bool quiet_ = false;
  CLI::App* bans_ = nullptr;
};

TEST_F(CommandLineTest, ReadsEveryKind) {
  EXPECT_EQ(error_of({"--begin", "1M", "--timeout=250ms", "--rate", "200Mbps", "--steps", "7", "--learning-rate",
                      "1e-2", "--transport", "uv", "--listen", "127.0.0.1:7000", "--peer", "127.0.0.1:7001", "--peer",
                      "[::1]:7002,127.0.0.1:7003", "--quiet"}),
            "");
  EXPECT_EQ(begin_, 1048576U);
  EXPECT_EQ(timeout_, std::chrono::milliseconds(250));
  EXPECT_EQ(rate_, 200'000'000U);
  EXPECT_EQ(steps_, 7U);
  EXPECT_EQ(learning_rate_, 0.01);
  EXPECT_EQ(transport_, "uv");
  EXPECT_EQ(listen_, "127.0.0.1:7000");
  EXPECT_THAT(peers_, ::testing::ElementsAre("127.0.0.1:7001", "[::1]:7002", "127.0.0.1:7003"));
  EXPECT_TRUE(quiet_);
}

TEST_F(CommandLineTest, DefaultsStand) {
  EXPECT_EQ(error_of({}), "");
  EXPECT_EQ(begin_, 65536U);
  EXPECT_EQ(transport_, "auto");
  EXPECT_FALSE(line_.wants_json());
  EXPECT_EQ(line_.out(), stdout);
}

struct Mistake {
  std::vector<std::string> arguments;
  std::vector<std::string> says;  // flag, value, remedy
};

TEST_F(CommandLineTest, MistakesNameFlagValueAndRemedy) {
  const std::vector<Mistake> mistakes{
      {{"--begin", "1X"}, {"--begin: ", "'1X'", "64K"}},
      {{"--begin", "-1"}, {"--begin: ", "'-1'", "64K"}},
      {{"--timeout", "2"}, {"--timeout: ", "'2'", "250ms"}},
      {{"--rate", "200"}, {"--rate: ", "'200'", "200Mbps"}},
      {{"--steps", "0"}, {"--steps: ", "'0'", "from 1 to 1000"}},
      {{"--steps", "1001"}, {"--steps: ", "'1001'", "from 1 to 1000"}},
      {{"--steps", "ten"}, {"--steps: ", "'ten'", "whole number"}},
      {{"--steps", "-5"}, {"--steps: ", "'-5'", "whole number"}},
      {{"--steps", "99999999999999999999999"}, {"--steps: ", "whole number"}},
      {{"--learning-rate", "nan"}, {"--learning-rate: ", "'nan'", "from 0 to 1"}},
      {{"--transport", "pigeon"}, {"--transport: ", "'pigeon'", "auto, uring, uv"}},
      {{"--listen", "localhost"}, {"--listen: ", "'localhost'", "127.0.0.1:7000"}},
      {{"--peer", "127.0.0.1:99999"}, {"--peer: ", "'127.0.0.1:99999'", "65535"}},
      {{"--log-level", "loud"}, {"--log-level: ", "'loud'", "trace, debug"}},
      {{"--json", ""}, {"--json: ", "''", "FILE"}},
      {{"--steps"}, {"--steps: ", "missing"}},
      {{"--steps", "1", "--steps", "2"}, {"--steps: ", "once"}},
      {{"--stesp", "1"}, {"'--stesp'", "did you mean '--steps'"}},
      {{"ban"}, {"'ban'", "did you mean 'bans'"}},
      {{"--config", "no-such-file.toml"}, {"--config: ", "'no-such-file.toml'"}},
  };
  for (const Mistake& mistake : mistakes) {
    const std::string message = error_of(mistake.arguments);
    ASSERT_NE(message, "") << mistake.arguments.front();
    for (const std::string& part : mistake.says) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST_F(CommandLineTest, AddressForms) {
  for (const char* text : {"127.0.0.1:0", "[::1]:65535", "host.example:1"}) EXPECT_TRUE(check_address_form(text).ok());
  for (const char* text : {"", ":", "7000", ":7000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
                           "127.0.0.1:7x", "::1:7000", "[::1]", "[]:7000", "a b:1", "http://host:80"}) {
    const Status status = check_address_form(text);
    ASSERT_FALSE(status.ok()) << text;
    EXPECT_THAT(status.error().message, HasSubstr("'" + std::string(text) + "'"));
  }
}

TEST_F(CommandLineTest, ThePageHasEverySection) {
  const std::string page = line_.help();
  for (const char* heading :
       {"NAME\n", "SYNOPSIS\n", "DESCRIPTION\n", "COMMANDS\n", "OPTIONS\n", "EXIT STATUS\n", "EXAMPLES\n",
        "papilio-example - shows how", "papilio-example bans list [options]", "--begin SIZE", "Default: 64K.",
        "--json FILE", "--version", "--log-level", "1  the results are wrong"}) {
    EXPECT_THAT(page, HasSubstr(heading));
  }
  EXPECT_THAT(page, Not(HasSubstr("\t")));
  std::istringstream lines(page);
  for (std::string text; std::getline(lines, text);) EXPECT_LE(text.size(), 100U) << text;
}

TEST_F(CommandLineTest, ACommandHasItsOwnPageAndTheSharedOptions) {
  EXPECT_THAT(line_.help(bans_), StartsWith("NAME\n       papilio-example bans - lists bans"));
  EXPECT_THAT(line_.help(bans_), Not(HasSubstr("1  ")));
  EXPECT_EQ(error_of({"bans", "--json", "-"}), "");
  EXPECT_TRUE(bans_->parsed());
  EXPECT_EQ(line_.out(), stderr);
}

TEST_F(CommandLineTest, AMissingCommandIsNamedAfterWhatIsUnknown) {
  line_.app().require_subcommand(1);
  EXPECT_THAT(error_of({}), HasSubstr("a command is missing; give one of: bans"));
  EXPECT_THAT(error_of({"--stesp", "1"}), HasSubstr("did you mean '--steps'"));
  EXPECT_THAT(error_of({"--no-such-flag"}), HasSubstr("unknown argument '--no-such-flag'"));
}

class CommandLineFilesTest : public CommandLineTest {
 protected:
  // One directory per test: they may run at the same time.
  CommandLineFilesTest()
      : directory_(std::filesystem::path(::testing::TempDir()) /
                   (std::string("papilio-") + ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(directory_);
  }
  ~CommandLineFilesTest() override { std::filesystem::remove_all(directory_); }

  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << text;
    return (directory_ / name).string();
  }

  std::filesystem::path directory_;
};

TEST_F(CommandLineFilesTest, AConfigurationFileHasEveryOption) {
  const std::string path = write("node.toml",
                                 "steps = 20\nbegin = \"2M\"\nlearning-rate = 0.5\npeer = [\"127.0.0.1:1\", "
                                 "\"127.0.0.1:2\"]\nquiet = true\ntransport = \"uring\"\n");
  EXPECT_EQ(error_of({"--transport", "uv", "--config", path}), "");
  EXPECT_EQ(steps_, 20U);
  EXPECT_EQ(begin_, 2097152U);
  EXPECT_EQ(learning_rate_, 0.5);
  EXPECT_EQ(peers_.size(), 2U);
  EXPECT_TRUE(quiet_);
  EXPECT_EQ(transport_, "uv") << "the command line wins";
}

TEST_F(CommandLineFilesTest, AGroupOfOptionsIsATable) {
  const std::string path = write("table.toml", "steps = 20\n[grace]\nfirst = \"3s\"\n");
  EXPECT_EQ(error_of({"--config", path}), "");
  EXPECT_EQ(first_grace_, std::chrono::seconds(3));
  EXPECT_EQ(error_of({"--config", path, "--grace-first", "4s"}), "");
  EXPECT_EQ(first_grace_, std::chrono::seconds(4)) << "the command line wins";
  const std::string flat = write("flat.toml", "grace-first = \"5s\"\n");
  EXPECT_EQ(error_of({"--config", flat}), "");
  EXPECT_EQ(first_grace_, std::chrono::seconds(5));
  const std::string unknown = write("unknown.toml", "[grace]\n\nfrist = \"3s\"\n");
  EXPECT_THAT(error_of({"--config", unknown}),
              HasSubstr("unknown.toml:3: unknown key 'grace-frist', did you mean '--grace-first'"));
  const std::string value = write("value.toml", "[grace]\nfirst = 3\n");
  EXPECT_THAT(error_of({"--config", value}), HasSubstr("value.toml:2: grace-first: '3' has no unit"));
  const std::string other = write("other.toml", "[graces]\nfirst = \"3s\"\n");
  EXPECT_THAT(error_of({"--config", other}), HasSubstr("other.toml:1: unknown key 'graces'"));
}

TEST_F(CommandLineTest, AGroupOfOptionsHasAHeadingOfItsOwn) {
  const std::string page = line_.help();
  EXPECT_LT(page.find("--json FILE"), page.find("\nGRACE\n"));
  EXPECT_LT(page.find("\nGRACE\n"), page.find("--grace-first"));
}

TEST_F(CommandLineFilesTest, MistakesInAConfigurationNameItsLine) {
  const std::string unknown = write("unknown.toml", "steps = 2\nstep = 20\n");
  EXPECT_THAT(error_of({"--config", unknown}), HasSubstr("unknown.toml:2: unknown key 'step', did you mean '--steps'"));
  const std::string range = write("range.toml", "\nsteps = 0\n");
  EXPECT_THAT(error_of({"--config=" + range}), HasSubstr("range.toml:2: steps: '0' is not a whole number from 1"));
  const std::string syntax = write("syntax.toml", "steps = = 3\n");
  EXPECT_THAT(error_of({"--config", syntax}), HasSubstr("syntax.toml:1: "));
  const std::string kind = write("kind.toml", "steps = { a = 1 }\n");
  EXPECT_THAT(error_of({"--config", kind}), HasSubstr("kind.toml:1: the value of 'steps'"));
}

TEST_F(CommandLineFilesTest, JsonGoesToItsFile) {
  const std::string path = (directory_ / "result.json").string();
  EXPECT_EQ(error_of({"--json", path}), "");
  EXPECT_EQ(line_.out(), stdout);
  ASSERT_TRUE(line_.write_json({{"steps", 3}, {"name", "\xff"}}).ok());
  std::ifstream file(path);
  const nlohmann::json read = nlohmann::json::parse(file);
  EXPECT_EQ(read["steps"], 3);
}

TEST_F(CommandLineFilesTest, AnUnwritableJsonFileIsFoundBeforeTheWork) {
  const std::string path = (directory_ / "missing" / "result.json").string();
  const char* arguments[] = {"papilio-example", "--json", path.c_str()};
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(line_.parse(3, arguments), kExitUsage);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("--json: '" + path + "'"));
}

TEST_F(CommandLineTest, HelpAndVersionLeaveWithSuccess) {
  const char* help[] = {"papilio-example", "--help"};
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(line_.parse(2, help), kExitDone);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), StartsWith("NAME\n"));

  CommandLine other(example_page());
  const char* version[] = {"papilio-example", "--version"};
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(other.parse(2, version), kExitDone);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), StartsWith("papilio-example "));
}

TEST_F(CommandLineTest, ErrorsMapToExitCodes) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(line_.fail(usage_error("a")), 2);
  EXPECT_EQ(line_.fail(runtime_error("b")), 3);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "papilio-example: a\npapilio-example: b\n");
}

}  // namespace
}  // namespace papilio::tools
