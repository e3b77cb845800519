// One manner for all binaries: the same manual page behind --help, the same --version, --log-level and --json, the same
// exit codes, values written as in engine/base/units.hpp, and every mistake answered with flag, value and remedy. A
// thin layer over CLI11, which reads the arguments.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"

namespace papilio::tools {

enum ExitCode : int {
  kExitDone = 0,
  kExitNotSo = 1,    // the thing asked about is not so: not qualified, wrong results
  kExitUsage = 2,    // wrong usage or configuration
  kExitRuntime = 3,  // failed at run time
};

struct ManualPage {
  std::string name;                   // "papilio-perf", or for a command of it "papilio-perf allreduce"
  std::string summary;                // what it does, one line without a full stop
  std::vector<std::string> synopsis;  // one form each, without the name
  std::string description;            // paragraphs, separated by an empty line; wrapped when printed
  std::string not_so;                 // when it exits with 1; empty: it never does
  std::vector<std::string> examples;  // as typed
};

// Owns the CLI11 application of one binary and the options that all binaries share.
class CommandLine {
 public:
  explicit CommandLine(ManualPage page);
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;
  ~CommandLine();

  [[nodiscard]] CLI::App& app() { return app_; }
  // A command such as `allreduce` of papilio-perf, with a page of its own. The shared options may follow it.
  CLI::App& add_command(const std::string& name, ManualPage page);
  // Adds --config FILE: a TOML file in which every option is a key of the same name without the dashes
  // (`steps = 100`, `peer = ["127.0.0.1:7001"]`), those of a group in a table of that name (`[patience]` and below it
  // `stall-grace = "2s"` for --patience-stall-grace). What stands on the command line wins.
  void add_config_file();

  // Reads the arguments, sets up logging and checks that --json can be written. Returns the exit code to leave with at
  // once (after --help, --version or a mistake, all printed by then), or nothing: go on.
  [[nodiscard]] std::optional<int> parse(int argc, const char* const* argv);

  [[nodiscard]] bool wants_json() const { return !json_file_.empty(); }
  // For a program that leaves the writing to a library.
  [[nodiscard]] const std::string& json_file() const { return json_file_; }
  // Where text for people goes: standard output, or standard error while --json - has the former to itself.
  [[nodiscard]] std::FILE* out() const { return json_file_ == "-" ? stderr : stdout; }
  // Writes to --json's file; does nothing without --json. The error names the file and the reason.
  [[nodiscard]] Status write_json(const nlohmann::ordered_json& document) const;

  // Prints the error on standard error and returns the exit code that it maps to.
  [[nodiscard]] int fail(const Error& error) const;

  // Without a process around them, for tests: the page, and the error that parse would print.
  [[nodiscard]] std::string help(const CLI::App* command = nullptr) const;
  [[nodiscard]] Status read_arguments(std::vector<std::string> arguments);

 private:
  class ManualFormatter;
  struct ConfigFile;

  void add_shared_options();
  [[nodiscard]] Result<ConfigFile> read_config_file(const std::string& path,
                                                    const std::vector<std::string>& arguments) const;
  [[nodiscard]] std::string explain(const CLI::ParseError& error) const;
  [[nodiscard]] std::string suggestion_for(const std::string& flag) const;

  CLI::App app_;
  std::map<const CLI::App*, ManualPage> pages_;
  std::shared_ptr<ManualFormatter> formatter_;  // CLI11 asks for shared ownership
  std::string log_level_ = "info";
  std::string json_file_;
  std::string config_file_;
};

// Options whose value is read by engine/base/units.hpp. The value that `target` has now is the default shown by --help.
CLI::Option* add_size(CLI::App& app, const std::string& flag, std::uint64_t& target, const std::string& description);
CLI::Option* add_duration(CLI::App& app, const std::string& flag, Duration& target, const std::string& description);
// Bits per second.
CLI::Option* add_rate(CLI::App& app, const std::string& flag, std::uint64_t& target, const std::string& description);
// A whole number within [minimum, maximum].
CLI::Option* add_count(CLI::App& app, const std::string& flag, std::uint64_t& target, std::uint64_t minimum,
                       std::uint64_t maximum, const std::string& description);
CLI::Option* add_count(CLI::App& app, const std::string& flag, std::uint32_t& target, std::uint32_t minimum,
                       std::uint32_t maximum, const std::string& description);
// A finite number within [minimum, maximum].
CLI::Option* add_number(CLI::App& app, const std::string& flag, double& target, double minimum, double maximum,
                        const std::string& description);
// One of the listed words.
CLI::Option* add_choice(CLI::App& app, const std::string& flag, std::string& target, std::vector<std::string> choices,
                        const std::string& description);
// Any text that is not empty. `kind` is what --help calls it: FILE, NAME.
CLI::Option* add_text(CLI::App& app, const std::string& flag, std::string& target, const std::string& kind,
                      const std::string& description);
// ADDRESS:PORT as text, checked for form only: `127.0.0.1:7000`, `[::1]:7000`, `host.example:7000`.
CLI::Option* add_address(CLI::App& app, const std::string& flag, std::string& target, const std::string& description);
// The same, any number of them: the flag repeated, or separated by commas.
CLI::Option* add_addresses(CLI::App& app, const std::string& flag, std::vector<std::string>& target,
                           const std::string& description);

// The form that add_address checks.
[[nodiscard]] Status check_address_form(std::string_view text);

}  // namespace papilio::tools
