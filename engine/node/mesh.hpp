// Who this node is connected to. The mesh dials the known addresses until they answer, lets peers in whose hello is of
// the same run and model, refuses the others with a reason, keeps exactly one link (of one or more flows) per peer even
// when two dial each other at once, and tells a goodbye from a fault. What travels over the links is the owner's
// business.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/core/door.hpp"
#include "engine/node/gatekeeper.hpp"
#include "engine/node/log_limit.hpp"
#include "engine/node/membership.hpp"
#include "transport/flow.hpp"
#include "transport/frame.hpp"
#include "transport/io.hpp"

namespace papilio::node {

inline constexpr MemberIndex kNotAMember = ~MemberIndex{0};

// What has come from a peer in a round, on the wire and as the gradient's bytes that it stands for: a member that sends
// its shards in fewer bytes gets on as fast as one that sends as many shards in more.
struct PeerProgress {
  std::uint64_t payload_before = 0;     // of its flows, when the round began
  std::uint64_t payload_told = 0;       // since then, when the round's timers were told last
  std::uint64_t gradient_told = 0;      // and what they were told
  std::uint64_t whole_shards = 0;       // payload of shards that came to an end
  std::uint64_t gradient_of_whole = 0;  // what they stand for
};

// One live peer. Owned by the mesh from on_peer_joined to on_peer_left.
struct Peer {
  PeerId id;
  transport::WireRole role = transport::WireRole::miner;
  std::string listen;   // where it says it listens
  std::string address;  // where its connection comes from or goes to
  std::uint64_t rate_bytes_per_s = 0;
  std::uint64_t session = 0;
  bool is_local_host = false;
  bool dialled_here = false;
  TimePoint heard{};                 // its last whole frame came then
  TimePoint welcome_until = kNever;  // then its certificates run out
  bool leaving = false;              // it said goodbye; what it sent before is still on its way on other flows
  std::string goodbye;
  std::vector<transport::Flow*> flows;  // the first carries control frames
  MemberIndex member = kNotAMember;     // in the current round; the round's driver keeps it
  PeerProgress progress;                // in the current round; kept by its driver, too
  RoundId resume_heard = 0;             // it says that it is in that round, and was not answered yet
  RoundId resume_told = 0;              // the round for which this link was told that this node is in it
};

enum class PeerLeft : std::uint8_t {
  goodbye,
  lost,
  protocol_violation,  // it sent what no peer may send
  damaged,             // a header that does not match its checksum: the way may have done that
  dropped,             // by this node
};

struct MeshConfig {
  PeerId self;
  Fingerprint fingerprint;
  std::string run_id;
  transport::WireRole role = transport::WireRole::miner;
  std::uint64_t elements = 0;
  std::uint64_t rate_bytes_per_s = 0;
  std::uint16_t flows = 0;  // per link that is dialled here; 0: kFarFlows towards far hosts, else 1
  std::optional<transport::Address> listen;
  std::vector<transport::Address> peers;
  // The Io encrypts: every peer proves its id, and whoever says another one is refused.
  bool is_secure = false;
  transport::SocketOptions local_options, remote_options;
  Duration handshake_timeout = std::chrono::seconds(10);
  Duration idle_timeout{};  // a peer that says nothing for so long is dropped; 0: never
  Duration redial_first = std::chrono::milliseconds(50);
  Duration redial_most = std::chrono::seconds(5);
  Duration redial_linked = std::chrono::seconds(60);  // an address whose peer says that it is linked already
  Duration redial_banned = std::chrono::seconds(30);  // an address whose peer, or this node, is banned there or here
  // An address where somebody says that this node is of another run or model, or speaks another version. Whoever
  // answers there has proved nothing, and may be gone tomorrow: so not for good.
  Duration redial_refused = std::chrono::minutes(5);
  std::uint64_t seed = 0;    // of session numbers
  bool one_machine = false;  // everybody shares this host, whatever the addresses say: simulated groups
  core::DoorConfig door;     // passes check()
};

// Several flows lift one connection's window limit on long paths; measured in ARCHITECTURE.md.
inline constexpr std::uint16_t kFarFlows = 4;
inline constexpr Duration kFarRoundTrip = std::chrono::milliseconds(5);

// Sockets as measured best: towards the local host cubic and fixed buffers (small enough to stay in the cache),
// elsewhere the system's congestion control and automatic buffers, with little waiting unsent so that flows can share
// the work.
[[nodiscard]] transport::SocketOptions default_socket_options(bool local_host, const std::string& congestion_control);

// How much may lie in the kernel of one flow: twice its bandwidth times its delay, at least 64 KiB. More than that only
// waits in queues on the way, where it overflows: with automatic buffers, three senders into one 200 Mbit/s line lost
// so much that a round reached 91% of what the line carries, with this 97%.
[[nodiscard]] std::size_t send_buffer_bytes(double rate_bytes_per_s, Duration minimum_round_trip);

class MeshEvents {
 public:
  virtual void on_peer_joined(Peer& peer) = 0;
  virtual void on_peer_left(Peer& peer, PeerLeft how, const std::string& why) = 0;
  virtual void on_control(Peer& peer, const transport::Header& header) = 0;
  virtual transport::PayloadDecision on_shard_header(Peer& peer, transport::Flow& flow, const transport::Header& header,
                                                     std::size_t payload_bytes) = 0;
  virtual void on_shard(Peer& peer, const transport::Header& header, transport::Slab payload,
                        std::size_t payload_bytes) = 0;
  virtual bool next_shard(Peer& peer, transport::OutgoingFrame& frame) = 0;
  // The kernel took the shard; or (sent false) its connection is gone and nobody touches its bytes any more.
  virtual void on_shard_out(Peer* peer, std::uint64_t tag, bool sent) = 0;
  // A flow is gone: forget pointers to it.
  virtual void on_flow_gone(transport::Flow& flow) = 0;
  // Whether this node wants no link with that peer, and why. Asked at every handshake, whoever dialled.
  virtual std::optional<transport::Refusal> objection_to_peer(const PeerId& peer) = 0;
  // The same, given its hello; its id holds and is welcome.
  virtual Welcome judge_hello(const transport::Hello& hello) = 0;
  // This node's own, to be shown with its hello.
  virtual std::vector<std::vector<std::byte>> own_certificates() = 0;
  // An address refused this node for good (wrong run or model).
  virtual void on_refused(const transport::Address& address, const std::string& why) = 0;

