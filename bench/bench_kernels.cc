// Every operation of kernels/ops.h and kernels/robust.h, by codec, by instruction set, by size. The size is that of the
// values as fp32, whatever they travel as.
#include <algorithm>
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

// What one benchmark works on, chunk by chunk as a round does: one chunk up to 4 MiB, many of 512 KiB beyond, of which
// each is new to the cache when its turn comes.
class Data {
 public:
  explicit Data(std::int64_t size)
      : bytes(static_cast<double>(size)),
        chunk_(static_cast<std::size_t>(size > kLargestChunk ? kManyChunks : size) / sizeof(float)),
        sum_(random_values(static_cast<std::size_t>(size) / sizeof(float), 1)),
        values_(random_values(sum_.size(), 2)) {}

  // For operations on encoded chunks. payload_bytes() is theirs.
  void encode_all(Codec codec) {
    payload_chunk_ = kernels::encoded_bytes(codec, chunk_);
    payload_.resize(payload_chunk_ * (sum_.size() / chunk_));
    for_each([&](std::span<float>, std::span<const float> values, std::span<std::byte> payload) {
      kernels::encode(codec, values, payload);
    });
  }
  [[nodiscard]] double payload_bytes() const { return static_cast<double>(payload_.size()); }

  // Calls the operation with a sum, values and payload, chunk by chunk.
  template <typename Operation>
  void for_each(Operation operation) {
    for (std::size_t begin = 0, payload = 0; begin < sum_.size(); begin += chunk_, payload += payload_chunk_) {
      operation(std::span(sum_).subspan(begin, chunk_), std::span<const float>(values_).subspan(begin, chunk_),
                std::span(payload_).subspan(payload, payload_chunk_));
    }
  }

  const double bytes;

 private:
  static constexpr std::int64_t kLargestChunk = 4 << 20, kManyChunks = 512 << 10;

  std::size_t chunk_;
  Floats sum_, values_;
  Bytes payload_;
  std::size_t payload_chunk_ = 0;
};

using Sum = std::span<float>;
using Values = std::span<const float>;
using Payload = std::span<std::byte>;

// `passes`: how often an operation over n bytes touches n bytes: accumulate reads two spans and writes one.
template <typename Operation>
void add_simple(const char* name, const kernels::Target& target, std::int64_t size, double passes,
                Operation operation) {
  add(name, target, size, [size, passes, operation](State& state) {
    Data data(size);
    run_against_memcpy(state, passes * data.bytes, [&] { data.for_each(operation); });
  });
}

void add_plain(const kernels::Target& target, std::int64_t size) {
  add_simple("accumulate", target, size, 3,
             [](Sum sum, Values values, Payload) { kernels::accumulate(sum, 0.5F, 0.25F, values); });
  add_simple("accumulate_and_finalise", target, size, 3, [](Sum sum, Values values, Payload) {
    kernels::accumulate_and_finalise(sum, 0.5F, 0.25F, values, 0.75F);
  });
  // Times 1, since repeated shrinking would end in subnormal numbers, which are slow; no kernel looks at the factor.
  add_simple("finalise", target, size, 2, [](Sum sum, Values, Payload) { kernels::finalise(sum, 1.0F); });
  add_simple("checksum", target, size, 1,
             [](Sum, Values values, Payload) { benchmark::DoNotOptimize(kernels::checksum(std::as_bytes(values))); });
  add_simple("all_within", target, size, 1,
             [](Sum, Values values, Payload) { benchmark::DoNotOptimize(kernels::all_within(values, 1.0F)); });
  add_simple("inspect", target, size, 1,
             [](Sum, Values values, Payload) { benchmark::DoNotOptimize(kernels::inspect(values)); });
  add_simple("copy_streaming", target, size, 2, [](Sum sum, Values values, Payload) {
    kernels::copy_streaming(std::as_writable_bytes(sum), std::as_bytes(values));
  });
  // Sums of subnormal numbers, which some processors add up much more slowly: what a peer could cost others by them.
  add("accumulate_subnormal", target, size, [size](State& state) {
    const Floats values(static_cast<std::size_t>(size) / sizeof(float), 1e-40F);
    Floats sum = values;
    run_against_memcpy(state, 3.0 * static_cast<double>(size), [&] { kernels::accumulate(sum, 0.5F, 0.5F, values); });
  });
}

