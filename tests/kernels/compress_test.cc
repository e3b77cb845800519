// Compression of payloads: what comes back is what went in, and frames that were made to harm are refused before
// anything is written.
#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/ops.h"
#include "tests/kernels/drawing.h"

namespace papilio::kernels {
namespace {

using Bytes = std::vector<std::byte>;

Bytes payload(Codec codec, std::size_t elements, std::uint64_t seed) {
  Random random(seed);
  Bytes bytes(encoded_bytes(codec, elements));
  encode(codec, draw(random, Kind::ordinary, elements), bytes);
  return bytes;
}

Bytes compressed(const Bytes& bytes, Codec codec) {
  Bytes frame(ZSTD_compressBound(bytes.size()));
  frame.resize(compress(bytes, codec, 1, frame));
  return frame;
}

Bytes frame_of(const Bytes& content) {
  Bytes frame(ZSTD_compressBound(content.size()));
  frame.resize(ZSTD_compress(frame.data(), frame.size(), content.data(), content.size(), 1));
  return frame;
}

// Refused, and nothing written.
void expect_refused(const Bytes& frame, std::size_t size, const char* what) {
  Bytes out(size, std::byte{0x5a});
  EXPECT_EQ(decompress(frame, Codec::fp32, out), NumberFault::bad_frame) << what;
  EXPECT_TRUE(std::all_of(out.begin(), out.end(), [](std::byte each) { return each == std::byte{0x5a}; })) << what;
}

TEST(Compress, ComesBackAsItWas) {
  for (const Codec codec : kCodecs) {
    for (const std::size_t elements : {0, 1, 255, 256, 257, 1000, 131'072}) {
      const Bytes bytes = payload(codec, elements, elements);
      const Bytes frame = compressed(bytes, codec);
      ASSERT_GT(frame.size(), 0U);
      Bytes out(bytes.size(), std::byte{1});
      ASSERT_EQ(decompress(frame, codec, out), NumberFault::none) << to_string(codec) << ", " << elements;
      ASSERT_EQ(out, bytes) << to_string(codec) << ", " << elements;
    }
  }
}

TEST(Compress, GroupingIsWhatMakesFloatsShrink) {
  for (const Codec codec : {Codec::fp32, Codec::bf16}) {
    const Bytes bytes = payload(codec, 131'072, 3);
    EXPECT_LT(compressed(bytes, codec).size(), bytes.size() * 95 / 100) << to_string(codec);
    EXPECT_LT(compressed(bytes, codec).size(), frame_of(bytes).size()) << to_string(codec);
  }
}

TEST(Compress, TheSameBytesEachTime) {
  const Bytes bytes = payload(Codec::bf16, 10'000, 4);
  const Bytes first = compressed(bytes, Codec::bf16);
  EXPECT_GT(compressed(payload(Codec::fp32, 5000, 5), Codec::fp32).size(), 0U);  // something else in between
  EXPECT_EQ(compressed(bytes, Codec::bf16), first);
}

TEST(Compress, SaysWhenItDoesNotFit) {
  const Bytes bytes = payload(Codec::fp32, 1000, 6);
  Bytes out(compressed(bytes, Codec::fp32).size() - 1);
  EXPECT_EQ(compress(bytes, Codec::fp32, 1, out), 0U);
  EXPECT_EQ(compress(bytes, Codec::fp32, 1, {}), 0U);
}

TEST(Compress, EveryTruncatedFrameIsRefused) {
  const Bytes frame = compressed(payload(Codec::fp32, 300, 7), Codec::fp32);
  for (std::size_t size = 0; size < frame.size(); ++size) {
    expect_refused(Bytes(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size)), 1200, "truncated");
  }
}

// A few bytes that would become gigabytes: what they declare is compared first.
TEST(Compress, BombsAreRefused) {
  const Bytes zeros(std::size_t{64} << 20U);
  const Bytes bomb = frame_of(zeros);
  ASSERT_LT(bomb.size(), 10'000U);
  expect_refused(bomb, 4096, "declares more than is due");

  // One that declares what is due, and holds more: the size in its header is overwritten.
  Bytes liar = frame_of(Bytes(8192));
  ASSERT_EQ(ZSTD_getFrameContentSize(liar.data(), liar.size()), 8192U);
  // The content size follows the magic number and the descriptor: 2 bytes, holding the size less 256.
  const std::uint16_t declared = 4096 - 256;
  std::memcpy(liar.data() + 5, &declared, sizeof(declared));
  ASSERT_EQ(ZSTD_getFrameContentSize(liar.data(), liar.size()), 4096U);
  expect_refused(liar, 4096, "holds more than it declares");
  expect_refused(frame_of(Bytes(4000)), 4096, "holds less");

  // Without a declared size.
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  const Bytes content(4096);
  Bytes frame(ZSTD_compressBound(content.size()));
  frame.resize(ZSTD_compress2(context, frame.data(), frame.size(), content.data(), content.size()));
  ZSTD_freeCCtx(context);
  expect_refused(frame, 4096, "declares nothing");
}

// Frames of the formats before 0.8, whole and of the size that is due: a library that still reads them would decompress
// them, in code that few look at any more.
TEST(Compress, FormatsOfOldAreRefused) {
  struct Old {
    const char* what;
    std::uint32_t magic;
    Bytes header;  // what follows the magic number, up to the first block
  };
  const auto bytes_of = [](std::initializer_list<int> values) {
    Bytes bytes;
    for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
    return bytes;
  };
  // The sizes there are 2 bytes, holding 4096 less 256; before 0.6 a frame declares none.
  const Old all[] = {{"0.4", 0xFD2FB524U, bytes_of({0x01})},
                     {"0.5", 0xFD2FB525U, bytes_of({0x01})},
                     {"0.6", 0xFD2FB526U, bytes_of({0x80, 0x00, 0x0f})},
                     {"0.7", 0xFD2FB527U, bytes_of({0x60, 0x00, 0x0f})}};
  for (const Old& old : all) {
    Bytes frame(sizeof(old.magic));
    std::memcpy(frame.data(), &old.magic, sizeof(old.magic));
    const auto append = [&frame](const Bytes& more) { frame.insert(frame.end(), more.begin(), more.end()); };
    append(old.header);
    append(bytes_of({0x40, 0x10, 0x00}));  // a raw block of 4096 bytes
    append(Bytes(4096));
    append(bytes_of({0xc0, 0x00, 0x00}));  // the end
    expect_refused(frame, 4096, old.what);
  }
}

TEST(Compress, MoreThanOneFrameIsRefused) {
  const Bytes half = frame_of(Bytes(2048)), whole = frame_of(Bytes(4096)), nothing = frame_of({});
  const auto joined = [](Bytes first, const Bytes& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
  };
  expect_refused(joined(half, half), 4096, "two halves");
  expect_refused(joined(whole, nothing), 4096, "an empty frame behind it");
  expect_refused(joined(whole, Bytes(1)), 4096, "a byte behind it");
  const unsigned char skippable[] = {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0};
  const auto* bytes = reinterpret_cast<const std::byte*>(skippable);
  expect_refused(joined(Bytes(bytes, bytes + sizeof(skippable)), whole), 4096, "a frame to skip before it");
  expect_refused(Bytes(bytes, bytes + sizeof(skippable)), 4096, "nothing but a frame to skip");
  expect_refused(Bytes(bytes, bytes + sizeof(skippable)), 0, "nothing but a frame to skip, where nothing is due");
}

TEST(Compress, FlippedBitsAreRefusedOrStayWithinTheChunk) {
  Random random(8);
  const Bytes bytes = payload(Codec::int8, 2000, 9);
  const Bytes frame = compressed(bytes, Codec::int8);
  for (int i = 0; i < 3000; ++i) {
    Bytes damaged = frame;
    for (std::uint64_t flips = 1 + random.below(4); flips > 0; --flips) {
      const std::size_t bit = random.below(8 * damaged.size());
      damaged[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    }
    Bytes out(bytes.size() + 2, std::byte{0x5a});
    const NumberFault fault = decompress(damaged, Codec::int8, std::span(out).first(bytes.size()));
    EXPECT_TRUE(fault == NumberFault::none || fault == NumberFault::bad_frame);
    EXPECT_EQ(out[bytes.size()], std::byte{0x5a});
    if (fault != NumberFault::none) {
      EXPECT_EQ(out[0], std::byte{0x5a});
    }
  }
}

}  // namespace
}  // namespace papilio::kernels
