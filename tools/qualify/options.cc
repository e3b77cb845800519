#include "tools/qualify/options.hpp"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "engine/node/state_directory.hpp"
#include "transport/secure_io.hpp"

namespace papilio::qualify {

Result<transport::Identity> identity_of(const LineOptions& options) {
  if (options.state_dir.empty()) return transport::Identity::generate();
  if (::mkdir(options.state_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return usage_error("--state-dir: '" + options.state_dir + "' cannot be created (" + std::strerror(errno) +
                       "): name a directory that is yours");
  }
  return transport::Identity::load_or_create(node::identity_path(options.state_dir));
}

Result<std::unique_ptr<transport::Io>> io_of(const LineOptions& options, const transport::Identity& identity) {
  const auto backend = transport::parse_io_backend(options.transport);
  if (!backend) return backend.error();
  std::string note;
  auto io = transport::make_io(*backend, &note);
  if (!io) return io;
  spdlog::debug("transport: {}, security: {}", note, options.security);
  if (!options.is_encrypted()) return io;
  return transport::make_secure_io(std::move(*io), identity);
}

transport::SocketOptions socket_options_of(const LineOptions& options) {
  transport::SocketOptions socket;
  socket.congestion_control = options.congestion_control;
  // What waits in a socket when a phase ends delays the next one.
  socket.unsent_low_water_bytes = std::size_t{128} << 10U;
  return socket;
}

std::int64_t wall_seconds() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()).time_since_epoch().count();
}

}  // namespace papilio::qualify
