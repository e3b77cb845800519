// TLS 1.3 as a layer: an Io over another Io. What goes through it comes out the same on the other side, and nobody
// between can read or change it; both sides prove that they hold the key of their id. Everything above (flows, meshes,
// rounds) and everything below (io_uring, libuv, the simulated network) stays as it is: bytes in, bytes out.
//
// A dialled stream is connected once the other side has proved its key. An accepted stream is handed over at once, so
// that its owner can count it and set it a deadline; its reads end only after the handshake. Either way peer_key() is
// there from the first byte that is read on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "engine/base/result.hpp"
#include "transport/identity.hpp"
#include "transport/io.hpp"
#include "transport/tls.hpp"

namespace papilio::transport {

struct SecureOptions {
  // Ciphertext that a peer may send before it has proved who it is.
  std::size_t handshake_bytes = std::size_t{16} << 10U;
  // Records sent under one key before the next one is taken.
  std::uint64_t records_per_key = TlsSession::kRecordsPerKey;
};

// Takes over `io`, which is used through the returned one only from then on.
Result<std::unique_ptr<Io>> make_secure_io(std::unique_ptr<Io> io, const Identity& identity,
                                           const SecureOptions& options = {});

}  // namespace papilio::transport
