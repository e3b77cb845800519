#include "engine/node/shard_coder.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/core/numbers.hpp"
#include "kernels/ops.h"

namespace papilio::node {

using transport::Codec;
using transport::Compression;

namespace {

std::uint64_t key_of(const core::SendOrder& order) {
  return (std::uint64_t{order.chunk} << 1U) | (order.kind == core::ShardKind::average ? 1U : 0U);
}

}  // namespace

std::string to_string(ShardFormat format) {
  return kernels::to_string(kernel_codec(format.codec)) +
         std::string(format.compression == Compression::zstd ? "+zstd" : "");
}

std::optional<ShardFormat> parse_shard_format(const std::string& text) {
  for (const kernels::Codec codec : kernels::kCodecs) {
    for (const Compression compression : {Compression::none, Compression::zstd}) {
      const ShardFormat format{static_cast<Codec>(codec), compression};
      if (text == to_string(format)) return format;
    }
  }
  return std::nullopt;
}

void ShardCoder::begin(const PartitionPlan& plan, MemberIndex self, std::span<float> gradient,
                       std::vector<ShardFormat> links, ShardFormat averages) {
  plan_ = &plan;
  self_ = self;
  gradient_ = gradient;
  links_ = std::move(links);
  averages_ = averages;
  chunks_.assign(plan.chunk_count(), {});
  const bool all_plain = averages_.is_plain() && std::all_of(links_.begin(), links_.end(),
                                                             [](const ShardFormat& link) { return link.is_plain(); });
  if (all_plain) {
    // Members that encode may still send here: but they owe nothing to this one.
    if (residual_.size() != gradient.size()) residual_ = {};
    return;
  }
  const Range own = plan.part(self);
  if (!config_.error_feedback) {
    residual_ = {};
  } else if (residual_.size() != gradient.size()) {
    residual_.assign(gradient.size(), 0.0F);
  } else if (own != own_part_) {
    // What changes its role would be counted with another weight: dropped, one rounding of each such element.
    for (const Range& part : {own, own_part_}) {
      std::fill_n(residual_.begin() + static_cast<std::ptrdiff_t>(part.begin), part.size, 0.0F);
    }
  }
  own_part_ = own;
}

void ShardCoder::end() {
  for (const Buffer& buffer : buffers_) PAPILIO_ASSERT_VALUES(buffer.users == 0, buffer.users, buffer.key);
  for (Buffer& buffer : buffers_) buffer.key = kNothing;
  plan_ = nullptr;
  gradient_ = {};
}

std::span<float> ShardCoder::values(ChunkIndex chunk) const {
  const Range range = plan_->chunk(chunk);
  return gradient_.subspan(range.begin, range.size);
}

std::span<float> ShardCoder::residual(ChunkIndex chunk) {
  if (residual_.empty()) return {};
  const Range range = plan_->chunk(chunk);
  return std::span(residual_).subspan(range.begin, range.size);
}

std::span<std::byte> ShardCoder::codec_bytes(Codec codec, ChunkIndex chunk) {
  const std::size_t size = kernels::encoded_bytes(kernel_codec(codec), plan_->chunk(chunk).size);
  if (encoded_.size() < size) encoded_.resize(size);
  return std::span(encoded_).first(size);
}

// ---- what comes in

std::uint64_t ShardCoder::elements_in(ShardFormat format, ChunkIndex chunk, std::size_t payload_bytes) const {
  constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();
  if (chunk >= plan_->chunk_count()) return kNone;  // the round refuses it for that
  const std::uint64_t elements = plan_->chunk(chunk).size;
  const std::size_t size = kernels::encoded_bytes(kernel_codec(format.codec), elements);
  const bool fits = format.compression == Compression::none ? payload_bytes == size
                                                            : payload_bytes > 0 && payload_bytes <= size;
  return fits ? elements : kNone;
}

kernels::NumberFault ShardCoder::unpack(ShardFormat format, ChunkIndex chunk, std::span<const std::byte> payload,
                                        std::span<const std::byte>& bytes) {
  bytes = payload;
  if (format.compression == Compression::none) return kernels::NumberFault::none;
  const std::span<std::byte> out = codec_bytes(format.codec, chunk);
  const kernels::NumberFault fault = kernels::decompress(payload, kernel_codec(format.codec), out);
  bytes = fault == kernels::NumberFault::none ? out : std::span<std::byte>();
  return fault;
}

kernels::NumberFault ShardCoder::decode(Codec codec, std::span<const std::byte> bytes, std::size_t elements,
                                        float limit, std::span<const float>& values) {
  if (decoded_.size() < elements) decoded_.resize(elements);
  const std::span<float> out = std::span(decoded_).first(elements);
  values = out;
  return kernels::decode(kernel_codec(codec), bytes, out, limit);
}

void ShardCoder::handle_average(ChunkIndex chunk, Codec codec, bool counted) {
  Chunk& known = chunks_[chunk];
  known.average = codec;
  if (!counted || !known.contribution || known.contribution->codec == Codec::fp32) return;
  const std::span<float> owed = residual(chunk);
  if (owed.empty()) return;
  const Codec sent_in = known.contribution->codec;
  kernels::encode_with_feedback(kernel_codec(sent_in), values(chunk), owed, codec_bytes(sent_in, chunk));
  forget_unfit(owed);
}

// What a codec cannot hold at all (more than 65504 in fp16) would grow from round to round.
void ShardCoder::forget_unfit(std::span<float> owed) const {
  constexpr float kMost = core::kLargestTerm / 64;
  constexpr float kMostOfFp16 = kernels::kLargestFp16;
  const float most = averages_.codec == Codec::fp16 ? kMostOfFp16 : kMost;
  if (!kernels::all_within(owed, most)) std::fill(owed.begin(), owed.end(), 0.0F);
}

// ---- what was averaged here

std::uint64_t ShardCoder::finish_average(ChunkIndex chunk, bool alone) {
  const std::span<float> average = values(chunk);
  Chunk& known = chunks_[chunk];
  known.average = alone ? Codec::fp32 : averages_.codec;
  if (known.average == Codec::fp32) return kernels::checksum(std::as_bytes(average));
  const kernels::Codec codec = kernel_codec(known.average);
  const std::span<std::byte> bytes = codec_bytes(known.average, chunk);
  // A part that was taken over has the residual of this member's contributions to it.
  const std::span<float> owed = plan_->reducer(chunk) == self_ ? residual(chunk) : std::span<float>();
  if (owed.empty()) {
    kernels::finalise_and_encode(average, 1, codec, bytes);
  } else {
    kernels::encode_with_feedback(codec, average, owed, bytes);
    forget_unfit(owed);
    // What this member averages is its own doing: only its own NaN, which nobody else takes, cannot be decoded.
    static_cast<void>(kernels::decode(codec, bytes, average, std::numeric_limits<float>::max()));
  }
  fill(free_buffer(), key_of({core::ShardKind::average, chunk}), {known.average, averages_.compression}, bytes);
  return kernels::checksum(bytes);
}

// ---- what goes out

std::optional<ShardCoder::Encoded> ShardCoder::take(MemberIndex to, const core::SendOrder& order) {
  const bool is_average = order.kind == core::ShardKind::average;
  Chunk& known = chunks_[order.chunk];
  if (!is_average && !known.contribution) known.contribution = links_[to];
  const ShardFormat format = is_average ? ShardFormat{known.average, averages_.compression} : *known.contribution;
  if (format.is_plain()) return std::nullopt;
  const std::uint64_t key = key_of(order);
  Buffer* buffer = find(key);
  if (buffer == nullptr) {
    const kernels::Codec codec = kernel_codec(format.codec);
    const std::span<std::byte> bytes = codec_bytes(format.codec, order.chunk);
    const std::span<float> owed = is_average || format.codec == Codec::fp32 ? std::span<float>() : residual(order.chunk);
    if (owed.empty()) {
      kernels::encode(codec, values(order.chunk), bytes);
    } else {
      if (decoded_.size() < owed.size()) decoded_.resize(owed.size());
      const std::span<float> due = std::span(decoded_).first(owed.size());
      const std::span<const float> own = values(order.chunk);
      std::transform(own.begin(), own.end(), owed.begin(), due.begin(), std::plus<>());
      kernels::encode(codec, due, bytes);
    }
    buffer = &free_buffer();
    fill(*buffer, key, format, bytes);
  }
  buffer->users += 1;
  buffer->last_use = ++uses_;
  return Encoded{{buffer->bytes.get(), buffer->size}, buffer->checksum, buffer->format};
}

void ShardCoder::release(const core::SendOrder& order) {
  Buffer* const buffer = find(key_of(order));
  if (buffer == nullptr) return;  // it was plain
  PAPILIO_ASSERT_VALUES(buffer->users > 0, order.chunk, buffer->users);
  buffer->users -= 1;
}

ShardCoder::Buffer* ShardCoder::find(std::uint64_t key) {
  const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& each) { return each.key == key; });
  return found == buffers_.end() ? nullptr : &*found;
}

