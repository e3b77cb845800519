#include "tools/common/command_line.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <utility>

#include "engine/base/units.hpp"

#ifndef PAPILIO_VERSION
#define PAPILIO_VERSION "unknown"
#endif

namespace papilio::tools {
namespace {

constexpr std::size_t kPageWidth = 80;
constexpr std::size_t kIndent = 7;              // as man(1) does
constexpr const char* kPlainGroup = "Options";  // CLI11's name for it

// Fills paragraphs to the page's width. Lines that start with a space are kept as they are.
std::string wrap(std::string_view text, std::size_t indent) {
  const std::string margin(indent, ' ');
  std::string result;
  std::istringstream lines{std::string(text)};
  std::string line;
  std::size_t column = 0;
  const auto end_line = [&] {
    if (column > 0) result += '\n';
    column = 0;
  };
  while (std::getline(lines, line)) {
    if (line.empty()) {
      end_line();
      result += '\n';
      continue;
    }
    if (line.front() == ' ') {
      end_line();
      result += margin + line + '\n';
      continue;
    }
    std::istringstream words{line};
    std::string word;
    while (words >> word) {
      if (column > 0 && column + 1 + word.size() > kPageWidth) end_line();
      result += column == 0 ? margin : " ";
      column += (column == 0 ? indent : 1) + word.size();
      result += word;
    }
  }
  end_line();
  return result;
}

// Levenshtein's distance (insertions, deletions, substitutions), to find what a mistyped flag meant.
std::size_t edit_distance(std::string_view left, std::string_view right) {
  std::vector<std::size_t> row(right.size() + 1);
  for (std::size_t j = 0; j <= right.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= left.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= right.size(); ++j) {
      const std::size_t substituted = diagonal + (left[i - 1] == right[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string result;
  for (const std::string& part : parts) {
    if (!result.empty()) result += separator;
    result += part;
  }
  return result;
}

std::string upper_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char each) { return std::toupper(each); });
  return text;
}

using Keys = std::vector<std::pair<std::string, const toml::node*>>;

// A table is a group of options: its keys stand for --TABLE-KEY.
Keys keys_of(const toml::table& table, const CLI::App& app) {
  const std::vector<const CLI::Option*> options = app.get_options();
  const auto is_group = [&](const std::string& name) {
    return std::any_of(options.begin(), options.end(), [&](const CLI::Option* each) {
      return upper_case(each->get_group()) == upper_case(name) && each->get_group() != kPlainGroup;
    });
  };
  Keys keys;
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const toml::table* const group = node.as_table();
    if (group == nullptr || !is_group(name)) {
      keys.emplace_back(name, &node);
      continue;
    }
    for (const auto& [inner_key, inner] : *group) keys.emplace_back(name + "-" + std::string(inner_key.str()), &inner);
  }
  return keys;
}

bool is_flag(std::string_view argument, std::string_view name) {
  return argument == name || (argument.starts_with(name) && argument.substr(name.size()).starts_with('='));
}

void set_up_logging(const std::string& level) {
  const bool colours = std::getenv("NO_COLOR") == nullptr && std::getenv("CI") == nullptr;
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(colours ? spdlog::color_mode::automatic
                                                                            : spdlog::color_mode::never);
  auto logger = std::make_shared<spdlog::logger>("papilio", std::move(sink));
  logger->set_pattern("%H:%M:%S.%e %^%-5l%$ %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

// --json's file must be writable now: learning it after an hour of work would lose the hour.
Status check_writable(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "ab");
  if (file == nullptr) {
    return usage_error("--json: '" + path + "' cannot be written (" + std::strerror(errno) +
                       "); name a file in a directory that exists and is yours, or - for standard output");
  }
  std::fclose(file);
  return Done{};
}

}  // namespace

// The keys of a configuration file as the arguments they stand for, and where each stood.
struct CommandLine::ConfigFile {
  std::vector<std::string> arguments;
  std::map<std::string, std::string> places;  // flag -> "FILE:LINE"
};

// Prints a ManualPage and CLI11's options the way man(1) would.
class CommandLine::ManualFormatter : public CLI::Formatter {
 public:
  explicit ManualFormatter(const std::map<const CLI::App*, ManualPage>& pages) : pages_(pages) {}

