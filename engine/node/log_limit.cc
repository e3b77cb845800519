#include "engine/node/log_limit.hpp"

#include <algorithm>

namespace papilio::node {

bool LogLimit::admit(TimePoint now, std::string_view kind) {
  auto found = std::find_if(kinds_.begin(), kinds_.end(), [&](const Kind& each) { return each.name == kind; });
  if (found == kinds_.end()) {
    kinds_.push_back({.name = std::string(kind)});
    found = std::prev(kinds_.end());
  }
  // With lines left out, the interval ends when that was told.
  if (now >= found->until && found->left_out == 0) {
    found->until = saturating_add(now, config_.interval);
    found->written = 0;
  }
  if (found->written < config_.lines) {
    found->written += 1;
    return true;
  }
  found->left_out += 1;
  return false;
}

std::optional<LogLimit::LeftOut> LogLimit::poll(TimePoint now) {
  for (Kind& each : kinds_) {
    if (each.left_out == 0 || now < each.until) continue;
    LeftOut left_out{.kind = each.name, .lines = each.left_out};
    each.left_out = 0;
    return left_out;
  }
  return std::nullopt;
}

TimePoint LogLimit::next_deadline() const {
  TimePoint next = kNever;
  for (const Kind& each : kinds_) {
    if (each.left_out > 0) next = std::min(next, each.until);
  }
  return next;
}

}  // namespace papilio::node
