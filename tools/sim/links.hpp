// Which members of a simulated group are connected to which, as they themselves say, and which cannot be.
#pragma once

#include <cstdint>
#include <vector>

namespace papilio::sim {

class Links {
 public:
  explicit Links(std::uint32_t hosts) : links_(hosts, 0) {}

  void join(std::uint32_t one, std::uint32_t other) { links_[one] |= bit(other); }
  void lose(std::uint32_t one, std::uint32_t other) { links_[one] &= ~bit(other); }
  void forget(std::uint32_t host) { links_[host] = 0; }
  // Both say so.
  [[nodiscard]] bool are_linked(std::uint32_t one, std::uint32_t other) const {
    return (links_[one] & bit(other)) != 0 && (links_[other] & bit(one)) != 0;
  }

  // Nothing passes between those hosts and the rest.
  void partition(std::uint64_t others) { other_side_ = others; }
  void heal() { other_side_ = 0; }
  [[nodiscard]] bool are_apart(std::uint32_t one, std::uint32_t other) const {
    return ((other_side_ & bit(one)) != 0) != ((other_side_ & bit(other)) != 0);
  }

  static std::uint64_t bit(std::uint32_t host) { return std::uint64_t{1} << host; }

 private:
  std::vector<std::uint64_t> links_;  // by host: those that it is connected to, by bit
  std::uint64_t other_side_ = 0;
};

}  // namespace papilio::sim
