// Strikes and bans under any sequence of offences, good rounds, pardons and clocks that are set back, with tables so
// small that they are always full.
#include "engine/core/conduct.hpp"
#include "tests/fuzz/draws.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace papilio::fuzz {
namespace {

using namespace core;
using std::chrono::seconds;

constexpr std::uint32_t kPeers = 12;

class Shell {
 public:
  explicit Shell(Draws& draws) : draws_(draws), conduct_(config_from(draws)) {}

  void run() {
    while (!draws_.is_empty()) {
      step();
      if (draws_.is_empty() || draws_.below(16) == 0) check();
    }
  }

 private:
  static ConductConfig config_from(Draws& draws) {
    ConductConfig config;
    config.maximum_acquaintances = 1 + draws.below(5);
    config.maximum_strangers = 1 + draws.below(5);
    config.evidence_bytes = draws.byte();
    return config;
  }
  WallTime time() { return WallTime(seconds(draws_.number() % 10'000'000'000U)); }
  ConductRecord record() {
    ConductRecord record{.peer = draws_.peer(kPeers),
                         .acquainted = draws_.chance(),
                         .strikes = draws_.number32(),
                         .strikes_as_of = time(),
                         .times_banned = draws_.number32(),
                         .repeats = draws_.number32(),
                         .repeats_as_of = time(),
                         .good_rounds = draws_.number32(),
                         .offence = static_cast<Offence>(draws_.below(kOffences)),
                         .evidence = draws_.text(300),
                         .offended_at = time(),
                         .banned_since = time(),
                         .banned_until = {}};
    record.banned_until = record.banned_since + seconds(draws_.number() % 1'000'000U);
    return record;
  }
  void step() {
    const PeerId peer = draws_.peer(kPeers);
    switch (draws_.below(8)) {
      case 0:
      case 1: {
        const auto offence = static_cast<Offence>(draws_.below(kOffences));
        FUZZ_CHECK(offence_of(to_string(offence)) == offence);
        const Judgement judgement = conduct_.handle_offence(now_, peer, offence, draws_.text(300));
        const bool is_banned = conduct_.is_banned(now_, peer);
        FUZZ_CHECK(judgement.kind != Judgement::Kind::ban || judgement.until > now_);
        FUZZ_CHECK(judgement.kind != Judgement::Kind::ban || is_banned || !judgement.remembered);
        return;
      }
      case 2: return conduct_.handle_good_round(now_, peer);
      case 3:
        static_cast<void>(conduct_.clear(now_, peer));
        FUZZ_CHECK(!conduct_.is_banned(now_, peer));
        return;
      case 4: now_ += seconds(draws_.number() % 10'000'000U); return;
      case 5:
        now_ = WallTime(std::max(seconds(0), now_.time_since_epoch() - seconds(draws_.number() % 10'000'000U)));
        return;
      case 6: {
        std::vector<ConductRecord> records(draws_.below(20));
        for (ConductRecord& each : records) each = record();
        Conduct loaded(conduct_.config());
        loaded.load(now_, records);
        conduct_ = loaded;
        return;
      }
      default: FUZZ_CHECK(!to_text(now_).empty());
    }
  }
  void check() {
    const std::vector<ConductRecord> list = conduct_.list(now_);
    const ConductConfig& config = conduct_.config();
    FUZZ_CHECK(list.size() <= config.maximum_acquaintances + config.maximum_strangers);
    bool any_free = false;
    for (const ConductRecord& each : list) {
      const bool is_banned = conduct_.is_banned(now_, each.peer);
      FUZZ_CHECK(is_banned == each.is_banned(now_));
      FUZZ_CHECK(!is_banned || !any_free);  // the banned first
      any_free |= !is_banned;
      FUZZ_CHECK(each.evidence.size() <= std::max<std::size_t>(config.evidence_bytes, 4));
      for (const char letter : each.evidence) FUZZ_CHECK(letter >= ' ' && letter <= '~');
      if (is_banned) FUZZ_CHECK(each.banned_until - now_ <= config.longest_ban);
    }
    std::size_t changes = 0;
    while (conduct_.poll_change(now_)) FUZZ_CHECK(++changes < 1000);
  }

  Draws& draws_;
  WallTime now_{seconds(1'800'000'000)};
  Conduct conduct_;
};

}  // namespace

std::vector<Bytes> seeds() {
  Bytes all;
  for (int peer = 0; peer < 12; ++peer) {
    for (const int event : {0, 1, 2, 0, 4, 3, 2, 4, 5}) {
      all.push_back(static_cast<std::byte>(peer));
      all.push_back(static_cast<std::byte>(event));
      all.push_back(static_cast<std::byte>(peer * 5 + event));
      all.push_back(static_cast<std::byte>(3));
    }
  }
  return {all};
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  papilio::fuzz::Draws draws(std::as_bytes(std::span(data, size)));
  papilio::fuzz::Shell(draws).run();
  return 0;
}
