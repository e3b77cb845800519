#include "engine/node/codec_choice.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "engine/base/random.hpp"
#include "kernels/ops.h"

namespace papilio::node {

using transport::Codec;

namespace {

constexpr float kAnyNumber = std::numeric_limits<float>::max();

// Of the fastest of a few runs: what else this machine does meanwhile is not the coder's.
template <typename Work>
double seconds_of(Work work) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int run = 0; run < 4; ++run) {
    const Clock::time_point begin = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return best;
}

// Bytes on the line for each of gradient.
double size_ratio(Codec codec) {
  constexpr std::size_t kMany = std::size_t{1} << 20U;
  return static_cast<double>(kernels::encoded_bytes(kernel_codec(codec), kMany)) / (kMany * sizeof(float));
}

CoderCosts measure() {
  constexpr std::size_t kElements = std::size_t{64} << 10U;  // a chunk that is in the cache, as in a round
  std::vector<float> values(kElements), residual(kElements), sum(kElements);
  Random random(1);
  for (float& value : values) value = static_cast<float>(random.uniform() - 0.5);
  CoderCosts costs;
  for (const kernels::Codec codec : kernels::kCodecs) {
    if (codec == kernels::Codec::fp32) continue;
    std::vector<std::byte> bytes(kernels::encoded_bytes(codec, kElements));
    const double encoding = seconds_of([&] { kernels::encode_with_feedback(codec, values, residual, bytes); });
    const double adding =
        seconds_of([&] { static_cast<void>(kernels::accumulate_checked(sum, 1, 1, codec, bytes, 1, kAnyNumber)); });
    // A contribution is encoded, and encoded again when its average is there; one comes in and is added up.
    costs.seconds_per_byte[static_cast<std::size_t>(codec)] =
        (2 * encoding + adding) / static_cast<double>(kElements * sizeof(float));
  }
  return costs;
}

}  // namespace

const CoderCosts& coder_costs() {
  static const CoderCosts costs = measure();
  return costs;
}

ZstdTrial try_zstd(std::span<const float> values, Codec codec, int level) {
  if (values.empty()) return {};
  std::vector<std::byte> bytes(kernels::encoded_bytes(kernel_codec(codec), values.size()));
  kernels::encode(kernel_codec(codec), values, bytes);
  std::vector<std::byte> frame(bytes.size());
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  const std::size_t size = kernels::compress(bytes, kernel_codec(codec), level, frame);
  if (size == 0) return {};
  static_cast<void>(kernels::decompress(std::span(frame).first(size), kernel_codec(codec), bytes));
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return {.ratio = static_cast<double>(size) / static_cast<double>(bytes.size()),
          .seconds_per_byte = seconds / static_cast<double>(values.size_bytes())};
}

Codec fastest_codec(double line_bytes_per_s, const CoderCosts& costs) {
  Codec best = Codec::fp32;
  double least = (1 - kWorthwhile) / line_bytes_per_s;
  for (const Codec codec : {Codec::bf16, Codec::fp16, Codec::int8}) {
    const double seconds =
        std::max(size_ratio(codec) / line_bytes_per_s, costs.seconds_per_byte[static_cast<std::size_t>(codec)]);
    if (seconds >= least) continue;
    least = seconds;
    best = codec;
  }
  return best;
}

bool zstd_pays(double line_bytes_per_s, Codec codec, const CoderCosts& costs, const ZstdTrial& trial) {
  const double coding = costs.seconds_per_byte[static_cast<std::size_t>(codec)];
  const double wire = size_ratio(codec) / line_bytes_per_s;
  const double seconds = std::max(wire * trial.ratio, coding + trial.seconds_per_byte);
  return seconds < (1 - kWorthwhile) * std::max(wire, coding);
}

}  // namespace papilio::node
