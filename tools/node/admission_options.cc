#include "tools/node/admission_options.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>

#include "engine/base/text.hpp"
#include "transport/identity.hpp"

namespace papilio::tools {
namespace {

constexpr const char* kDoorPrefix = "--door-";
constexpr const char* kDoorGroup = "Door";
constexpr std::uint32_t kMost = 1U << 20U;  // as core::check has it
constexpr double kMostPerSecond = 1e6;
constexpr std::size_t kShownBytes = 80;  // of what is no id

Error not_an_id(const std::string& where, const std::string& text) {
  return usage_error(
      where + ": '" + one_line(text, kShownBytes) +
      "' is not a peer's id (64 hexadecimal digits, 0-9 and a-f); copy what `papilio-node id` prints on its machine");
}

// The flag repeated, or separated by commas.
void add_texts(CLI::App& app, const std::string& flag, std::vector<std::string>& target, const std::string& kind,
               const std::string& description) {
  app.add_option(flag, target, description)
      ->type_name(kind)
      ->expected(1)
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

Status add_ids(const std::string& flag, const std::vector<std::string>& texts, std::vector<PeerId>& ids) {
  for (const std::string& text : texts) {
    const std::optional<PeerId> id = transport::peer_id_from_hex(text);
    if (!id) return not_an_id(flag, text);
    ids.push_back(*id);
  }
  return Done{};
}

Error unreadable(const std::string& flag, const std::string& path) {
  return usage_error(flag + ": '" + path + "' cannot be read (" + std::strerror(errno == 0 ? EIO : errno) +
                     "); name a file that is there and that you may read");
}

// One id on a line; what follows a # is a comment.
Status add_ids_of_file(const std::string& flag, const std::string& path, std::vector<PeerId>& ids) {
  constexpr const char* kBlanks = " \t\r";
  errno = 0;
  std::ifstream file(path);
  if (!file) return unreadable(flag, path);
  const std::size_t before = ids.size();
  std::string line;
  for (std::size_t number = 1; std::getline(file, line); ++number) {
    line.erase(std::min(line.find('#'), line.size()));
    line.erase(line.find_last_not_of(kBlanks) + 1);
    line.erase(0, line.find_first_not_of(kBlanks));
    if (line.empty()) continue;
    const std::optional<PeerId> id = transport::peer_id_from_hex(line);
    if (!id) return not_an_id(flag + ": '" + path + "', line " + std::to_string(number), line);
    ids.push_back(*id);
  }
  if (file.bad()) return unreadable(flag, path);
  if (ids.size() > before) return Done{};
  return usage_error(flag + ": '" + path +
                     "' names nobody; write one id of 64 hexadecimal digits on each line, or leave " + "the flag out");
}

void add_block_options(CLI::App& app, const std::string& prefix, core::BlockLimits& limits, const std::string& where) {
  const auto count = [&](const char* name, std::uint32_t& target, const std::string& description) {
    add_count(app, prefix + name, target, 1, kMost, description)->group(kDoorGroup);
  };
  count("connections", limits.connections, "Connections from " + where + " that may be open at once.");
  count("handshakes", limits.handshakes, "Of them, those that are not established yet.");
  count("attempts-at-once", limits.attempts_at_once, "Connections from " + where + " in one go.");
  add_number(app, prefix + "attempts-per-second", limits.attempts_per_s, 0, kMostPerSecond, "And after that.")
      ->group(kDoorGroup);
}

void add_door_options(CLI::App& app, core::DoorConfig& door) {
  const std::string prefix = kDoorPrefix;
  const auto count = [&](const char* name, std::uint32_t& target, std::uint32_t least, const char* description) {
    add_count(app, prefix + name, target, least, kMost, description)->group(kDoorGroup);
  };
  add_block_options(app, prefix, door.elsewhere, "one address (IPv6: one /64)");
  add_block_options(app, prefix + "local-", door.local_host, "this host itself");
  count("handshakes-per-connection", door.handshakes_per_connection, 0,
        "So many more handshakes of an address for each of its connections that is established.");
  count("connections-per-peer", door.connections_per_peer, 1, "Connections of one peer, from wherever.");
  count("connections-in-total", door.connections_in_total, 1, "Connections that may be open at once.");
  count("handshakes-in-total", door.handshakes_in_total, 1,
        "Of them, those that are not established yet. Beyond, the address with the most makes room.");
  add_size(app, prefix + "bytes-per-handshake", door.bytes_per_handshake,
           "What a connection may send until it is established.")
      ->group(kDoorGroup);
  count("addresses", door.blocks, 1,
        "Addresses that are remembered, with how often they came. At least --door-connections-in-total.");
}

Status check_certificates(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    if (!file || file.peek() == std::ifstream::traits_type::eof()) return unreadable("--certificate", path);
  }
  return Done{};
}

}  // namespace

void add_admission_options(CLI::App& app, AdmissionSettings& settings) {
  node::AdmissionConfig& constants = settings.constants;
  add_choice(app, "--security", settings.security, {"tls", "none"},
             "tls: connections are encrypted, and peers prove who they are. none: neither, for closed networks and "
             "benchmarks; nodes with tls refuse it.");
  add_texts(app, "--allow", settings.allow, "ID",
            "A peer that is let in, and only those; once per peer. Without it and --allow-file: everybody.");
  add_text(app, "--allow-file", settings.allow_file, "FILE", "The same, one id on a line; # begins a comment.");
  add_texts(app, "--deny", settings.deny, "ID", "A peer that is never let in; once per peer. Wins over --allow.");
  add_text(app, "--deny-file", settings.deny_file, "FILE", "The same, one id on a line; # begins a comment.");
  add_texts(app, "--judge", settings.judges, "ID",
            "Whose certificates count; once per judge. With any, everybody who takes part in rounds needs a "
            "certificate of papilio-qualify.");
  add_count(app, "--judges-needed", constants.judges_needed, 1, kMost, "So many different judges have to have signed.");
  add_texts(app, "--certificate", constants.certificates, "FILE",
            "This node's own certificate, to be shown to the others; once per file. Without it: those in --state-dir.");
  add_rate(app, "--min-up", constants.minimum.up_bps, "What a peer's certificate has to say that it can send.");
  add_rate(app, "--min-down", constants.minimum.down_bps, "And receive.");
  add_duration(app, "--max-rtt", constants.minimum.round_trip, "The longest median round trip that it may say.");
  add_duration(app, "--clock-skew", settings.clock_skew,
               "Certificates count for so much longer, and begin so much earlier, because clocks differ.");
  add_duration(
      app, "--idle-timeout", constants.idle_timeout,
      "A link over which nothing came for so long is given up. Nodes that live say something every second or so.");
  add_door_options(app, constants.door);
}

Result<node::AdmissionConfig> admission_of(const AdmissionSettings& settings) {
  node::AdmissionConfig config = settings.constants;
  config.security = settings.security == "none" ? node::Security::none : node::Security::tls;
  config.clock_skew = std::chrono::duration_cast<std::chrono::seconds>(settings.clock_skew);
  if (config.clock_skew != settings.clock_skew) {
    return usage_error("--clock-skew: is not a whole number of seconds; write it like 30s or 5m");
  }
  std::vector<PeerId> allowed;
  if (auto added = add_ids("--allow", settings.allow, allowed); !added) return added.error();
  if (!settings.allow_file.empty()) {
    if (auto added = add_ids_of_file("--allow-file", settings.allow_file, allowed); !added) return added.error();
  }
  if (!allowed.empty()) config.allowed = std::move(allowed);
  if (auto added = add_ids("--deny", settings.deny, config.denied); !added) return added.error();
  if (!settings.deny_file.empty()) {
    if (auto added = add_ids_of_file("--deny-file", settings.deny_file, config.denied); !added) return added.error();
  }
  if (auto added = add_ids("--judge", settings.judges, config.judges); !added) return added.error();
  if (auto checked = check_certificates(config.certificates); !checked) return checked.error();
  if (auto checked = node::check(config); !checked) return usage_error("--" + checked.error().message);
  return config;
}

}  // namespace papilio::tools
