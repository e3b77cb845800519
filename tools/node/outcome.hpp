// What a run has come to so far, as papilio-node's --json tells it. The trainer's thread adds rounds while the signal
// thread may have to write the document, so everything is behind one lock.
#pragma once

#include <cstdint>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/training/trainer.hpp"

namespace papilio::tools {

class Outcome {
 public:
  void set_node(std::string peer_id, std::string transport, std::uint64_t parameters, std::uint64_t model_digest);
  void add_round(const training::RoundLine& line);
  void set_seconds(double seconds);
  void set_agreement(const GroupProgress& progress);
  void set_error(std::string message);
  void set_refusals(std::vector<node::RefusalCount> refusals);

  // Numbers that do not exist (a loss before the first round) are null.
  [[nodiscard]] nlohmann::ordered_json document() const;
  // One line for people.
  [[nodiscard]] std::string summary() const;

 private:
  mutable std::mutex mutex_;
  std::string peer_id_, transport_, error_;
  std::uint64_t parameters_ = 0, model_digest_ = 0;
  std::uint32_t in_agreement_ = 0, out_of_sync_ = 0;
  bool in_sync_ = true;
  double seconds_ = 0;
  std::vector<training::RoundLine> rounds_;
  std::vector<node::RefusalCount> refusals_;
};

}  // namespace papilio::tools
