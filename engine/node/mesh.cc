#include "engine/node/mesh.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "engine/base/assert.hpp"
#include "engine/base/limits.hpp"
#include "engine/base/random.hpp"
#include "engine/base/text.hpp"
#include "engine/base/units.hpp"
#include "engine/node/address_block.hpp"

namespace papilio::node {

using transport::Flow;
using transport::Header;
using transport::Hello;
using transport::Refusal;
using transport::RefusalReason;

namespace {

constexpr std::string_view kDialledItself = "a node dialled itself";

// Somebody has to do something about it, or time has to pass: no use in asking again soon.
bool lasts_for_a_while(RefusalReason reason) {
  return reason == RefusalReason::banned || reason == RefusalReason::not_allowed ||
         reason == RefusalReason::not_qualified || reason == RefusalReason::wrong_identity;
}

}  // namespace

transport::SocketOptions default_socket_options(bool local_host, const std::string& congestion_control) {
  transport::SocketOptions options;
  options.congestion_control = congestion_control;
  if (local_host) {
    if (congestion_control.empty()) options.congestion_control = "cubic";
    options.send_buffer_bytes = options.receive_buffer_bytes = std::size_t{512} << 10U;
  } else {
    options.unsent_low_water_bytes = std::size_t{256} << 10U;
  }
  return options;
}

Mesh::Mesh(transport::Io& io, MeshConfig config, MeshEvents& events)
    : io_(io),
      config_(std::move(config)),
      events_(events),
      next_session_(Random::mix(config_.seed + 1)),
      door_(config_.door) {
  add_source(std::make_unique<StaticMembership>(config_.peers));
}

Mesh::~Mesh() { PAPILIO_ASSERT_VALUES(connections_.empty(), connections_.size(), 0); }

Status Mesh::start() {
  if (!config_.listen) return Done{};
  const bool local = is_local_host(*config_.listen);
  auto listening = io_.listen(*config_.listen, local ? config_.local_options : config_.remote_options, *this);
  if (!listening) return listening.error();
  listener_ = *listening;
  return Done{};
}

std::optional<transport::Address> Mesh::listen_address() const {
  if (listener_ == nullptr) return std::nullopt;
  return listener_->address();
}

void Mesh::add_source(std::unique_ptr<MembershipSource> source) {
  sources_.push_back(std::move(source));
  ask_sources(io_.now());
}

void Mesh::ask_sources(TimePoint now) {
  for (const auto& source : sources_) {
    if (now < source->next_poll()) continue;
    for (const transport::Address& address : source->poll_addresses(now)) add_address(address);
  }
}

void Mesh::add_address(const transport::Address& address) {
  Dial dial;
  dial.address = address;
  dial.wait = config_.redial_first;
  dials_.push_back(dial);
}

Peer* Mesh::find(const PeerId& id) const {
  for (const auto& peer : peers_) {
    if (peer->id == id) return peer.get();
  }
  return nullptr;
}

std::vector<std::string> Mesh::unanswered() const {
  std::vector<std::string> addresses;
  for (const Dial& dial : dials_) {
    if (dial.answered) continue;
    addresses.push_back(dial.address.to_string() + (dial.failure.empty() ? "" : " (" + dial.failure + ")"));
  }
  return addresses;
}

std::vector<std::string> Mesh::bans() const {
  std::vector<std::string> bans;
  for (const Dial& dial : dials_) {
    if (!dial.ban.empty()) bans.push_back(dial.ban);
  }
  return bans;
}

void Mesh::send_control(Peer& peer, const Header& header) {
  if (!peer.flows.empty()) peer.flows.front()->send_control(header);
}

void Mesh::wake_sender(Peer& peer) {
  // By index: a flow that fails while it sends leaves the list.
  // NOLINTNEXTLINE(modernize-loop-convert)
  for (std::size_t i = 0; i < peer.flows.size(); ++i) peer.flows[i]->wake_sender();
}

// ---- dialling

TimePoint Mesh::next_deadline() const {
  TimePoint next = kNever;
  for (const Connection& connection : connections_) next = std::min(next, connection.deadline);
  if (leaving_) return next;
  next = std::min(next, log_limit_.next_deadline());
  for (const auto& peer : peers_) next = std::min(next, stays_until(*peer));
  for (const auto& source : sources_) next = std::min(next, source->next_poll());
  for (const Dial& dial : dials_) {
    if (!dial.busy) next = std::min(next, dial.next_try);
  }
  return next;
}

void Mesh::handle_time(TimePoint now) {
  if (!leaving_) {
    say_left_out(now);
    ask_sources(now);
    drop_expired(now);
    for (Dial& dial : dials_) {
      if (dial.busy || now < dial.next_try) continue;
      if (is_linked_to(dial.address)) {
        dial.answered = true;
        dial.next_try = saturating_add(now, config_.redial_most);
      } else {
        dial_now(dial);
      }
    }
  }
  for (Connection& connection : connections_) {
    if (now < connection.deadline) continue;
    connection.deadline = kNever;
    if (connection.stage == Stage::closing) {
      connection.flow.abort();
      continue;
    }
    if (connection.stage == Stage::established) {  // said goodbye and did not go
      lose_peer(*connection.peer, PeerLeft::goodbye, connection.peer->goodbye);
      continue;
    }
    counters_.handshake_timeouts += 1;
    if (connection.dialled || may_say("no complete hello")) {
      spdlog::log(connection.dialled ? spdlog::level::debug : spdlog::level::warn,
                  "{}: connection closed: no complete hello within {:.1f} s", connection.address,
                  to_seconds(config_.handshake_timeout));
    }
    close_quietly(connection);
  }
}

bool Mesh::is_local_host(const transport::Address& address) const {
  return config_.one_machine || address.is_local_host();
}

// The peer there dialled this node first.
bool Mesh::is_linked_to(const transport::Address& address) const {
  const std::string text = address.to_string();
  // Of the peer's own host: what it says of others' addresses would keep this node from dialling them.
  const auto host_of = [](const std::string& where) { return where.substr(0, where.rfind(':')); };
  return std::any_of(peers_.begin(), peers_.end(),
                     [&](const auto& peer) { return peer->listen == text && host_of(peer->address) == host_of(text); });
}

void Mesh::dial_now(Dial& dial) {
  dial.busy = true;
  const bool local = is_local_host(dial.address);
  Connection& connection = new_connection(dial.address.to_string(), local);
  connection.dialled = true;
  connection.dial = &dial;
  const std::uint16_t flows = config_.flows != 0 ? config_.flows : (local ? std::uint16_t{1} : kFarFlows);
  connection.hello = own_hello(next_session_ = Random::mix(next_session_ + 1), 0, flows);
  connection.flow.dial(io_, dial.address, local ? config_.local_options : config_.remote_options);
}

void Mesh::dial_further_flows(Peer& peer, const transport::Address& address) {
  const std::uint16_t flows = connection_of(*peer.flows.front()).hello.flows;
  // Near hosts need no second window, and more flows only overflow the queue between.
  if (config_.flows == 0 && peer.flows.front()->info().minimum_round_trip < kFarRoundTrip) return;
  for (std::uint16_t flow = 1; flow < flows; ++flow) {
    Connection& connection = new_connection(peer.address, peer.is_local_host);
    connection.dialled = true;
    connection.peer = &peer;
    connection.hello = own_hello(peer.session, flow, flows);
    connection.flow.dial(io_, address, peer.is_local_host ? config_.local_options : config_.remote_options);
  }
}

void Mesh::schedule_redial(Dial& dial) {
  dial.busy = false;
  dial.next_try = saturating_add(io_.now(), dial.wait);
  if (dial.wait < config_.redial_most) dial.wait = std::min(dial.wait * 2, config_.redial_most);
  if (dial.wait > config_.redial_most) dial.wait = config_.redial_first;
}

Mesh::Connection& Mesh::new_connection(const std::string& address, bool is_local_host) {
  Connection& connection = connections_.emplace_back(static_cast<FlowEvents&>(*this));
  connection.position = std::prev(connections_.end());
  connection.flow.context = &connection;
  connection.address = address;
  connection.is_local_host = is_local_host;
  connection.deadline = saturating_add(io_.now(), config_.handshake_timeout);
  return connection;
}

Hello Mesh::own_hello(std::uint64_t session, std::uint16_t flow, std::uint16_t flows) {
  return Hello{.peer = config_.self,
               .fingerprint = config_.fingerprint,
               .run_id = config_.run_id,
               .role = config_.role,
               .session = session,
               .flow = flow,
               .flows = flows,
               .listen = listener_ != nullptr ? listener_->address().to_string() : std::string(),
               .rate_bytes_per_s = config_.rate_bytes_per_s,
               .elements = config_.elements,
               .software = "papilio " PAPILIO_VERSION,
               .certificates = events_.own_certificates()};
}

// ---- handshake
//
//   dialler                      acceptor
//   Hello            ->
//                    <-          Hello, or Refusal and end
//   Ready            ->          (only now does the acceptor use the link)
//
// When two peers dial each other at once, both accept the other's hello. The dialler that sees the answer to its own
// hello while an unconfirmed connection of the same peer is waiting keeps the one that the lower id dialled; both
// decide alike.

void Mesh::on_accepted(transport::Stream& stream) {
  const transport::Address address = stream.peer_address();
  const core::Visit visit = visit_from(address);
  // Ten thousand of these are not to keep anybody waiting: nothing is set up for them.
  if (visit == 0) return transport::turn_away(stream);
  Connection& connection = new_connection(address.to_string(), is_local_host(address));
  connection.visit = visit;
  connection.stage = Stage::awaiting_hello;
  connection.flow.adopt(stream);
}

// 0: it is not let in.
core::Visit Mesh::visit_from(const transport::Address& address) {
  if (leaving_) return 0;
  const core::AddressBlock block = address_block_of(address);
  const core::DoorAnswer answer = door_.handle_opened(io_.now(), block);
  if (answer.displaced != 0) close_displaced(answer.displaced);
  if (answer.verdict == core::DoorVerdict::welcome) return answer.visit;
  if (may_say(to_string(answer.verdict))) {
    spdlog::warn("{}: refused ({}): {}", address.to_string(), to_string(answer.verdict),
                 door_.explain(answer.verdict, block));
  }
  return 0;
}

void Mesh::turn_away(Connection& connection, core::DoorVerdict verdict) {
  const std::string why =
      std::string(to_string(verdict)) + ": " + door_.explain(verdict, address_block_of(connection.flow.peer_address()));
  if (may_say(to_string(verdict))) spdlog::warn("{}: refused: {}", connection.address, why);
  refuse(connection, {RefusalReason::too_many, why});
}

// It has been at the door for longest, of those whose address has most of them there.
void Mesh::close_displaced(core::Visit visit) {
  for (Connection& connection : connections_) {
    if (connection.visit != visit) continue;
    if (may_say("made room for others")) {
      spdlog::warn("{}: closed: no complete hello, and others want the room", connection.address);
    }
    connection.stage = Stage::closing;
    connection.flow.abort();
    return;
  }
}

void Mesh::on_flow_connected(Flow& flow) {
  Connection& connection = connection_of(flow);
  if (connection.stage != Stage::connecting) return;
  if (const transport::PublicKey* const key = flow.peer_key(); config_.is_secure && key != nullptr) {
    // Whom this node wants nothing to do with is not told of its run either.
    const PeerId peer = transport::peer_id_of(*key);
    const auto objection = peer != config_.self ? events_.objection_to_peer(peer) : std::nullopt;
    if (objection) return turn_from(connection, peer, *objection);
  }
  connection.stage = Stage::awaiting_hello;
  flow.send_control(connection.hello);
}

void Mesh::on_frame(Flow& flow, const Header& header, transport::Slab payload, std::size_t payload_bytes) {
  Connection& connection = connection_of(flow);
  if (connection.stage == Stage::closing) return;
  if (connection.stage == Stage::established) {
    connection.peer->heard = io_.now();
    if (payload_bytes > 0) return events_.on_shard(*connection.peer, header, std::move(payload), payload_bytes);
    if (const auto* goodbye = std::get_if<transport::Goodbye>(&header)) {
      return handle_goodbye(connection, goodbye->reason);
    }
    if (std::holds_alternative<transport::Ready>(header)) return;
    if (std::holds_alternative<Hello>(header) || std::holds_alternative<Refusal>(header)) {
      return violate(connection, "a second hello");
    }
    if (transport::is_of_test(header)) return violate(connection, "a frame of a test, outside of any test");
    return events_.on_control(*connection.peer, header);
  }
  if (const auto* hello = std::get_if<Hello>(&header); hello != nullptr && connection.stage == Stage::awaiting_hello) {
    if (connection.visit != 0) {
      const core::DoorVerdict verdict = door_.handle_bytes(connection.visit, flow.info().bytes_received);
      if (verdict != core::DoorVerdict::welcome) return turn_away(connection, verdict);
    }
    return connection.dialled ? handle_hello_of_acceptor(connection, *hello)
                              : handle_hello_of_dialler(connection, *hello);
  }
  if (std::holds_alternative<transport::Ready>(header) && connection.stage == Stage::awaiting_ready) {
    return handle_ready(connection);
  }
  if (const auto* refusal = std::get_if<Refusal>(&header); refusal != nullptr && connection.dialled) {
    if (lasts_for_a_while(refusal->reason)) {
      handle_ban(connection, connection.address + " refuses this node: " + std::string(to_string(refusal->reason)) +
                                 " " + one_line(refusal->detail));
    }
    return handle_refusal(connection, *refusal);
  }
  violate(connection, "a frame before the hello");
}

// Who it is comes first: everything else depends on it.
std::optional<Refusal> Mesh::objection_to_id(const Connection& connection, const Hello& hello) {
  if (config_.is_secure) {
    const transport::PublicKey* const key = connection.flow.peer_key();
    if (key == nullptr || transport::peer_id_of(*key) != hello.peer) {
      return Refusal{RefusalReason::wrong_identity,
                     "the hello is from " + to_hex(hello.peer) + ", the key on this connection is " +
                         (key == nullptr ? "missing" : "that of " + to_hex(transport::peer_id_of(*key))) +
                         ": a peer's id is the hash of its own key"};
    }
  }
  if (hello.peer == config_.self) return Refusal{RefusalReason::same_peer, std::string(kDialledItself)};
  return events_.objection_to_peer(hello.peer);
}

std::optional<Refusal> Mesh::objection_to(Connection& connection, const Hello& hello) {
  if (auto objection = objection_to_id(connection, hello)) return objection;
  if (hello.run_id != config_.run_id) {
    return Refusal{RefusalReason::wrong_run, "this run is '" + config_.run_id + "', yours is '" + hello.run_id + "'"};
  }
  if (hello.fingerprint != config_.fingerprint || hello.elements != config_.elements) {
    return Refusal{RefusalReason::wrong_model, "the model fingerprints differ (" + std::to_string(config_.elements) +
                                                   " parameters here, " + std::to_string(hello.elements) +
                                                   " there): compare model and its sizes, seed, "
                                                   "target-batch, learning-rate, warmup-steps, data's characters"};
  }
  const Welcome welcome = events_.judge_hello(hello);  // last: signatures cost more than comparisons
  connection.welcome_until = welcome.lasts ? saturating_add(io_.now(), *welcome.lasts) : kNever;
  return welcome.objection;
}

void Mesh::handle_hello_of_dialler(Connection& connection, const Hello& hello) {
  connection.hello = hello;
  if (const auto objection = objection_to(connection, hello)) {
    if (may_say(to_string(objection->reason))) {
      spdlog::warn("{} ({}): refused ({}): {}", connection.address, to_hex(hello.peer), to_string(objection->reason),
                   one_line(objection->detail));
    }
    return refuse(connection, *objection);
  }
  if (const core::DoorVerdict verdict = door_.handle_authenticated(connection.visit, hello.peer);
      verdict != core::DoorVerdict::welcome) {
    return turn_away(connection, verdict);
  }
  Peer* const peer = find(hello.peer);
  if (hello.flow > 0) {
    if (peer == nullptr || peer->session != hello.session || peer->flows.size() >= kMaximumFlows) {
      return refuse(connection, {RefusalReason::busy, "no link with that session"});
    }
    connection.flow.send_control(own_hello(hello.session, hello.flow, hello.flows));
    establish(connection);
    return wake_sender(*peer);
  }
  if (peer != nullptr) {
    // Or its machine started again without a word, and knows nothing of that link: then this is answered by a reset.
    for (Flow* const flow : std::vector<Flow*>(peer->flows)) flow->send_control(transport::Ready{hello.flows});
    return refuse(connection, {RefusalReason::same_peer, "already connected"});
  }
  connection.stage = Stage::awaiting_ready;
  connection.flow.send_control(own_hello(hello.session, 0, hello.flows));
}

void Mesh::handle_hello_of_acceptor(Connection& connection, const Hello& hello) {
  if (const auto objection = objection_to(connection, hello)) return turn_from(connection, hello.peer, *objection);
  if (connection.dial != nullptr) connection.dial->answered = true;
  if (connection.hello.flow > 0) {
    Peer* const peer = connection.peer;
    if (hello.peer != peer->id) return close_quietly(connection);  // somebody else listens there by now
    establish(connection);
    return wake_sender(*peer);
  }
  Connection* const rival = pending_from(hello.peer);
  if (find(hello.peer) != nullptr || (rival != nullptr && hello.peer < config_.self)) {
    return close_quietly(connection);  // the other connection is, or will be, the link
  }
  if (rival != nullptr) close_quietly(*rival);
  const std::uint64_t session = connection.hello.session;
  const std::uint16_t flows = connection.hello.flows;
  connection.hello = hello;
  connection.hello.session = session;
  connection.hello.flows = flows;
  connection.flow.send_control(transport::Ready{flows});
  const transport::Address address = connection.dial->address;
  connection.dial->wait = config_.redial_first;
  connection.dial->ban.clear();
  connection.dial->refused = false;
  Peer& peer = establish(connection);
  dial_further_flows(peer, address);
  events_.on_peer_joined(peer);
}

// It answered where this node dialled, and this node does not want it.
void Mesh::turn_from(Connection& connection, const PeerId& peer, const Refusal& objection) {
  count_refusal(objection.reason);
  if (objection.reason == RefusalReason::banned) {
    handle_ban(connection, connection.address + " (" + to_hex(peer) + ") is banned here " + objection.detail);
  } else if (lasts_for_a_while(objection.reason)) {
    handle_ban(connection,
               connection.address + " (" + to_hex(peer) + ") is not wanted here: " + one_line(objection.detail));
  } else if (peer != config_.self) {
    spdlog::warn("{}: not joined ({}): {}", connection.address, to_string(objection.reason),
                 one_line(objection.detail));
  }
  handle_refusal(connection, objection);
}

void Mesh::handle_ready(Connection& connection) {
  if (find(connection.hello.peer) != nullptr) return close_quietly(connection);
  events_.on_peer_joined(establish(connection));
}

Mesh::Connection* Mesh::pending_from(const PeerId& id) {
  for (Connection& connection : connections_) {
    if (connection.stage == Stage::awaiting_ready && connection.hello.peer == id) return &connection;
  }
  return nullptr;
}

Peer& Mesh::establish(Connection& connection) {
  connection.stage = Stage::established;
  connection.deadline = kNever;
  if (connection.visit != 0) door_.handle_established(connection.visit);
  Peer* peer = connection.peer != nullptr ? connection.peer : find(connection.hello.peer);
  if (peer == nullptr) {
    peer = peers_.emplace_back(std::make_unique<Peer>()).get();
    peer->id = connection.hello.peer;
    peer->role = connection.hello.role;
    peer->listen = connection.hello.listen;
    peer->address = connection.address;
    peer->rate_bytes_per_s = connection.hello.rate_bytes_per_s;
    peer->session = connection.hello.session;
    peer->is_local_host = connection.is_local_host;
    peer->welcome_until = connection.welcome_until;
    peer->heard = io_.now();
    peer->dialled_here = connection.dialled;
  }
  connection.peer = peer;
  peer->flows.push_back(&connection.flow);
  return *peer;
}

void Mesh::handle_refusal(Connection& connection, const Refusal& refusal) {
  const auto* const key = connection.flow.peer_key();
  const bool is_self = refusal.reason == RefusalReason::same_peer && refusal.detail == kDialledItself &&
                       (!config_.is_secure || (key != nullptr && transport::peer_id_of(*key) == config_.self));
  const bool for_what_it_is =
      refusal.reason == RefusalReason::wrong_run || refusal.reason == RefusalReason::wrong_model ||
      refusal.reason == RefusalReason::protocol_version || refusal.reason == RefusalReason::security || is_self;
  if (connection.dial != nullptr) {
    connection.dial->answered = true;
    // Linked already, the other way round: no use in asking again soon. Without a link to it here, it has not noticed
    // yet that the old one is gone.
    const bool is_linked = refusal.reason == RefusalReason::same_peer && find(refusal.peer) != nullptr;
    if (is_linked) connection.dial->wait = config_.redial_linked;
    if (for_what_it_is) {
      connection.dial->wait = is_self ? Duration::max() : config_.redial_refused;
      if (!std::exchange(connection.dial->refused, true)) {
        events_.on_refused(connection.dial->address,
                           std::string(to_string(refusal.reason)) + ": " + one_line(refusal.detail));
      }
    }
  }
  close_quietly(connection);
}

// Not for good: bans end, and one who waits it out is welcome. But there is no use in asking all the time.
void Mesh::handle_ban(Connection& connection, const std::string& what) {
  if (connection.dial == nullptr) return;
  connection.dial->wait = config_.redial_banned;
  if (connection.dial->ban == what) return;  // said already
  connection.dial->ban = what;
  spdlog::warn("{}; trying again every {:.0f} s", what, to_seconds(config_.redial_banned));
}

void Mesh::count_refusal(RefusalReason reason) {
  counters_.refused += 1;
  counters_.refused_for[static_cast<std::size_t>(reason)] += 1;
}

std::vector<RefusalCount> Mesh::refusals() const {
  std::vector<RefusalCount> all;
  const auto add = [&](std::string_view reason, std::uint64_t count) {
    if (count > 0) all.push_back({std::string(reason), count});
  };
  for (std::size_t i = 0; i < counters_.refused_for.size(); ++i) {
    const auto reason = static_cast<RefusalReason>(i);
    if (reason != RefusalReason::too_many) add(to_string(reason), counters_.refused_for[i]);  // the door has the words
  }
  for (std::size_t i = 1; i < core::kDoorVerdicts; ++i) {
    const auto verdict = static_cast<core::DoorVerdict>(i);
    add(to_string(verdict), door_.count_of(verdict));
  }
  add("not-secure", counters_.not_secure);
  add("protocol-violation", counters_.protocol_violations);
  add("no-hello-in-time", counters_.handshake_timeouts);
  return all;
}

std::uint64_t Mesh::total_refusals() const {
  const std::uint64_t by_the_door = counters_.refused_for[static_cast<std::size_t>(RefusalReason::too_many)];
  std::uint64_t total = counters_.refused - by_the_door + counters_.not_secure + counters_.protocol_violations +
                        counters_.handshake_timeouts;
  for (std::size_t i = 1; i < core::kDoorVerdicts; ++i) total += door_.count_of(static_cast<core::DoorVerdict>(i));
  return total;
}

void Mesh::refuse(Connection& connection, Refusal refusal) {
  count_refusal(refusal.reason);
  refusal.peer = config_.self;
  connection.stage = Stage::closing;
  connection.deadline = saturating_add(io_.now(), std::chrono::seconds(1));
  connection.flow.send_control(refusal);
  connection.flow.close_after_sending();
}

void Mesh::violate(Connection& connection, const std::string& what, PeerLeft how) {
  counters_.protocol_violations += 1;
  const bool is_stranger = connection.stage != Stage::established;
  if (!is_stranger || may_say("not the protocol")) {
    spdlog::warn("{}: connection closed: {}", connection.address, what);
  }
  if (connection.stage == Stage::established) return lose_peer(*connection.peer, how, what);
  close_quietly(connection);
}

// ---- established flows

transport::PayloadDecision Mesh::on_payload_header(Flow& flow, const Header& header, std::size_t payload_bytes) {
  Connection& connection = connection_of(flow);
  if (connection.stage == Stage::closing) return {};
  if (connection.stage != Stage::established) {
    violate(connection, "a shard before the hello");
    return {};
  }
  if (transport::is_of_test(header)) {
    violate(connection, "test data, outside of any test");
    return {};
  }
  return events_.on_shard_header(*connection.peer, flow, header, payload_bytes);
}

bool Mesh::next_frame(Flow& flow, transport::OutgoingFrame& frame) {
  Connection& connection = connection_of(flow);
  if (connection.stage != Stage::established || !events_.next_shard(*connection.peer, frame)) return false;
  connection.shard_in_flight = true;
  connection.shard_tag = frame.tag;
  return true;
}

void Mesh::on_frame_sent(Flow& flow, std::uint64_t tag) {
  Connection& connection = connection_of(flow);
  connection.shard_in_flight = false;
  tune_send_buffer(connection);
  events_.on_shard_out(connection.peer, tag, true);
}

std::size_t send_buffer_bytes(double rate_bytes_per_s, Duration minimum_round_trip) {
  constexpr double kLeast = 65536;
  constexpr double kMost = 16777216;
  return static_cast<std::size_t>(std::clamp(2 * rate_bytes_per_s * to_seconds(minimum_round_trip), kLeast, kMost));
}

void Mesh::tune_send_buffer(Connection& connection) {
  constexpr Duration kInterval = std::chrono::milliseconds(100);
  constexpr double kForgetting = 0.9;  // per interval, so that a pause of the trainer does not look like a slow line
  const TimePoint now = io_.now();
  if (connection.is_local_host || config_.remote_options.send_buffer_bytes != 0 || now < connection.next_tuning) return;
  connection.next_tuning = saturating_add(now, kInterval);
  const transport::StreamInfo info = connection.flow.info();
  if (info.minimum_round_trip == Duration::zero()) return;
  connection.rate_bytes_per_s =
      std::max(static_cast<double>(info.delivery_rate_bytes_per_s), kForgetting * connection.rate_bytes_per_s);
  const std::size_t wanted = send_buffer_bytes(connection.rate_bytes_per_s, info.minimum_round_trip);
  const std::size_t difference =
      std::max(wanted, connection.send_buffer_bytes) - std::min(wanted, connection.send_buffer_bytes);
  if (difference <= connection.send_buffer_bytes / 8) return;
  connection.send_buffer_bytes = wanted;
  connection.flow.set_send_buffer(wanted);
}

// ---- ending

void Mesh::on_flow_failed(Flow& flow, const transport::FlowFailure& failure) {
  Connection& connection = connection_of(flow);
  if (connection.dial != nullptr) connection.dial->failure = failure.to_string();
  if (failure.is_protocol_violation()) {
    const bool damaged = failure.frame_fault == transport::FrameFault::bad_checksum;
    return violate(connection, failure.to_string(), damaged ? PeerLeft::damaged : PeerLeft::protocol_violation);
  }
  if (connection.stage == Stage::established && failure.io.code == transport::IoCode::damaged) {
    return violate(connection, failure.to_string(), PeerLeft::damaged);
  }
  if (connection.stage == Stage::established) return lose_flow(connection, failure.to_string());
  if (failure.io.code == transport::IoCode::not_secure || failure.io.code == transport::IoCode::damaged) {
    counters_.not_secure += 1;
    if (may_say("not secure")) spdlog::warn("{}: connection closed: {}", connection.address, failure.to_string());
    connection.stage = Stage::closing;
    return;
  }
  if (connection.peer != nullptr) {  // a further flow that could not be opened: the link lives without it
    spdlog::debug("{}: further flow not opened: {}", connection.address, failure.to_string());
  } else if (connection.dialled || may_say("gone before the handshake")) {
    spdlog::log(connection.dialled ? spdlog::level::debug : spdlog::level::info, "{}: gone before the handshake: {}",
                connection.address, failure.to_string());
  }
  connection.stage = Stage::closing;
}

// The goodbye came on the control flow and may have overtaken shards on the others: the peer is gone when every flow
// has reached its end.
void Mesh::handle_goodbye(Connection& goodbye, const std::string& reason) {
  Peer& peer = *goodbye.peer;
  peer.leaving = true;
  peer.goodbye = one_line(reason);
  for (Connection& connection : connections_) {
    if (connection.peer != &peer || connection.stage != Stage::established) continue;
    connection.deadline = saturating_add(io_.now(), std::chrono::seconds(1));
  }
}

// One flow of a link ended. Unless the peer is leaving, the link is lost with it.
void Mesh::lose_flow(Connection& connection, const std::string& why) {
  Peer& peer = *connection.peer;
  if (!peer.leaving) return lose_peer(peer, PeerLeft::lost, why);
  connection.stage = Stage::closing;
  std::erase(peer.flows, &connection.flow);
  if (peer.flows.empty()) lose_peer(peer, PeerLeft::goodbye, peer.goodbye);
}

void Mesh::lose_peer(Peer& peer, PeerLeft how, const std::string& why) {
  const auto found = std::find_if(peers_.begin(), peers_.end(), [&](const auto& each) { return each.get() == &peer; });
  if (found == peers_.end()) return;
  departed_.push_back(std::move(*found));
  peers_.erase(found);
  peer.flows.clear();
  for (Dial& dial : dials_) {  // one of those that wait long may lead there
    if (!dial.refused) dial.next_try = std::min(dial.next_try, saturating_add(io_.now(), config_.redial_most));
  }
  for (Connection& connection : connections_) {
    if (connection.peer != &peer || connection.stage == Stage::closing) continue;
    connection.stage = Stage::closing;
    connection.flow.abort();
  }
  events_.on_peer_left(peer, how, why);
}

TimePoint Mesh::stays_until(const Peer& peer) const {
  if (config_.idle_timeout == Duration::zero()) return peer.welcome_until;
  return std::min(peer.welcome_until, saturating_add(peer.heard, config_.idle_timeout));
}

// Who has newer certificates shows them when the link is made anew; who is alive dials again.
void Mesh::drop_expired(TimePoint now) {
  std::vector<Peer*> expired;
  for (const auto& peer : peers_) {
    if (now >= stays_until(*peer)) expired.push_back(peer.get());
  }
  for (Peer* const peer : expired) {
    drop(*peer, now >= peer->welcome_until ? "its certificates have expired"
                                           : "nothing came from it for " + format_duration(config_.idle_timeout));
  }
}

void Mesh::drop(Peer& peer, const std::string& why) { lose_peer(peer, PeerLeft::dropped, why); }

void Mesh::close_quietly(Connection& connection) {
  connection.stage = Stage::closing;
  connection.deadline = saturating_add(io_.now(), std::chrono::seconds(1));
  connection.flow.close_after_sending();
}

void Mesh::on_flow_closed(Flow& flow) {
  Connection& connection = connection_of(flow);
  events_.on_flow_gone(flow);
  if (connection.shard_in_flight) events_.on_shard_out(connection.peer, connection.shard_tag, false);
  if (connection.dial != nullptr) schedule_redial(*connection.dial);
  Peer* const peer = connection.peer;
  if (peer != nullptr) std::erase(peer->flows, &flow);
  if (connection.visit != 0) door_.handle_closed(connection.visit);
  connections_.erase(connection.position);
  if (peer == nullptr) return;
  const bool last = std::none_of(connections_.begin(), connections_.end(),
                                 [&](const Connection& other) { return other.peer == peer; });
  if (last) std::erase_if(departed_, [&](const auto& each) { return each.get() == peer; });
}

void Mesh::leave(const std::string& reason) {
  if (leaving_) return;
  leaving_ = true;
  say_left_out(kNever);
  if (listener_ != nullptr) std::exchange(listener_, nullptr)->close();
  for (Connection& connection : connections_) {
    // On every flow: its end must not arrive before its goodbye, and flows do not wait for each other.
    if (connection.stage == Stage::established) connection.flow.send_control(transport::Goodbye{reason});
    connection.stage = Stage::closing;
    connection.deadline = saturating_add(io_.now(), std::chrono::seconds(1));
    connection.flow.close_after_sending();
  }
}

void Mesh::say_left_out(TimePoint now) {
  while (const auto left_out = log_limit_.poll(now)) {
    spdlog::warn("{} more connections within {:.0f} s: {}", left_out->lines, to_seconds(log_limit_.config().interval),
                 left_out->kind);
  }
}

void Mesh::abort_all() {
  for (Connection& connection : connections_) {
    connection.stage = Stage::closing;
    connection.flow.abort();
  }
}

}  // namespace papilio::node
