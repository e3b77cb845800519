// fault-member: a node whose gradient everybody can compute. It takes part in rounds as a trainer would, over the
// public interface alone, and checks every element of every result against the report: the average over the listed
// members, or this node's own values bit for bit. It prints one JSON line per event, on which tests wait: kill it,
// freeze it, cut its line, and see what the others say.

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"
#include "engine/node/node.hpp"
#include "tools/common/command_line.hpp"
#include "tools/node/admission_options.hpp"
#include "tools/node/patience.hpp"
#include "tools/node/peer_report.hpp"
#include "tools/node/signals.hpp"
#include "tools/node/text.hpp"

namespace papilio::faults {
namespace {

using nlohmann::ordered_json;
using tools::hexadecimal;

// How long after its deadline a round may at most return on a machine that is busy with other things.
constexpr Duration kMargin = std::chrono::seconds(10);
// Every so long a member has worked through one more sample, until the round opens.
constexpr Duration kSampleTime = std::chrono::milliseconds(250);
constexpr std::size_t kNameDigits = 8;

struct Options {
  NodeConfig node;
  tools::PatienceSettings patience;
  std::string role = "miner";
  tools::AdmissionSettings admission;
  std::uint64_t elements = std::uint64_t{1} << 20U;
  std::uint64_t rounds = 0;  // 0: until it is asked to leave
  std::uint64_t group_size = 0;
  std::uint64_t chunk_bytes = 0;
  std::uint64_t flows = 0;
  std::uint64_t idle_from = ~std::uint64_t{0};
  Duration first_sample_time{};
  bool joins = false;
};

// ---- the gradient of a member in a round, which every other member can compute

std::uint64_t key_of(const PeerId& member, std::uint64_t epoch) {
  std::uint64_t name = 0;
  std::memcpy(&name, member.bytes.data(), sizeof(name));
  return Random::mix(name ^ Random::mix(epoch + 1));
}

// 1 to 4, so that an average with a wrong weight is a wrong average.
double weight_of(const PeerId& member) { return 1 + member.bytes[8] % 4; }

// From -1 to 1, 24 bits. Cheap enough to compute everybody's anew for every check.
float value_of(std::uint64_t key, std::uint64_t element) {
  auto bits = static_cast<std::uint32_t>(element) * 2654435761U ^ static_cast<std::uint32_t>(key);
  bits = (bits ^ (bits >> 16U)) * 0x85ebca6bU + static_cast<std::uint32_t>(key >> 32U);
  bits = (bits ^ (bits >> 13U)) * 0xc2b2ae35U;
  return static_cast<float>(static_cast<std::int32_t>(bits ^ (bits >> 16U)) >> 8) * 0x1.0p-23F;
}

void fill(std::span<float> gradient, std::uint64_t key) {
  for (std::uint64_t i = 0; i < gradient.size(); ++i) gradient[i] = value_of(key, i);
}

// ---- is the result what the report says?

// Elements of one chunk, from `first`, that are not.
std::uint64_t count_wrong(std::span<const float> chunk, std::uint64_t first, const RoundReport& report,
                          Coverage coverage, const PeerId& self) {
  std::uint64_t wrong = 0;
  if (coverage == 0) {
    const std::uint64_t key = key_of(self, report.epoch);
    for (std::uint64_t i = 0; i < chunk.size(); ++i) {
      wrong += std::bit_cast<std::uint32_t>(chunk[i]) != std::bit_cast<std::uint32_t>(value_of(key, first + i));
    }
    return wrong;
  }
  std::vector<double> sums(chunk.size());
  double total = 0;
  for (std::size_t member = 0; member < report.peers.size(); ++member) {
    if ((coverage >> member & 1U) == 0) continue;
    const double weight = weight_of(report.peers[member].peer);
    const std::uint64_t key = key_of(report.peers[member].peer, report.epoch);
    total += weight;
    for (std::uint64_t i = 0; i < chunk.size(); ++i) sums[i] += weight * double{value_of(key, first + i)};
  }
  // Each of the additions, the scaling and the reciprocal rounds once; values are at most 1.
  const double bound = (std::popcount(coverage) + 3) * 0x1.0p-23;
  for (std::uint64_t i = 0; i < chunk.size(); ++i) {
    const bool is_right = std::abs(double{chunk[i]} - sums[i] / total) <= bound;
    wrong += is_right ? 0U : 1U;  // NaN is wrong, too
  }
  return wrong;
}

std::uint64_t count_wrong(std::span<const float> gradient, const RoundReport& report, const PeerId& self) {
  std::uint64_t wrong = 0;
  for (std::size_t chunk = 0; chunk < report.chunks.size(); ++chunk) {
    const std::uint64_t begin = report.chunk_begins[chunk];
    const std::uint64_t end = chunk + 1 < report.chunks.size() ? report.chunk_begins[chunk + 1] : gradient.size();
    wrong += count_wrong(gradient.subspan(begin, end - begin), begin, report, report.chunks[chunk], self);
  }
  return wrong;
}

// ---- what it tells

void say(const ordered_json& line) {
  // Evidence may quote bytes that a peer sent.
  const std::string text = line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t open_descriptors() {
  std::uint64_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

ordered_json json_of(const RoundReport& report) {
  ordered_json json = {{"event", "round"},
                       {"epoch", report.epoch},
                       {"round", report.round},
                       {"seconds", report.seconds},
                       {"members", report.members},
                       {"coverage", report.coverage},
                       {"chunks", report.chunks.size()},
                       {"local_chunks", report.local_chunks},
                       {"digest", hexadecimal(report.digest, 16)},
                       {"bytes_sent", report.bytes_sent},
                       {"bytes_received", report.bytes_received},
                       {"canceled", report.canceled},
                       {"error", report.error},
                       {"peers", ordered_json::array()}};
  for (const PeerReport& peer : report.peers) json["peers"].push_back(tools::document_of(peer, kNameDigits));
  return json;
}

// Whole pages, as a trainer would hand them over.
class Gradient {
 public:
  explicit Gradient(std::uint64_t elements) : bytes_(std::max<std::uint64_t>(elements, 1) * sizeof(float)) {
    void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) values_ = {static_cast<float*>(memory), elements};
  }
  Gradient(const Gradient&) = delete;
  Gradient& operator=(const Gradient&) = delete;
  ~Gradient() {
    if (values_.data() != nullptr) munmap(values_.data(), bytes_);
  }
  [[nodiscard]] std::span<float> values() const { return values_; }

 private:
  std::size_t bytes_;
  std::span<float> values_;
};

// ---- the program

class Member {
 public:
  Member(const Options& options, Node& node, std::span<float> gradient)
      : options_(options), node_(node), gradient_(gradient) {}

  // Until it left or did all its rounds; the exit code.
  Status run() {
    for (std::uint64_t done = 0; options_.rounds == 0 || done < options_.rounds;) {
      const auto progress = wait_for_round();
      if (progress.left) break;
      if (progress.local_epoch >= options_.idle_from) {
        sit_out();
        break;
      }
      auto ran = run_round(progress.local_epoch);
      if (!ran) return ran.error();
      done += *ran ? 1U : 0U;
    }
    return wrong_ == 0 ? Status(Done{}) : Status(runtime_error(std::to_string(wrong_) + " elements were wrong"));
  }

 private:
  GroupProgress wait_for_round() {
    const GroupProgress early = node_.wait_for_round(options_.first_sample_time);
    if (early.round_open || early.left) return early;
    for (;;) {
      if (!joining_) node_.add_samples(1);
      const GroupProgress progress = node_.wait_for_round(kSampleTime);
      if (progress.round_open || progress.left) return progress;
      joining_ = joining_ && progress.members == 1;
      // What a member computes depends on the epoch alone: to know the group's is to have its state.
      if (progress.waits_for_state) {
        node_.adopt_epoch(progress.epoch);
        say({{"event", "adopted"}, {"epoch", progress.epoch}});
      }
    }
  }

  // Connected, counted on, and not there.
  void sit_out() {
    say({{"event", "idle"}});
    while (!node_.progress().left) node_.wait_for_round(kSampleTime);
  }

  // False: it could not run.
  Result<bool> run_round(std::uint64_t epoch) {
    fill(gradient_, key_of(node_.id(), epoch));
    say({{"event", "begin"}, {"epoch", epoch}});
    std::future<RoundReport> averaged = node_.all_reduce(gradient_, weight_of(node_.id()));
    if (averaged.wait_for(2 * options_.node.round_timeout + kMargin) != std::future_status::ready) {
      say({{"event", "hang"}, {"epoch", epoch}});
      return runtime_error("the round of epoch " + std::to_string(epoch) + " did not return by its deadline");
    }
    const RoundReport report = averaged.get();
    if (!report.error.empty()) {
      say(json_of(report));
      return false;
    }
    const std::uint64_t wrong = count_wrong(gradient_, report, node_.id());
    wrong_ += wrong;
    node_.report_model_digest(report.epoch, report.digest);
    ordered_json line = json_of(report);
    line["wrong"] = wrong;
    line["resident_bytes"] = resident_bytes();
    line["descriptors"] = open_descriptors();
    line["refused"] = ordered_json::object();
    for (const node::RefusalCount& each : node_.refusals()) line["refused"][each.reason] = each.count;
    say(line);
    return true;
  }

  const Options& options_;
  Node& node_;
  std::span<float> gradient_;
  std::uint64_t wrong_ = 0;
  bool joining_ = options_.joins;  // and has not met anybody yet
};

void add_options(tools::CommandLine& command_line, Options& options) {
  CLI::App& app = command_line.app();
  tools::add_address(app, "--listen", options.node.listen, "Where others reach this node.");
  tools::add_addresses(app, "--peer", options.node.peers, "The others, dialled until they answer.");
  tools::add_text(app, "--run-id", options.node.run_id, "NAME", "Only nodes of one run meet.");
  tools::add_choice(app, "--role", options.role, {"miner", "client"}, "A client contributes and does not reduce.");
  tools::add_count(app, "--elements", options.elements, 0, std::uint64_t{1} << 32U, "Of the gradient.");
  tools::add_count(app, "--rounds", options.rounds, 0, 1'000'000'000, "How many; 0: until it is asked to leave.");
  tools::add_count(app, "--group-size", options.group_size, 0, 64, "Members to wait for; 0: itself and its peers.");
  tools::add_count(app, "--target-batch", options.node.target_batch, 1, 1'000'000'000,
                   "Samples that open a round; each member adds one.");
  tools::add_count(app, "--idle-from", options.idle_from, 0, ~std::uint64_t{0},
                   "From this epoch on, it is there and calls for no round.");
  tools::add_duration(app, "--first-sample-time", options.first_sample_time, "How long the first of a round takes.");
  app.add_flag("--join", options.joins, "Joins a run that is under way, instead of waiting for the group.");
  tools::add_size(app, "--chunk-bytes", options.chunk_bytes, "One chunk; 0: chosen by the engine.");
  tools::add_count(app, "--flows", options.flows, 0, 16, "Connections per peer; 0: chosen by the engine.");
  tools::add_text(app, "--state-dir", options.node.state_dir, "DIR", "Where it keeps who it is and whom it banned.");
  tools::add_text(app, "--transport", options.node.transport, "NAME", "auto, uring or uv.");
  tools::add_duration(app, "--round-timeout", options.node.round_timeout, "From a round's start to its deadline.");
  tools::add_duration(app, "--join-timeout", options.node.join_timeout, "How long to wait for the group.");
  tools::add_admission_options(app, options.admission);
  tools::add_patience_options(app, options.patience);
  tools::add_roster_options(app, options.node.roster);
}

Status take_part(Options& options) {
  options.node.role = options.role == "client" ? Role::client : Role::miner;
  options.node.elements = options.elements;
  options.node.patience = options.patience.patience();
  options.node.group_size = static_cast<std::uint32_t>(options.group_size);
  options.node.chunk_bytes = options.chunk_bytes;
  options.node.flows = static_cast<std::uint32_t>(options.flows);
  const ParameterShape shape{.name = "values", .shape = {static_cast<std::int64_t>(options.elements)}};
  options.node.fingerprint = model_fingerprint(options.node.run_id, std::span(&shape, 1));
  auto admission = tools::admission_of(options.admission);
  if (!admission) return admission.error();
  options.node.admission = *admission;
  if (!options.node.state_dir.empty()) {
    std::error_code error;
    std::filesystem::create_directories(options.node.state_dir, error);
    if (error) return runtime_error("state-dir: '" + options.node.state_dir + "': " + error.message());
  }
  const Gradient gradient(options.elements);
  if (gradient.values().data() == nullptr) return runtime_error("no memory for the gradient");
  auto started = Node::start(options.node);
  if (!started) return started.error();
  Node& node = **started;
  const tools::SignalWatcher signals([&] { node.stop(); }, [] { std::_Exit(tools::kExitRuntime); });
  say({{"event", "start"},
       {"peer", to_hex(node.id(), kNameDigits)},
       {"listen", node.listen_address()},
       {"pid", getpid()}});
  if (!options.joins) {
    if (auto waited = node.wait_for_group(); !waited) {
      return node.progress().left ? Status(Done{}) : Status(waited.error());
    }
  }
  Status status = Member(options, node, gradient.values()).run();
  started->reset();
  if (status) say({{"event", "end"}});
  return status;
}

int run(int argc, const char* const* argv) {
  tools::CommandLine command_line({.name = "fault-member",
                                   .summary = "a node whose gradient everybody can compute, for tests of faults",
                                   .synopsis = {"--listen A:P [--peer A:P]... [OPTION]..."},
                                   .description = "Prints one JSON line per event.",
                                   .not_so = "",
                                   .examples = {}});
  Options options;
  options.node.target_batch = 1;
  options.node.round_timeout = std::chrono::seconds(20);
  add_options(command_line, options);
  if (const auto code = command_line.parse(argc, argv)) return *code;
  if (const auto status = tools::validate(options.patience); !status) return command_line.fail(status.error());
  if (const auto status = take_part(options); !status) return command_line.fail(status.error());
  return tools::kExitDone;
}

}  // namespace
}  // namespace papilio::faults

int main(int argc, char** argv) { return papilio::faults::run(argc, argv); }
