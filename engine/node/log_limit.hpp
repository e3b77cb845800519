// Lines about strangers, who can cause as many of them as they like: of each kind a few per interval are written, and
// when it is over one line tells how many were left out. So that nobody fills a disk, or hides among noise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/time.hpp"

namespace papilio::node {

struct LogLimitConfig {
  // Lines of one kind per interval: enough to see who they are about.
  std::uint32_t lines = 5;
  Duration interval = std::chrono::seconds(10);
};

class LogLimit {
 public:
  explicit LogLimit(LogLimitConfig config = {}) : config_(config) {}

  // Whether to write one more line of this kind. Kinds are few and chosen by this program, never by strangers.
  [[nodiscard]] bool admit(TimePoint now, std::string_view kind);

  struct LeftOut {
    std::string kind;
    std::uint64_t lines = 0;
  };
  // Until there is none: what to tell about intervals that are over. At kNever: about those under way as well.
  [[nodiscard]] std::optional<LeftOut> poll(TimePoint now);
  [[nodiscard]] TimePoint next_deadline() const;
  [[nodiscard]] const LogLimitConfig& config() const { return config_; }

 private:
  struct Kind {
    std::string name;
    TimePoint until{};  // the end of its interval
    std::uint32_t written = 0;
    std::uint64_t left_out = 0;
  };

  LogLimitConfig config_;
  std::vector<Kind> kinds_;
};

}  // namespace papilio::node
