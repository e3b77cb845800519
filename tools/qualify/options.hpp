// What the commands of papilio-qualify share: who this node is, and over which Io it speaks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "engine/base/result.hpp"
#include "transport/identity.hpp"
#include "transport/io.hpp"

namespace papilio::qualify {

struct LineOptions {
  std::string state_dir;
  std::string security = "tls";
  std::string transport = "auto";
  std::string congestion_control;
  std::string run_id;
  [[nodiscard]] bool is_encrypted() const { return security == "tls"; }
};

// The key in DIR/identity.pem, made there if it is missing (so is DIR); without a state directory one for this process
// only.
[[nodiscard]] Result<transport::Identity> identity_of(const LineOptions& options);
[[nodiscard]] Result<std::unique_ptr<transport::Io>> io_of(const LineOptions& options,
                                                           const transport::Identity& identity);
[[nodiscard]] transport::SocketOptions socket_options_of(const LineOptions& options);

// Seconds since 1970, UTC.
[[nodiscard]] std::int64_t wall_seconds();

}  // namespace papilio::qualify