 protected:
  ~MeshEvents() = default;
};

class Mesh final : private transport::FlowEvents, private transport::ListenerEvents {
 public:
  Mesh(transport::Io& io, MeshConfig config, MeshEvents& events);
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;
  ~Mesh();

  Status start();
  [[nodiscard]] std::optional<transport::Address> listen_address() const;
  // Dials what the source tells, from now on, beside MeshConfig::peers.
  void add_source(std::unique_ptr<MembershipSource> source);
  // Dials one more address until it answers.
  void add_address(const transport::Address& address);

  [[nodiscard]] const std::vector<std::unique_ptr<Peer>>& peers() const { return peers_; }
  [[nodiscard]] Peer* find(const PeerId& id) const;
  [[nodiscard]] const MeshConfig& config() const { return config_; }
  // Addresses that have not answered yet, each with how the last try ended.
  [[nodiscard]] std::vector<std::string> unanswered() const;
  // Addresses that answered with a ban, or are banned here, with the words for it.
  [[nodiscard]] std::vector<std::string> bans() const;

  void send_control(Peer& peer, const transport::Header& header);
  void wake_sender(Peer& peer);
  // Cuts the link at once; the peer may dial again.
  void drop(Peer& peer, const std::string& why);

  [[nodiscard]] TimePoint next_deadline() const;
  void handle_time(TimePoint now);

  // Says goodbye to everybody and stops dialling and accepting. is_closed() says when all connections are gone;
  // abort_all() ends the waiting.
  void leave(const std::string& reason);
  void abort_all();
  [[nodiscard]] bool is_closed() const { return connections_.empty(); }

  // Counted since the start, for the node's report.
  struct Counters {
    std::uint64_t refused = 0;                                            // hellos, whatever for; see refused_for
    std::array<std::uint64_t, transport::kRefusalReasons> refused_for{};  // by RefusalReason
    std::uint64_t protocol_violations = 0;                                // not our protocol, or malformed
    std::uint64_t handshake_timeouts = 0;
    std::uint64_t not_secure = 0;  // connections that came to nothing in the TLS handshake
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }
  [[nodiscard]] const core::Door& door() const { return door_; }
  // Everybody who was refused or gave up, by the word for it; only what happened at all. Refusals of this node by
  // others are not in it.
  [[nodiscard]] std::vector<RefusalCount> refusals() const;
  // The sum of them: a new one is worth telling.
  [[nodiscard]] std::uint64_t total_refusals() const;