// --- What a reducer does with a contribution that has just arrived, and what the look at its numbers adds to that: the
// same work with and without it, in turn.

void checksum_then_add(Codec codec, Sum sum, std::span<const std::byte> payload) {
  benchmark::DoNotOptimize(kernels::checksum(payload));
  kernels::accumulate_accepted(sum, 0.5F, 0.25F, codec, payload, 1.0F);
}

void add_contribution(const kernels::Target& target, std::int64_t size, Codec codec) {
  const std::string suffix = std::string("/") + kernels::to_string(codec);
  const auto add_against = [&](const std::string& name, auto operation, auto without, const char* ratio) {
    add(name + suffix, target, size, [size, codec, operation, without, ratio](State& state) {
      Data data(size);
      data.encode_all(codec);
      const double bytes = 2 * data.bytes + data.payload_bytes();
      run_in_turn(
          state, bytes,
          [&] { data.for_each([&](Sum sum, Values, Payload payload) { operation(codec, sum, payload); }); }, bytes,
          [&] { data.for_each([&](Sum sum, Values, Payload payload) { without(codec, sum, payload); }); }, ratio);
    });
  };
  add_against(
      "accumulate_checked_by_unchecked",
      [](Codec each, Sum sum, Payload payload) {
        benchmark::DoNotOptimize(kernels::accumulate_checked(sum, 0.5F, 0.25F, each, payload, 1.0F, kLimit));
      },
      [](Codec each, Sum sum, Payload payload) { kernels::accumulate_accepted(sum, 0.5F, 0.25F, each, payload, 1.0F); },
      "of_unchecked");
  add_against(
      "contribution_checked_apart",
      [](Codec each, Sum sum, Payload payload) {
        benchmark::DoNotOptimize(kernels::checksum(payload));
        benchmark::DoNotOptimize(kernels::accumulate_checked(sum, 0.5F, 0.25F, each, payload, 1.0F, kLimit));
      },
      checksum_then_add, "of_unchecked");
  add_against(
      "contribution_checked",
      [](Codec each, Sum sum, Payload payload) {
        benchmark::DoNotOptimize(kernels::checksum_and_check(each, payload, sum.size(), kLimit));
        kernels::accumulate_accepted(sum, 0.5F, 0.25F, each, payload, 1.0F);
      },
      checksum_then_add, "of_unchecked");
}

void add_codec(const kernels::Target& target, std::int64_t size, Codec codec) {
  // `passes` over the values as fp32, and the payload once.
  const auto add_encoded = [&](const std::string& name, double passes, auto operation) {
    add(name + "/" + kernels::to_string(codec), target, size, [size, codec, passes, operation](State& state) {
      Data data(size);
      data.encode_all(codec);
      const double bytes = passes * data.bytes + data.payload_bytes();
      run_against_memcpy(state, bytes, [&] {
        data.for_each([&](Sum sum, Values values, Payload payload) { operation(codec, sum, values, payload); });
      });
      state.counters["fp32_GB/s"] = state.counters["GB/s"] * data.bytes / bytes;
    });
  };
  add_encoded("check_encoded", 0, [](Codec each, Sum sum, Values, Payload payload) {
    benchmark::DoNotOptimize(kernels::check_encoded(each, payload, sum.size(), kLimit));
  });
  add_encoded("checksum_and_check", 0, [](Codec each, Sum sum, Values, Payload payload) {
    benchmark::DoNotOptimize(kernels::checksum_and_check(each, payload, sum.size(), kLimit));
  });
  add_encoded("accumulate_accepted", 2, [](Codec each, Sum sum, Values, Payload payload) {
    kernels::accumulate_accepted(sum, 0.5F, 0.25F, each, payload, 1.0F);
  });
  add_encoded("accumulate_checked", 2, [](Codec each, Sum sum, Values, Payload payload) {
    benchmark::DoNotOptimize(kernels::accumulate_checked(sum, 0.5F, 0.25F, each, payload, 1.0F, kLimit));
  });
  add_encoded("encode", 1,
              [](Codec each, Sum, Values values, Payload payload) { kernels::encode(each, values, payload); });
  // The sum stands in for the residual, which is as long.
  add_encoded("encode_with_feedback", 3, [](Codec each, Sum sum, Values values, Payload payload) {
    kernels::encode_with_feedback(each, values, sum, payload);
  });
  add_encoded("decode", 1, [](Codec each, Sum sum, Values, Payload payload) {
    benchmark::DoNotOptimize(kernels::decode(each, payload, sum, kLimit));
  });
  add_encoded("finalise_and_encode", 2, [](Codec each, Sum sum, Values, Payload payload) {
    kernels::finalise_and_encode(sum, 1.0F, each, payload);
  });
}

