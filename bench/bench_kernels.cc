// Every operation of kernels/ops.h and kernels/robust.h, by codec, by instruction set, by size. The size is that of the
// values as fp32, whatever they travel as.
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "bench/suite.h"
#include "kernels/ops.h"
#include "kernels/robust.h"
#include "kernels/targets.h"

namespace papilio::bench {
namespace {

using kernels::Codec;
using State = benchmark::State;

// From what stays in the first-level cache to what no cache holds, with the sizes of chunks between.
constexpr std::int64_t kSizes[] = {16 << 10, 64 << 10, 512 << 10, 4 << 20, 64 << 20};
constexpr float kLimit = 1e30F;

void add(const std::string& name, const kernels::Target& target, std::int64_t bytes, std::function<void(State&)> body) {
  const std::string full = name + "/" + target.name + "/" + std::to_string(bytes);
  benchmark::RegisterBenchmark(full.c_str(), [target, body = std::move(body)](State& state) {
    kernels::use_target(target);
    body(state);
    kernels::use_best_target();
  })->UseManualTime();
}

// What one benchmark works on.
struct Data {
  explicit Data(std::int64_t size)
      : elements(static_cast<std::size_t>(size) / sizeof(float)),
        bytes(static_cast<double>(size)),
        sum(random_values(elements, 1)),
        values(random_values(elements, 2)) {}
  // The values in the bytes of a codec.
  std::vector<std::byte> encoded(Codec codec) const {
    std::vector<std::byte> out(kernels::encoded_bytes(codec, elements));
    kernels::encode(codec, values, out);
    return out;
  }
  std::size_t elements;
  double bytes;
  std::vector<float> sum, values;
};

double size_of(const std::vector<std::byte>& payload) { return static_cast<double>(payload.size()); }

void add_plain(const kernels::Target& target, std::int64_t size) {
  add("accumulate", target, size, [size](State& state) {
    Data data(size);
    run_against_memcpy(state, 3 * data.bytes, [&] { kernels::accumulate(data.sum, 0.5F, 0.25F, data.values); });
  });
  add("accumulate_and_finalise", target, size, [size](State& state) {
    Data data(size);
    run_against_memcpy(state, 3 * data.bytes,
                       [&] { kernels::accumulate_and_finalise(data.sum, 0.5F, 0.25F, data.values, 0.75F); });
  });
  // Times 1, since repeated shrinking would end in subnormal numbers, which are slow; no kernel looks at the factor.
  add("finalise", target, size, [size](State& state) {
    Data data(size);
    run_against_memcpy(state, 2 * data.bytes, [&] { kernels::finalise(data.sum, 1.0F); });
  });
  add("checksum", target, size, [size](State& state) {
    const Data data(size);
    run_against_memcpy(state, data.bytes,
                       [&] { benchmark::DoNotOptimize(kernels::checksum(std::as_bytes(std::span(data.values)))); });
  });
  add("all_within", target, size, [size](State& state) {
    const Data data(size);
    run_against_memcpy(state, data.bytes, [&] { benchmark::DoNotOptimize(kernels::all_within(data.values, 1.0F)); });
  });
  add("inspect", target, size, [size](State& state) {
    const Data data(size);
    run_against_memcpy(state, data.bytes, [&] { benchmark::DoNotOptimize(kernels::inspect(data.values)); });
  });
  add("copy_streaming", target, size, [size](State& state) {
    Data data(size);
    run_against_memcpy(state, 2 * data.bytes, [&] {
      kernels::copy_streaming(std::as_writable_bytes(std::span(data.sum)), std::as_bytes(std::span(data.values)));
    });
  });
  // Sums of subnormal numbers, which some processors add up much more slowly: what a peer could cost others by them.
  add("accumulate_subnormal", target, size, [size](State& state) {
    const std::vector<float> values(static_cast<std::size_t>(size) / sizeof(float), 1e-40F);
    std::vector<float> sum = values;
    run_against_memcpy(state, 3.0 * static_cast<double>(size), [&] { kernels::accumulate(sum, 0.5F, 0.5F, values); });
  });
  // What the look at all numbers costs: the same sum with it and without it, in turn.
  add("checked_by_unchecked", target, size, [size](State& state) {
    Data data(size);
    const std::vector<std::byte> payload = data.encoded(Codec::fp32);
    const auto* values = reinterpret_cast<const float*>(payload.data());
    run_in_turn(
        state, 3 * data.bytes,
        [&] {
          benchmark::DoNotOptimize(
              kernels::accumulate_checked(data.sum, 0.5F, 0.25F, Codec::fp32, payload, 1.0F, kLimit));
        },
        3 * data.bytes,
        [&] {
          kernels::accumulate_and_finalise(data.sum, 0.5F, 0.25F, {values, data.elements}, 1.0F);
        },
        "of_unchecked");
  });
}

// What a reducer does with a contribution that has just arrived; its share of the time is what the check costs.
void add_contribution(const kernels::Target& target, std::int64_t size, bool checked) {
  add(checked ? "contribution_checked" : "contribution_unchecked", target, size, [size, checked](State& state) {
    Data data(size);
    const std::span<const std::byte> payload = std::as_bytes(std::span(data.values));
    run_against_memcpy(state, 3 * data.bytes, [&] {
      benchmark::DoNotOptimize(kernels::checksum(payload));
      if (checked) {
        benchmark::DoNotOptimize(
            kernels::accumulate_checked(data.sum, 0.5F, 0.25F, Codec::fp32, payload, 1.0F, kLimit));
      } else {
        kernels::accumulate(data.sum, 0.5F, 0.25F, data.values);
      }
    });
  });
}

void add_codec(const kernels::Target& target, std::int64_t size, Codec codec) {
  const std::string suffix = std::string("/") + kernels::to_string(codec);
  add("check_encoded" + suffix, target, size, [size, codec](State& state) {
    const Data data(size);
    const std::vector<std::byte> payload = data.encoded(codec);
    run_against_memcpy(state, size_of(payload), [&] {
      benchmark::DoNotOptimize(kernels::check_encoded(codec, payload, data.elements, kLimit));
    });
  });
  add("accumulate_checked" + suffix, target, size, [size, codec](State& state) {
    Data data(size);
    const std::vector<std::byte> payload = data.encoded(codec);
    run_against_memcpy(state, 2 * data.bytes + size_of(payload), [&] {
      benchmark::DoNotOptimize(kernels::accumulate_checked(data.sum, 0.5F, 0.25F, codec, payload, 1.0F, kLimit));
    });
  });
  add("encode" + suffix, target, size, [size, codec](State& state) {
    const Data data(size);
    std::vector<std::byte> payload = data.encoded(codec);
    run_against_memcpy(state, data.bytes + size_of(payload), [&] { kernels::encode(codec, data.values, payload); });
    state.counters["input_GB/s"] = state.counters["GB/s"] * data.bytes / (data.bytes + size_of(payload));
  });
  add("encode_with_feedback" + suffix, target, size, [size, codec](State& state) {
    Data data(size);
    std::vector<std::byte> payload = data.encoded(codec);
    std::vector<float> residual(data.elements);
    run_against_memcpy(state, 3 * data.bytes + size_of(payload),
                       [&] { kernels::encode_with_feedback(codec, data.values, residual, payload); });
    state.counters["input_GB/s"] = state.counters["GB/s"] * data.bytes / (3 * data.bytes + size_of(payload));
  });
  add("decode" + suffix, target, size, [size, codec](State& state) {
    Data data(size);
    const std::vector<std::byte> payload = data.encoded(codec);
    run_against_memcpy(state, data.bytes + size_of(payload),
                       [&] { benchmark::DoNotOptimize(kernels::decode(codec, payload, data.sum, kLimit)); });
  });
  add("finalise_and_encode" + suffix, target, size, [size, codec](State& state) {
    Data data(size);
    std::vector<std::byte> payload = data.encoded(codec);
    run_against_memcpy(state, 2 * data.bytes + size_of(payload),
                       [&] { kernels::finalise_and_encode(data.sum, 1.0F, codec, payload); });
  });
}

// Normally distributed, as gradients are: what compresses depends on the values. The ratio is the counter `shrinks_by`.
std::vector<std::byte> gradient_like(Codec codec, std::size_t elements) {
  Random random(5);
  std::vector<float> values(elements);
  for (float& value : values) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    value = static_cast<float>((sum - 6) * 1e-3);
  }
  std::vector<std::byte> payload(kernels::encoded_bytes(codec, elements));
  kernels::encode(codec, values, payload);
  return payload;
}

void add_compression(const kernels::Target& target, std::int64_t size, Codec codec) {
  const std::string suffix = std::string("/") + kernels::to_string(codec);
  const std::size_t elements = static_cast<std::size_t>(size) / sizeof(float);
  add("group_bytes" + suffix, target, size, [elements, codec](State& state) {
    const std::vector<std::byte> payload = gradient_like(codec, elements);
    std::vector<std::byte> out(payload.size());
    run_against_memcpy(state, 2 * size_of(payload), [&] { kernels::group_bytes(codec, payload, out); });
  });
  add("ungroup_bytes" + suffix, target, size, [elements, codec](State& state) {
    const std::vector<std::byte> payload = gradient_like(codec, elements);
    std::vector<std::byte> out(payload.size());
    run_against_memcpy(state, 2 * size_of(payload), [&] { kernels::ungroup_bytes(codec, payload, out); });
  });
  add("compress" + suffix, target, size, [elements, codec](State& state) {
    const std::vector<std::byte> payload = gradient_like(codec, elements);
    std::vector<std::byte> out(2 * payload.size() + 1024);
    std::size_t length = 0;
    run_against_memcpy(state, size_of(payload), [&] { length = kernels::compress(payload, codec, 1, out); });
    state.counters["shrinks_by"] = size_of(payload) / static_cast<double>(length);
  });
  add("decompress" + suffix, target, size, [elements, codec](State& state) {
    const std::vector<std::byte> payload = gradient_like(codec, elements);
    std::vector<std::byte> frame(2 * payload.size() + 1024), out(payload.size());
    frame.resize(kernels::compress(payload, codec, 1, frame));
    run_against_memcpy(state, size_of(payload),
                       [&] { benchmark::DoNotOptimize(kernels::decompress(frame, codec, out)); });
  });
}

void add_robust(const kernels::Target& target, std::int64_t size, std::size_t members) {
  const std::string suffix = "/of" + std::to_string(members);
  const auto with_contributions = [size, members](auto operation) {
    return [size, members, operation](State& state) {
      std::vector<std::vector<float>> data;
      std::vector<std::span<const float>> spans;
      for (std::size_t i = 0; i < members; ++i) {
        data.push_back(random_values(static_cast<std::size_t>(size) / sizeof(float), i));
      }
      spans.assign(data.begin(), data.end());
      std::vector<float> out = data[0];
      run_against_memcpy(state, static_cast<double>(size) * static_cast<double>(members + 1),
                         [&] { operation(kernels::Contributions(spans), std::span(out)); });
    };
  };
  add("trimmed_mean" + suffix, target, size, with_contributions([](kernels::Contributions all, std::span<float> out) {
        kernels::trimmed_mean(all, (all.size() - 1) / 3, out);
      }));
  add("median" + suffix, target, size,
      with_contributions([](kernels::Contributions all, std::span<float> out) { kernels::median(all, out); }));
  add("centred_clipping" + suffix, target, size,
      with_contributions(
          [](kernels::Contributions all, std::span<float> out) { kernels::centred_clipping(all, 1.0F, 1, out); }));
}

}  // namespace

void register_kernel_benchmarks() {
  for (const kernels::Target& target : kernels::targets()) {
    for (const std::int64_t size : kSizes) {
      add_plain(target, size);
      add_contribution(target, size, false);
      add_contribution(target, size, true);
      for (const Codec codec : kernels::kCodecs) add_codec(target, size, codec);
    }
    for (const Codec codec : kernels::kCodecs) add_compression(target, 512 << 10, codec);
    for (const std::size_t members : {4U, 8U, 64U}) add_robust(target, 512 << 10, members);
  }
}

}  // namespace papilio::bench
