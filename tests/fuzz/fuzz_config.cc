// What users write: configuration files, arguments, sizes, times, rates and addresses. Anything is a value or an error
// with words; what is formatted reads back.
#include <netdb.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <sstream>

#include "engine/base/units.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tools/common/command_line.hpp"
#include "tools/node/patience.hpp"
#include "transport/address.hpp"

// No name is looked up from here, whatever an input looks like.
extern "C" int __real_getaddrinfo(const char* host, const char* port, const addrinfo* hints, addrinfo** found);
extern "C" int __wrap_getaddrinfo(const char* host, const char* port, const addrinfo* hints, addrinfo** found) {
  addrinfo numeric = *hints;
  numeric.ai_flags |= AI_NUMERICHOST;
  return __real_getaddrinfo(host, port, &numeric, found);
}

namespace papilio::fuzz {
namespace {

// A file that is there for this process only.
struct MemoryFile {
  MemoryFile() : descriptor(::memfd_create("papilio-fuzz", 0)), path("/proc/self/fd/" + std::to_string(descriptor)) {
    FUZZ_CHECK(descriptor >= 0);
  }
  ~MemoryFile() { ::close(descriptor); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void write(std::string_view text) const {
    FUZZ_CHECK(::ftruncate(descriptor, 0) == 0);
    FUZZ_CHECK(::pwrite(descriptor, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  }
  int descriptor;
  std::string path;
};

// Every kind of option, and all of patience.
struct Program {
  Program() {
    CLI::App& app = line.app();
    tools::add_size(app, "--chunk-bytes", size, "A size.");
    tools::add_duration(app, "--round-timeout", duration, "A time.");
    tools::add_rate(app, "--rate", rate, "A rate.");
    tools::add_count(app, "--steps", count, 1, 1000, "A count.");
    tools::add_number(app, "--learning-rate", number, 0, 1, "A number.");
    tools::add_choice(app, "--transport", choice, {"auto", "uring", "uv"}, "A choice.");
    tools::add_text(app, "--run-id", text, "NAME", "A text.");
    tools::add_address(app, "--listen", address, "An address.");
    tools::add_addresses(app, "--peer", addresses, "Addresses.");
    app.add_flag("--exact-shares", flag, "A flag.");
    tools::add_patience_options(app, patience);
    tools::add_roster_options(app, roster);
    line.add_config_file();
    line.add_command(
        "bans",
        {.name = "fuzz bans", .summary = "bans", .synopsis = {}, .description = "Bans.", .not_so = "", .examples = {}});
  }

  void read(const std::vector<std::string>& arguments) {
    try {
      const Status status = line.read_arguments(arguments);
      FUZZ_CHECK(status.ok() || (status.error().kind == ErrorKind::usage && !status.error().message.empty()));
      if (!status.ok()) return;
    } catch (const CLI::CallForHelp&) {
      FUZZ_CHECK(!line.help().empty());
      return;
    } catch (const CLI::CallForVersion&) {
      return;
    }
    FUZZ_CHECK(count >= 1 && count <= 1000 && number >= 0 && number <= 1 && duration >= Duration::zero());
    FUZZ_CHECK(choice == "auto" || choice == "uring" || choice == "uv");
    for (const std::string& each : addresses) FUZZ_CHECK(tools::check_address_form(each).ok());
    for (const Status& status : {tools::validate(patience), tools::validate(roster)}) {
      FUZZ_CHECK(status.ok() || !status.error().message.empty());
    }
  }

  std::uint64_t size = 65536, rate = 0, count = 10;
  Duration duration = std::chrono::seconds(30);
  double number = 0.5;
  std::string choice = "auto", text = "run", address;
  std::vector<std::string> addresses;
  bool flag = false;
  tools::PatienceSettings patience;
  node::RosterPatience roster;
  tools::CommandLine line{
      {.name = "fuzz", .summary = "fuzzes", .synopsis = {}, .description = "Fuzzes.", .not_so = "", .examples = {}}};
};

void try_units(std::string_view text) {
  const auto size = parse_size(text);
  if (size) FUZZ_CHECK(*parse_size(format_size(*size)) == *size && !human_size(static_cast<double>(*size)).empty());
  const auto duration = parse_duration(text);
  if (duration) {
    FUZZ_CHECK(*duration >= Duration::zero() && *parse_duration(format_duration(*duration)) == *duration);
    FUZZ_CHECK(!human_duration(*duration).empty());
  }
  const auto rate = parse_rate(text);
  if (rate) FUZZ_CHECK(*parse_rate(format_rate(*rate)) == *rate && !human_rate(static_cast<double>(*rate)).empty());
  for (const std::string& why : {size ? "" : size.error().message, duration ? "" : duration.error().message}) {
    FUZZ_CHECK(why.empty() || why.find("write") != std::string::npos || why.find("'") != std::string::npos);
  }
}

void try_address(std::string_view text) {
  const auto address = transport::Address::parse(text);
  static_cast<void>(tools::check_address_form(text));
  if (!address) return FUZZ_CHECK(!address.error().message.empty());
  const std::string again = address->to_string();
  const auto second = transport::Address::parse(again);
  FUZZ_CHECK(second && second->to_string() == again && second->port() == address->port());
  FUZZ_CHECK(second->is_simulated() == address->is_simulated() && second->is_local_host() == address->is_local_host());
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.find("--config") == std::string::npos) lines.push_back(line);  // no other file than its own is read
  }
  return lines;
}

}  // namespace

std::vector<Bytes> seeds() {
  return {
      bytes_of("0chunk-bytes = \"1M\"\nround-timeout = \"2s\"\nrate = \"200Mbps\"\nsteps = 7\nlearning-rate = 1e-3\n"
               "transport = \"uv\"\nrun-id = \"a\"\nlisten = \"127.0.0.1:7001\"\npeer = [\"127.0.0.1:7002\", "
               "\"[::1]:7003\"]\nexact-shares = true\n[patience]\nstall-grace = \"2s\"\nslack = 4\n[roster]\nlease = "
               "\"3s\"\n"),
      bytes_of(
          "1--chunk-bytes\n1M\n--round-timeout=2s\n--rate\n200Mbps\n--steps\n7\n--peer\n127.0.0.1:7002,[::1]:7003\n"
          "--exact-shares\n--patience-stall-grace=1s\nbans"),
      bytes_of("21.5GiB"),
      bytes_of("2250ms"),
      bytes_of("22.5Gbps"),
      bytes_of("3127.0.0.1:7000"),
      bytes_of("3[::1]:7000"),
      bytes_of("3sim/7:31337"),
  };
}

}  // namespace papilio::fuzz

// The first letter says what the rest is.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace papilio::fuzz;
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 4) {
    case 0: {
      static const MemoryFile file;
      file.write(text);
      Program().read({"--config", file.path});
      break;
    }
    case 1: Program().read(lines_of(text)); break;
    case 2: try_units(text); break;
    default: try_address(text);
  }
  return 0;
}
