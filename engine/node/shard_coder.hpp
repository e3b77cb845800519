// How chunks become payloads and payloads chunks again, for every shard that is not plain fp32 (those are sent from the
// gradient's own memory and never come here). It knows which format each link gets, holds the encoded bytes while they
// are on their way, and keeps what rounding still owes to the group:
//
//   A contribution is encode(gradient + residual). The gradient itself is not changed: a chunk that ends local is the
//   caller's own, bit for bit. The residual changes only when an average comes back that counts the contribution; what
//   rounding took is then kept for the next round. So a shard that has to be sent again, to a successor, is the same
//   bytes, and one that was lost owes nothing.
//   An average is encoded by whoever reduced it, which holds the decoded values from then on. They encode to the same
//   bytes again (kernels/codec.h), so that nobody keeps encoded averages: whoever is to pass one on encodes it again.
//   The residual of the reducer's own part is what rounding took from its last average.
//
// Memory: the residual, as large as the gradient, from the first round on that encodes; and as many buffers of one
// encoded chunk as there are shards on their way, and kSpareBuffers. Nothing at all where everything is plain.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"
#include "engine/core/partition.hpp"
#include "engine/core/round.hpp"
#include "kernels/codec.h"
#include "transport/frame.hpp"

namespace papilio::node {

// What a payload is written in.
struct ShardFormat {
  transport::Codec codec = transport::Codec::fp32;
  transport::Compression compression = transport::Compression::none;

  // The gradient's own bytes.
  [[nodiscard]] bool is_plain() const {
    return codec == transport::Codec::fp32 && compression == transport::Compression::none;
  }
  bool operator==(const ShardFormat&) const = default;
};
// As users write it: `int8+zstd`.
[[nodiscard]] std::string to_string(ShardFormat format);
// None: chosen for each link.
using FormatChoice = std::optional<ShardFormat>;
// All that a user can ask for, `auto` first.
[[nodiscard]] std::vector<std::string> format_choices();
[[nodiscard]] Result<FormatChoice> parse_format_choice(const std::string& text);
[[nodiscard]] constexpr kernels::Codec kernel_codec(transport::Codec codec) {
  return static_cast<kernels::Codec>(codec);
}

// Decoded numbers may be this much larger than what was encoded: rounding, and what is owed from the round before. The
// limits of core/numbers.hpp leave a factor of 2.
inline constexpr float kRoundingRoom = 1.0625F;

// What is wrong with a payload, for people, around the name of the shard: `element 5 of ` <its contribution> ` is nan`.
struct NumberComplaint {
  std::string where, what;
  bool is_about_values = false;  // not finite or too large; otherwise no encoder writes such bytes
};
[[nodiscard]] NumberComplaint describe(kernels::NumberFault fault, kernels::Codec codec,
                                       std::span<const std::byte> bytes, std::size_t elements, float limit);

class ShardCoder {
 public:
  struct Config {
    bool error_feedback = true;
    int zstd_level = 1;  // measured: higher ones gain nothing on numbers
  };
  explicit ShardCoder(Config config) : config_(config) {}

  // One round. The plan and the gradient outlive it. `links`: the format of contributions to each member; `averages`:
  // of those that this member makes.
  void begin(const PartitionPlan& plan, MemberIndex self, std::span<float> gradient, std::vector<ShardFormat> links,
             ShardFormat averages);
  void end();

  // What is kept for the next round; empty: nothing yet.
  [[nodiscard]] std::span<const float> residual() const { return residual_; }
  [[nodiscard]] int zstd_level() const { return config_.zstd_level; }

  // ---- what comes in
  // How many elements a payload of so many bytes can hold for this chunk (of the plan): its own number where the size
  // fits, any other where it does not. A compressed one may be anything up to the size without compression.
  [[nodiscard]] std::uint64_t elements_in(ShardFormat format, ChunkIndex chunk, std::size_t payload_bytes) const;
  // The codec's bytes; valid until the next call. Where the payload is no frame of them: the fault, and no bytes.
  [[nodiscard]] kernels::NumberFault unpack(ShardFormat format, ChunkIndex chunk, std::span<const std::byte> payload,
                                            std::span<const std::byte>& bytes);
  // What check_encoded has accepted, in memory that is valid until the next call.
  [[nodiscard]] std::span<const float> decode(transport::Codec codec, std::span<const std::byte> bytes,
                                              std::size_t elements);
  // An average is about to be written over the chunk, whose values are this member's own, or, where it is `spent`, a
  // sum with others'. `counted`: this member's are in the average.
  void handle_average(ChunkIndex chunk, transport::Codec codec, bool counted, bool spent);

  // ---- what was averaged here
  // The chunk's values are the average: encodes them as they will be sent and leaves what that decodes to. Returns the
  // checksum of the codec's bytes. `alone`: nobody else's gradient is in it, and it stays as it is.
  std::uint64_t finish_average(ChunkIndex chunk, bool alone);

  // ---- what goes out
  struct Encoded {
    std::span<const std::byte> payload;  // until released
    std::uint64_t checksum = 0;          // of the payload
    ShardFormat format;
  };
  // None: it is plain, and sent from the gradient.
  [[nodiscard]] std::optional<Encoded> take(MemberIndex to, const core::SendOrder& order);
  // Nobody reads what take() gave any more.
  void release(const core::SendOrder& order);

 private:
  static constexpr std::size_t kSpareBuffers = 4;
  static constexpr std::uint64_t kNothing = ~std::uint64_t{0};

  struct Buffer {
    std::uint64_t key = kNothing;  // which shard
    std::uint32_t users = 0;
    std::uint64_t last_use = 0;
    std::size_t size = 0;
    std::uint64_t checksum = 0;
    ShardFormat format;
    std::unique_ptr<std::byte[]> bytes;
  };
  // What is remembered of every chunk.
  struct Chunk {
    // As this member first sent it, so that it is sent alike again.
    std::optional<ShardFormat> contribution;
    transport::Codec average = transport::Codec::fp32;
  };

  [[nodiscard]] std::span<float> values(ChunkIndex chunk) const;
  [[nodiscard]] std::span<float> residual(ChunkIndex chunk);
  [[nodiscard]] std::span<std::byte> codec_bytes(transport::Codec codec, ChunkIndex chunk);
  [[nodiscard]] Buffer* find(std::uint64_t key);
  Buffer& free_buffer();
  // `bytes`: the codec's.
  void fill(Buffer& buffer, std::uint64_t key, ShardFormat format, std::span<const std::byte> bytes);
  static void forget_unfit(std::span<float> owed, transport::Codec codec);

  Config config_;
  const PartitionPlan* plan_ = nullptr;
  MemberIndex self_ = 0;
  std::span<float> gradient_;
  std::vector<ShardFormat> links_;
  ShardFormat averages_;
  std::vector<Chunk> chunks_;
  std::vector<Buffer> buffers_;
  std::size_t buffer_bytes_ = 0;
  std::uint64_t uses_ = 0;
  std::vector<float> residual_;
  Range own_part_;                   // of the round before: there the residual is of averages
  std::vector<std::byte> encoded_;   // one chunk in its codec, on its way out
  std::vector<std::byte> unpacked_;  // and on its way in
  std::vector<float> decoded_;       // one chunk
};

}  // namespace papilio::node