// The one that was used longest ago: an average is wanted by all others at about the same time.
ShardCoder::Buffer& ShardCoder::free_buffer() {
  const std::size_t wanted = plan_->chunk_elements() * sizeof(float) + sizeof(float);
  if (buffer_bytes_ < wanted) {
    std::erase_if(buffers_, [](const Buffer& each) { return each.users == 0; });
    buffer_bytes_ = wanted;
  }
  Buffer* oldest = nullptr;
  std::size_t unused = 0;
  for (Buffer& each : buffers_) {
    if (each.users > 0) continue;
    unused += 1;
    if (oldest == nullptr || each.last_use < oldest->last_use) oldest = &each;
  }
  if (unused > kSpareBuffers) return *oldest;
  buffers_.push_back({});
  buffers_.back().bytes = std::make_unique_for_overwrite<std::byte[]>(buffer_bytes_);
  return buffers_.back();
}

void ShardCoder::fill(Buffer& buffer, std::uint64_t key, ShardFormat format, std::span<const std::byte> bytes) {
  PAPILIO_ASSERT_VALUES(bytes.size() <= buffer_bytes_, bytes.size(), buffer_bytes_);
  buffer.key = key;
  buffer.last_use = ++uses_;
  buffer.format = format;
  buffer.size = 0;
  // Only where it makes the payload shorter.
  if (format.compression == Compression::zstd && bytes.size() > 1) {
    buffer.size = kernels::compress(bytes, kernel_codec(format.codec), config_.zstd_level,
                                    {buffer.bytes.get(), bytes.size() - 1});
  }
  if (buffer.size == 0) {
    buffer.format.compression = Compression::none;
    std::memcpy(buffer.bytes.get(), bytes.data(), bytes.size());
    buffer.size = bytes.size();
  }
  buffer.checksum = kernels::checksum({buffer.bytes.get(), buffer.size});
}

}  // namespace papilio::node
