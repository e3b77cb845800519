// The door under any crowd: connections that come, send, prove names, are let in and go, from few addresses, at any
// time. Nothing is ever beyond its limit, and whoever has to make room is really there.
#include <map>

#include "engine/core/door.hpp"
#include "tests/fuzz/draws.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace papilio::fuzz {
namespace {

using namespace core;
using std::chrono::milliseconds;

class Shell {
 public:
  explicit Shell(Draws& draws) : draws_(draws), door_(config_from(draws)) {}

  void run() {
    while (!draws_.is_empty()) {
      step();
      check();
    }
    while (!visits_.empty()) leave(visits_.begin());
    check();
    FUZZ_CHECK(door_.connections() == 0 && door_.handshakes() == 0);
  }

 private:
  struct Visitor {
    bool is_proved = false, is_established = false;
  };
  using Visits = std::map<Visit, Visitor>;

  static DoorConfig config_from(Draws& draws) {
    DoorConfig config;
    const auto few = [&](std::uint32_t most) { return 1 + draws.below(most); };
    const std::uint32_t connections = few(8), local_connections = few(8);
    config.elsewhere = {.connections = connections,
                        .handshakes = std::min(connections, few(4)),
                        .attempts_at_once = connections + draws.below(8),
                        .attempts_per_s = 1.0 + draws.below(8)};
    config.local_host = {.connections = local_connections,
                         .handshakes = std::min(local_connections, few(4)),
                         .attempts_at_once = local_connections + draws.below(8),
                         .attempts_per_s = 1.0 + draws.below(8)};
    config.handshakes_per_connection = few(3);
    config.connections_per_peer = few(4);
    config.connections_in_total = std::max(connections, local_connections) + draws.below(8);
    config.handshakes_in_total = std::min(config.connections_in_total, few(8));
    config.bytes_per_handshake = 8192;
    config.blocks = config.connections_in_total + draws.below(4);
    FUZZ_CHECK(core::check(config).ok());
    return config;
  }
  AddressBlock address() {
    const std::uint8_t first = draws_.byte();
    if (first < 0x20) return AddressBlock::local_host();
    if (first < 0xe0) return AddressBlock::of_ipv4({10, 0, 0, static_cast<std::uint8_t>(first % 12)});
    std::array<std::uint8_t, 16> bytes{};
    const auto drawn = draws_.take(first & 15U);
    for (std::size_t i = 0; i < drawn.size(); ++i) bytes[i] = static_cast<std::uint8_t>(drawn[i]);
    return AddressBlock::of_ipv6(bytes);
  }
  Visits::iterator visitor() {
    auto chosen = visits_.begin();
    if (!visits_.empty()) std::advance(chosen, draws_.byte() % visits_.size());
    return chosen;
  }
  void step() {
    const std::uint32_t what = draws_.below(8);
    if (what == 0 || what == 1) return open();
    if (what == 2) {
      now_ += milliseconds(10) * draws_.byte();
      return;
    }
    const auto chosen = visitor();
    if (chosen == visits_.end()) return;
    auto& [visit, known] = *chosen;
    DoorVerdict verdict = DoorVerdict::welcome;
    switch (what) {
      case 3:
        if (!known.is_established) verdict = door_.handle_bytes(visit, draws_.number() * 16 % 9000);
        break;
      case 4:
        if (!known.is_proved) verdict = door_.handle_authenticated(visit, draws_.peer(4));
        known.is_proved = true;
        break;
      case 5:
        if (known.is_proved && !known.is_established) door_.handle_established(visit);
        known.is_established = known.is_established || known.is_proved;
        break;
      default: return leave(chosen);
    }
    FUZZ_CHECK(!to_string(verdict).empty());
    if (verdict != DoorVerdict::welcome) leave(chosen);
  }
  void open() {
    const AddressBlock from = address();
    const DoorAnswer answer = door_.handle_opened(now_, from);
    FUZZ_CHECK(!door_.explain(answer.verdict, from).empty() || answer.verdict == DoorVerdict::welcome);
    if (answer.displaced != 0) {
      const auto displaced = visits_.find(answer.displaced);
      FUZZ_CHECK(displaced != visits_.end() && !displaced->second.is_established);
      leave(displaced);
    }
    if (answer.verdict != DoorVerdict::welcome) return;
    FUZZ_CHECK(answer.visit != 0 && visits_.emplace(answer.visit, Visitor()).second);
  }
  void leave(Visits::iterator who) {
    door_.handle_closed(who->first);
    visits_.erase(who);
  }
  void check() {
    const DoorConfig& config = door_.config();
    FUZZ_CHECK(door_.connections() == visits_.size() && door_.connections() <= config.connections_in_total);
    FUZZ_CHECK(door_.blocks() <= config.blocks);
    std::uint32_t handshakes = 0;
    for (const auto& [visit, known] : visits_) handshakes += known.is_established ? 0U : 1U;
    FUZZ_CHECK(door_.handshakes() == handshakes);
  }

  Draws& draws_;
  TimePoint now_{std::chrono::seconds(100)};
  Door door_;
  Visits visits_;
};

}  // namespace

std::vector<Bytes> seeds() {
  Bytes all(16, std::byte{3});
  for (int i = 0; i < 30; ++i) {
    for (const int each : {0, 0x20 + i, 4, i, i, 5, i, 2 + i % 6, i}) all.push_back(static_cast<std::byte>(each));
  }
  return {all};
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  papilio::fuzz::Draws draws(std::as_bytes(std::span(data, size)));
  papilio::fuzz::Shell(draws).run();
  return 0;
}
