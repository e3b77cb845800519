#include "tools/node/bans.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/conduct.hpp"
#include "engine/node/ban_store.hpp"
#include "tools/common/command_line.hpp"

namespace papilio::tools {
namespace {

using core::ConductRecord;
using core::WallTime;
using nlohmann::ordered_json;

constexpr std::size_t kIdDigits = 64;
// As logs and tables show of an id. Fewer would be too easily another's.
constexpr std::size_t kLeastDigits = 8;

struct BanSettings {
  std::string state_dir;
  std::string peer;
};

WallTime wall_now() { return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()); }

ManualPage bans_page() {
  ManualPage page;
  page.name = "papilio-node bans";
  page.summary = "show or forgive the peers that a node has banned";
  page.synopsis = {"list --state-dir DIR [--peer ID] [--json FILE]", "clear --state-dir DIR [--peer ID] [--json FILE]"};
  page.description =
      "A node keeps in its state directory who misbehaved in its rounds: strikes, and bans with the reason, the "
      "evidence "
      "and the end. A banned peer is refused when it connects. Bans double for those who offend again, and are "
      "forgotten "
      "by and by for those who do not.\n"
      "\n"
      "Both commands work while the node runs; it notices within a second or so.";
  page.examples = {"papilio-node bans list --state-dir state",
                   "papilio-node bans clear --state-dir state --peer 1f3a9c02"};
  return page;
}

ManualPage list_page() {
  ManualPage page;
  page.name = "papilio-node bans list";
  page.summary = "show who is banned, or has strikes";
  page.synopsis = {"--state-dir DIR [--peer ID] [--json FILE]"};
  page.description =
      "Prints a table: the peer, whether it is banned, the offence that counted last, its strikes, how often it was "
      "banned (as far as not forgotten), since when and until when the last ban lasts, and the evidence. Times are "
      "UTC. `cert` instead of yes or no: the ban is over, it was for slowness, and where the run has judges the peer "
      "owes a certificate that is newer.";
  page.not_so = "with --peer: nothing is held against that peer";
  page.examples = {"papilio-node bans list --state-dir state", "papilio-node bans list --state-dir state --json -"};
  return page;
}

ManualPage clear_page() {
  ManualPage page;
  page.name = "papilio-node bans clear";
  page.summary = "forgive one peer, or all";
  page.synopsis = {"--state-dir DIR [--peer ID] [--json FILE]"};
  page.description =
      "Forgets the strikes and bans of one peer or, without --peer, of all, as if they had never offended. A running "
      "node lets them in again within a second or so of their next knock.";
  page.not_so = "with --peer: nothing is held against that peer";
  page.examples = {"papilio-node bans clear --state-dir state --peer 1f3a9c02"};
  return page;
}

void add_options(CLI::App& command, BanSettings& settings) {
  add_text(command, "--state-dir", settings.state_dir, "DIR", "The node's state directory.")->required();
  add_text(command, "--peer", settings.peer, "ID",
           "Only this peer: its id in hexadecimal digits, or the first 8 of them or more.");
}

Status check_peer(const std::string& id) {
  if (id.empty()) return Done{};
  const bool digits = id.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (digits && id.size() >= kLeastDigits && id.size() <= kIdDigits) return Done{};
  return usage_error("--peer: '" + id + "' is not 8 to 64 hexadecimal digits (0-9, a-f); copy it from bans list");
}

// What the rows say now: some may be forgotten by the passing of time.
Result<std::vector<ConductRecord>> records_of(std::optional<node::BanStore>& store, const std::string& peer,
                                              WallTime now) {
  if (!store) return std::vector<ConductRecord>();
  auto rows = store->load();
  if (!rows) return rows.error();
  core::ConductConfig roomy;
  roomy.slow_must_requalify = true;  // shows what is written down; the node knows whether it matters
  roomy.maximum_acquaintances = roomy.maximum_strangers = rows->size() + 1;
  core::Conduct conduct(roomy);
  conduct.load(now, *rows);
  std::vector<ConductRecord> records = conduct.list(now);
  std::erase_if(records,
                [&](const ConductRecord& record) { return !to_hex(record.peer, kIdDigits).starts_with(peer); });
  if (!peer.empty() && records.size() > 1) {
    return usage_error("--peer: '" + peer + "' is the beginning of " + std::to_string(records.size()) +
                       " ids; give more digits");
  }
  return records;
}

ordered_json document_of(const std::vector<ConductRecord>& records, WallTime now) {
  ordered_json list = ordered_json::array();
  for (const ConductRecord& record : records) {
    const bool was_banned = record.times_banned > 0;
    list.push_back({{"peer", to_hex(record.peer, kIdDigits)},
                    {"banned", record.is_banned(now)},
                    {"reason", core::to_string(record.offence)},
                    {"strikes", record.strikes},
                    {"times_banned", record.times_banned},
                    {"since", was_banned ? ordered_json(core::to_text(record.banned_since)) : ordered_json()},
                    {"until", was_banned ? ordered_json(core::to_text(record.banned_until)) : ordered_json()},
                    {"certificate_after",
                     record.requalify_since ? ordered_json(core::to_text(*record.requalify_since)) : ordered_json()},
                    {"evidence", record.evidence}});
  }
  return list;
}

void print_table(std::FILE* out, const std::vector<ConductRecord>& records, WallTime now) {
  const auto line = [out](const char* peer, const char* state, const std::string& reason, const std::string& strikes,
                          const std::string& times, const std::string& since, const std::string& until,
                          const std::string& evidence) {
    std::fprintf(out, "%-16s  %-6s  %-15s  %7s  %6s  %-20s  %-20s  %s\n", peer, state, reason.c_str(), strikes.c_str(),
                 times.c_str(), since.c_str(), until.c_str(), evidence.c_str());
  };
  line("peer", "banned", "reason", "strikes", "bans", "since", "until", "evidence");
  for (const ConductRecord& record : records) {
    const bool was_banned = record.times_banned > 0;
    const char* const after = record.requalify_since ? "cert" : "no";
    line(to_hex(record.peer, 16).c_str(), record.is_banned(now) ? "yes" : after,
         std::string(core::to_string(record.offence)), std::to_string(record.strikes),
         std::to_string(record.times_banned), was_banned ? core::to_text(record.banned_since) : "-",
         was_banned ? core::to_text(record.banned_until) : "-", record.evidence);
  }
}

Result<int> list(const CommandLine& command_line, std::optional<node::BanStore>& store, const std::string& peer) {
  const WallTime now = wall_now();
  const auto records = records_of(store, peer, now);
  if (!records) return records.error();
  if (!records->empty()) {
    print_table(command_line.out(), *records, now);
  } else {
    std::fprintf(command_line.out(), "%s is banned or has strikes\n", peer.empty() ? "nobody" : "nobody of that id");
  }
  if (auto written = command_line.write_json({{"peers", document_of(*records, now)}}); !written) return written.error();
  return static_cast<int>(peer.empty() || !records->empty() ? kExitDone : kExitNotSo);
}

Result<int> clear(const CommandLine& command_line, std::optional<node::BanStore>& store, const std::string& peer) {
  const WallTime now = wall_now();
  const auto records = records_of(store, peer, now);
  if (!records) return records.error();
  if (store && (peer.empty() || !records->empty())) {
    const auto cleared = store->clear(peer.empty() ? std::nullopt : std::optional(records->front().peer));
    if (!cleared) return cleared.error();
  }
  std::fprintf(command_line.out(), "%zu %s forgiven\n", records->size(), records->size() == 1 ? "peer" : "peers");
  if (auto written = command_line.write_json({{"cleared", document_of(*records, now)}}); !written) {
    return written.error();
  }
  return static_cast<int>(peer.empty() || !records->empty() ? kExitDone : kExitNotSo);
}

}  // namespace

int main_of_bans(int argc, char** argv) {
  CommandLine command_line(bans_page());
  BanSettings settings;
  CLI::App& list_command = command_line.add_command("list", list_page());
  CLI::App& clear_command = command_line.add_command("clear", clear_page());
  add_options(list_command, settings);
  add_options(clear_command, settings);
  command_line.app().require_subcommand(1);
  if (const auto code = command_line.parse(argc, argv)) return *code;
  if (auto checked = check_peer(settings.peer); !checked) return command_line.fail(checked.error());
  std::error_code ignored;
  if (!std::filesystem::is_directory(settings.state_dir, ignored)) {
    return command_line.fail(usage_error("--state-dir: '" + settings.state_dir +
                                         "' is not a directory; name the one that the node was started with"));
  }
  auto store = node::BanStore::open_existing(settings.state_dir);
  if (!store) return command_line.fail(store.error());
  const Result<int> code =
      list_command.parsed() ? list(command_line, *store, settings.peer) : clear(command_line, *store, settings.peer);
  return code ? *code : command_line.fail(code.error());
}

}  // namespace papilio::tools
