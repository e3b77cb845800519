// Everything that a user can say to papilio-node, in one struct: filled from the flags and the configuration file,
// validated once, and from then on true.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/node/node.hpp"
#include "engine/training/learner.hpp"
#include "engine/training/trainer.hpp"
#include "tools/common/command_line.hpp"
#include "tools/node/admission_options.hpp"
#include "tools/node/patience.hpp"

namespace papilio::tools {

struct NodeSettings {
  // The run
  std::string run_id = "papilio";
  std::string role = "miner";
  std::string listen;
  std::vector<std::string> peers;
  std::uint64_t group_size = 0;  // 0: this node and its peers
  std::string state_dir;
  std::string evidence_dir;
  std::uint64_t evidence_files = 1000;

  // What is learnt
  std::string data;  // empty: the licences of base-files
  std::string model = "small";
  std::uint64_t layers = 0, width = 0, heads = 0, context = 0;  // 0: the preset's
  std::uint64_t steps = 100;
  std::uint64_t target_batch = 64;
  std::uint64_t batch = 8;  // samples per forward and backward pass
  std::uint64_t slot = kNoSlot;
  bool exact_shares = false;
  double learning_rate = 2e-3;
  std::uint64_t warmup_steps = 20;
  std::uint64_t seed = 1;
  std::string device = "cpu";

  // The network
  std::string transport = "auto";
  std::string congestion_control;
  std::uint64_t rate_bps = 0;
  std::uint64_t chunk_bytes = 0;
  std::uint64_t flows = 0;
  std::string codec = "fp32";
  Duration round_timeout = std::chrono::seconds(30);
  Duration connect_timeout = std::chrono::seconds(10);
  Duration join_timeout = std::chrono::seconds(120);

  // What is believed of others
  std::string norm_policy = "off";
  double norm_limit = 8;

  AdmissionSettings admission;
  node::AdmissionConfig admission_config;  // what is meant by it; by validate()

  // For whom rounds wait
  PatienceSettings patience;
  node::RosterPatience roster;

  static constexpr std::uint64_t kNoSlot = UINT64_MAX;
};

// Creates it where it is missing; nothing where `path` is empty.
Status make_directory(const char* key, const std::string& path);

[[nodiscard]] ManualPage node_manual_page();

// Makes every setting a flag and a key. The values that `settings` has now are the defaults.
void add_node_options(CommandLine& command_line, NodeSettings& settings);

// What the flags cannot check one by one. Fills in group_size and slot where they follow from the rest, and
// admission_config. Creates state_dir and evidence_dir. Errors name the key, the value and the remedy.
Status validate(NodeSettings& settings);

[[nodiscard]] training::ModelSettings model_settings_of(const NodeSettings& settings);
[[nodiscard]] training::OptimiserSettings optimiser_settings_of(const NodeSettings& settings);
[[nodiscard]] NodeConfig node_config_of(const NodeSettings& settings, Fingerprint fingerprint, std::uint64_t elements);
// `self`: nodes without a slot draw samples in an order of their own, which comes from their name.
[[nodiscard]] training::TrainerSettings trainer_settings_of(const NodeSettings& settings, const PeerId& self);

// Of everything that has to be the same on all nodes of a run for their models to stay the same: parameters, their
// initial values, the alphabet, the optimiser.
[[nodiscard]] Fingerprint fingerprint_of(const NodeSettings& settings, const training::Learner& learner,
                                         std::span<const std::uint8_t> symbols);

}  // namespace papilio::tools
