#include "transport/address.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

namespace papilio::transport {

namespace {

// A family of our own for the simulated network, outside of what any kernel assigns. The host number and the port lie
// where an IPv4 address has them.
constexpr sa_family_t kSimulatedFamily = 0x5350;
// '/' cannot occur in a host name, so this text never shadows a real host.
constexpr std::string_view kSimulatedPrefix = "sim/";

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Error bad_address(std::string_view text, std::string_view reason) {
  return usage_error("address '" + std::string(text) + "': " + std::string(reason) +
                     "; write ADDRESS:PORT as in 127.0.0.1:31337, [::1]:31337 or node.example.org:31337");
}

// The address as its own type, without breaking aliasing rules.
template <typename T>
T view_as(const sockaddr* address) {
  T view{};
  std::memcpy(&view, address, sizeof view);
  return view;
}

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad_address(text, "the port is missing");
  std::string_view host = text.substr(0, colon);
  const auto port = parse_number<std::uint16_t>(text.substr(colon + 1));
  if (!port) return bad_address(text, "the port has to be a number from 0 to 65535");
  if (host.starts_with(kSimulatedPrefix)) {
    const auto number = parse_number<std::uint32_t>(host.substr(kSimulatedPrefix.size()));
    if (!number) return bad_address(text, "the simulated host has to be a number");
    return simulated(*number, *port);
  }
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad_address(text, "an IPv6 address needs brackets around it");
  }
  if (host.empty()) return bad_address(text, "the host is missing (0.0.0.0 listens on every IPv4 interface)");

  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string name(host);
  if (const int error = ::getaddrinfo(name.c_str(), std::to_string(*port).c_str(), &hints, &found); error != 0) {
    return bad_address(text, "the host '" + name + "' is not known here (" + ::gai_strerror(error) + ")");
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  return from_socket(found->ai_addr, found->ai_addrlen);
}

Address Address::from_socket(const sockaddr* address, socklen_t length) {
  Address result;
  PAPILIO_ASSERT_VALUES(length <= sizeof result.storage_, length, sizeof result.storage_);
  std::memcpy(&result.storage_, address, length);
  return result;
}

Address Address::simulated(std::uint32_t host, std::uint16_t port) {
  sockaddr_in fields{};
  fields.sin_family = kSimulatedFamily;
  fields.sin_addr.s_addr = htonl(host);
  fields.sin_port = htons(port);
  return from_socket(reinterpret_cast<const sockaddr*>(&fields), sizeof fields);
}

bool Address::is_simulated() const { return storage_.ss_family == kSimulatedFamily; }

std::uint32_t Address::simulated_host() const {
  PAPILIO_ASSERT(is_simulated());
  return ntohl(view_as<sockaddr_in>(data()).sin_addr.s_addr);
}

socklen_t Address::size() const {
  switch (storage_.ss_family) {
    case kSimulatedFamily:
    case AF_INET: return sizeof(sockaddr_in);
    case AF_INET6: return sizeof(sockaddr_in6);
    default: return sizeof(sa_family_t);
  }
}

std::uint16_t Address::port() const {
  switch (storage_.ss_family) {
    case kSimulatedFamily:
    case AF_INET: return ntohs(view_as<sockaddr_in>(data()).sin_port);
    case AF_INET6: return ntohs(view_as<sockaddr_in6>(data()).sin6_port);
    default: return 0;
  }
}

bool Address::is_local_host() const {
  if (storage_.ss_family == AF_INET) {
    return ntohl(view_as<sockaddr_in>(data()).sin_addr.s_addr) >> 24U == IN_LOOPBACKNET;
  }
  if (storage_.ss_family != AF_INET6) return false;
  const in6_addr host = view_as<sockaddr_in6>(data()).sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&host) || (IN6_IS_ADDR_V4MAPPED(&host) && host.s6_addr[12] == IN_LOOPBACKNET);
}

std::string Address::to_string() const {
  std::string text;
  char numeric[INET6_ADDRSTRLEN] = "";
  if (is_simulated()) {
    text.append(kSimulatedPrefix).append(std::to_string(simulated_host()));
  } else if (storage_.ss_family == AF_INET) {
    const sockaddr_in fields = view_as<sockaddr_in>(data());
    text.append(::inet_ntop(AF_INET, &fields.sin_addr, numeric, sizeof numeric));
  } else if (storage_.ss_family == AF_INET6) {
    const sockaddr_in6 fields = view_as<sockaddr_in6>(data());
    text.append("[").append(::inet_ntop(AF_INET6, &fields.sin6_addr, numeric, sizeof numeric)).append("]");
  } else {
    return "(no address)";
  }
  return text.append(":").append(std::to_string(port()));
}

}  // namespace papilio::transport
