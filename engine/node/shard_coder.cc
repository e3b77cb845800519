#include "engine/node/shard_coder.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
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

// Of memory that grows to what is needed most.
std::span<std::byte> first_bytes(std::vector<std::byte>& memory, std::size_t size) {
  if (memory.size() < size) memory.resize(size);
  return std::span(memory).first(size);
}

constexpr float kAnyNumber = std::numeric_limits<float>::max();

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

float element_of(kernels::Codec codec, std::span<const std::byte> bytes, std::size_t element) {
  float value = 0;
  if (codec == kernels::Codec::fp32) {
    std::memcpy(&value, bytes.data() + element * sizeof(float), sizeof(value));
    return value;
  }
  const std::span<const std::byte> one = bytes.subspan(element * 2, 2);
  const bool is_finite = kernels::decode(codec, one, {&value, 1}, kAnyNumber) == kernels::NumberFault::none;
  return is_finite ? value : std::numeric_limits<float>::quiet_NaN();
}

// The first block whose scale or bytes no encoder writes.
std::size_t bad_block(std::span<const std::byte> bytes, std::size_t elements, float& scale) {
  const std::size_t blocks = kernels::int8_blocks(elements);
  std::array<std::byte, sizeof(float) + kernels::kInt8Block> alone;
  for (std::size_t block = 0; block < blocks; ++block) {
    const std::size_t begin = block * kernels::kInt8Block;
    const std::size_t size = std::min(kernels::kInt8Block, elements - begin);
    std::memcpy(alone.data(), bytes.data() + block * sizeof(float), sizeof(float));
    std::memcpy(alone.data() + sizeof(float), bytes.data() + blocks * sizeof(float) + begin, size);
    std::memcpy(&scale, alone.data(), sizeof(scale));
    const std::span<const std::byte> payload(alone.data(), sizeof(float) + size);
    if (kernels::check_encoded(kernels::Codec::int8, payload, size, kAnyNumber) != kernels::NumberFault::none) {
      return block;
    }
  }
  return blocks;
}

// The first element that is beyond the limit, or no number.
std::size_t bad_element(kernels::Codec codec, std::span<const std::byte> bytes, std::size_t elements, float limit,
                        float& value) {
  if (codec == kernels::Codec::int8) {  // its blocks are well
    std::vector<float> values(elements);
    static_cast<void>(kernels::decode(codec, bytes, values, kAnyNumber));
    const std::size_t element = kernels::first_not_within(values, limit);
    PAPILIO_ASSERT_VALUES(element < elements, element, elements);
    value = values[element];
    return element;
  }
  for (std::size_t element = 0; element < elements; ++element) {
    value = element_of(codec, bytes, element);
    if (!kernels::all_within({&value, 1}, limit)) return element;
  }
  return elements;
}

}  // namespace

NumberComplaint describe(kernels::NumberFault fault, kernels::Codec codec, std::span<const std::byte> bytes,
                         std::size_t elements, float limit) {
  using kernels::NumberFault;
  const std::string in_codec = std::string(" (") + kernels::to_string(codec) + ")";
  float value = 0;
  if (fault == NumberFault::bad_scale || fault == NumberFault::bad_value) {
    const std::size_t block = bad_block(bytes, elements, value);
    return {.where = "block " + std::to_string(block) + " of ",
            .what = " has " + std::string(to_string(fault)) + ": " + text_of(value) + in_codec,
            .is_about_values = !std::isfinite(value)};
  }
  if (fault != NumberFault::not_finite && fault != NumberFault::too_large) {
    return {.where = "", .what = " is " + std::string(to_string(fault)) + in_codec, .is_about_values = false};
  }
  const std::size_t element = bad_element(codec, bytes, elements, limit, value);
  const std::string excess = std::isfinite(value) ? ", beyond the largest that can be averaged, " + text_of(limit) : "";
  return {.where = "element " + std::to_string(element) + " of ",
          .what = " is " + text_of(value) + excess + (codec == kernels::Codec::fp32 ? "" : in_codec),
          .is_about_values = true};
}

std::string to_string(ShardFormat format) {
  return kernels::to_string(kernel_codec(format.codec)) +
         std::string(format.compression == Compression::zstd ? "+zstd" : "");
}

std::vector<std::string> format_choices() {
  std::vector<std::string> choices{"auto"};
  for (const Compression compression : {Compression::none, Compression::zstd}) {
    for (const kernels::Codec codec : kernels::kCodecs) {
      choices.push_back(to_string(ShardFormat{static_cast<Codec>(codec), compression}));
    }
  }
  return choices;
}

