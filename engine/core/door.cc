#include "engine/core/door.hpp"

#include <algorithm>
#include <charconv>

#include "engine/base/assert.hpp"

namespace papilio::core {
namespace {

constexpr std::array<std::string_view, kDoorVerdicts> kNames = {
    "welcome",   "too-many-here",    "too-many-in-total", "too-many-handshakes", "too-many-handshakes-in-total",
    "too-often", "too-many-of-peer", "too-many-bytes"};

constexpr std::size_t kPrefixBytes = 8;  // an IPv6 network as providers hand them out: /64
constexpr std::array<std::uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};  // ::ffff:0:0/96
// More of anything than a machine has descriptors or memory for.
constexpr std::uint32_t kMost = 1U << 20U;
constexpr double kMostPerSecond = 1e6;
constexpr std::uint64_t kMostBytes = std::uint64_t{16} << 20U;

Error wrong(const std::string& name, const std::string& value, const std::string& remedy) {
  return usage_error(name + ": '" + value + "' " + remedy);
}

std::string text_of(double value) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.begin(), text.end(), value).ptr};
}

Status check_block(const BlockLimits& limits, const std::string& prefix) {
  const struct {
    const char* name;
    std::uint32_t value;
  } counts[] = {{"connections", limits.connections},
                {"handshakes", limits.handshakes},
                {"attempts-at-once", limits.attempts_at_once}};
  for (const auto& each : counts) {
    if (each.value < 1 || each.value > kMost) {
      return wrong(prefix + each.name, std::to_string(each.value), "is not a number from 1 to 1048576");
    }
  }
  if (!(limits.attempts_per_s > 0 && limits.attempts_per_s <= kMostPerSecond)) {
    return wrong(prefix + "attempts-per-second", text_of(limits.attempts_per_s),
                 "is not a number above 0 and up to 1e6");
  }
  return Done{};
}

}  // namespace

// ---- addresses

AddressBlock AddressBlock::local_host() {
  AddressBlock block;
  block.is_local_host_ = true;
  return block;
}

AddressBlock AddressBlock::of_ipv4(const std::array<std::uint8_t, 4>& address) {
  if (address[0] == 127) return local_host();
  AddressBlock block;
  std::copy(kMapped.begin(), kMapped.end(), block.bytes_.begin());
  std::copy(address.begin(), address.end(), block.bytes_.begin() + kMapped.size());
  return block;
}

AddressBlock AddressBlock::of_ipv6(const std::array<std::uint8_t, 16>& address) {
  static constexpr std::array<std::uint8_t, 16> kLoopback = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  if (address == kLoopback) return local_host();
  if (std::equal(kMapped.begin(), kMapped.end(), address.begin())) {
    return of_ipv4({address[12], address[13], address[14], address[15]});
  }
  AddressBlock block;
  std::copy_n(address.begin(), kPrefixBytes, block.bytes_.begin());
  return block;
}

// ---- the configuration

Status check(const DoorConfig& config) {
  if (auto checked = check_block(config.elsewhere, ""); !checked) return checked;
  if (auto checked = check_block(config.local_host, "local-"); !checked) return checked;
  const struct {
    const char* name;
    std::uint32_t value, least;
  } counts[] = {{"handshakes-per-connection", config.handshakes_per_connection, 0},
                {"connections-per-peer", config.connections_per_peer, 1},
                {"connections-in-total", config.connections_in_total, 1},
                {"handshakes-in-total", config.handshakes_in_total, 1},
                {"addresses", config.blocks, 1}};
  for (const auto& each : counts) {
    if (each.value < each.least || each.value > kMost) {
      return wrong(each.name, std::to_string(each.value),
                   "is not a number from " + std::to_string(each.least) + " to 1048576");
    }
  }
  if (config.bytes_per_handshake < 8192 || config.bytes_per_handshake > kMostBytes) {
    return wrong("bytes-per-handshake", std::to_string(config.bytes_per_handshake),
                 "is not a size from 8K to 16M: what TLS and a hello with certificates take must fit in");
  }
  if (config.blocks < config.connections_in_total) {
    return wrong("addresses", std::to_string(config.blocks),
                 "must be at least connections-in-total (" + std::to_string(config.connections_in_total) +
                     "): whoever has a connection open is never forgotten");
  }
  return Done{};
}

std::string_view to_string(DoorVerdict verdict) { return kNames.at(static_cast<std::size_t>(verdict)); }