  std::string make_help(const CLI::App* app, std::string /*name*/, CLI::AppFormatMode /*mode*/) const override {
    const ManualPage& page = pages_.at(app);
    const std::string margin(kIndent, ' ');
    std::string text = "NAME\n" + margin + page.name + " - " + page.summary + "\n\nSYNOPSIS\n";
    for (const std::string& form : page.synopsis) text += margin + page.name + " " + form + "\n";
    text += "\nDESCRIPTION\n" + wrap(page.description, kIndent);
    text += commands_of(app);
    text += "\nOPTIONS\n" + options_of(app);
    if (app->get_parent() != nullptr) text += options_of(app->get_parent());
    text += "\nEXIT STATUS\n" + margin + "0  done\n";
    if (!page.not_so.empty()) text += margin + "1  " + page.not_so + "\n";
    text += margin + "2  wrong usage or configuration\n" + margin + "3  failed at run time\n";
    if (!page.examples.empty()) {
      text += "\nEXAMPLES\n";
      for (const std::string& example : page.examples) text += margin + example + "\n";
    }
    return text;
  }

 private:
  [[nodiscard]] std::string commands_of(const CLI::App* app) const {
    const std::vector<const CLI::App*> commands = app->get_subcommands({});
    if (commands.empty()) return "";
    std::string text = "\nCOMMANDS\n";
    for (const CLI::App* command : commands) {
      text += std::string(kIndent, ' ') + command->get_name() + "\n";
      text += wrap(pages_.at(command).summary + ".", 2 * kIndent);
    }
    return text + "\n" + wrap("Each command has a page of its own: COMMAND --help.", kIndent);
  }

  // Those that were given a group of their own stand under its name, after all others.
  [[nodiscard]] static std::string options_of(const CLI::App* app) {
    std::string text;
    for (const std::string& group : app->get_groups()) {
      if (group == kPlainGroup) text = options_of(app, group) + text;
      if (group != kPlainGroup) text += "\n" + upper_case(group) + "\n" + options_of(app, group);
    }
    return text;
  }

  [[nodiscard]] static std::string options_of(const CLI::App* app, const std::string& group) {
    std::string text;
    for (const CLI::Option* option : app->get_options()) {
      if (option->get_group() != group) continue;
      std::string heading = option->get_name(option->get_positional(), true);
      std::replace(heading.begin(), heading.end(), ',', ' ');
      if (option->get_items_expected_max() != 0 && !option->get_type_name().empty())
        heading += " " + option->get_type_name();
      if (option->get_required()) heading += "  (required)";
      std::string description = option->get_description();
      if (!option->get_default_str().empty()) description += " Default: " + option->get_default_str() + ".";
      text += std::string(kIndent, ' ') + heading + "\n" + wrap(description, 2 * kIndent);
    }
    return text;
  }

  const std::map<const CLI::App*, ManualPage>& pages_;
};

CommandLine::CommandLine(ManualPage page)
    : app_(page.summary, page.name), formatter_(std::make_shared<ManualFormatter>(pages_)) {
  pages_.emplace(&app_, std::move(page));
  app_.formatter(formatter_);
  app_.set_help_flag("--help,-h", "Print this page and exit.");
  add_shared_options();
}

CommandLine::~CommandLine() = default;

void CommandLine::add_shared_options() {
  const std::string& name = pages_.at(&app_).name;
  app_.set_version_flag("--version", name + " " PAPILIO_VERSION, "Print the version and exit.");
  add_choice(app_, "--log-level", log_level_, {"trace", "debug", "info", "warn", "error", "off"},
             "How much to log to standard error: trace, debug, info, warn, error or off.");
  add_text(app_, "--json", json_file_, "FILE",
           "Write the results to FILE as JSON. With - they go to standard output and nothing else does.");
}

CLI::App& CommandLine::add_command(const std::string& name, ManualPage page) {
  CLI::App* command = app_.add_subcommand(name, page.summary);
  command->formatter(formatter_);
  command->fallthrough();
  command->set_help_flag("--help,-h", "Print this page and exit.");
  pages_.emplace(command, std::move(page));
  return *command;
}

void CommandLine::add_config_file() {
  add_text(app_, "--config", config_file_, "FILE",
           "Read options from a TOML file: every option is a key of the same name without the dashes. What stands on "
           "the command line wins.");
}

std::optional<int> CommandLine::parse(int argc, const char* const* argv) {
  Status status = Done{};
  try {
    status = read_arguments(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
  } catch (const CLI::CallForHelp&) {
    std::fputs(app_.help().c_str(), stdout);
    return kExitDone;
  } catch (const CLI::CallForVersion&) {
    std::fprintf(stdout, "%s %s\n", pages_.at(&app_).name.c_str(), PAPILIO_VERSION);
    return kExitDone;
  }
  if (status.ok() && wants_json() && json_file_ != "-") status = check_writable(json_file_);
  if (!status.ok()) {
    const int code = fail(status.error());
    std::fprintf(stderr, "Try '%s --help'.\n", pages_.at(&app_).name.c_str());
    return code;
  }
  set_up_logging(log_level_);
  return std::nullopt;
}

Status CommandLine::read_arguments(std::vector<std::string> arguments) {
  ConfigFile config;
  if (app_.get_option_no_throw("--config") != nullptr) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      if (!is_flag(arguments[i], "--config")) continue;
      const bool joined = arguments[i].size() > std::strlen("--config");
      if (!joined && i + 1 == arguments.size()) break;  // CLI11 says that the value is missing
      const std::string path = joined ? arguments[i].substr(std::strlen("--config=")) : arguments[i + 1];
      Result<ConfigFile> read = read_config_file(path, arguments);
      if (!read.ok()) return read.error();
      config = std::move(*read);
    }
  }
  // Before the others: what follows a command on the line may be the command's.
  arguments.insert(arguments.begin(), config.arguments.begin(), config.arguments.end());
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  try {
    app_.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    throw;
  } catch (const CLI::CallForVersion&) {
    throw;
  } catch (const CLI::ParseError& error) {
    std::string message = explain(error);
    for (const auto& [flag, place] : config.places) {
      if (message.starts_with(flag + ":")) message = place + ": " + message.substr(2);
    }
    return usage_error(std::move(message));
  }
  return Done{};
}