double size_of(const Bytes& payload) { return static_cast<double>(payload.size()); }

// Normally distributed, as gradients are: what compresses depends on the values. The ratio is the counter `shrinks_by`.
Bytes gradient_like(Codec codec, std::size_t elements) {
  Random random(5);
  Floats values(elements);
  for (float& value : values) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    value = static_cast<float>((sum - 6) * 1e-3);
  }
  Bytes payload(kernels::encoded_bytes(codec, elements));
  kernels::encode(codec, values, payload);
  return payload;
}

void add_compression(const kernels::Target& target, std::int64_t size, Codec codec) {
  const std::string suffix = std::string("/") + kernels::to_string(codec);
  const std::size_t elements = static_cast<std::size_t>(size) / sizeof(float);
  add("group_bytes" + suffix, target, size, [elements, codec](State& state) {
    const Bytes payload = gradient_like(codec, elements);
    Bytes out(payload.size());
    run_against_memcpy(state, 2 * size_of(payload), [&] { kernels::group_bytes(codec, payload, out); });
  });
  add("ungroup_bytes" + suffix, target, size, [elements, codec](State& state) {
    const Bytes payload = gradient_like(codec, elements);
    Bytes out(payload.size());
    run_against_memcpy(state, 2 * size_of(payload), [&] { kernels::ungroup_bytes(codec, payload, out); });
  });
  add("compress" + suffix, target, size, [elements, codec](State& state) {
    const Bytes payload = gradient_like(codec, elements);
    Bytes out(2 * payload.size() + 1024);
    std::size_t length = 0;
    run_against_memcpy(state, size_of(payload), [&] { length = kernels::compress(payload, codec, 1, out); });
    state.counters["shrinks_by"] = size_of(payload) / static_cast<double>(length);
  });
  add("decompress" + suffix, target, size, [elements, codec](State& state) {
    const Bytes payload = gradient_like(codec, elements);
    Bytes frame(2 * payload.size() + 1024), out(payload.size());
    frame.resize(kernels::compress(payload, codec, 1, frame));
    run_against_memcpy(state, size_of(payload),
                       [&] { benchmark::DoNotOptimize(kernels::decompress(frame, codec, out)); });
  });
}

void add_robust(const kernels::Target& target, std::int64_t size, std::size_t members) {
  const std::string suffix = "/of" + std::to_string(members);
  const auto with_contributions = [size, members](auto operation) {
    return [size, members, operation](State& state) {
      std::vector<Floats> data;
      std::vector<std::span<const float>> spans;
      for (std::size_t i = 0; i < members; ++i) {
        data.push_back(random_values(static_cast<std::size_t>(size) / sizeof(float), i));
      }
      spans.assign(data.begin(), data.end());
      Floats out = data[0];
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
      for (const Codec codec : kernels::kCodecs) {
        add_contribution(target, size, codec);
        add_codec(target, size, codec);
      }
    }
    for (const Codec codec : kernels::kCodecs) add_compression(target, 512 << 10, codec);
    for (const std::size_t members : {4U, 8U, 64U}) add_robust(target, 512 << 10, members);
  }
}

}  // namespace papilio::bench
