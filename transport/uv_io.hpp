// The portable backend: libuv waits, our own nonblocking sockets do the rest. libuv's TCP handles are not used because
// they read into buffers of their choosing and cannot splice; what they would save is small.
#pragma once

#include <memory>

#include "engine/base/result.hpp"
#include "transport/io.hpp"

namespace papilio::transport {

// The error says what the operating system refused (descriptors, memory).
Result<std::unique_ptr<Io>> make_uv_io();

}  // namespace papilio::transport
