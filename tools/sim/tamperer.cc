#include "tools/sim/tamperer.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <variant>

#include "engine/base/limits.hpp"
#include "engine/node/shard_coder.hpp"
#include "kernels/ops.h"

namespace papilio::sim {

using transport::Average;
using transport::Contribution;
using transport::Header;

namespace {

// Of the preamble; transport/frame.hpp.
constexpr std::size_t kTypeAt = 4, kVersionAt = 5, kPayloadBytesAt = 8;

template <typename Change>
void change_shard(Header& header, Change change) {
  if (auto* contribution = std::get_if<Contribution>(&header)) {
    change(*contribution);
  } else {
    change(std::get<Average>(header));
  }
}

RoundId round_of(const Header& header) {
  if (const auto* contribution = std::get_if<Contribution>(&header)) return contribution->round;
  if (const auto* average = std::get_if<Average>(&header)) return average->round;
  return 0;
}

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

std::vector<std::byte> frame_of(const Header& header, std::span<const std::byte> payload) {
  transport::HeaderBytes bytes;
  encode_frame_header(header, payload.size(), bytes);
  append(bytes, payload);
  return bytes;
}

}  // namespace

void Tamperer::begin_round(std::uint32_t round, RoundId id, const PartitionPlan& plan,
                           std::span<const std::uint32_t> hosts, std::span<const float> gradient) {
  round_ = round;
  round_id_ = id;
  plan_ = plan;
  hosts_.assign(hosts.begin(), hosts.end());
  gradient_.assign(gradient.begin(), gradient.end());
  shards_ = {};
  contributed_to_ = 0;
  disguised_any_ = false;
}

void Tamperer::on_write(std::uint32_t to, std::vector<std::byte>& bytes) {
  if (ended_ || stranger_ == Stranger::mute) return bytes.clear();
  if (stranger_ == Stranger::babbling) {
    bytes = garbage(1, 3000);
    return;
  }
  if (bytes.size() < transport::kFrameHeadBytes) return;
  const transport::FrameSizes sizes = transport::parse_frame_head(std::span(bytes).first(transport::kFrameHeadBytes));
  const bool is_shard = sizes.fault == transport::FrameFault::none && sizes.payload_bytes > 0;
  if (!is_shard) return;
  transport::ParsedHeader parsed = transport::parse_frame_header(std::span(bytes).first(sizes.header_bytes));
  if (round_of(parsed.header) == round_id_) handle_shard(to, parsed.header, sizes.header_bytes, bytes);
}

void Tamperer::handle_shard(std::uint32_t to, Header& header, std::size_t header_bytes, Bytes& bytes) {
  const bool is_average = std::holds_alternative<Average>(header);
  const std::uint32_t number = ++shards_[is_average ? 1 : 0];
  for (std::size_t i = 0; i < triggers_.size(); ++i) {
    const Trigger trigger = triggers_[i];
    if (trigger.round != round_ || trigger.frame.averages != is_average || trigger.frame.count != number) continue;
    triggers_.erase(triggers_.begin() + static_cast<std::ptrdiff_t>(i));
    deeds_.triggered.push_back(trigger.index);
    if (!trigger.ends) break;
    ended_ = true;
    return bytes.clear();
  }
  bool is_disguised = false;
  const ChunkIndex chunk = is_average ? 0 : std::get<Contribution>(header).chunk;
  for (const LiePlan& plan : lies_) {
    if (plan.round != round_ || plan.first.averages != is_average || number < plan.first.count) continue;
    if (number - plan.first.count >= plan.count) continue;
    deeds_.lied = true;
    is_disguised = !is_average && (plan.lie == Lie::model || plan.lie == Lie::group);
    lie(plan.lie, to, header, header_bytes, bytes);
    break;  // two lies in one frame could make a truth
  }
  disguised_any_ |= is_disguised;
  if (!is_average && disguised_any_) {
    deeds_.disguises.push_back({.round = round_, .to = to, .chunk = chunk, .is_disguised = is_disguised});
  }
  if (!is_average) contributed_to_ |= std::uint64_t{1} << to;
}

void Tamperer::lie(Lie kind, std::uint32_t to, Header& header, std::size_t header_bytes, Bytes& bytes) {
  if (kind == Lie::unasked) return send_unasked(to, header, bytes);
  if (kind <= Lie::bad_coverage || kind == Lie::payload_checksum) {
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(header_bytes));
    return lie_in_header(kind, to, header, bytes);
  }
  if (kind >= Lie::early_done) return lie_in_control(kind, bytes);
  lie_in_frame(kind, header_bytes, bytes);
}

