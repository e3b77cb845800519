// A whole node but its thread (engine, mesh, group, rounds) among peers and strangers that say anything: hello first or
// not, every type of frame with any fields, rosters, words and shards that could be right, connections that end in the
// middle, and time. It ends nothing but their connections, each with a reason; rounds are over at their deadlines; it
// leaves in order, with every slab back.
#include <deque>
#include <map>
#include <utility>

#include "engine/node/engine.hpp"
#include "engine/node/group.hpp"
#include "kernels/ops.h"
#include "tests/fuzz/frames.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/fuzz/script_io.hpp"
#include "tests/fuzz/silence.hpp"

namespace papilio::fuzz {
namespace {

using namespace transport;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kPeers = 4;  // that it knows by name; the first is the node
constexpr std::size_t kMostConnections = 8;
constexpr std::uint64_t kElements = 600;
constexpr Duration kRoundTimeout = seconds(10);
constexpr Fingerprint kModel{.low = 3, .high = 4};

PeerId id_of(std::uint32_t number) {
  PeerId id;
  id.bytes.fill(static_cast<std::uint8_t>(number + 1));
  return id;
}

// The other end of a connection.
struct Line {
  ScriptIo::Handle stream;
  PeerId peer;  // who it says it is
  Bytes read;   // of the node's words, what is not a whole frame yet
};

class World final : public node::EngineEvents {
 public:
  explicit World(Draws& draws)
      : draws_(draws),
        engine_(io_, mesh_config(draws.byte() >= 0xf0), round_config(draws), static_cast<node::EngineEvents&>(*this)),
        group_(engine_, {.self = id_of(0),
                         .fingerprint = kModel,
                         .role = WireRole::miner,
                         .elements = kElements,
                         .target_batch = draws.chance() ? 40U : 0U,
                         .rate_bytes_per_s = 0,
                         .chunk_bytes = 65536,
                         .round_timeout = kRoundTimeout,
                         .patience = {},
                         .goes_on_alone = draws.chance()}) {
    FUZZ_CHECK(engine_.start().ok());
  }

  void run() {
    turn();
    while (!draws_.is_empty()) {
      step();
      turn();
    }
    pass_time(kRoundTimeout + seconds(1));
    engine_.leave("the input is over", seconds(1));
    FUZZ_CHECK(engine_.mesh().is_closed() && !engine_.rounds().in_round());
    io_.run_once(io_.now());
    FUZZ_CHECK(io_.open_handles() == 0);
    const SlabPool* const pool = engine_.rounds().pool();
    FUZZ_CHECK(pool == nullptr || pool->available() == pool->capacity());
    FUZZ_CHECK(rounds_begun_ == rounds_over_);
  }

 private:
  // ---- what the engine tells
  void on_peer_joined(node::Peer& peer) override {
    FUZZ_CHECK(peer.id != id_of(0));
    group_.handle_peer_joined(io_.now(), peer);
  }
  void on_peer_left(node::Peer& peer, node::PeerLeft how, const std::string& why) override {
    FUZZ_CHECK(how == node::PeerLeft::goodbye || !why.empty());
    group_.handle_peer_left(io_.now(), peer);
  }
  void on_control(node::Peer& peer, const Header& header) override {
    if (const auto evidence = group_.handle_control(io_.now(), peer, header)) {
      on_offence(peer, core::Offence::protocol, *evidence);
    }
  }
  void on_round_over(RoundReport report) override {
    rounds_over_ += 1;
    FUZZ_CHECK(report.chunks.size() == report.reducers.size() && !report.peers.empty());
    for (const PeerReport& peer : report.peers) FUZZ_CHECK(!peer.cut_off || !peer.reason.empty());
    for (const float value : gradient_) FUZZ_CHECK(std::abs(value) <= core::kLargestAverage);
    if (report.canceled) return;
    group_.handle_round_over(io_.now(), report);
    group_.report_model(report.epoch, 7);
  }
  void on_refused(const Address&, const std::string& why) override { FUZZ_CHECK(!why.empty()); }
  void on_offence(node::Peer& peer, core::Offence offence, const std::string& evidence) override {
    FUZZ_CHECK(!evidence.empty());
    if (conduct_.handle_offence(wall_now(), peer.id, offence, evidence).kind == core::Judgement::Kind::ban) {
      to_drop_.push_back(peer.id);
    }
  }
  std::optional<Refusal> objection_to_peer(const PeerId& peer) override {
    if (!conduct_.is_banned(wall_now(), peer)) return std::nullopt;
    return Refusal{RefusalReason::banned, "for what it did"};
  }

