// Who gets in and who does not: engines over TLS over a simulated network, and strangers that try everything short of
// breaking the cryptography. Whatever they do, they are refused with a reason that is counted, and the honest are
// linked.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/node/certificate.hpp"
#include "engine/node/engine.hpp"
#include "engine/node/gatekeeper.hpp"
#include "transport/secure_io.hpp"
#include "transport/sim_io.hpp"

namespace papilio::node {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using transport::Address;
using transport::Header;
using transport::Identity;
using transport::RefusalReason;

constexpr Duration kBound = seconds(120);
constexpr std::uint16_t kPort = 7;
constexpr core::WallTime kToday{std::chrono::seconds(1'800'000'000)};
constexpr std::string_view kRun = "test";

Identity identity_of(std::uint32_t number) { return Identity::from_seed({static_cast<std::uint8_t>(number), 0x5e}); }
const Identity& judge() {
  static const Identity identity = identity_of(200);
  return identity;
}

// One host: an engine, whom it lets in, and what it shows to others.
struct Host final : EngineEvents {
  explicit Host(std::uint32_t host) : number(host), identity(identity_of(host)) { config.self = identity.id(); }

  void on_peer_joined(Peer&) override { joined += 1; }
  void on_peer_left(Peer&, PeerLeft how, const std::string& why) override { left.emplace_back(how, why); }
  void on_control(Peer&, const Header&) override {}
  void on_round_over(RoundReport) override {}
  void on_refused(const Address&, const std::string& why) override { refused.push_back(why); }
  std::optional<transport::Refusal> objection_to_peer(const PeerId& peer) override {
    return gatekeeper->objection_to(wall(), peer, conduct);
  }
  Welcome judge_hello(const transport::Hello& hello) override { return gatekeeper->judge(wall(), hello, conduct); }
  std::vector<std::vector<std::byte>> own_certificates() override { return shown; }
  [[nodiscard]] core::WallTime wall() const {
    return kToday + std::chrono::floor<seconds>(io->now().time_since_epoch());
  }

  [[nodiscard]] bool is_linked_to(const Host& other) const { return engine->mesh().find(other.config.self) != nullptr; }
  [[nodiscard]] std::uint64_t refused_for(RefusalReason reason) const {
    return engine->mesh().counters().refused_for[static_cast<std::size_t>(reason)];
  }
  // What the only address that it dials has said.
  [[nodiscard]] std::string told() const {
    const auto bans = engine->mesh().bans();
    return bans.empty() ? "" : bans.front();
  }

  std::uint32_t number;
  Identity identity;
  MeshConfig config;
  AdmissionConfig admission;
  std::vector<std::vector<std::byte>> shown;
  bool is_secure = true;

  std::unique_ptr<transport::Io> io;
  std::optional<Gatekeeper> gatekeeper;
  core::Conduct conduct{{.slow_must_requalify = true}};
  std::unique_ptr<Engine> engine;
  int joined = 0;
  std::vector<std::pair<PeerLeft, std::string>> left;
  std::vector<std::string> refused;
};

class SecurityTest : public testing::Test {
 protected:
  ~SecurityTest() override {
    for (const auto& host : hosts_) host->engine->mesh().abort_all();
    for (const auto& host : hosts_) host->engine->mesh().leave("");
    EXPECT_TRUE(run_until([&] {
      return std::all_of(hosts_.begin(), hosts_.end(),
                         [](const auto& host) { return host->engine->mesh().is_closed(); });
    }));
  }

  Host& add_host() {
    return *hosts_.emplace_back(std::make_unique<Host>(static_cast<std::uint32_t>(hosts_.size() + 1)));
  }

  void start(Host& host, std::optional<std::uint32_t> dials = {}) {
    host.io = network_.make_host(host.number);
    if (host.is_secure) host.io = transport::make_secure_io(std::move(host.io), host.identity).value();
    host.config.is_secure = host.is_secure;
    host.config.run_id = kRun;
    host.config.listen = Address::simulated(host.number, kPort);
    host.config.seed = host.number;
    if (dials) host.config.peers.push_back(Address::simulated(*dials, kPort));
    host.gatekeeper.emplace(host.admission, host.identity.id(), std::string(kRun), "");
    EngineEvents& events = host;
    host.engine = std::make_unique<Engine>(*host.io, host.config, RoundDriverConfig{.self = host.config.self}, events);
    ASSERT_TRUE(host.engine->start().ok());
  }

  // A stranger's own connections, below or above TLS.
  transport::Io& add_stranger(std::uint32_t number, bool is_secure) {
    auto io = network_.make_host(number);
    if (is_secure) io = transport::make_secure_io(std::move(io), identity_of(number)).value();
    return *strangers_.emplace(number, std::move(io)).first->second;
  }

  [[nodiscard]] bool run_until(const std::function<bool()>& predicate) {
    const TimePoint bound = network_.now() + kBound;
    while (!predicate()) {
      bool ran = false;
      for (const auto& host : hosts_) {
        const bool is_due = host->engine->next_deadline() <= network_.now();
        if (!network_.is_ready(host->number) && !is_due) continue;
        host->engine->turn(network_.now());
        ran = true;
      }
      for (const auto& [number, io] : strangers_) {
        if (!network_.is_ready(number)) continue;
        io->run_once(network_.now());
        ran = true;
      }
      if (ran) continue;
      TimePoint next = network_.next_event_time();
      for (const auto& host : hosts_) next = std::min(next, host->engine->next_deadline());
      if (next > bound) return false;
      network_.advance_to(next);
    }
    return true;
  }

  static core::Qualification figures_of(const PeerId& subject) {
    return {.subject = subject,
            .judge = judge().id(),
            .run_id = std::string(kRun),
            .up_bps = 200'000'000,
            .down_bps = 160'000'000,
            .round_trip_median = milliseconds(20),
            .round_trip_p99 = milliseconds(30),
            .jitter = milliseconds(1),
            .retransmits = 0,
            .issued = kToday - hours(1),
            .expires = kToday + hours(24)};
  }

  transport::SimNetwork network_{1};
  std::vector<std::unique_ptr<Host>> hosts_;
  std::map<std::uint32_t, std::unique_ptr<transport::Io>> strangers_;
};

TEST_F(SecurityTest, BothProveTheirIds) {
  Host& one = add_host();
  Host& other = add_host();
  start(one);
  start(other, one.number);
  ASSERT_TRUE(run_until([&] { return one.is_linked_to(other) && other.is_linked_to(one); }));
  EXPECT_EQ(one.engine->mesh().counters().refused, 0U);
}

TEST_F(SecurityTest, WhoSaysAnothersIdIsRefused) {
  Host& node = add_host();
  Host& liar = add_host();
  Host& victim = add_host();
  liar.config.self = victim.identity.id();
  start(node);
  start(victim);
  start(liar, node.number);
  ASSERT_TRUE(run_until([&] { return !liar.told().empty(); }));
  EXPECT_NE(liar.told().find("wrong-identity"), std::string::npos) << liar.told();
  EXPECT_EQ(node.refused_for(RefusalReason::wrong_identity), 1U);
  EXPECT_TRUE(node.engine->mesh().peers().empty());
}

TEST_F(SecurityTest, ABanIsOnTheKeyWhateverTheHelloSays) {
  Host& node = add_host();
  Host& offender = add_host();
  node.conduct.handle_offence(kToday, offender.identity.id(), core::Offence::protocol, "a second hello");
  start(node);
  start(offender, node.number);
  ASSERT_TRUE(run_until([&] { return !offender.told().empty(); }));
  EXPECT_NE(offender.told().find("banned until"), std::string::npos) << offender.told();
  EXPECT_NE(offender.told().find("a second hello"), std::string::npos) << offender.told();
  EXPECT_EQ(node.refused_for(RefusalReason::banned), 1U);
}

TEST_F(SecurityTest, ListsAreKept) {
  Host& node = add_host();
  Host& friendly = add_host();
  Host& denied = add_host();
  Host& unknown = add_host();
  node.admission.allowed = {friendly.identity.id(), denied.identity.id()};
  node.admission.denied = {denied.identity.id()};
  start(node);
  start(friendly, node.number);
  start(denied, node.number);
  start(unknown, node.number);
  ASSERT_TRUE(
      run_until([&] { return node.is_linked_to(friendly) && !denied.told().empty() && !unknown.told().empty(); }));
  EXPECT_NE(denied.told().find("deny list"), std::string::npos) << denied.told();
  EXPECT_NE(unknown.told().find("allow list"), std::string::npos) << unknown.told();
  EXPECT_EQ(node.refused_for(RefusalReason::not_allowed), 2U);
}

// ---- certificates

TEST_F(SecurityTest, OnlyARightCertificateLetsIn) {
  Host& node = add_host();
  node.admission.judges = {judge().id()};
  start(node);
  struct Case {
    std::function<void(core::Qualification&)> change;
    const char* expected;  // of the refusal; null: let in
  };
  const auto with = [](auto change) { return [change](core::Qualification& figures) { change(figures); }; };
  const Identity other_judge = identity_of(201);
  const PeerId somebody = identity_of(202).id();
  const std::vector<Case> cases = {
      {with([](auto&) {}), nullptr},
      {with([&](auto& f) { f.subject = somebody; }), "certificate-of-another"},
      {with([](auto& f) { f.run_id = "another"; }), "certificate-of-another-run"},
      {with([](auto& f) { f.issued = kToday - hours(48), f.expires = kToday - hours(1); }), "certificate-expired"},
      {with([](auto& f) { f.issued = kToday + hours(1), f.expires = kToday + hours(2); }), "certificate-not-yet-valid"},
      {with([](auto& f) { f.up_bps = 99'999'999; }), "below-minimum"},
      {with([](auto& f) { f.down_bps = 99'999'999; }), "below-minimum"},
      {with([](auto& f) {
         f.round_trip_median = milliseconds(201);
         f.round_trip_p99 = milliseconds(300);
       }),
       "below-minimum"},
  };
  for (const Case& each : cases) {
    Host& peer = add_host();
    core::Qualification figures = figures_of(peer.identity.id());
    each.change(figures);
    peer.shown = {sign_certificate(judge(), figures)};
    peer.config.rate_bytes_per_s = 20'000'000;
    start(peer, node.number);
    ASSERT_TRUE(run_until([&] { return node.is_linked_to(peer) || !peer.told().empty(); })) << peer.number;
    EXPECT_EQ(node.is_linked_to(peer), each.expected == nullptr) << peer.number << peer.told();
    if (each.expected == nullptr) continue;
    EXPECT_NE(peer.told().find(each.expected), std::string::npos) << peer.told();
  }
  // None at all, somebody else's signature, and a byte that was changed after it was signed.
  Host& none = add_host();
  Host& self_made = add_host();
  Host& forged = add_host();
  core::Qualification figures = figures_of(self_made.identity.id());
  figures.judge = other_judge.id();
  self_made.shown = {sign_certificate(other_judge, figures)};
  forged.shown = {sign_certificate(judge(), figures_of(forged.identity.id()))};
  forged.shown[0][forged.shown[0].size() / 2] ^= std::byte{1};
  for (Host* const peer : {&none, &self_made, &forged}) start(*peer, node.number);
  ASSERT_TRUE(run_until([&] { return !none.told().empty() && !self_made.told().empty() && !forged.told().empty(); }));
  EXPECT_NE(none.told().find("no-certificate"), std::string::npos) << none.told();
  EXPECT_NE(self_made.told().find("judge-not-trusted"), std::string::npos) << self_made.told();
  EXPECT_NE(forged.told().find("certificate"), std::string::npos) << forged.told();
  EXPECT_EQ(node.engine->mesh().peers().size(), 1U);
}

TEST_F(SecurityTest, WhoCallsItselfAValidatorNeedsACertificateLikeEverybody) {
  Host& node = add_host();
  Host& peer = add_host();
  node.admission.judges = {judge().id()};
  peer.config.role = transport::WireRole::validator;
  start(node);
  start(peer, node.number);
  ASSERT_TRUE(run_until([&] { return !peer.told().empty(); }));
  EXPECT_NE(peer.told().find("no-certificate"), std::string::npos) << peer.told();
}

TEST_F(SecurityTest, WhomADiallerDoesNotWantIsNotToldOfTheRun) {
  Host& unwanted = add_host();
  Host& node = add_host();
  node.admission.denied = {unwanted.identity.id()};
  start(unwanted);
  start(node, unwanted.number);
  ASSERT_TRUE(run_until([&] { return !node.told().empty(); }));
  EXPECT_NE(node.told().find("deny list"), std::string::npos) << node.told();
  EXPECT_EQ(unwanted.engine->mesh().counters().refused, 0U);
  EXPECT_EQ(unwanted.joined, 0);
}

TEST_F(SecurityTest, NobodySaysMoreOfItsLineThanItsJudge) {
  Host& node = add_host();
  node.admission.judges = {judge().id()};
  start(node);
  for (const auto& [rate, is_let_in] : {std::pair(std::uint64_t{20'000'000}, true), {20'000'001, false}, {0, false}}) {
    Host& peer = add_host();
    peer.shown = {sign_certificate(judge(), figures_of(peer.identity.id()))};
    peer.config.rate_bytes_per_s = rate;
    start(peer, node.number);
    ASSERT_TRUE(run_until([&] { return node.is_linked_to(peer) || !peer.told().empty(); }));
    EXPECT_EQ(node.is_linked_to(peer), is_let_in) << rate;
  }
}

TEST_F(SecurityTest, WhenItsCertificateRunsOutThePeerGoesAndAFreshOneBringsItBack) {
  Host& node = add_host();
  Host& peer = add_host();
  node.admission.judges = {judge().id()};
  node.admission.clock_skew = seconds(0);
  core::Qualification figures = figures_of(peer.identity.id());
  figures.expires = kToday + seconds(30);
  peer.shown = {sign_certificate(judge(), figures)};
  peer.config.rate_bytes_per_s = 1;
  peer.config.redial_banned = seconds(5);
  start(node);
  start(peer, node.number);
  ASSERT_TRUE(run_until([&] { return node.is_linked_to(peer); }));
  ASSERT_TRUE(run_until([&] { return !node.is_linked_to(peer); }));
  EXPECT_GE(node.wall(), figures.expires);
  ASSERT_EQ(node.left.size(), 1U);
  EXPECT_NE(node.left[0].second.find("expired"), std::string::npos) << node.left[0].second;
  ASSERT_TRUE(run_until([&] { return peer.told().find("certificate-expired") != std::string::npos; }));
  figures.issued = node.wall();
  figures.expires = node.wall() + hours(1);
  peer.shown = {sign_certificate(judge(), figures)};
  ASSERT_TRUE(run_until([&] { return node.is_linked_to(peer); }));
}

// The key proves that it is itself: no use in ever asking again.
TEST_F(SecurityTest, ANodeThatDialsItselfStopsForGood) {
  Host& node = add_host();
  start(node, node.number);
  ASSERT_TRUE(run_until([&] { return !node.refused.empty() && node.io->open_handles() == 1; }));
  EXPECT_NE(node.refused[0].find("dialled itself"), std::string::npos) << node.refused[0];
  EXPECT_GT(node.engine->mesh().next_deadline(), network_.now() + hours(1));
}

// A peer from which nothing comes is dropped, and taken again when it is back; one that is there stays.
TEST_F(SecurityTest, WhoSaysNothingIsDroppedInTime) {
  Host& node = add_host();
  Host& silent = add_host();
  node.config.idle_timeout = seconds(20);
  start(node);
  start(silent, node.number);
  ASSERT_TRUE(run_until([&] { return node.is_linked_to(silent); }));
  network_.freeze_host(silent.number);
  const TimePoint then = network_.now();
  ASSERT_TRUE(run_until([&] { return !node.is_linked_to(silent); }));
  EXPECT_NEAR(to_seconds(network_.now() - then), 20, 1);
  ASSERT_EQ(node.left.size(), 1U);
  EXPECT_NE(node.left[0].second.find("nothing came from it"), std::string::npos) << node.left[0].second;
  network_.thaw_host(silent.number);
  ASSERT_TRUE(run_until([&] { return node.is_linked_to(silent); }));
}

TEST_F(SecurityTest, ABanForSlownessEndsWithTimeAndAFreshCertificate) {
  Host& node = add_host();
  Host& peer = add_host();
  node.admission.judges = {judge().id()};
  const core::Judgement judgement =
      node.conduct.handle_offence(kToday, peer.identity.id(), core::Offence::slow, "it dripped");
  ASSERT_EQ(judgement.kind, core::Judgement::Kind::ban);
  core::Qualification figures = figures_of(peer.identity.id());
  peer.shown = {sign_certificate(judge(), figures)};
  peer.config.rate_bytes_per_s = 1;
  peer.config.redial_banned = seconds(5);
  start(node);
  start(peer, node.number);
  ASSERT_TRUE(run_until([&] { return !peer.told().empty(); }));
  EXPECT_NE(peer.told().find("banned until"), std::string::npos) << peer.told();
  network_.advance_to(network_.now() + (judgement.until - kToday));
  ASSERT_TRUE(run_until([&] { return peer.told().find("certificate-not-fresh") != std::string::npos; })) << peer.told();
  figures.issued = node.wall();
  peer.shown = {sign_certificate(judge(), figures)};
  ASSERT_TRUE(run_until([&] { return node.is_linked_to(peer); })) << peer.told();
  EXPECT_FALSE(node.conduct.requalify_since(node.wall(), peer.identity.id()));
}

// ---- with and without encryption

TEST_F(SecurityTest, WhoSendsInTheClearIsToldSo) {
  Host& node = add_host();
  Host& plain = add_host();
  plain.is_secure = false;
  start(node);
  start(plain, node.number);
  ASSERT_TRUE(run_until([&] { return !plain.refused.empty(); }));
  EXPECT_NE(plain.refused[0].find("encrypted connections only"), std::string::npos) << plain.refused[0];
  EXPECT_EQ(node.engine->mesh().counters().not_secure, 1U);
}

TEST_F(SecurityTest, WhoEncryptsFindsOutThatTheOtherDoesNot) {
  Host& plain = add_host();
  Host& secure = add_host();
  plain.is_secure = false;
  start(plain);
  start(secure, plain.number);
  ASSERT_TRUE(run_until([&] {
    return secure.engine->mesh().counters().not_secure > 0 ||
           secure.engine->mesh().unanswered().front().find("--security none") != std::string::npos;
  }));
  EXPECT_TRUE(secure.engine->mesh().peers().empty());
  EXPECT_TRUE(plain.engine->mesh().peers().empty());
  EXPECT_GE(plain.engine->mesh().counters().protocol_violations, 1U);
}

// ---- strangers

// A connection that does what it is told, and remembers how it ended.
struct Stranger final : transport::StreamEvents {
  void on_connected(transport::Stream& which) override {
    connected = true;
    if (!words.empty()) say(which);
  }
  void on_read(transport::Stream&, std::size_t) override {}
  void on_written(transport::Stream& which) override {
    said += 1;
    if (repeat) say(which);
  }
  void on_failed(transport::Stream& which, transport::IoStatus) override {
    failed = true;
    which.abort();
  }
  void on_closed(transport::Stream&) override { stream = nullptr; }
  void say(transport::Stream& which) {
    const transport::WriteBuffer buffer(words);
    which.write({&buffer, 1}, transport::WriteMode::copy);
  }

  transport::Stream* stream = nullptr;
  std::vector<std::byte> words;
  bool repeat = false, connected = false, failed = false;
  int said = 0;
};

TEST_F(SecurityTest, ConnectionsOpenedAndLeftCostNobodyElseAnything) {
  Host& node = add_host();
  node.admission.door.elsewhere.attempts_at_once = 100000;
  node.config.door = node.admission.door;
  start(node);
  transport::Io& io = add_stranger(50, false);
  std::vector<std::unique_ptr<Stranger>> strangers;
  constexpr std::size_t kMany = 2000;
  for (std::size_t i = 0; i < kMany; ++i) {
    strangers.push_back(std::make_unique<Stranger>());
    strangers.back()->stream = &io.connect(Address::simulated(node.number, kPort), {}, *strangers.back());
  }
  ASSERT_TRUE(run_until([&] {
    return node.engine->mesh().door().count_of(core::DoorVerdict::too_many_handshakes) +
               node.engine->mesh().door().handshakes() >=
           kMany;
  }));
  const std::uint32_t most = node.admission.door.elsewhere.handshakes;
  EXPECT_LE(node.engine->mesh().door().handshakes(), most);
  Host& honest = add_host();
  start(honest, node.number);
  ASSERT_TRUE(run_until([&] { return node.is_linked_to(honest); }));
  // What was left standing is closed in time.
  ASSERT_TRUE(run_until([&] { return node.engine->mesh().door().handshakes() == 0; }));
  EXPECT_EQ(node.engine->mesh().counters().handshake_timeouts, most);
  EXPECT_TRUE(node.is_linked_to(honest));
  for (const auto& stranger : strangers) {
    if (stranger->stream != nullptr) stranger->stream->abort();
  }
  ASSERT_TRUE(run_until([&] {
    return std::all_of(strangers.begin(), strangers.end(), [](const auto& each) { return each->stream == nullptr; });
  }));
}

TEST_F(SecurityTest, NonsenseBelowAndAboveTlsIsRefused) {
  Host& node = add_host();
  start(node);
  std::vector<std::byte> nonsense(4096);
  for (std::size_t i = 0; i < nonsense.size(); ++i) nonsense[i] = static_cast<std::byte>(i * 37);
  // A frame of 2^31 bytes: a right preamble, but for its size.
  transport::HeaderBytes huge;
  transport::encode_frame_header(transport::Contribution{.weight = 1}, 64, huge);
  const std::uint32_t payload_bytes = std::uint32_t{1} << 31U;
  std::memcpy(huge.data() + 8, &payload_bytes, sizeof(payload_bytes));
  transport::seal_frame_header(huge);
  std::uint32_t number = 60;
  std::vector<std::unique_ptr<Stranger>> strangers;
  for (const bool is_secure : {false, true}) {
    for (const std::vector<std::byte>& words : {nonsense, std::vector<std::byte>(huge)}) {
      transport::Io& io = add_stranger(number++, is_secure);
      Stranger& stranger = *strangers.emplace_back(std::make_unique<Stranger>());
      stranger.words = words;
      stranger.stream = &io.connect(Address::simulated(node.number, kPort), {}, stranger);
    }
  }
  const Mesh& mesh = node.engine->mesh();
  ASSERT_TRUE(run_until([&] { return mesh.counters().not_secure == 2 && mesh.counters().protocol_violations == 2; }))
      << mesh.counters().not_secure << " " << mesh.counters().protocol_violations;
  ASSERT_TRUE(run_until([&] { return mesh.is_closed(); }));
  for (const auto& stranger : strangers) {
    if (stranger->stream != nullptr) stranger->stream->abort();
  }
  ASSERT_TRUE(run_until([&] {
    return std::all_of(strangers.begin(), strangers.end(), [](const auto& each) { return each->stream == nullptr; });
  }));
}

TEST_F(SecurityTest, TooManyBytesOfHandshakeAreRefused) {
  Host& node = add_host();
  start(node);
  transport::Io& io = add_stranger(70, false);
  Stranger stranger;
  // Handshake records that never end: a client hello that says it is 2^24 bytes long.
  stranger.words.assign(16384 + 5, std::byte{0});
  constexpr std::array<std::uint8_t, 9> kBegin{0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0xff, 0xff, 0xff};
  std::memcpy(stranger.words.data(), kBegin.data(), kBegin.size());
  stranger.repeat = true;
  stranger.stream = &io.connect(Address::simulated(node.number, kPort), {}, stranger);
  ASSERT_TRUE(run_until([&] { return stranger.stream == nullptr; }));
  EXPECT_EQ(node.engine->mesh().counters().not_secure, 1U);
  EXPECT_LT(stranger.said, 64);
}

}  // namespace
}  // namespace papilio::node