Result<CommandLine::ConfigFile> CommandLine::read_config_file(const std::string& path,
                                                              const std::vector<std::string>& arguments) const {
  toml::table table;
  // The parser takes a directory for an empty file.
  if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
    return usage_error("--config: '" + path + "' is a directory; name a TOML file that exists and is readable");
  }
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    const auto line = error.source().begin.line;
    if (line == 0) {
      return usage_error("--config: '" + path + "' cannot be read; name a TOML file that exists and is readable");
    }
    return usage_error(path + ":" + std::to_string(line) + ": " + std::string(error.description()) +
                       "; write `key = value` lines, text in quotes");
  }

  ConfigFile config;
  for (const auto& [name, found] : keys_of(table, app_)) {
    const toml::node& node = *found;
    const std::string flag = "--" + name;
    const std::string place = path + ":" + std::to_string(node.source().begin.line);
    const CLI::Option* option = app_.get_option_no_throw(flag);
    if (option == nullptr || name == "config" || name == "help" || name == "version") {
      return usage_error(place + ": unknown key '" + name + "'" + suggestion_for(flag) +
                         "; keys are the options of --help without the dashes");
    }
    if (std::any_of(arguments.begin(), arguments.end(), [&](const std::string& a) { return is_flag(a, flag); })) {
      continue;
    }
    config.places[flag] = place;
    const auto add = [&](const toml::node& value) {
      if (const auto text = value.value_exact<std::string>()) {
        config.arguments.push_back(flag + "=" + *text);
      } else if (const auto number = value.value_exact<std::int64_t>()) {
        config.arguments.push_back(flag + "=" + std::to_string(*number));
      } else if (const auto real = value.value_exact<double>()) {
        std::ostringstream digits;
        digits.precision(17);
        digits << *real;
        config.arguments.push_back(flag + "=" + digits.str());
      } else if (const auto truth = value.value_exact<bool>(); truth && option->get_items_expected_max() == 0) {
        if (*truth) config.arguments.push_back(flag);
      } else {
        return false;
      }
      return true;
    };
    bool understood = true;
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& element : *array) understood = understood && add(element);
    } else {
      understood = add(node);
    }
    if (!understood) {
      return usage_error(place + ": the value of '" + name +
                         "' is neither text, a number nor a list of them; see --help for what it takes");
    }
  }
  return config;
}