// `bytes`: the payload; the whole frame afterwards.
void Tamperer::lie_in_header(Lie kind, std::uint32_t to, Header& header, Bytes& bytes) {
  switch (kind) {
    case Lie::model: change_shard(header, [&](auto& shard) { shard.model ^= random_.next() | 1U; }); break;
    case Lie::group: change_shard(header, [&](auto& shard) { shard.group ^= random_.next() | 1U; }); break;
    case Lie::round_ahead: change_shard(header, [&](auto& shard) { shard.round += 1 + random_.below(3); }); break;
    case Lie::round_behind: change_shard(header, [](auto& shard) { shard.round -= 1; }); break;
    case Lie::not_finite: {
      constexpr float kValues[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                   -std::numeric_limits<float>::infinity()};
      write_number(header, kValues[random_.below(3)], bytes);
      change_shard(header, [&](auto& shard) { shard.checksum = kernels::checksum(bytes); });
      break;
    }
    case Lie::weight:
      if (auto* contribution = std::get_if<Contribution>(&header)) {
        contribution->weight = false_weight(to, contribution->weight);
      }
      break;
    case Lie::out_of_range:
      change_shard(header, [&](auto& shard) {
        shard.chunk = random_.chance(0.5) ? plan_.chunk_count() : std::numeric_limits<ChunkIndex>::max();
      });
      break;
    case Lie::bad_size:
      bytes.resize(bytes.size() + 1 + random_.below(8));
      change_shard(header, [&](auto& shard) { shard.checksum = kernels::checksum(bytes); });
      break;
    case Lie::bad_coverage:
      if (auto* average = std::get_if<Average>(&header)) {
        const bool names_nobody = hosts_.size() == kMaximumMembers || random_.chance(0.5);
        average->coverage = names_nobody ? 0 : average->coverage | coverage_of(static_cast<MemberIndex>(hosts_.size()));
      }
      break;
    case Lie::payload_checksum: change_shard(header, [](auto& shard) { shard.checksum ^= 1U; }); break;
    default: break;
  }
  bytes = frame_of(header, bytes);
  if (kind == Lie::duplicate) append(bytes, Bytes(bytes));
}

// Into a payload of fp32 that is as it was otherwise; one of another codec is made of this number alone.
void Tamperer::write_number(Header& header, float value, Bytes& bytes) {
  change_shard(header, [&](auto& shard) {
    if (node::ShardFormat{shard.codec, shard.compression}.is_plain()) {
      std::memcpy(bytes.data() + random_.below(bytes.size() / sizeof(float)) * sizeof(float), &value, sizeof(float));
      return;
    }
    const std::vector<float> values(plan_.chunk(shard.chunk).size, value);
    bytes.resize(kernels::encoded_bytes(node::kernel_codec(shard.codec), values.size()));
    kernels::encode(node::kernel_codec(shard.codec), values, bytes);
    shard.compression = transport::Compression::none;
  });
}

void Tamperer::lie_in_frame(Lie kind, std::size_t header_bytes, Bytes& bytes) {
  const auto seal = [&] { transport::seal_frame_header(std::span(bytes).first(header_bytes)); };
  switch (kind) {
    case Lie::magic: bytes[0] ^= std::byte{1}; break;
    case Lie::version:
      bytes[kVersionAt] = std::byte{99};
      seal();
      break;
    case Lie::unknown_type:
      bytes[kTypeAt] = std::byte{99};
      seal();
      break;
    case Lie::oversize: {
      const auto too_many = static_cast<std::uint32_t>(kMaximumPayloadBytes + 1 + random_.below(1U << 30U));
      std::memcpy(bytes.data() + kPayloadBytesAt, &too_many, sizeof(too_many));
      seal();
      break;
    }
    case Lie::header_checksum:
      bytes[transport::kPreambleBytes + random_.below(header_bytes - transport::kPreambleBytes)] ^= std::byte{4};
      break;
    case Lie::table:
      std::memset(bytes.data() + transport::kPreambleBytes, 0xff, sizeof(std::uint32_t));
      seal();
      break;
    case Lie::garbage: bytes = garbage(1, 3000); break;
    case Lie::withheld: bytes.clear(); break;
    default: break;
  }
}

