// Where a connection comes from, as the door and the test desk count it: the core knows no sockets.
#pragma once

#include "engine/core/door.hpp"
#include "transport/address.hpp"

namespace papilio::node {

[[nodiscard]] core::AddressBlock address_block_of(const transport::Address& address);

}  // namespace papilio::node
