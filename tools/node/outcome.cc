#include "tools/node/outcome.hpp"

#include <spdlog/fmt/fmt.h>

#include <utility>

#include "tools/node/peer_report.hpp"
#include "tools/node/text.hpp"

namespace papilio::tools {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kIdDigits = 64;

ordered_json round_document(const training::RoundLine& line) {
  ordered_json cut_off = ordered_json::array();
  for (const PeerReport& peer : line.cut_off) cut_off.push_back(document_of(peer, kIdDigits));
  return {{"epoch", line.epoch},
          {"seconds", line.seconds},
          {"coverage", line.coverage},
          {"members", line.members},
          {"banned", line.banned},
          {"bytes_sent", line.bytes_sent},
          {"bytes_received", line.bytes_received},
          {"samples", line.samples},
          {"global_samples", line.global_samples},
          {"loss", line.loss},
          {"local_chunks", line.local_chunks},
          {"step_seconds", line.step_seconds},
          {"model_digest", hexadecimal(line.model_digest, 16)},
          {"cut_off", std::move(cut_off)}};
}

}  // namespace

void Outcome::set_node(std::string peer_id, std::string transport, std::uint64_t parameters,
                       std::uint64_t model_digest) {
  const std::lock_guard lock(mutex_);
  peer_id_ = std::move(peer_id);
  transport_ = std::move(transport);
  parameters_ = parameters;
  model_digest_ = model_digest;
}

void Outcome::add_round(const training::RoundLine& line) {
  const std::lock_guard lock(mutex_);
  if (!rounds_.empty()) rounds_.back().peers.clear();  // a long run has many rounds
  rounds_.push_back(line);
  model_digest_ = line.model_digest;
}

void Outcome::set_seconds(double seconds) {
  const std::lock_guard lock(mutex_);
  seconds_ = seconds;
}

void Outcome::set_agreement(const GroupProgress& progress) {
  const std::lock_guard lock(mutex_);
  in_agreement_ = progress.in_agreement;
  in_sync_ = progress.in_sync;
  out_of_sync_ = progress.out_of_sync;
}

void Outcome::set_error(std::string message) {
  const std::lock_guard lock(mutex_);
  error_ = std::move(message);
}

void Outcome::set_refusals(std::vector<node::RefusalCount> refusals) {
  const std::lock_guard lock(mutex_);
  refusals_ = std::move(refusals);
}

ordered_json Outcome::document() const {
  const std::lock_guard lock(mutex_);
  ordered_json losses = ordered_json::array(), rounds = ordered_json::array();
  std::uint64_t sent = 0, received = 0;
  for (const training::RoundLine& line : rounds_) {
    losses.push_back(line.loss);
    rounds.push_back(round_document(line));
    sent += line.bytes_sent;
    received += line.bytes_received;
  }
  ordered_json peers = ordered_json::array();
  if (!rounds_.empty()) {
    for (const PeerReport& peer : rounds_.back().peers) peers.push_back(document_of(peer, kIdDigits));
  }
  const ordered_json nothing = nullptr;
  ordered_json document = {{"peer_id", peer_id_},
                           {"transport", transport_},
                           {"steps", rounds_.size()},
                           {"epochs", rounds_.empty() ? 0 : rounds_.back().epoch + 1},
                           {"loss_first", rounds_.empty() ? nothing : ordered_json(rounds_.front().loss)},
                           {"loss_last", rounds_.empty() ? nothing : ordered_json(rounds_.back().loss)},
                           {"losses", std::move(losses)},
                           {"model_digest", hexadecimal(model_digest_, 16)},
                           {"seconds", seconds_},
                           {"bytes_sent", sent},
                           {"bytes_received", received},
                           {"parameters", parameters_},
                           {"rounds", std::move(rounds)},
                           {"peers", std::move(peers)},
                           {"in_agreement", in_agreement_},
                           {"in_sync", in_sync_},
                           {"out_of_sync", out_of_sync_}};
  document["refused"] = ordered_json::object();  // at the door, by reason
  for (const node::RefusalCount& each : refusals_) document["refused"][each.reason] = each.count;
  if (!error_.empty()) document["error"] = error_;
  return document;
}

std::string Outcome::summary() const {
  const std::lock_guard lock(mutex_);
  if (rounds_.empty()) return fmt::format("no round was finished; model {}", hexadecimal(model_digest_, 16));
  return fmt::format("{} rounds in {:.1f} s, loss {:.4f} to {:.4f}, model {}, {} in agreement", rounds_.size(),
                     seconds_, rounds_.front().loss, rounds_.back().loss, hexadecimal(model_digest_, 16),
                     in_agreement_);
}

}  // namespace papilio::tools