  // ---- the node's own turn
  static node::MeshConfig mesh_config(bool is_secure) {
    node::MeshConfig mesh;
    mesh.self = id_of(0);
    mesh.fingerprint = kModel;
    mesh.run_id = "fuzz";
    mesh.elements = kElements;
    mesh.listen = Address::simulated(1, 1);
    mesh.peers = {Address::simulated(2, 1)};
    mesh.door.elsewhere = {.connections = 6, .handshakes = 4, .attempts_at_once = 40, .attempts_per_s = 2};
    mesh.door.handshakes_in_total = 6;
    mesh.is_secure = is_secure;
    return mesh;
  }
  static node::RoundDriverConfig round_config(Draws& draws) {
    node::RoundDriverConfig rounds;
    rounds.self = id_of(0);
    rounds.pool_bytes_limit = std::size_t{256} << 10U;  // so that slabs run out
    rounds.hold_timeout = seconds(20);
    rounds.norms.action = static_cast<core::NormAction>(draws.below(3));
    rounds.format = node::ShardFormat{static_cast<Codec>(draws.below(4)), static_cast<Compression>(draws.below(2))};
    return rounds;
  }
  [[nodiscard]] core::WallTime wall_now() const {
    return core::WallTime(std::chrono::duration_cast<seconds>(io_.now().time_since_epoch()));
  }
  void turn() {
    io_.run_once(io_.now());
    engine_.handle_time(io_.now());
    for (const PeerId& id : std::exchange(to_drop_, {})) {
      if (node::Peer* const peer = engine_.mesh().find(id)) engine_.mesh().drop(*peer, "banned");
    }
    group_.act(io_.now());
    for (ScriptIo::Handle& dialled : io_.take_dialled()) lines_.push_back({std::move(dialled), {}, {}});
    for (Line& line : lines_) listen_to(line);
    std::erase_if(lines_, [](const Line& line) { return *line.stream == nullptr; });
    FUZZ_CHECK(engine_.mesh().peers().size() <= kPeers + 64);
  }
  void pass_time(Duration most) {
    const TimePoint end = io_.now() + most;
    for (std::uint32_t turns = 0; io_.now() < end; ++turns) {
      FUZZ_CHECK(turns < 20'000);  // it would spin
      io_.advance_to(std::clamp(std::min(engine_.next_deadline(), group_.next_deadline(io_.now())),
                                io_.now() + milliseconds(1), end));
      turn();
    }
    turn();  // connections that were cut over it are gone
    turn();
    FUZZ_CHECK(!engine_.rounds().in_round() || io_.now() <= round_ends_ + milliseconds(2));
  }
  void begin_round() {
    if (!group_.open_round() || engine_.rounds().in_round()) return;
    const node::RoundSpec spec = *group_.open_round();
    if (spec.round <= engine_.rounds().last_round()) return;
    std::fill(gradient_.begin(), gradient_.end(), 0.5F);
    rounds_begun_ += 1;
    round_ends_ = io_.now() + spec.timeout;
    spec_ = spec;
    engine_.begin_round(spec, gradient_, 1);
  }

  // ---- what the others do
  void step() {
    switch (draws_.below(16)) {
      case 0: return dial();
      case 1: {
        Line* const to = line();
        return introduce(to, id_of(1 + draws_.below(kPeers - 1)));
      }
      case 2: return join();
      case 3: {
        Line* const to = line();
        return say(to, draw_header(draws_, draws_.byte(), kPeers));
      }
      case 4: return say_of_this_round();
      case 5: return send_shard();
      case 6: return propose();
      case 7: return agree();
      case 8: return commit();
      case 9:
        if (Line* const to = line()) (*to->stream)->feed(draws_.take(draws_.byte()));
        return;
      case 10:
        if (Line* const to = line()) (*to->stream)->end(static_cast<IoCode>(1 + draws_.below(6)));
        return;
      case 11:
        if (Line* const to = line()) (*to->stream)->set_takes_bytes(draws_.chance());
        return;
      case 12: return pass_time(milliseconds(1) * (draws_.number() % 5000));
      case 13: return group_.add_samples(draws_.number() % 1000);
      case 14: return begin_round();
      default: return do_something_here();
    }
  }
  void do_something_here() {
    switch (draws_.below(6)) {
      case 0: return group_.handle_round_wanted(io_.now());
      case 1:
        if (engine_.rounds().in_round() && draws_.byte() > 0xe0) engine_.cancel_round();
        return;
      case 2: return group_.handle_bans({id_of(1 + draws_.below(kPeers))});
      case 3:
        if (group_.is_out_of_step() && !engine_.rounds().in_round()) {
          const auto wanted = group_.state_wanted();
          const std::uint64_t epoch = group_.progress(io_.now()).local_epoch;
          if (!wanted || wanted->epoch <= epoch) return;
          engine_.rounds().skip_rounds_to(wanted->epoch);
          group_.handle_state_taken(io_.now(), wanted->epoch);
        }
        return;
      case 4: {
        const std::uint64_t epoch = group_.progress(io_.now()).local_epoch;
        return group_.report_model(draws_.number() % (epoch + 1), draws_.number());
      }
      default: static_cast<void>(group_.state_wanted()); FUZZ_CHECK(group_.progress(io_.now()).members >= 1);
    }
  }

  Line* line() {
    const std::uint8_t choice = draws_.byte();
    if (lines_.empty()) return nullptr;
    Line& chosen = lines_[choice % lines_.size()];
    return *chosen.stream != nullptr ? &chosen : nullptr;
  }
  void dial() {
    if (!io_.listens() || lines_.size() >= kMostConnections) return;
    lines_.push_back({io_.accept(Address::simulated(5 + draws_.below(4), 1)), {}, {}});
  }
  static void say(Line* to, const Header& header, std::span<const std::byte> payload = {}) {
    if (to == nullptr) return;
    feed_frame(**to->stream, header, payload);
  }
  void introduce(Line* to, const PeerId& as) {
    if (to == nullptr) return;
    (*to->stream)->connect();
    to->peer = as;
    Hello hello{.peer = as, .fingerprint = kModel, .run_id = "fuzz", .elements = kElements};
    hello.role = draws_.byte() < 0xe0 ? WireRole::miner : WireRole::client;
    hello.session = draws_.byte();
    if (draws_.byte() >= 0xf0) hello.flows = 2, hello.flow = 1;
    say(to, hello);
    say(to, Ready{1});
  }
  // A new connection and its hello at once, and its word that it is where the node is.
  void join() {
    dial();
    if (lines_.empty()) return;
    introduce(&lines_.back(), id_of(1 + draws_.below(kPeers - 1)));
    turn();
    if (lines_.empty()) return;
    const std::uint64_t epoch = group_.progress(io_.now()).local_epoch;
    say(&lines_.back(), transport::Progress{.epoch = epoch, .digest_epoch = ~std::uint64_t{0}});
  }
  void say_of_this_round() {
    constexpr FrameType kWords[] = {FrameType::done,   FrameType::suspect, FrameType::takeover, FrameType::holdings,
                                    FrameType::wanted, FrameType::resume,  FrameType::pulse,    FrameType::progress};
    const FrameType type = kWords[draws_.below(std::size(kWords))];
    Line* const to = line();
    Header header = draw_header(draws_, static_cast<std::uint32_t>(type) - 1, kPeers);
    std::visit(
        [&](auto& word) {
          using Word = std::decay_t<decltype(word)>;
          if constexpr (requires { word.part; }) word.part %= kPeers;
          if constexpr (requires { word.distance; }) word.distance %= kPeers;
          if constexpr (requires { word.member; }) word.member %= kPeers;
          if constexpr (std::is_same_v<Word, Resume>) word.group = spec_.group;
          if constexpr (std::is_same_v<Word, transport::Progress>) {
            word.epoch = spec_.epoch + word.epoch % 3;
          } else if constexpr (requires { word.round; }) {
            word.round = spec_.round + (draws_.byte() >= 0xf0 ? 1 : 0);
          }
        },
        header);
    say(to, header);
  }
  // A shard that could be right, but for what the input changes.
  void send_shard() {
    Line* const to = line();
    const core::Round* const round = engine_.rounds().round();
    if (to == nullptr || round == nullptr || round->plan().chunk_count() == 0) return;
    const ChunkIndex chunk = draws_.byte() % round->plan().chunk_count();
    const auto codec = static_cast<kernels::Codec>(draws_.byte() < 0x80 ? 0 : draws_.below(4));
    std::vector<float> values(round->plan().chunk(chunk).size, 0.25F);
    if (!values.empty() && draws_.byte() >= 0xe0)
      values[draws_.byte() % values.size()] = static_cast<float>(draws_.real());
    Bytes payload(kernels::encoded_bytes(codec, values.size()));
    kernels::encode(codec, values, payload);
    auto compression = Compression::none;
    if (draws_.byte() >= 0xc0) {
      Bytes frame(2 * payload.size() + 100);
      frame.resize(kernels::compress(payload, codec, 1, frame));
      payload = std::move(frame);
      compression = Compression::zstd;
    }
    const std::uint8_t spoiled = draws_.byte();
    if (spoiled >= 0xf0) payload.resize(1 + draws_.byte());
    if (spoiled >= 0xe0) payload[draws_.byte() % payload.size()] ^= static_cast<std::byte>(draws_.byte());
    const std::uint64_t checksum = kernels::checksum(payload) + (spoiled == 0xdf ? 1 : 0);
    const std::uint64_t model = spec_.model + (spoiled == 0xde ? 1 : 0),
                        group = spec_.group + (spoiled == 0xdd ? 1 : 0);
    const RoundId of = spec_.round + (spoiled == 0xdc ? 1 : 0);
    if (draws_.chance()) {
      say(to,
          Contribution{.round = of,
                       .checksum = checksum,
                       .chunk = chunk,
                       .weight = draws_.byte() < 0xf0 ? 1 : static_cast<float>(draws_.real()),
                       .codec = static_cast<Codec>(codec),
                       .model = model,
                       .group = group,
                       .compression = compression},
          payload);
    } else {
      const MemberIndex reducer = draws_.byte() < 0xc0 ? round->plan().reducer(chunk) : draws_.below(kPeers);
      say(to,
          Average{.round = of,
                  .checksum = checksum,
                  .coverage = draws_.number() | coverage_of(reducer),
                  .chunk = chunk,
                  .total_weight = 2,
                  .codec = static_cast<Codec>(codec),
                  .model = model,
                  .group = group,
                  .reducer = reducer,
                  .compression = compression},
          payload);
    }
  }
  void propose() {
    Line* const by = line();
    if (by == nullptr) return;
    const std::uint64_t epoch = group_.progress(io_.now()).local_epoch;
    Propose proposal{.round = epoch + 1,
                     .epoch = epoch,
                     .members = {},
                     .chunk_bytes = 65536,
                     .timeout_ms = 10'000,
                     .attempt = 1 + draws_.number32() % 100,
                     .proposer = by->peer};
    proposal.members.push_back({id_of(0), 0, true});
    for (const auto& peer : engine_.mesh().peers()) {
      if (proposal.members.size() < kMaximumMembers)
        proposal.members.push_back({peer->id, 0, peer->role == WireRole::miner});
    }
    std::sort(proposal.members.begin(), proposal.members.end(),
              [](const auto& one, const auto& other) { return one.peer < other.peer; });
    proposal_ = proposal;
    say(by, proposal);
  }
  // With what the node has proposed.
  void agree() {
    for (Line& each : lines_) {
      if (*each.stream == nullptr) continue;
      const auto answer =
          draws_.byte() < 0xe0 ? RosterAnswer::acknowledged : static_cast<RosterAnswer>(draws_.below(10));
      say(&each, Ack{.round = own_proposal_.round,
                     .attempt = own_proposal_.attempt,
                     .proposer = own_proposal_.proposer,
                     .answer = answer,
                     .epoch = own_proposal_.epoch});
    }
  }
  void commit() {
    Line* const by = line();
    const std::size_t members = proposal_.members.size();
    if (members == 0) return;
    const std::uint64_t all = members >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << members) - 1;
    say(by, Commit{proposal_, draws_.byte() < 0xe0 ? all : draws_.number()});
  }
  // Everything that the node says is as it should be.
  void listen_to(Line& line) {
    if (*line.stream == nullptr) return;
    take_frames(**line.stream, line.read, [&](const Header& header, std::span<const std::byte>) {
      if (const auto* propose = std::get_if<Propose>(&header)) own_proposal_ = *propose;
    });
  }

