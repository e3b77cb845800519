// Where a peer listens: an IPv4 or IPv6 address and a port, written `127.0.0.1:31337` or `[::1]:31337`.
#pragma once

#include <sys/socket.h>

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/result.hpp"

namespace papilio::transport {

class Address {
 public:
  Address() = default;

  // Numeric addresses and names (names are resolved now, blocking: call it before the loop starts). The error names the
  // text and the expected form.
  static Result<Address> parse(std::string_view text);
  static Address from_socket(const sockaddr* address, socklen_t length);
  // An address of the simulated network: host number and port, written `sim/7:31337` (parse takes that, too).
  static Address simulated(std::uint32_t host, std::uint16_t port);

  [[nodiscard]] const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  [[nodiscard]] socklen_t size() const;
  [[nodiscard]] int family() const { return storage_.ss_family; }
  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] bool is_simulated() const;
  [[nodiscard]] std::uint32_t simulated_host() const;  // only of a simulated address
  // Loopback addresses: the peer shares this host's memory and its kernel.
  [[nodiscard]] bool is_local_host() const;
  [[nodiscard]] std::string to_string() const;

  bool operator==(const Address& other) const { return to_string() == other.to_string(); }

 private:
  sockaddr_storage storage_{};
};

}  // namespace papilio::transport
