#include "tools/node/settings.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "engine/base/limits.hpp"
#include "engine/node/shard_coder.hpp"
#include "tools/node/text.hpp"

namespace papilio::tools {
namespace {

constexpr std::uint64_t kMaximumSteps = 1'000'000'000;
constexpr std::uint64_t kMaximumBatch = 1'000'000'000;
constexpr std::uint64_t kMaximumSize = UINT32_MAX;  // resolve_model() knows the real bounds
// Orders of samples for nodes without a slot; two of a thousand nodes share one with a probability of a millionth.
constexpr std::uint32_t kOwnOrders = std::uint32_t{1} << 31U;

Error wrong(const std::string& key, const std::string& value, const std::string& what) {
  return usage_error("--" + key + ": '" + value + "' " + what);
}

Status validate_role(const NodeSettings& settings) {
  if (settings.role == "validator") {
    return wrong("role", settings.role, "does not take part in rounds yet; choose miner or client");
  }
  const bool client = settings.role == "client";
  if (!client && settings.listen.empty()) {
    return usage_error(
        "--listen: is missing, and a miner has to be reachable; write --listen ADDRESS:PORT like --listen "
        "0.0.0.0:31337, or choose --role client");
  }
  if (client && !settings.listen.empty()) {
    return wrong("listen", settings.listen, "is of no use to a client, which nobody dials; leave it out");
  }
  if (client && settings.peers.empty()) {
    return usage_error("--peer: is missing, and a client has to dial somebody; write --peer ADDRESS:PORT");
  }
  return Done{};
}

Status validate_group(NodeSettings& settings) {
  if (settings.group_size == 0) settings.group_size = 1 + settings.peers.size();
  const std::string size = std::to_string(settings.group_size);
  if (settings.group_size > kMaximumMembers) {
    return wrong("group-size", size,
                 "(with the peers given) is more than the " + std::to_string(kMaximumMembers) +
                     " members of one group; name fewer peers");
  }
  if (settings.group_size == 1 && settings.slot == NodeSettings::kNoSlot) settings.slot = 0;
  const bool has_slot = settings.slot != NodeSettings::kNoSlot;
  if (has_slot && settings.slot >= settings.group_size) {
    return wrong("slot", std::to_string(settings.slot),
                 "is not below the group size of " + size + "; number the nodes from 0, or set --group-size");
  }
  if (settings.exact_shares && !has_slot) {
    return usage_error("--exact-shares: needs to know which share is this node's; add --slot, from 0 to " +
                       std::to_string(settings.group_size - 1) + ", another one on every node");
  }
  if (settings.target_batch < settings.group_size) {
    return wrong("target-batch", std::to_string(settings.target_batch),
                 "is less than one sample for each of the " + size + " nodes; choose at least " + size);
  }
  return Done{};
}

Status validate_network(const NodeSettings& settings) {
  const std::uint64_t chunk = settings.chunk_bytes;
  if (chunk != 0 && (!std::has_single_bit(chunk) || chunk < kMinimumChunkBytes || chunk > kMaximumChunkBytes)) {
    return wrong("chunk-bytes", std::to_string(chunk), "is not a power of two from 64K to 4M; choose one, like 256K");
  }
  for (const std::string& peer : settings.peers) {
    if (peer == settings.listen) return wrong("peer", peer, "is where this node itself listens; name only the others");
    if (std::count(settings.peers.begin(), settings.peers.end(), peer) > 1) {
      return wrong("peer", peer, "is named more than once; name every other node once");
    }
  }
  const auto positive = [](const char* key, Duration value) -> Status {
    if (value > Duration::zero()) return Done{};
    return usage_error(std::string("--") + key + ": must be more than nothing; write it like 500ms or 30s");
  };
  if (auto checked = positive("round-timeout", settings.round_timeout); !checked) return checked;
  if (auto checked = positive("connect-timeout", settings.connect_timeout); !checked) return checked;
  return positive("join-timeout", settings.join_timeout);
}

}  // namespace

Status make_directory(const char* key, const std::string& path) {
  if (path.empty()) return Done{};
  std::error_code failed;
  std::filesystem::create_directories(path, failed);
  if (failed) {
    return wrong(key, path, "cannot be created (" + failed.message() + "); name a directory that is yours");
  }
  if (!std::filesystem::is_directory(path)) return wrong(key, path, "is not a directory; name another path");
  if (::access(path.c_str(), W_OK | X_OK) != 0) {
    return wrong(key, path,
                 std::string("cannot be written (") + std::strerror(errno) + "); name a directory that is yours");
  }
  return Done{};
}

ManualPage node_manual_page() {
  ManualPage page;
  page.name = "papilio-node";
  page.summary = "train one model together with other nodes";
  page.synopsis = {"--listen ADDRESS:PORT [--peer ADDRESS:PORT ...] [OPTION ...]",
                   "--role client --peer ADDRESS:PORT [--peer ADDRESS:PORT ...] [OPTION ...]",
                   "--config FILE.toml [OPTION ...]", "id --state-dir DIR",
                   "bans list|clear --state-dir DIR [--peer ID]"};
  page.description =
      "Joins the other nodes of a run, trains a character-level transformer on text, and averages its gradient with "
      "theirs once per round. A round begins when all nodes together worked through the target batch; every gradient "
      "counts as much as the samples behind it. All nodes that finish together hold the same model, to the bit.\n"
      "\n"
      "Nodes of one run agree on --run-id, --model and its sizes, --seed, --target-batch, --learning-rate, "
      "--warmup-steps and on the characters that occur in the text; a node that differs is refused. They need not have "
      "the same text.\n"
      "\n"
      "While it runs it prints a line per round (on a terminal: one line, rewritten): the epoch, this node's mean loss "
      "in nats per character, its samples and the group's, the time of the averaging, the bytes both ways, the members "
      "and the coverage, which is the share of the members' gradients that the averages hold. Ctrl-C leaves the group "
      "cleanly; the others go on.\n"
      "\n"
      "No round waits for anybody for long: who is late is cut off. The options under PATIENCE say how late that is; "
      "docs/rounds.md and docs/timers.md tell what each costs and buys.\n"
      "\n"
      "Peers that spoil rounds are banned for a while. `papilio-node bans --help` tells how to see whom, and to "
      "forgive. `papilio-node id` prints who a node is; --allow, --deny and --judge name others by it, and "
      "docs/admission.md tells who is let in.";
  page.examples = {"papilio-node --listen 127.0.0.1:7001 --peer 127.0.0.1:7002 --slot 0 &",
                   "papilio-node --listen 127.0.0.1:7002 --peer 127.0.0.1:7001 --slot 1",
                   "papilio-node --config node.toml --steps 1000 --json result.json",
                   "papilio-node --listen 0.0.0.0:7001 --data book.txt --model base --steps 50"};
  return page;
}

void add_node_options(CommandLine& command_line, NodeSettings& settings) {
  CLI::App& app = command_line.app();
  command_line.add_config_file();
  add_text(app, "--run-id", settings.run_id, "NAME", "Name of the run; nodes of other runs are refused.");
  add_choice(app, "--role", settings.role, {"miner", "client", "validator"},
             "What this node does: a miner contributes gradients and averages a part of everybody's; a client, which "
             "cannot be reached from outside, contributes and receives. Validators do not take part in rounds yet.");
  add_address(app, "--listen", settings.listen, "Where the others reach this node. Miners need it, clients have none.");
  add_addresses(app, "--peer", settings.peers, "Where another node listens; once per node. Dialled until it answers.");
  add_count(app, "--group-size", settings.group_size, 0, kMaximumMembers,
            "Nodes to wait for before the first round, this one included. 0: this one and its peers.");
  add_text(
      app, "--state-dir", settings.state_dir, "DIR",
      "Directory for what outlives the process: the node's id, and whom it banned. Created where it is missing; one "
      "per node. Without it every start is a new peer, and bans end with the process.");
  add_text(app, "--evidence-dir", settings.evidence_dir, "DIR",
           "Directory for a signed report of every round, and for proof against others; papilio-verify reads both. "
           "Created where it is missing. Without it nothing is kept.");
  add_count(app, "--evidence-files", settings.evidence_files, 1, 1'000'000,
            "Files that are kept there; the oldest go.");

  add_text(app, "--data", settings.data, "FILE",
           "The text to learn, taken byte by byte. Without it: the licences that Debian's base-files installs.");
  add_text(app, "--model", settings.model, "NAME|FILE.pt",
           "tiny (0.1 million parameters), small (1 million), base (10 million), or a TorchScript file that takes "
           "tokens [B, T] and answers logits [B, T, V].");
  add_count(app, "--layers", settings.layers, 0, kMaximumSize, "Transformer blocks. 0: the model's own number.");
  add_count(app, "--width", settings.width, 0, kMaximumSize, "Width of the model. 0: the model's own.");
  add_count(app, "--heads", settings.heads, 0, kMaximumSize, "Attention heads; divides the width. 0: the model's own.");
  add_count(app, "--context", settings.context, 0, kMaximumSize, "Characters of one sample. 0: the model's own.");
  add_count(app, "--steps", settings.steps, 1, kMaximumSteps, "Rounds to take part in.");
  add_count(app, "--target-batch", settings.target_batch, 1, kMaximumBatch,
            "Samples of all nodes together that make one round. The same on all nodes.");
  add_count(app, "--batch", settings.batch, 1, kMaximumBatch, "Samples per forward and backward pass.");
  add_count(app, "--slot", settings.slot, 0, kMaximumMembers - 1,
            "This node's number in the group, from 0: it takes that stretch of every batch. Without it the node draws "
            "samples in a random order of its own.")
      ->default_str("");
  app.add_flag("--exact-shares", settings.exact_shares,
               "Take exactly the share of the batch that belongs to --slot, then wait for the others: a run then "
               "repeats bit for bit. Without it every node takes as many samples as it can.");
  add_number(app, "--learning-rate", settings.learning_rate, 0, 10, "AdamW's rate after the warm-up.");
  add_count(app, "--warmup-steps", settings.warmup_steps, 0, kMaximumSteps,
            "Steps over which the rate grows to --learning-rate.");
  add_count(app, "--seed", settings.seed, 0, UINT64_MAX, "Of the initial values and of the order of samples.");
  add_choice(app, "--device", settings.device, {"cpu", "cuda"},
             "Where the model computes; cuda needs a LibTorch with CUDA. Its gradient is then averaged on the GPU.");

  add_choice(app, "--transport", settings.transport, {"auto", "uring", "uv"},
             "How to drive the sockets: io_uring, libuv, or whichever suits this machine.");
  add_text(app, "--congestion-control", settings.congestion_control, "NAME",
           "TCP's congestion control, such as cubic or bbr. Without it: cubic towards this host, else the system's.");
  add_rate(app, "--rate", settings.rate_bps,
           "What this node's line carries each way; nodes with more average more. 0: unknown, all alike.");
  add_size(app, "--chunk-bytes", settings.chunk_bytes,
           "Unit that travels and is averaged, a power of two from 64K to 4M. 0: chosen to suit.");
  add_count(app, "--flows", settings.flows, 0, kMaximumFlows, "TCP connections per peer. 0: chosen to suit.");
  add_choice(app, "--codec", settings.codec, node::format_choices(),
             "What this node sends its shards in; it reads all of these. fp32 is exact; auto is whatever is fastest on "
             "each link. What rounding takes is added to the next round's gradient.");
  add_duration(app, "--round-timeout", settings.round_timeout, "From a round's start to its deadline.");
  add_duration(app, "--connect-timeout", settings.connect_timeout, "For one connection to be made.");
  add_duration(app, "--join-timeout", settings.join_timeout, "Until the whole group is there.");

  add_choice(app, "--norm-policy", settings.norm_policy, {"off", "clip", "refuse"},
             "What becomes of gradients that are much larger than the group's: nothing, they are scaled down, or their "
             "sender is cut off. NaN and infinity are never averaged, whatever this says.");
  add_number(app, "--norm-limit", settings.norm_limit, 1, 1e6,
             "How many times the group's median norm is too much for --norm-policy.");
  add_admission_options(app, settings.admission);
  add_patience_options(app, settings.patience);
  add_roster_options(app, settings.roster);
}

Status validate(NodeSettings& settings) {
  if (auto checked = validate_role(settings); !checked) return checked;
  if (auto checked = validate_group(settings); !checked) return checked;
  if (auto checked = validate_network(settings); !checked) return checked;
  auto admission = admission_of(settings.admission);
  if (!admission) return admission.error();
  settings.admission_config = std::move(*admission);
  if (auto checked = validate(settings.patience); !checked) return checked;
  if (auto checked = validate(settings.roster); !checked) return checked;
  if (settings.learning_rate <= 0) return usage_error("--learning-rate: '0' learns nothing; write it like 2e-3");
  if (auto made = make_directory("evidence-dir", settings.evidence_dir); !made) return made;
  return make_directory("state-dir", settings.state_dir);
}

training::ModelSettings model_settings_of(const NodeSettings& settings) {
  return {.name = settings.model,
          .layers = static_cast<std::uint32_t>(settings.layers),
          .width = static_cast<std::uint32_t>(settings.width),
          .heads = static_cast<std::uint32_t>(settings.heads),
          .context = static_cast<std::uint32_t>(settings.context),
          .seed = settings.seed,
          .device = settings.device};
}

training::OptimiserSettings optimiser_settings_of(const NodeSettings& settings) {
  training::OptimiserSettings optimiser;
  optimiser.learning_rate = settings.learning_rate;
  optimiser.warmup_steps = settings.warmup_steps;
  return optimiser;
}

NodeConfig node_config_of(const NodeSettings& settings, Fingerprint fingerprint, std::uint64_t elements) {
  NodeConfig config;
  config.run_id = settings.run_id;
  config.fingerprint = fingerprint;
  config.role = settings.role == "client" ? Role::client : Role::miner;
  config.listen = settings.listen;
  config.peers = settings.peers;
  config.group_size = static_cast<std::uint32_t>(settings.group_size);
  config.elements = elements;
  config.state_dir = settings.state_dir;
  config.evidence_dir = settings.evidence_dir;
  config.evidence_files = static_cast<std::uint32_t>(settings.evidence_files);
  config.target_batch = settings.target_batch;
  config.transport = settings.transport;
  config.congestion_control = settings.congestion_control;
  config.rate_bytes_per_s = settings.rate_bps / 8;
  config.chunk_bytes = settings.chunk_bytes;
  config.flows = static_cast<std::uint32_t>(settings.flows);
  config.round_timeout = settings.round_timeout;
  config.connect_timeout = settings.connect_timeout;
  config.join_timeout = settings.join_timeout;
  config.codec = settings.codec;
  config.norm_policy = settings.norm_policy;
  config.norm_limit = settings.norm_limit;
  config.patience = settings.patience.patience();
  config.roster = settings.roster;
  config.admission = settings.admission_config;
  return config;
}

training::TrainerSettings trainer_settings_of(const NodeSettings& settings, const PeerId& self) {
  training::TrainerSettings trainer;
  trainer.steps = settings.steps;
  trainer.target_batch = settings.target_batch;
  trainer.micro_batch = settings.batch;
  trainer.seed = settings.seed;
  trainer.exact_shares = settings.exact_shares;
  trainer.round_timeout = settings.round_timeout;
  if (settings.slot != NodeSettings::kNoSlot) {
    trainer.slot = static_cast<std::uint32_t>(settings.slot);
    trainer.slots = static_cast<std::uint32_t>(settings.group_size);
    return trainer;
  }
  std::uint32_t name = 0;
  std::memcpy(&name, self.bytes.data(), sizeof(name));
  trainer.slots = kOwnOrders;
  trainer.slot = name % kOwnOrders;
  trainer.share = training::Share{0, 0};
  return trainer;
}

Fingerprint fingerprint_of(const NodeSettings& settings, const training::Learner& learner,
                           std::span<const std::uint8_t> symbols) {
  std::vector<ParameterShape> shapes;
  for (const training::Parameter& parameter : learner.parameters()) shapes.push_back({parameter.name, parameter.shape});
  std::string alphabet;
  for (const std::uint8_t symbol : symbols) alphabet += hexadecimal(symbol, 2);
  // Not parameters, but as able to make two models part ways; the names cannot be parameters' because of the =.
  shapes.push_back({"initial-values=" + hexadecimal(learner.digest(), 16), {}});
  shapes.push_back({"alphabet=" + alphabet, {}});
  shapes.push_back({"adamw=" + hexadecimal(std::bit_cast<std::uint64_t>(settings.learning_rate), 16) + "," +
                        std::to_string(settings.warmup_steps),
                    {}});
  // Nodes that disagree about when a round is due would wait for each other.
  shapes.push_back({"target-batch=" + std::to_string(settings.target_batch), {}});
  return model_fingerprint(settings.run_id, shapes);
}

}  // namespace papilio::tools