  Draws& draws_;
  ScriptIo io_;
  std::vector<float> gradient_ = std::vector<float>(kElements);
  core::Conduct conduct_;
  std::vector<PeerId> to_drop_;
  std::vector<Line> lines_;
  Propose proposal_, own_proposal_;  // the latest of the others', and the node's
  node::RoundSpec spec_;             // of the latest round
  TimePoint round_ends_ = kNever;
  std::uint64_t rounds_begun_ = 0, rounds_over_ = 0;
  node::Engine engine_;
  node::Group group_;
};

}  // namespace

std::vector<Bytes> seeds() {
  return {
      // One that joins, proposes and commits; a round with its contribution and its average.
      bytes_of({0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 6, 1, 0, 8, 1, 0, 14, 5, 1, 0,
                0, 0, 0, 0, 1, 0, 5, 1, 1, 0, 0, 0, 0, 0, 0, 3, 4, 0, 1,  0, 0}),
      // Two, and what the node proposes.
      bytes_of({0,  0,   1,  0,  1, 1, 2, 0, 0,  0, 0, 0, 2, 1, 1, 0, 0, 0, 13, 200,
                12, 240, 16, 39, 7, 0, 0, 0, 14, 5, 1, 0, 0, 0, 0, 0, 1, 0, 12, 250}),
      // A stranger with shards before its hello, one with a wrong hello, and one that ends.
      bytes_of({0, 0, 0, 0, 1, 0, 0, 1, 3, 0, 5, 0, 0, 3, 0, 0, 10, 0, 0, 12, 100}),
  };
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  papilio::fuzz::be_silent();
  papilio::fuzz::Draws draws(std::as_bytes(std::span(data, size)));
  papilio::fuzz::World(draws).run();
  return 0;
}
