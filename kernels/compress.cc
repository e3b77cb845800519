// Zstd over grouped bytes. Contexts and the grouped copy belong to the thread and stay: after the first chunk nothing
// is allocated.
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/base/assert.hpp"
#include "kernels/ops.h"

namespace papilio::kernels {
namespace {

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

struct Workshop {
  std::unique_ptr<ZSTD_CCtx, FreeContext> compressor;
  std::unique_ptr<ZSTD_DCtx, FreeContext> decompressor;
  std::vector<std::byte> grouped;

  std::span<std::byte> room_for(std::size_t bytes) {
    if (grouped.size() < bytes) grouped.resize(bytes);
    return std::span(grouped).first(bytes);
  }
};

Workshop& workshop() {
  thread_local Workshop own;
  return own;
}

// A library that was built with them reads the formats of zstd before 0.8, too, and frames to be skipped: none is what
// a sender writes, and their readers are old code that a stranger is not to reach (RFC 8878, section 3.1.1).
bool is_zstd_frame(std::span<const std::byte> frame) {
  const std::uint32_t magic = ZSTD_MAGICNUMBER;
  return frame.size() >= sizeof(magic) && std::memcmp(frame.data(), &magic, sizeof(magic)) == 0;
}

}  // namespace

std::size_t compress(std::span<const std::byte> bytes, Codec codec, int level, std::span<std::byte> out) {
  Workshop& own = workshop();
  if (!own.compressor) own.compressor.reset(ZSTD_createCCtx());
  if (!own.compressor) return 0;  // without memory for it, the payload goes as it is
  const std::span<std::byte> grouped = own.room_for(bytes.size());
  group_bytes(codec, bytes, grouped);
  const std::size_t length = ZSTD_compressCCtx(own.compressor.get(), out.data(), out.size(), grouped.data(),
                                               grouped.size(), std::clamp(level, ZSTD_minCLevel(), ZSTD_maxCLevel()));
  return ZSTD_isError(length) != 0 ? 0 : length;
}

NumberFault decompress(std::span<const std::byte> frame, Codec codec, std::span<std::byte> out) {
  // Both sizes are in the headers of the frame and its blocks: whatever they say, it is compared before anything is
  // decompressed, and the decompressor gets exactly the room that was due.
  if (!is_zstd_frame(frame) || ZSTD_getFrameContentSize(frame.data(), frame.size()) != out.size() ||
      ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size()) {
    return NumberFault::bad_frame;
  }
  Workshop& own = workshop();
  if (!own.decompressor) own.decompressor.reset(ZSTD_createDCtx());
  PAPILIO_ASSERT(own.decompressor != nullptr);
  const std::span<std::byte> grouped = own.room_for(out.size());
  const std::size_t length =
      ZSTD_decompressDCtx(own.decompressor.get(), grouped.data(), grouped.size(), frame.data(), frame.size());
  if (ZSTD_isError(length) != 0 || length != out.size()) return NumberFault::bad_frame;
  ungroup_bytes(codec, grouped, out);
  return NumberFault::none;
}

}  // namespace papilio::kernels