// Behind the shard, which is as it should be.
void Tamperer::lie_in_control(Lie kind, Bytes& bytes) {
  const auto everything = [&] {
    return transport::Bits(random_.chance(0.5) ? 1 + plan_.chunk_count() / 64 : random_.below(20), ~std::uint64_t{0});
  };
  const MemberIndex member = random_.chance(0.1) ? 1000 : any_member();
  const std::uint32_t distance = plausible_distance(member);
  const bool is_first = random_.chance(0.5);
  Header header;
  switch (kind) {
    case Lie::early_done: header = transport::Done{.round = round_id_, .digest = random_.next()}; break;
    case Lie::false_suspect:
      header = transport::Suspect{.round = round_id_, .member = member, .withdrawn = random_.chance(0.2)};
      break;
    case Lie::false_takeover:
      header = transport::Takeover{.round = round_id_, .part = member, .distance = distance};
      break;
    case Lie::false_holdings:
      header = transport::Holdings{.round = round_id_,
                                   .part = member,
                                   .distance = distance,
                                   .held = is_first ? everything() : transport::Bits{},
                                   .spent = everything()};
      break;
    case Lie::false_wanted:
      header = transport::Wanted{.round = round_id_,
                                 .part = member,
                                 .contributions = everything(),
                                 .averages = is_first ? everything() : transport::Bits{}};
      break;
    case Lie::false_resume: header = transport::Resume{.round = round_id_, .group = random_.next()}; break;
    default: header = transport::Pulse{.round = round_id_, .waiting_for = random_.next()}; break;
  }
  append(bytes, frame_of(header, {}));
}

// Mostly its own, along the ring from the part's own reducer: what it would say if it were entitled to the part.
std::uint32_t Tamperer::plausible_distance(MemberIndex part) {
  const auto members = static_cast<std::uint32_t>(hosts_.size());
  if (part >= members || random_.chance(0.2)) return static_cast<std::uint32_t>(random_.below(members + 2));
  const auto self = static_cast<std::uint32_t>(std::find(hosts_.begin(), hosts_.end(), host_) - hosts_.begin());
  return (self + members - part) % members;
}

// Valid weights that are not the true ones are told only to those who were told the true one before.
float Tamperer::false_weight(std::uint32_t to, float weight) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kBad[] = {0, -1, std::numeric_limits<float>::quiet_NaN(), kInfinity, 1e-12F, 1e12F};
  const bool was_told = (contributed_to_ & (std::uint64_t{1} << to)) != 0;
  if (!was_told || random_.chance(0.7)) return kBad[random_.below(std::size(kBad))];
  deeds_.equivocated = true;
  return 2 * weight;
}

// A true contribution, to somebody who has no use for it.
void Tamperer::send_unasked(std::uint32_t to, Header& header, Bytes& bytes) {
  auto* const contribution = std::get_if<Contribution>(&header);
  if (contribution == nullptr || plan_.chunk_count() == 0) return;
  const auto chunk = static_cast<ChunkIndex>(random_.below(plan_.chunk_count()));
  if (hosts_[plan_.reducer(chunk)] == to) return;
  const Range range = plan_.chunk(chunk);
  const auto payload = std::as_bytes(std::span<const float>(gradient_).subspan(range.begin, range.size));
  contribution->chunk = chunk;
  contribution->codec = transport::Codec::fp32;
  contribution->compression = transport::Compression::none;
  contribution->checksum = kernels::checksum(payload);
  append(bytes, frame_of(header, payload));
}

Tamperer::Bytes Tamperer::garbage(std::uint64_t least, std::uint64_t most) {
  Bytes bytes(least + random_.below(most - least + 1));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_.below(256));
  return bytes;
}

}  // namespace papilio::sim