// CLI11's own messages name the flag at most. Those of our add_* functions are complete and pass through.
std::string CommandLine::explain(const CLI::ParseError& error) const {
  std::string what = error.what();
  const bool required = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  if (required || dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    // What is missing may have been given under a mistyped name: that comes first.
    const std::vector<std::string> extras = app_.remaining(true);
    if (!extras.empty()) {
      return "unknown argument '" + extras.front() + "'" + suggestion_for(extras.front()) + "; see --help";
    }
  }
  if (required && what.find("subcommand") != std::string::npos) {
    std::vector<std::string> names;
    for (const CLI::App* command : app_.get_subcommands({})) names.push_back(command->get_name());
    return "a command is missing; give one of: " + join(names, ", ");
  }
  if (required) return what + "; see --help";
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    const std::string flag = what.substr(0, what.find(':'));
    if (what.find("At Most") != std::string::npos || what.find("At most") != std::string::npos) {
      return flag + ": given more than once; give it once";
    }
    if (what.find("missing") != std::string::npos || what.find("At Least") != std::string::npos) {
      return flag + ": its value is missing; write " + flag + " VALUE";
    }
  }
  return what;
}

std::string CommandLine::suggestion_for(const std::string& flag) const {
  const std::string wanted = flag.substr(0, flag.find('='));
  std::string best;
  std::size_t best_distance = 3;  // further off it is a different word
  const auto consider = [&](const std::string& name) {
    const std::size_t distance = edit_distance(wanted, name);
    if (distance < best_distance) {
      best = name;
      best_distance = distance;
    }
  };
  for (const auto& [app, page] : pages_) {
    if (app != &app_ && !app->parsed()) {
      consider(app->get_name());
      continue;
    }
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) consider("--" + name);
    }
  }
  return best.empty() ? "" : ", did you mean '" + best + "'?";
}

Status CommandLine::write_json(const nlohmann::ordered_json& document) const {
  if (!wants_json()) return Done{};
  // Names that peers or users gave may hold anything: replace what is not UTF-8 instead of throwing.
  const std::string text = document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  const bool to_stdout = json_file_ == "-";
  std::FILE* file = to_stdout ? stdout : std::fopen(json_file_.c_str(), "wb");
  bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  written = written && std::fflush(file) == 0;
  const int error_number = errno;
  if (file != nullptr && !to_stdout) written = std::fclose(file) == 0 && written;
  if (!written) {
    return runtime_error("--json: writing '" + json_file_ + "' failed (" + std::strerror(error_number) +
                         "); make room or name another file");
  }
  return Done{};
}

int CommandLine::fail(const Error& error) const {
  std::fprintf(stderr, "%s: %s\n", pages_.at(&app_).name.c_str(), error.message.c_str());
  return error.kind == ErrorKind::usage ? kExitUsage : kExitRuntime;
}

std::string CommandLine::help(const CLI::App* command) const {
  return formatter_->make_help(command == nullptr ? &app_ : command, "", CLI::AppFormatMode::Normal);
}

namespace {

// Every option goes through here: CLI11 hands over the text, `read` answers with an Error or sets the target.
template <typename Read>
CLI::Option* add_read(CLI::App& app, const std::string& flag, const std::string& kind, const std::string& default_text,
                      const std::string& description, Read read) {
  CLI::Option* option = app.add_option_function<std::string>(
      flag,
      [flag, read = std::move(read)](const std::string& text) {
        if (Status status = read(text); !status.ok()) throw CLI::ValidationError(flag, status.error().message);
      },
      description);
  return option->type_name(kind)->default_str(default_text);
}

template <typename T, typename Parse>
auto reader(T& target, Parse parse) {
  return [&target, parse](const std::string& text) -> Status {
    Result<T> value = parse(text);
    if (!value.ok()) return value.error();
    target = *value;
    return Done{};
  };
}

Result<std::uint64_t> parse_count(const std::string& text, std::uint64_t minimum, std::uint64_t maximum) {
  std::uint64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = code != std::errc::invalid_argument && end == text.data() + text.size();
  if (!whole || code != std::errc{} || value < minimum || value > maximum) {
    const std::string range = maximum == UINT64_MAX
                                  ? "of at least " + std::to_string(minimum)
                                  : "from " + std::to_string(minimum) + " to " + std::to_string(maximum);
    return usage_error("'" + text + "' is not a whole number " + range);
  }
  return value;
}

Result<double> parse_number(const std::string& text, double minimum, double maximum) {
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) || value < minimum ||
      value > maximum) {
    std::ostringstream range;
    range << "'" << text << "' is not a number from " << minimum << " to " << maximum << "; write it like 0.5 or 1e-3";
    return usage_error(range.str());
  }
  return value;
}

std::string number_text(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

}  // namespace

CLI::Option* add_size(CLI::App& app, const std::string& flag, std::uint64_t& target, const std::string& description) {
  return add_read(app, flag, "SIZE", format_size(target), description, reader(target, parse_size));
}