Door::Door(DoorConfig config) : config_(config) { PAPILIO_ASSERT(check(config_).ok()); }

template <typename Change>
void Door::recount(Blocks::iterator block, Change change) {
  const auto key = [&](std::uint64_t size) { return std::pair(size, UINT64_MAX - *block->second.handshakes.begin()); };
  if (const std::uint64_t before = surplus(block->second); before > 0) {
    crowds_.erase(key(before));
    surplus_ -= before;
  }
  change();
  if (const std::uint64_t after = surplus(block->second); after > 0) {
    crowds_.emplace(key(after), block);
    surplus_ += after;
  }
}

// ---- what happens

DoorAnswer Door::handle_opened(TimePoint now, const AddressBlock& from) {
  // Before anything is remembered: then there is always room to remember.
  if (visits_.size() >= config_.connections_in_total) return {.verdict = counted(DoorVerdict::too_many_in_total)};
  const auto block = remember(now, from);
  refill(now, from, block->second);
  if (block->second.connections == 0) idle_.splice(idle_.end(), idle_, block->second.idle);  // it was here just now
  DoorVerdict verdict = DoorVerdict::too_often;
  if (block->second.attempts_left >= 1) {
    block->second.attempts_left -= 1;
    verdict = verdict_on(from, block->second);
  }
  if (counted(verdict) != DoorVerdict::welcome) return {.verdict = verdict};
  DoorAnswer answer;
  if (takes_anybodys_room(block->second)) answer.displaced = displace();
  if (block->second.connections == 0) idle_.erase(block->second.idle);
  block->second.connections += 1;
  answer.visit = ++last_visit_;
  visits_.emplace(answer.visit, Guest{.block = block, .peer = std::nullopt});
  recount(block, [&] { block->second.handshakes.insert(answer.visit); });
  handshakes_ += 1;
  return answer;
}

DoorVerdict Door::handle_bytes(Visit visit, std::uint64_t bytes) {
  Guest& guest = guest_of(visit);
  if (guest.stage != Stage::handshake) return DoorVerdict::welcome;
  guest.bytes = bytes > UINT64_MAX - guest.bytes ? UINT64_MAX : guest.bytes + bytes;
  if (guest.bytes <= config_.bytes_per_handshake) return DoorVerdict::welcome;
  return counted(DoorVerdict::too_many_bytes);
}

DoorVerdict Door::handle_authenticated(Visit visit, const PeerId& peer) {
  Guest& guest = guest_of(visit);
  PAPILIO_ASSERT(!guest.peer && guest.stage == Stage::handshake);
  const auto known = connections_of_peers_.find(peer);
  if (known != connections_of_peers_.end() && known->second >= config_.connections_per_peer) {
    return counted(DoorVerdict::too_many_of_peer);
  }
  guest.peer = peer;
  connections_of_peers_[peer] += 1;
  return DoorVerdict::welcome;
}

void Door::handle_established(Visit visit) {
  Guest& guest = guest_of(visit);
  PAPILIO_ASSERT(guest.stage == Stage::handshake);
  guest.stage = Stage::established;
  recount(guest.block, [&] { guest.block->second.established += 1; });
  remove_handshake(guest.block, visit);
}

void Door::handle_closed(Visit visit) {
  const Guest guest = guest_of(visit);
  visits_.erase(visit);
  Block& block = guest.block->second;
  block.connections -= 1;
  if (guest.stage == Stage::established) recount(guest.block, [&] { block.established -= 1; });
  if (guest.stage == Stage::handshake) remove_handshake(guest.block, visit);
  if (block.connections == 0) block.idle = idle_.insert(idle_.end(), guest.block->first);
  if (!guest.peer) return;
  const auto known = connections_of_peers_.find(*guest.peer);
  known->second -= 1;
  if (known->second == 0) connections_of_peers_.erase(known);
}

// ---- getters

