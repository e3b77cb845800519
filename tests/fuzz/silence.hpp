// What is logged is written down, so that this code is fuzzed as well, and then thrown away.
#pragma once

#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <utility>

namespace papilio::fuzz {

inline void be_silent() {
  static const bool once = [] {
    auto logger = std::make_shared<spdlog::logger>("fuzz", std::make_shared<spdlog::sinks::null_sink_st>());
    logger->set_level(spdlog::level::debug);
    spdlog::set_default_logger(std::move(logger));
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace papilio::fuzz
