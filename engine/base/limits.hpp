// Every maximum of the engine in one place, with the arithmetic between them checked by the compiler.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/base/ids.hpp"

namespace papilio {

// Members of one all-reduce group; larger swarms are grids of groups. One bit each in a Coverage.
inline constexpr std::uint32_t kMaximumMembers = 64;
static_assert(kMaximumMembers <= 8 * sizeof(Coverage));

// Bytes of one chunk: a power of two, one size per round.
inline constexpr std::size_t kMinimumChunkBytes = std::size_t{64} << 10U;
inline constexpr std::size_t kMaximumChunkBytes = std::size_t{4} << 20U;

// Bytes of one frame's header (FlatBuffers and padding), and of its payload.
inline constexpr std::size_t kMaximumHeaderBytes = std::size_t{64} << 10U;
inline constexpr std::size_t kMaximumPayloadBytes = kMaximumChunkBytes;

// Elements of one gradient: a chunk index and a byte count of fp32 must stay within their types.
inline constexpr std::uint64_t kMaximumElements = std::uint64_t{1} << 40U;

// TCP connections of one link.
inline constexpr std::uint32_t kMaximumFlows = 16;

}  // namespace papilio