Result<FormatChoice> parse_format_choice(const std::string& text) {
  if (text == "auto") return FormatChoice();
  for (const Compression compression : {Compression::none, Compression::zstd}) {
    for (const kernels::Codec codec : kernels::kCodecs) {
      const ShardFormat format{static_cast<Codec>(codec), compression};
      if (text == to_string(format)) return FormatChoice(format);
    }
  }
  return usage_error("codec: '" + text +
                     "' is none: use auto, fp32, bf16, fp16 or int8, the last four also with +zstd");
}

void ShardCoder::begin(const PartitionPlan& plan, MemberIndex self, std::span<float> gradient,
                       std::vector<ShardFormat> links, ShardFormat averages) {
  plan_ = &plan;
  self_ = self;
  gradient_ = gradient;
  links_ = std::move(links);
  averages_ = averages;
  chunks_.assign(plan.chunk_count(), {});
  const auto is_plain = [](const ShardFormat& format) { return format.is_plain(); };
  if (averages_.is_plain() && std::all_of(links_.begin(), links_.end(), is_plain)) return;
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
  return first_bytes(encoded_, kernels::encoded_bytes(kernel_codec(codec), plan_->chunk(chunk).size));
}

// ---- what comes in

std::uint64_t ShardCoder::elements_in(ShardFormat format, ChunkIndex chunk, std::size_t payload_bytes) const {
  constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();
  if (chunk >= plan_->chunk_count()) return kNone;  // the round refuses it for that
  const std::uint64_t elements = plan_->chunk(chunk).size;
  const std::size_t size = kernels::encoded_bytes(kernel_codec(format.codec), elements);
  const bool fits =
      format.compression == Compression::none ? payload_bytes == size : payload_bytes > 0 && payload_bytes <= size;
  return fits ? elements : kNone;
}

kernels::NumberFault ShardCoder::unpack(ShardFormat format, ChunkIndex chunk, std::span<const std::byte> payload,
                                        std::span<const std::byte>& bytes) {
  bytes = payload;
  if (format.compression == Compression::none) return kernels::NumberFault::none;
  const std::span<std::byte> out =
      first_bytes(unpacked_, kernels::encoded_bytes(kernel_codec(format.codec), plan_->chunk(chunk).size));
  const kernels::NumberFault fault = kernels::decompress(payload, kernel_codec(format.codec), out);
  bytes = fault == kernels::NumberFault::none ? out : std::span<std::byte>();
  return fault;
}

std::span<const float> ShardCoder::decode(Codec codec, std::span<const std::byte> bytes, std::size_t elements) {
  if (decoded_.size() < elements) decoded_.resize(elements);
  const std::span<float> out = std::span(decoded_).first(elements);
  kernels::decode_accepted(kernel_codec(codec), bytes, out);
  return out;
}

void ShardCoder::handle_average(ChunkIndex chunk, Codec codec, bool counted, bool spent) {
  Chunk& known = chunks_[chunk];
  known.average = codec;
  if (plan_->reducer(chunk) == self_) return;  // what is owed there is owed by this member's averages
  if (spent) {
    std::ranges::fill(residual(chunk), 0.0F);  // what it was a rounding of is not there any more
    return;
  }
  if (!counted || !known.contribution || known.contribution->codec == Codec::fp32) return;
  const std::span<float> owed = residual(chunk);
  if (owed.empty()) return;
  const Codec sent_in = known.contribution->codec;
  kernels::encode_with_feedback(kernel_codec(sent_in), values(chunk), owed, codec_bytes(sent_in, chunk));
  forget_unfit(owed, sent_in);
}

// What a codec cannot hold at all (more than 65504 in fp16) would grow from round to round.
void ShardCoder::forget_unfit(std::span<float> owed, Codec codec) {
  const float most = codec == Codec::fp16 ? kernels::kLargestFp16 : core::kLargestTerm / 64;
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
    forget_unfit(owed, known.average);
    // Only a member's own NaN cannot be decoded. Nobody else takes it, and here it has to be what its bytes say.
    if (kernels::decode(codec, bytes, average, kAnyNumber) != kernels::NumberFault::none) {
      kernels::finalise_and_encode(average, 1, codec, bytes);
    }
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
    const std::span<float> owed = is_average || format.codec == Codec::fp32 || plan_->reducer(order.chunk) == self_
                                      ? std::span<float>()
                                      : residual(order.chunk);
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
  const auto found =
      std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& each) { return each.key == key; });
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
