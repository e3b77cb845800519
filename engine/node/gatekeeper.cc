#include "engine/node/gatekeeper.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/base/units.hpp"
#include "engine/node/certificate.hpp"

namespace papilio::node {
namespace {

using transport::Refusal;
using transport::RefusalReason;

constexpr Duration kLook = std::chrono::seconds(10);

RefusalReason reason_of(core::Refused refused) {
  switch (refused) {
    case core::Refused::own_id: return RefusalReason::same_peer;
    case core::Refused::denied:
    case core::Refused::not_allowed: return RefusalReason::not_allowed;
    case core::Refused::banned: return RefusalReason::banned;
    default: return RefusalReason::not_qualified;
  }
}

Refusal to_wire(const core::AdmissionRefusal& refusal) {
  const bool banned = refusal.reason == core::Refused::banned;  // its words go on after "banned"
  return {.reason = reason_of(refusal.reason),
          .detail = banned ? refusal.why : std::string(to_string(refusal.reason)) + ": " + refusal.why};
}

// Validators have no part to play in rounds yet: who says that it is one is held to what everybody is held to.
core::Visitor visitor_of(transport::WireRole role) {
  return role == transport::WireRole::client ? core::Visitor::client : core::Visitor::miner;
}

}  // namespace

Gatekeeper::Gatekeeper(const AdmissionConfig& config, const PeerId& self, const std::string& run_id,
                       std::string state_dir)
    : config_(config), admission_(policy_of(config, self, run_id)), state_dir_(std::move(state_dir)) {
  load_own(std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()));
}

std::uint64_t Gatekeeper::own_rate_bytes_per_s() const {
  std::uint64_t rate_bps = 0;
  for (const core::Qualification& each : figures_) {
    const std::uint64_t weaker = std::min(each.up_bps, each.down_bps);
    rate_bps = rate_bps == 0 ? weaker : std::min(rate_bps, weaker);
  }
  return rate_bps / 8 * 9 / 10;
}

const std::vector<std::vector<std::byte>>& Gatekeeper::own_certificates(TimePoint now, core::WallTime wall) {
  if (now >= next_look_) {
    next_look_ = saturating_add(now, kLook);
    load_own(wall);
  }
  return certificates_;
}

void Gatekeeper::load_own(core::WallTime wall) {
  std::vector<std::string> objections;
  std::vector<KeptCertificate> kept;
  if (config_.certificates.empty()) {
    if (!state_dir_.empty()) kept = load_certificates(state_dir_, objections);
  } else {
    for (const std::string& path : config_.certificates) {
      auto bytes = load_certificate(path);
      auto figures = bytes ? read_certificate(*bytes) : Result<core::Qualification>(bytes.error());
      if (figures) {
        kept.push_back({path, std::move(*bytes), std::move(*figures)});
      } else {
        objections.push_back(path + ": " + figures.error().message);
      }
    }
  }
  certificates_.clear();
  figures_.clear();
  for (KeptCertificate& each : kept) {
    if (each.bytes.size() > transport::kMaximumCertificateBytes) {
      objections.push_back(each.path + ": is longer than " + std::to_string(transport::kMaximumCertificateBytes) +
                           " bytes: it is not shown to others");
    } else if (each.figures.subject != admission_.policy().self) {
      objections.push_back(each.path + ": is of peer " + to_hex(each.figures.subject) + ", this node is " +
                           to_hex(admission_.policy().self) + ": qualify with this node's key (papilio-qualify run)");
    } else if (each.figures.expires <= wall) {
      objections.push_back(each.path + ": expired at " + core::to_text(each.figures.expires) +
                           ": qualify anew (papilio-qualify run)");
    } else if (certificates_.size() < transport::kMaximumCertificates) {
      certificates_.push_back(std::move(each.bytes));
      figures_.push_back(std::move(each.figures));
    }
  }
  for (const std::string& objection : objections) {
    if (std::find(said_.begin(), said_.end(), objection) == said_.end()) spdlog::warn("certificate {}", objection);
  }
  said_ = std::move(objections);
}

std::optional<Refusal> Gatekeeper::objection_to(core::WallTime now, const PeerId& peer, core::Conduct& conduct) const {
  const auto refusal = admission_.objection_to(peer, conduct.ban_of(now, peer));
  if (!refusal) return std::nullopt;
  return to_wire(*refusal);
}

Welcome Gatekeeper::judge(core::WallTime now, const transport::Hello& hello, core::Conduct& conduct) const {
  if (!admission_.policy().requires_certificates()) return {};
  std::vector<core::Qualification> certificates;
  std::string unreadable;
  for (const std::vector<std::byte>& bytes : hello.certificates) {
    auto figures = read_certificate(bytes);
    if (figures) {
      certificates.push_back(std::move(*figures));
    } else {
      unreadable = figures.error().message;
    }
  }
  if (certificates.empty() && !unreadable.empty()) {
    return {.objection = Refusal{RefusalReason::not_qualified, "certificate: " + unreadable}, .lasts = {}};
  }
  const core::AdmissionDecision decision =
      admission_.decide(now, {.id = hello.peer,
                              .role = visitor_of(hello.role),
                              .certificates = certificates,
                              .requalify_since = conduct.requalify_since(now, hello.peer)});
  if (!decision.ok()) return {.objection = to_wire(decision.refusal), .lasts = {}};
  const core::Admitted& admitted = *decision.admitted;
  // Sizes of parts and lateness go by what a peer says of its line: not more than its judges say.
  if (admitted.rate_bytes_per_s > 0 &&
      (hello.rate_bytes_per_s == 0 || hello.rate_bytes_per_s > admitted.rate_bytes_per_s)) {
    return {.objection = Refusal{RefusalReason::not_qualified,
                                 "it says that its line carries " + format_rate(hello.rate_bytes_per_s * 8) +
                                     ", its certificates say " + format_rate(admitted.rate_bytes_per_s * 8) +
                                     ": leave --rate out, and restart it after it has qualified anew"},
            .lasts = {}};
  }
  Welcome welcome;
  if (admitted.issued) conduct.handle_certificate(now, hello.peer, *admitted.issued);
  if (admitted.until) welcome.lasts = std::max(*admitted.until - now, std::chrono::seconds(1));
  return welcome;
}

}  // namespace papilio::node
