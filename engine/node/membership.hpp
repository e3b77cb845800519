// Where a node learns whom to dial. Today the addresses come from the configuration; a discovery service will be
// another source. Who is let in is the handshake's business, and who is in a round the roster's: a source only
// proposes.
#pragma once

#include <utility>
#include <vector>

#include "engine/base/time.hpp"
#include "transport/address.hpp"

namespace papilio::node {

class MembershipSource {
 public:
  MembershipSource() = default;
  MembershipSource(const MembershipSource&) = delete;
  MembershipSource& operator=(const MembershipSource&) = delete;
  virtual ~MembershipSource() = default;

  // Addresses that it has not told before. Called on the loop's thread; returns at once.
  virtual std::vector<transport::Address> poll_addresses(TimePoint now) = 0;
  // When there may be more; kNever: not any more.
  [[nodiscard]] virtual TimePoint next_poll() const = 0;
};

// The addresses that the operator wrote down.
class StaticMembership final : public MembershipSource {
 public:
  explicit StaticMembership(std::vector<transport::Address> addresses) : addresses_(std::move(addresses)) {}

  std::vector<transport::Address> poll_addresses(TimePoint /*now*/) override { return std::exchange(addresses_, {}); }
  [[nodiscard]] TimePoint next_poll() const override { return addresses_.empty() ? kNever : TimePoint{}; }

 private:
  std::vector<transport::Address> addresses_;
};

}  // namespace papilio::node
