// For files that are there whole or not at all: what is written lies under a name of its own first, and is given the
// name that counts (link, rename) when it is on the disk.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

namespace papilio::transport {

// In place of what a process that was cut short left under that name. On failure nothing is left there, and errno says
// why.
[[nodiscard]] bool write_draft(const std::string& draft, std::span<const std::byte> bytes, mode_t mode);

}  // namespace papilio::transport