std::string Door::explain(DoorVerdict verdict, const AddressBlock& from) const {
  const BlockLimits& limits = limits_of(from);
  const std::string flag = from.is_local_host() ? "--door-local-" : "--door-";
  const auto sentence = [](const std::string& what, std::uint64_t limit, const std::string& option) {
    return what + " (" + option + " " + std::to_string(limit) + ")";
  };
  switch (verdict) {
    case DoorVerdict::welcome: return "welcome";
    case DoorVerdict::too_many_here:
      return sentence("too many connections from one address", limits.connections, flag + "connections");
    case DoorVerdict::too_many_in_total:
      return sentence("too many connections in total, or one address has as many as are left",
                      config_.connections_in_total, "--door-connections-in-total");
    case DoorVerdict::too_many_handshakes:
      return sentence("too many unfinished handshakes from one address", limits.handshakes, flag + "handshakes");
    case DoorVerdict::too_many_handshakes_in_total:
      return sentence("too many unfinished handshakes in total", config_.handshakes_in_total,
                      "--door-handshakes-in-total");
    case DoorVerdict::too_often:
      return "one address connects too often (" + flag + "attempts-per-second " + text_of(limits.attempts_per_s) +
             ", after " + std::to_string(limits.attempts_at_once) + " at once)";
    case DoorVerdict::too_many_of_peer:
      return sentence("too many connections of one peer", config_.connections_per_peer, "--door-connections-per-peer");
    case DoorVerdict::too_many_bytes:
      return sentence("too many bytes before the handshake was over", config_.bytes_per_handshake,
                      "--door-bytes-per-handshake");
  }
  return "";
}

// ---- inside

const BlockLimits& Door::limits_of(const AddressBlock& from) const {
  return from.is_local_host() ? config_.local_host : config_.elsewhere;
}

DoorVerdict Door::verdict_on(const AddressBlock& from, const Block& block) const {
  const BlockLimits& limits = limits_of(from);
  if (block.connections >= limits.connections) return DoorVerdict::too_many_here;
  if (block.handshakes.size() >= limits.handshakes + earned(block)) return DoorVerdict::too_many_handshakes;
  if (block.connections >= config_.connections_in_total - visits_.size()) return DoorVerdict::too_many_in_total;
  if (takes_anybodys_room(block) && surplus(block) >= crowds_.rbegin()->first.first) {
    return DoorVerdict::too_many_handshakes_in_total;
  }
  return DoorVerdict::welcome;
}

std::uint64_t Door::earned(const Block& block) const {
  return std::uint64_t{config_.handshakes_per_connection} * block.established;
}

std::uint64_t Door::surplus(const Block& block) const {
  const std::uint64_t handshakes = block.handshakes.size();
  return handshakes - std::min(handshakes, earned(block));
}

// Whether one more handshake of it needs room where there is none.
bool Door::takes_anybodys_room(const Block& block) const {
  return surplus_ >= config_.handshakes_in_total && block.handshakes.size() >= earned(block);
}

// The largest crowd makes room, with the handshake that it began first.
Visit Door::displace() {
  const Blocks::iterator block = crowds_.rbegin()->second;
  const Visit oldest = *block->second.handshakes.begin();
  guest_of(oldest).stage = Stage::displaced;
  remove_handshake(block, oldest);
  counted(DoorVerdict::too_many_handshakes_in_total);
  return oldest;
}

void Door::remove_handshake(Blocks::iterator block, Visit visit) {
  recount(block, [&] { block->second.handshakes.erase(visit); });
  handshakes_ -= 1;
}

Door::Blocks::iterator Door::remember(TimePoint now, const AddressBlock& from) {
  const auto found = blocks_.find(from);
  if (found != blocks_.end()) return found;
  if (blocks_.size() >= config_.blocks) {
    PAPILIO_ASSERT(!idle_.empty());  // fewer connections are open than blocks are remembered
    blocks_.erase(idle_.front());
    idle_.pop_front();
  }
  Block block;
  block.attempts_left = limits_of(from).attempts_at_once;
  block.attempts_as_of = now;
  block.idle = idle_.insert(idle_.end(), from);
  return blocks_.emplace(from, block).first;
}

void Door::refill(TimePoint now, const AddressBlock& from, Block& block) const {
  if (now <= block.attempts_as_of) return;
  const BlockLimits& limits = limits_of(from);
  const double gained = to_seconds(now - block.attempts_as_of) * limits.attempts_per_s;
  block.attempts_left = std::min<double>(block.attempts_left + gained, limits.attempts_at_once);
  block.attempts_as_of = now;
}

Door::Guest& Door::guest_of(Visit visit) {
  const auto found = visits_.find(visit);
  PAPILIO_ASSERT(found != visits_.end());
  return found->second;
}

DoorVerdict Door::counted(DoorVerdict verdict) {
  counts_[static_cast<std::size_t>(verdict)] += 1;
  return verdict;
}

}  // namespace papilio::core
