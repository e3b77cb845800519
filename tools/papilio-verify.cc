// papilio-verify: what signed files say, whether their signatures hold, and where they contradict each other. Needs no
// network and no node.
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "tools/common/command_line.hpp"
#include "tools/verify/compare.hpp"
#include "tools/verify/evidence.hpp"

namespace papilio::tools {
namespace {

struct VerifySettings {
  std::vector<std::string> files;
  std::string key;
  std::string signer;
  bool compare = false;
};

ManualPage verify_page() {
  ManualPage page;
  page.name = "papilio-verify";
  page.summary = "check signed reports, rosters and certificates";
  page.synopsis = {"[--key HEX|--signer ID] [--compare] [--json FILE] FILE..."};
  page.description =
      "Reads files that nodes keep in their evidence-dir (.report, .roster, .proof), and certificates. For each it "
      "says "
      "what it is, who signed it, whether that signature and those inside it hold, and what it says. A file is genuine "
      "if all its signatures hold and what it says fits together; that is no proof that what its signer saw is so. "
      "docs/evidence.md tells what is.\n"
      "\n"
      "Several files about one round are held against each other: different rosters, different results, a member that "
      "signs another result than it told, a member that one cut off and another counted in.";
  page.not_so =
      "a file is not genuine, or not of the demanded signer; with --compare also: files contradict each other";
  page.examples = {"papilio-verify evidence/round-00000012-1f3a9c02.report",
                   "papilio-verify --compare */round-00000012-*.report",
                   "papilio-verify --signer ID --json - certificate.papilio"};
  return page;
}

// What the user demands of a signer.
struct Demand {
  std::optional<PeerId> signer;
  std::optional<PeerId> key;  // as 32 bytes

  [[nodiscard]] std::string objection_to(const Evidence& evidence) const {
    if (!evidence.statement) return {};
    if (signer && evidence.statement->signer_id() != *signer) return "somebody else signed it than --signer demands";
    if (key && evidence.statement->signer != key->bytes) return "another key signed it than --key demands";
    return {};
  }
};

Result<Demand> demand_of(const VerifySettings& settings) {
  Demand demand;
  const auto read = [](const char* flag, const std::string& text, std::optional<PeerId>& target) -> Status {
    if (text.empty()) return Done{};
    target = transport::peer_id_from_hex(text);
    if (target) return Done{};
    return usage_error(std::string(flag) + ": '" + text + "' is not 64 hexadecimal digits in small letters");
  };
  if (auto status = read("--signer", settings.signer, demand.signer); !status) return status.error();
  if (auto status = read("--key", settings.key, demand.key); !status) return status.error();
  return demand;
}

void print(std::FILE* out, const Contradiction& contradiction) {
  std::string files;
  for (const std::string& file : contradiction.files) files += " " + file;
  std::fprintf(out, "CONTRADICTION in round %llu: %s\n  according to%s\n",
               static_cast<unsigned long long>(contradiction.round), contradiction.what.c_str(), files.c_str());
}

nlohmann::ordered_json document_of(const std::vector<Evidence>& evidence, const std::vector<Contradiction>& found,
                                   bool is_genuine) {
  nlohmann::ordered_json document = {{"genuine", is_genuine}};
  document["files"] = nlohmann::ordered_json::array();
  for (const Evidence& each : evidence) document["files"].push_back(document_of(each));
  document["contradictions"] = nlohmann::ordered_json::array();
  for (const Contradiction& each : found) {
    document["contradictions"].push_back({{"round", each.round}, {"what", each.what}, {"files", each.files}});
  }
  return document;
}

int main_of_verify(int argc, char** argv) {
  CommandLine command_line(verify_page());
  VerifySettings settings;
  command_line.app().add_option("FILE", settings.files, "Files to check.")->required()->type_name("");
  add_text(command_line.app(), "--key", settings.key, "HEX", "Demand that this public key signed every file.");
  add_text(command_line.app(), "--signer", settings.signer, "ID", "Demand that the peer of this id signed every file.");
  command_line.app().add_flag("--compare", settings.compare, "Exit with 1 where files contradict each other.");
  if (const auto code = command_line.parse(argc, argv)) return *code;
  const auto demand = demand_of(settings);
  if (!demand) return command_line.fail(demand.error());

  std::vector<Evidence> evidence;
  std::optional<Error> unreadable;
  bool is_genuine = true;
  for (const std::string& file : settings.files) {
    auto read = read_evidence(file);
    if (!read) {
      if (unreadable) static_cast<void>(command_line.fail(*unreadable));
      unreadable = read.error();
      continue;
    }
    if (read->is_genuine()) read->objection = demand->objection_to(*read);
    is_genuine = is_genuine && read->is_genuine();
    std::fputs(describe(*read).c_str(), command_line.out());
    evidence.push_back(std::move(*read));
  }
  const std::vector<Contradiction> contradictions = contradictions_among(evidence);
  for (const Contradiction& each : contradictions) print(command_line.out(), each);
  const bool holds = is_genuine && !unreadable;
  const Status written = command_line.write_json(document_of(evidence, contradictions, holds));
  if (unreadable) return command_line.fail(*unreadable);
  if (!written) return command_line.fail(written.error());
  return is_genuine && (contradictions.empty() || !settings.compare) ? kExitDone : kExitNotSo;
}

}  // namespace
}  // namespace papilio::tools

int main(int argc, char** argv) { return papilio::tools::main_of_verify(argc, argv); }