CLI::Option* add_duration(CLI::App& app, const std::string& flag, Duration& target, const std::string& description) {
  return add_read(app, flag, "TIME", format_duration(target), description, reader(target, parse_duration));
}

CLI::Option* add_rate(CLI::App& app, const std::string& flag, std::uint64_t& target, const std::string& description) {
  return add_read(app, flag, "RATE", format_rate(target), description, reader(target, parse_rate));
}

CLI::Option* add_count(CLI::App& app, const std::string& flag, std::uint64_t& target, std::uint64_t minimum,
                       std::uint64_t maximum, const std::string& description) {
  const auto parse = [minimum, maximum](const std::string& text) { return parse_count(text, minimum, maximum); };
  return add_read(app, flag, "N", std::to_string(target), description, reader(target, parse));
}

CLI::Option* add_count(CLI::App& app, const std::string& flag, std::uint32_t& target, std::uint32_t minimum,
                       std::uint32_t maximum, const std::string& description) {
  const auto read = [&target, minimum, maximum](const std::string& text) -> Status {
    const Result<std::uint64_t> value = parse_count(text, minimum, maximum);
    if (!value.ok()) return value.error();
    target = static_cast<std::uint32_t>(*value);
    return Done{};
  };
  return add_read(app, flag, "N", std::to_string(target), description, read);
}

CLI::Option* add_number(CLI::App& app, const std::string& flag, double& target, double minimum, double maximum,
                        const std::string& description) {
  const auto parse = [minimum, maximum](const std::string& text) { return parse_number(text, minimum, maximum); };
  return add_read(app, flag, "X", number_text(target), description, reader(target, parse));
}

CLI::Option* add_choice(CLI::App& app, const std::string& flag, std::string& target, std::vector<std::string> choices,
                        const std::string& description) {
  const std::string kind = join(choices, "|");
  const auto read = [&target, choices = std::move(choices)](const std::string& text) -> Status {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      return usage_error("'" + text + "' is not one of " + join(choices, ", "));
    }
    target = text;
    return Done{};
  };
  return add_read(app, flag, kind, target, description, read);
}

CLI::Option* add_text(CLI::App& app, const std::string& flag, std::string& target, const std::string& kind,
                      const std::string& description) {
  const auto read = [&target, flag, kind](const std::string& text) -> Status {
    if (text.empty()) return usage_error("'' is empty; write " + flag + " " + kind);
    target = text;
    return Done{};
  };
  return add_read(app, flag, kind, target, description, read);
}

CLI::Option* add_address(CLI::App& app, const std::string& flag, std::string& target, const std::string& description) {
  const auto read = [&target](const std::string& text) -> Status {
    if (Status status = check_address_form(text); !status.ok()) return status;
    target = text;
    return Done{};
  };
  return add_read(app, flag, "ADDRESS:PORT", target, description, read);
}

CLI::Option* add_addresses(CLI::App& app, const std::string& flag, std::vector<std::string>& target,
                           const std::string& description) {
  CLI::Option* option = app.add_option_function<std::vector<std::string>>(
      flag,
      [flag, &target](const std::vector<std::string>& texts) {
        for (const std::string& text : texts) {
          if (Status status = check_address_form(text); !status.ok()) {
            throw CLI::ValidationError(flag, status.error().message);
          }
        }
        target = texts;
      },
      description);
  // One value per flag: without this, `--peer A:P allreduce` would take the command for a second peer.
  option->type_name("ADDRESS:PORT")->default_str(join(target, ","))->expected(1)->delimiter(',');
  return option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

Status check_address_form(std::string_view text) {
  constexpr std::string_view kRemedy = "; write ADDRESS:PORT like 127.0.0.1:7000 or [::1]:7000";
  const auto wrong = [&](const std::string& why) {
    return usage_error("'" + std::string(text) + "' " + why + std::string(kRemedy));
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong("has no port");
  const std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.empty()) return wrong("has no address before the port");
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (!bracketed && host.find_first_of(":[]") != std::string_view::npos) {
    return wrong("has an IPv6 address without brackets, or no port");
  }
  if (host.find_first_of(" /\t@") != std::string_view::npos) return wrong("has no plain address");
  std::uint16_t number = 0;
  const auto [end, code] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (port.empty() || code != std::errc{} || end != port.data() + port.size()) {
    return wrong("has no port from 0 to 65535");
  }
  return Done{};
}

}  // namespace papilio::tools