 private:
  enum class Stage : std::uint8_t {
    connecting,      // dialled, not connected
    awaiting_hello,  // connected; the other's hello is not in
    awaiting_ready,  // accepted, hellos exchanged, the dialler has not confirmed
    established,     // part of a peer's link
    closing,
  };
  struct Dial;
  struct Connection {
    explicit Connection(FlowEvents& events) : flow(events) {}
    transport::Flow flow;
    Stage stage = Stage::connecting;
    bool dialled = false;
    Dial* dial = nullptr;   // where flow 0 was dialled from
    Peer* peer = nullptr;   // when established, or a further flow of that peer's link
    core::Visit visit = 0;  // accepted, and counted at the door
    TimePoint welcome_until = kNever;
    transport::Hello hello;  // what the other said (accepted) or what this node says (dialled)
    std::string address;
    bool is_local_host = false;
    TimePoint deadline = kNever;
    bool shard_in_flight = false;
    TimePoint next_tuning{};
    double rate_bytes_per_s = 0;  // delivered lately, at best
    std::size_t send_buffer_bytes = 0;
    std::uint64_t shard_tag = 0;
    std::list<Connection>::iterator position;
  };
  // One address that this node keeps trying to reach.
  struct Dial {
    transport::Address address;
    TimePoint next_try{};
    Duration wait{};
    bool busy = false;     // a connection is under way, or up
    bool refused = false;  // for what this node is, by whoever answers there; told already
    bool answered = false;
    std::string failure;  // how the last try ended
    std::string ban;      // why the last handshake there came to nothing, where a ban was the reason
  };

  void ask_sources(TimePoint now);
  void on_accepted(transport::Stream& stream) override;
  void on_flow_connected(transport::Flow& flow) override;
  transport::PayloadDecision on_payload_header(transport::Flow& flow, const transport::Header& header,
                                               std::size_t payload_bytes) override;
  void on_frame(transport::Flow& flow, const transport::Header& header, transport::Slab payload,
                std::size_t payload_bytes) override;
  bool next_frame(transport::Flow& flow, transport::OutgoingFrame& frame) override;
  void on_frame_sent(transport::Flow& flow, std::uint64_t tag) override;
  void on_flow_failed(transport::Flow& flow, const transport::FlowFailure& failure) override;
  void on_flow_closed(transport::Flow& flow) override;

  static Connection& connection_of(transport::Flow& flow) { return *static_cast<Connection*>(flow.context); }
  Connection& new_connection(const std::string& address, bool is_local_host);
  [[nodiscard]] bool is_local_host(const transport::Address& address) const;
  [[nodiscard]] bool is_linked_to(const transport::Address& address) const;
  void dial_now(Dial& dial);
  void dial_further_flows(Peer& peer, const transport::Address& address);
  [[nodiscard]] transport::Hello own_hello(std::uint64_t session, std::uint16_t flow, std::uint16_t flows);
  [[nodiscard]] std::optional<transport::Refusal> objection_to(Connection& connection, const transport::Hello& hello);
  [[nodiscard]] std::optional<transport::Refusal> objection_to_id(const Connection& connection,
                                                                  const transport::Hello& hello);
  core::Visit visit_from(const transport::Address& address);
  void turn_away(Connection& connection, core::DoorVerdict verdict);
  void close_displaced(core::Visit visit);

  void handle_hello_of_dialler(Connection& connection, const transport::Hello& hello);
  void handle_hello_of_acceptor(Connection& connection, const transport::Hello& hello);
  void turn_from(Connection& connection, const PeerId& peer, const transport::Refusal& objection);
  void handle_ready(Connection& connection);
  void handle_refusal(Connection& connection, const transport::Refusal& refusal);
  void handle_ban(Connection& connection, const std::string& what);
  void refuse(Connection& connection, transport::Refusal refusal);
  void count_refusal(transport::RefusalReason reason);
  [[nodiscard]] TimePoint stays_until(const Peer& peer) const;
  void drop_expired(TimePoint now);
  void violate(Connection& connection, const std::string& what, PeerLeft how = PeerLeft::protocol_violation);
  Peer& establish(Connection& connection);
  Connection* pending_from(const PeerId& id);
  void handle_goodbye(Connection& goodbye, const std::string& reason);
  void tune_send_buffer(Connection& connection);
  void lose_flow(Connection& connection, const std::string& why);
  void lose_peer(Peer& peer, PeerLeft how, const std::string& why);
  void close_quietly(Connection& connection);
  void schedule_redial(Dial& dial);
  [[nodiscard]] bool may_say(std::string_view kind) { return log_limit_.admit(io_.now(), kind); }
  void say_left_out(TimePoint now);

  transport::Io& io_;
  MeshConfig config_;
  MeshEvents& events_;
  transport::Listener* listener_ = nullptr;
  std::list<Connection> connections_;
  std::vector<std::unique_ptr<MembershipSource>> sources_;
  std::list<Dial> dials_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::unique_ptr<Peer>> departed_;  // until their flows are closed
  std::uint64_t next_session_ = 0;
  bool leaving_ = false;
  core::Door door_;
  LogLimit log_limit_;  // of lines about strangers
  Counters counters_;
};

}  // namespace papilio::node
