#include "engine/node/address_block.hpp"

#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace papilio::node {

core::AddressBlock address_block_of(const transport::Address& address) {
  if (address.is_simulated()) {
    const std::uint32_t host = address.simulated_host();
    return core::AddressBlock::of_ipv4({static_cast<std::uint8_t>(host >> 24U), static_cast<std::uint8_t>(host >> 16U),
                                        static_cast<std::uint8_t>(host >> 8U), static_cast<std::uint8_t>(host)});
  }
  if (address.is_local_host()) return core::AddressBlock::local_host();
  if (address.family() == AF_INET6) {
    std::array<std::uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in6*>(address.data())->sin6_addr, bytes.size());
    return core::AddressBlock::of_ipv6(bytes);
  }
  std::array<std::uint8_t, 4> bytes{};
  std::memcpy(bytes.data(), &reinterpret_cast<const sockaddr_in*>(address.data())->sin_addr, bytes.size());
  return core::AddressBlock::of_ipv4(bytes);
}

}  // namespace papilio::node
