#include "transport/io.hpp"
#include "transport/uv_io.hpp"

namespace papilio::transport {

Result<std::unique_ptr<Io>> make_io(IoBackend backend, std::string* why) {
  if (backend == IoBackend::uring) {
    return usage_error("transport 'uring': this build has no io_uring backend; choose 'uv' or 'auto'");
  }
  if (why != nullptr) *why = backend == IoBackend::uv ? "libuv, as asked for" : "libuv: no io_uring backend here";
  return make_uv_io();
}

}  // namespace papilio::transport
