// Decides at this node's door with what only the shell has: files with certificates, their signatures, and the time of
// day. What follows from them is core::Admission's. Also shows the others this node's own certificates, and takes up
// new ones that papilio-qualify puts into the state directory while the node runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/admission.hpp"
#include "engine/core/conduct.hpp"
#include "engine/node/admission_config.hpp"
#include "transport/frame.hpp"

namespace papilio::node {

// What comes of a hello whose sender's id is proved.
struct Welcome {
  std::optional<transport::Refusal> objection;
  // When the certificates that this rests on run out, from now; none: never.
  std::optional<Duration> lasts;
};

class Gatekeeper {
 public:
  // `state_dir` may be empty.
  Gatekeeper(const AdmissionConfig& config, const PeerId& self, const std::string& run_id, std::string state_dir);

  // What this node says of its line where its owner says nothing: 90% of the weakest figure of its certificates, so
  // that no judge's word is less, nor that of the certificate that comes after it. 0 without certificates.
  [[nodiscard]] std::uint64_t own_rate_bytes_per_s() const;
  // To be shown to others; looked up anew now and then. What is wrong with files is logged, once.
  const std::vector<std::vector<std::byte>>& own_certificates(TimePoint now, core::WallTime wall);

  // What speaks against a peer of which no more than its id is known.
  [[nodiscard]] std::optional<transport::Refusal> objection_to(core::WallTime now, const PeerId& peer,
                                                               core::Conduct& conduct) const;
  // What speaks against the sender of that hello, whose id it proved. Tells `conduct` of fresh certificates.
  [[nodiscard]] Welcome judge(core::WallTime now, const transport::Hello& hello, core::Conduct& conduct) const;

 private:
  void load_own(core::WallTime wall);

  AdmissionConfig config_;
  core::Admission admission_;
  std::string state_dir_;
  std::vector<std::vector<std::byte>> certificates_;
  std::vector<core::Qualification> figures_;  // of certificates_
  TimePoint next_look_{};
  std::vector<std::string> said_;  // objections to files
};

}  // namespace papilio::node
