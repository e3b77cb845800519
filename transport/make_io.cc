#include "transport/io.hpp"
#include "transport/uring_io.hpp"
#include "transport/uv_io.hpp"

namespace papilio::transport {

Result<IoBackend> parse_io_backend(std::string_view name) {
  if (name == "auto") return IoBackend::automatic;
  if (name == "uring") return IoBackend::uring;
  if (name == "uv") return IoBackend::uv;
  return usage_error("transport: '" + std::string(name) + "' is not a backend: use auto, uring or uv");
}

Result<std::unique_ptr<Io>> make_io(IoBackend backend, std::string* why) {
  const auto say = [why](std::string text) {
    if (why != nullptr) *why = std::move(text);
  };
  if (backend == IoBackend::uv) {
    say("libuv, as asked for");
    return make_uv_io();
  }
  Result<std::unique_ptr<Io>> uring = make_uring_io();
  if (backend == IoBackend::uring) {
    if (!uring) return runtime_error("transport 'uring': " + uring.error().message + "; or choose 'uv' or 'auto'");
    say("io_uring, as asked for");
    return uring;
  }
  if (uring) {
    say("io_uring");
    return uring;
  }
  say("libuv, because " + uring.error().message);
  return make_uv_io();
}

}  // namespace papilio::transport
