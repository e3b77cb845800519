// What several pieces of evidence about one round say against each other. Only genuine ones are asked.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/verify/evidence.hpp"

namespace papilio::tools {

struct Contradiction {
  std::string run_id;
  RoundId round = 0;
  std::string what;
  std::vector<std::string> files;
};

[[nodiscard]] std::vector<Contradiction> contradictions_among(std::span<const Evidence> evidence);

}  // namespace papilio::tools
