// The fast backend: one io_uring per Io, in which everything waits together: sockets, the wake-up of other threads, and
// libuv's own loop. What can be done at once is done by a plain system call; the ring is for what has to wait, and all
// of it is posted and waited for in the one call that a turn makes.
#pragma once

#include <memory>

#include "engine/base/result.hpp"
#include "transport/io.hpp"

namespace papilio::transport {

// The error says what the running kernel lacks or forbids.
Result<std::unique_ptr<Io>> make_uring_io();

}  // namespace papilio::transport
