#include "transport/sim_io.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "engine/base/random.hpp"

namespace papilio::transport {

namespace {

class SimHost;
class SimStream;
class SimListener;

constexpr std::uint64_t kNowhere = std::numeric_limits<std::uint64_t>::max();
constexpr std::size_t kTurnItems = 4096;
constexpr std::uint16_t kFirstChosenPort = 49152;
// Host numbers index a table.
constexpr std::uint32_t kMaximumHosts = 1U << 20U;

// Bytes that were written with WriteMode::borrow, by their position in the stream: they are looked up in the writer's
// memory when they are read, as if its pages had been handed to the kernel.
struct Borrowed {
  std::uint64_t begin = 0, end = 0;
  const std::byte* data = nullptr;
};

// One direction of a connection: a ring of the bytes that were written and not yet read.
struct Pipe {
  std::vector<std::byte> ring;
  std::size_t head = 0;
  std::size_t stored = 0;   // in the ring
  std::size_t arrived = 0;  // of them, at the reader's side
  std::uint64_t accepted = 0, consumed = 0;
  std::uint64_t credited = 0;  // of the consumed bytes, what the writer has heard of
  std::deque<Borrowed> borrowed;
  bool credit_under_way = false;
  bool end_arrived = false;
  bool swallowing = false;                                                 // truncated: what is written goes nowhere
  TimePoint last_arrival{};                                                // at the reader's host
  TimePoint last_delivery{};                                               // through that host's shared down link
  std::array<std::uint64_t, 3> fault_at = {kNowhere, kNowhere, kNowhere};  // by SimFault

  std::uint64_t& at(SimFault fault) { return fault_at[static_cast<std::size_t>(fault)]; }
};

// The pipe of side i carries what side i writes. Side 0 dialled.
struct Connection {
  std::uint32_t generation = 0;
  std::array<std::uint32_t, 2> host{};
  std::array<SimStream*, 2> side{};
  std::array<Pipe, 2> pipe;
  std::uint16_t port = 0;
  bool dialling = false;  // the dial is still on its way
};

enum class EventKind : std::uint8_t { dial, answer, refuse, unreachable, segment, delivery, end, reset, credit };

// Something that arrives: for `credit` at the writer's side of the pipe, for all others at its reader's.
struct Event {
  TimePoint time;
  std::uint64_t sequence;
  std::uint32_t connection;
  std::uint32_t generation;
  std::uint32_t bytes;
  EventKind kind;
  std::uint8_t pipe;

  // Of two events, the later one is less: std heaps have the greatest on top.
  bool operator<(const Event& other) const {
    return time != other.time ? time > other.time : sequence > other.sequence;
  }
};

// What a host's queue holds: a stream or a listener with something to do or to tell.
class SimItem {
 public:
  explicit SimItem(SimHost& host) : host_(host) {}
  SimItem(const SimItem&) = delete;
  SimItem& operator=(const SimItem&) = delete;
  virtual ~SimItem() = default;
  virtual void process() = 0;
  virtual void gone() = 0;

  SimHost& host_;
  bool queued_ = false;
  bool disposed_ = false;
  std::size_t position_ = 0;
};

struct HostState {
  SimHost* io = nullptr;
  bool exists = false;
  bool frozen = false;
  bool refusing = false;
  bool unplugged = false;  // died silently
  std::uint64_t up_bytes_per_s = 0, down_bytes_per_s = 0;
  TimePoint up_free{}, down_free{};
  SimTamperer* tamperer = nullptr;
};

struct LinkState {
  Duration latency, jitter;
};

struct PlannedFault {
  SimFault fault;
  std::uint32_t from, to;
  std::uint64_t at_byte;
};

using HostPair = std::pair<std::uint32_t, std::uint32_t>;
HostPair pair_of(std::uint32_t one, std::uint32_t other) { return std::minmax(one, other); }

Duration time_for(std::uint64_t bytes, std::uint64_t bytes_per_s) {
  return bytes_per_s == 0 ? Duration::zero()
                          : from_seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_s));
}

}  // namespace

// Clock, events, connections; the hosts' objects call it for everything that leaves them.
class SimNetwork::Core {
 public:
  Core(std::uint64_t seed, const SimOptions& options) : options_(options), random_(seed) {}

  HostState& host(std::uint32_t number);
  [[nodiscard]] LinkState link(std::uint32_t one, std::uint32_t other) const;
  void note(std::uint64_t what);

  // Calls of SimStream.
  std::uint32_t dial(SimStream& stream, std::uint32_t from, std::uint32_t to, std::uint16_t port);
  std::size_t send(std::uint32_t number, std::uint8_t side, WriteBuffer bytes, WriteMode mode);
  std::size_t receive(std::uint32_t number, std::uint8_t side, ReadBuffer into);
  void send_end(std::uint32_t number, std::uint8_t side);
  void send_reset(std::uint32_t number, std::uint8_t side);
  // `overwrites`: the owner does with the memory that it lent what it likes from now on.
  void leave(std::uint32_t number, std::uint8_t side, bool overwrites);

  void execute(const Event& event);
  void heal();

  Connection& connection(std::uint32_t number) { return connections_[number]; }

  SimOptions options_;
  Random random_;
  TimePoint now_{std::chrono::seconds(1)};
  std::uint64_t sequence_ = 0;
  std::uint64_t log_ = 0, event_count_ = 0;
  std::vector<Event> events_;  // a heap
  std::vector<HostState> hosts_;
  std::map<HostPair, LinkState> links_;
  std::set<HostPair> blocked_;
  std::vector<Event> held_;  // by partitions, in order
  std::vector<PlannedFault> planned_;

 private:
  void push(TimePoint time, EventKind kind, std::uint32_t number, std::uint8_t pipe, std::size_t bytes = 0);
  TimePoint arrival_of(Connection& connection, std::uint8_t side, std::size_t bytes);
  void draw_faults(Connection& connection);
  void store(Pipe& pipe, WriteBuffer bytes);
  void read_borrowed(Pipe& pipe, std::uint64_t until);
  void give_back(Pipe& pipe, bool overwritten);
  void send_segments(std::uint32_t number, std::uint8_t side, std::size_t bytes);
  void credit(std::uint32_t number, std::uint8_t pipe);
  void arrive_dial(std::uint32_t number);
  void arrive_bytes(std::uint32_t number, std::uint8_t pipe, std::size_t bytes);

  std::deque<Connection> connections_;
  std::vector<std::uint32_t> free_;
};

namespace {

using Core = SimNetwork::Core;

class SimStream final : public Stream, public SimItem {
 public:
  enum class State : std::uint8_t { connecting, open, failed };

  SimStream(SimHost& host, State state, const Address& peer) : SimItem(host), state_(state), peer_(peer) {}

  void read(std::span<const ReadBuffer> buffers, std::size_t at_least) override;
  void write(std::span<const WriteBuffer> buffers, WriteMode mode) override;
  void close() override { leave(false); }
  void abort() override { leave(true); }
  void set_events(StreamEvents& events) override { events_ = &events; }
  [[nodiscard]] StreamInfo info() const override;
  [[nodiscard]] Address peer_address() const override { return peer_; }
  // The simulated buffer is of one size.
  void set_send_buffer(std::size_t) override {}

  void process() override;
  void gone() override;
  void leave(bool at_once);
  // Like leave, without a word to the peer.
  void vanish();
  void attach(std::uint32_t connection, std::uint8_t side) {
    connection_ = connection;
    side_ = side;
    attached_ = true;
  }

  // From the network; told to the owner in its next turn.
  void notice();
  void notice_connected() {
    answered_ = true;
    notice();
  }
  void notice_broken(IoStatus status) {
    if (broken_.code == IoCode::ok) broken_ = status;
    notice();
  }
  [[nodiscard]] bool has_events() const { return events_ != nullptr; }

 private:
  [[nodiscard]] bool usable() const { return state_ == State::open && !disposed_; }
  void try_read();
  void try_write();
  void tamper(SimTamperer& tamperer);
  void fail(IoStatus status);
  void note(std::uint64_t kind, std::uint64_t value) const;
  [[nodiscard]] Core& core() const;
  [[nodiscard]] const Pipe& incoming() const { return core().connection(connection_).pipe[1 - side_]; }

  State state_;
  StreamEvents* events_ = nullptr;
  Address peer_;
  std::uint32_t connection_ = 0;
  std::uint8_t side_ = 0;
  bool attached_ = false;
  bool answered_ = false;
  IoStatus broken_;

  bool reading_ = false;
  std::array<ReadBuffer, kMaximumBuffersPerOperation> read_into_;
  std::size_t read_first_ = 0, read_count_ = 0, read_bytes_ = 0, read_at_least_ = 0;
  bool writing_ = false, written_ = false;
  std::array<WriteBuffer, kMaximumBuffersPerOperation> write_from_;
  std::size_t write_first_ = 0, write_count_ = 0;
  std::vector<std::byte> tampered_;  // what is written in place of the owner's buffers
  WriteMode write_mode_ = WriteMode::copy;
  std::uint64_t bytes_received_ = 0, bytes_sent_ = 0;
};

class SimListener final : public Listener, public SimItem {
 public:
  SimListener(SimHost& host, const Address& address, ListenerEvents& events)
      : SimItem(host), address_(address), events_(events) {}
  [[nodiscard]] Address address() const override { return address_; }
  void close() override;
  void process() override;
  void gone() override {}

  std::vector<SimStream*> waiting_;  // connected, not yet accepted

 private:
  Address address_;
  ListenerEvents& events_;
};

class SimHost final : public Io {
 public:
  SimHost(Core& core, std::uint32_t number) : core_(core), number_(number), now_(core.now_) {}
  SimHost(const SimHost&) = delete;
  SimHost& operator=(const SimHost&) = delete;
  ~SimHost() override;

  [[nodiscard]] std::string_view name() const override { return "sim"; }
  [[nodiscard]] TimePoint now() const override { return now_; }
  Result<Listener*> listen(const Address& address, const SocketOptions& options, ListenerEvents& events) override;
  Stream& connect(const Address& address, const SocketOptions& options, StreamEvents& events) override;
  void run_once(TimePoint until) override;
  void wake() noexcept override { woken_ = true; }
  [[nodiscard]] uv_loop_s* event_loop() override { return nullptr; }
  [[nodiscard]] std::size_t open_handles() const override { return all_.size(); }

  void add(SimItem& item);
  void remove(SimItem& item);
  void enqueue(SimItem& item);
  [[nodiscard]] bool is_dead() const { return dead_; }
  [[nodiscard]] bool is_ready() const { return !dead_ && (woken_ || queue_head_ < queue_.size()); }
  // Takes every stream off the network.
  void die(SimDeath death);
  // The last word to the owners of a dead host's streams.
  void bury();

  Core& core_;
  const std::uint32_t number_;
  std::map<std::uint16_t, SimListener*> listeners_;

 private:
  TimePoint now_;
  bool woken_ = false;
  bool dead_ = false;
  std::uint16_t next_port_ = kFirstChosenPort;
  std::vector<SimItem*> all_;
  std::vector<SimItem*> queue_;
  std::size_t queue_head_ = 0;
};

}  // namespace

// ---- the network ----

HostState& SimNetwork::Core::host(std::uint32_t number) {
  PAPILIO_ASSERT_VALUES(number < kMaximumHosts, number, kMaximumHosts);
  if (number >= hosts_.size()) {
    HostState fresh;
    fresh.up_bytes_per_s = options_.up_bytes_per_s;
    fresh.down_bytes_per_s = options_.down_bytes_per_s;
    hosts_.resize(number + std::size_t{1}, fresh);
  }
  return hosts_[number];
}

LinkState SimNetwork::Core::link(std::uint32_t one, std::uint32_t other) const {
  const auto found = links_.find(pair_of(one, other));
  return found != links_.end() ? found->second : LinkState{options_.latency, options_.jitter};
}

void SimNetwork::Core::note(std::uint64_t what) {
  log_ = Random::mix(log_ ^ what ^ Random::mix(static_cast<std::uint64_t>(now_.time_since_epoch().count())));
}

void SimNetwork::Core::push(TimePoint time, EventKind kind, std::uint32_t number, std::uint8_t pipe,
                            std::size_t bytes) {
  events_.push_back(
      {time, sequence_++, number, connections_[number].generation, static_cast<std::uint32_t>(bytes), kind, pipe});
  std::push_heap(events_.begin(), events_.end());
}

// What one side sends arrives in the order in which it was sent, whatever the jitter.
TimePoint SimNetwork::Core::arrival_of(Connection& connection, std::uint8_t side, std::size_t bytes) {
  const std::uint32_t from = connection.host[side];
  const LinkState path = link(from, connection.host[1 - side]);
  TimePoint& up_free = host(from).up_free;
  up_free = std::max(now_, up_free) + time_for(bytes, host(from).up_bytes_per_s);
  const auto jitter = static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(path.jitter.count()) + 1));
  TimePoint& last = connection.pipe[side].last_arrival;
  return last = std::max(last, up_free + path.latency + Duration(jitter));
}

std::uint32_t SimNetwork::Core::dial(SimStream& stream, std::uint32_t from, std::uint32_t to, std::uint16_t port) {
  std::uint32_t number = 0;
  if (free_.empty()) {
    number = static_cast<std::uint32_t>(connections_.size());
    connections_.emplace_back();
  } else {
    number = free_.back();
    free_.pop_back();
  }
  Connection& fresh = connections_[number];
  fresh.host = {from, to};
  fresh.side = {&stream, nullptr};
  fresh.port = port;
  fresh.dialling = true;
  draw_faults(fresh);
  host(std::max(from, to));  // makes room; the destination may be a host that never was
  push(arrival_of(fresh, 0, 0), EventKind::dial, number, 0);
  return number;
}

void SimNetwork::Core::draw_faults(Connection& connection) {
  const SimFaultProfile& profile = options_.faults;
  const std::pair<SimFault, double> chances[] = {{SimFault::reset, profile.reset_chance},
                                                 {SimFault::corrupt, profile.corrupt_chance},
                                                 {SimFault::truncate, profile.truncate_chance}};
  for (Pipe& pipe : connection.pipe) {
    for (const auto& [fault, chance] : chances) {
      const bool strikes = chance > 0 && random_.chance(chance);
      pipe.at(fault) = strikes ? random_.below(std::max<std::uint64_t>(1, profile.within_bytes)) : kNowhere;
    }
  }
}

// Returns how many bytes were taken: fewer than given where the buffer is full.
std::size_t SimNetwork::Core::send(std::uint32_t number, std::uint8_t side, WriteBuffer bytes, WriteMode mode) {
  Connection& through = connections_[number];
  Pipe& pipe = through.pipe[side];
  if (pipe.swallowing) return bytes.size();
  std::size_t count = std::min<std::uint64_t>(bytes.size(), options_.buffer_bytes - (pipe.accepted - pipe.credited));
  // Faults planned for the pair become this connection's once it reaches their byte.
  std::erase_if(planned_, [&](const PlannedFault& plan) {
    if (plan.from != through.host[side] || plan.to != through.host[1 - side]) return false;
    if (plan.at_byte < pipe.accepted || plan.at_byte >= pipe.accepted + count) return false;
    pipe.at(plan.fault) = plan.at_byte;
    return true;
  });
  const auto strikes = [&](SimFault fault) {
    return pipe.at(fault) >= pipe.accepted && pipe.at(fault) < pipe.accepted + count;
  };
  const bool reset = strikes(SimFault::reset);
  if (reset) count = pipe.at(SimFault::reset) - pipe.accepted;
  const bool truncate = strikes(SimFault::truncate);
  if (truncate) count = pipe.at(SimFault::truncate) - pipe.accepted;
  const bool corrupt = strikes(SimFault::corrupt);

  const std::uint64_t begin = pipe.accepted;
  store(pipe, bytes.first(count));
  if (mode == WriteMode::borrow) {
    // A byte that the network changes is not the writer's any more.
    const std::uint64_t own =
        corrupt && pipe.at(SimFault::corrupt) < begin + count ? pipe.at(SimFault::corrupt) : begin + count;
    pipe.borrowed.push_back({begin, own, bytes.data()});
    if (own < begin + count) pipe.borrowed.push_back({own + 1, begin + count, bytes.data() + (own + 1 - begin)});
  }
  if (corrupt) {
    const std::size_t back = pipe.accepted - pipe.at(SimFault::corrupt);
    pipe.ring[(pipe.head + pipe.stored - back) % pipe.ring.size()] ^= static_cast<std::byte>(1 + random_.below(255));
  }
  send_segments(number, side, count);
  if (truncate) {
    send_end(number, side);
    pipe.swallowing = true;
    return bytes.size();
  }
  if (reset) {
    send_reset(number, side);
    through.side[side]->notice_broken(IoStatus::from_errno(ECONNRESET));
  }
  return count;
}

void SimNetwork::Core::store(Pipe& pipe, WriteBuffer bytes) {
  if (pipe.stored + bytes.size() > pipe.ring.size()) {
    std::vector<std::byte> larger(std::max({std::size_t{1024}, pipe.ring.size() * 2, pipe.stored + bytes.size()}));
    const std::size_t first = std::min(pipe.stored, pipe.ring.size() - pipe.head);
    std::copy_n(pipe.ring.begin() + static_cast<std::ptrdiff_t>(pipe.head), first, larger.begin());
    std::copy_n(pipe.ring.begin(), pipe.stored - first, larger.begin() + static_cast<std::ptrdiff_t>(first));
    pipe.ring = std::move(larger);
    pipe.head = 0;
  }
  if (bytes.empty()) return;
  const std::size_t tail = (pipe.head + pipe.stored) % pipe.ring.size();
  const std::size_t first = std::min(bytes.size(), pipe.ring.size() - tail);
  std::memcpy(pipe.ring.data() + tail, bytes.data(), first);
  std::memcpy(pipe.ring.data(), bytes.data() + first, bytes.size() - first);
  pipe.stored += bytes.size();
  pipe.accepted += bytes.size();
}

// Brings the ring up to date with what the writer's memory holds now, up to that position of the stream.
void SimNetwork::Core::read_borrowed(Pipe& pipe, std::uint64_t until) {
  while (!pipe.borrowed.empty() && pipe.borrowed.front().begin < until) {
    Borrowed& part = pipe.borrowed.front();
    for (; part.begin < std::min(part.end, until); ++part.begin) {
      if (part.begin >= pipe.consumed) {
        pipe.ring[(pipe.head + (part.begin - pipe.consumed)) % pipe.ring.size()] = *part.data;
      }
      ++part.data;
    }
    if (part.begin >= part.end) pipe.borrowed.pop_front();
  }
}

// The owner's memory is its own again; readers find what it held, or what the owner wrote there since.
void SimNetwork::Core::give_back(Pipe& pipe, bool overwritten) {
  for (const Borrowed& part : std::exchange(pipe.borrowed, {})) {
    for (std::uint64_t at = std::max(part.begin, pipe.consumed); at < part.end; ++at) {
      const std::byte value = part.data[at - part.begin];
      pipe.ring[(pipe.head + (at - pipe.consumed)) % pipe.ring.size()] = overwritten ? ~value : value;
    }
  }
}

void SimNetwork::Core::send_segments(std::uint32_t number, std::uint8_t side, std::size_t bytes) {
  while (bytes > 0) {
    std::size_t segment = std::min(bytes, options_.largest_segment_bytes);
    if (random_.chance(options_.odd_segment_chance)) segment = 1 + random_.below(segment);
    push(arrival_of(connections_[number], side, segment), EventKind::segment, number, side, segment);
    bytes -= segment;
  }
}

std::size_t SimNetwork::Core::receive(std::uint32_t number, std::uint8_t side, ReadBuffer into) {
  const auto direction = static_cast<std::uint8_t>(1 - side);
  Pipe& pipe = connections_[number].pipe[direction];
  const std::size_t count = std::min(into.size(), pipe.arrived);
  if (count == 0) return 0;
  read_borrowed(pipe, pipe.consumed + count);
  const std::size_t first = std::min(count, pipe.ring.size() - pipe.head);
  std::memcpy(into.data(), pipe.ring.data() + pipe.head, first);
  std::memcpy(into.data() + first, pipe.ring.data(), count - first);
  pipe.head = (pipe.head + count) % pipe.ring.size();
  pipe.stored -= count;
  pipe.arrived -= count;
  pipe.consumed += count;
  credit(number, direction);
  return count;
}

// Tells the writer, one trip later, that there is room again. One such message at a time is under way.
void SimNetwork::Core::credit(std::uint32_t number, std::uint8_t direction) {
  Connection& through = connections_[number];
  Pipe& pipe = through.pipe[direction];
  if (pipe.credit_under_way || pipe.credited == pipe.consumed) return;
  pipe.credit_under_way = true;
  push(now_ + link(through.host[0], through.host[1]).latency, EventKind::credit, number, direction);
}

void SimNetwork::Core::send_end(std::uint32_t number, std::uint8_t side) {
  if (connections_[number].pipe[side].swallowing) return;
  push(arrival_of(connections_[number], side, 0), EventKind::end, number, side);
}

void SimNetwork::Core::send_reset(std::uint32_t number, std::uint8_t side) {
  push(arrival_of(connections_[number], side, 0), EventKind::reset, number, side);
}

// The side has no stream any more. What arrives for it is thrown away; with both sides gone so is the connection.
void SimNetwork::Core::leave(std::uint32_t number, std::uint8_t side, bool overwrites) {
  Connection& left = connections_[number];
  left.side[side] = nullptr;
  Pipe& outgoing = left.pipe[side];
  give_back(outgoing, overwrites);
  if (left.side[1 - side] != nullptr) {
    Pipe& incoming = left.pipe[1 - side];
    if (incoming.arrived > 0) arrive_bytes(number, static_cast<std::uint8_t>(1 - side), 0);
    return;
  }
  if (left.dialling) return;  // until the dial arrives and finds nobody behind it
  ++left.generation;
  for (Pipe& pipe : left.pipe) {
    std::vector<std::byte> ring = std::move(pipe.ring);
    pipe = Pipe{};
    pipe.ring = std::move(ring);
  }
  free_.push_back(number);
}

void SimNetwork::Core::execute(const Event& event) {
  if (connections_[event.connection].generation != event.generation) return;
  Connection& through = connections_[event.connection];
  if (event.kind != EventKind::delivery && blocked_.contains(pair_of(through.host[0], through.host[1]))) {
    held_.push_back(event);
    return;
  }
  // What has no bytes to wait for must not overtake those that wait for the down link.
  const bool ordered = event.kind == EventKind::end || event.kind == EventKind::reset;
  if (ordered && through.pipe[event.pipe].last_delivery > now_) {
    return push(through.pipe[event.pipe].last_delivery, event.kind, event.connection, event.pipe);
  }
  ++event_count_;
  note((std::uint64_t{event.connection} << 32U | event.bytes) + (static_cast<std::uint64_t>(event.kind) << 1U) +
       event.pipe);
  Pipe& pipe = through.pipe[event.pipe];
  SimStream* const reader = through.side[1 - event.pipe];
  SimStream* const writer = through.side[event.pipe];
  switch (event.kind) {
    case EventKind::dial: return arrive_dial(event.connection);
    case EventKind::answer:
      if (reader != nullptr) reader->notice_connected();
      return;
    case EventKind::refuse:
      if (reader != nullptr) reader->notice_broken(IoStatus::from_errno(ECONNREFUSED));
      return;
    case EventKind::unreachable:
      if (reader != nullptr) reader->notice_broken(IoStatus::from_errno(EHOSTUNREACH));
      return;
    case EventKind::segment: {
      HostState& to = host(through.host[1 - event.pipe]);
      if (to.down_bytes_per_s == 0) return arrive_bytes(event.connection, event.pipe, event.bytes);
      to.down_free = std::max(now_, to.down_free) + time_for(event.bytes, to.down_bytes_per_s);
      pipe.last_delivery = to.down_free;
      return push(to.down_free, EventKind::delivery, event.connection, event.pipe, event.bytes);
    }
    case EventKind::delivery: return arrive_bytes(event.connection, event.pipe, event.bytes);
    case EventKind::end:
      pipe.end_arrived = true;
      if (reader != nullptr) reader->notice();
      return;
    case EventKind::reset:
      if (reader != nullptr) reader->notice_broken(IoStatus::from_errno(ECONNRESET));
      return;
    case EventKind::credit:
      pipe.credit_under_way = false;
      pipe.credited = pipe.consumed;
      if (writer != nullptr) writer->notice();
      return;
  }
}

void SimNetwork::Core::arrive_bytes(std::uint32_t number, std::uint8_t direction, std::size_t bytes) {
  Connection& through = connections_[number];
  Pipe& pipe = through.pipe[direction];
  pipe.arrived += bytes;
  if (SimStream* reader = through.side[1 - direction]; reader != nullptr) return reader->notice();
  // Nobody is there to read: as a kernel does, throw it away and answer with a reset, behind what was sent before.
  pipe.head = pipe.ring.empty() ? 0 : (pipe.head + pipe.arrived) % pipe.ring.size();
  pipe.stored -= pipe.arrived;
  pipe.consumed += pipe.arrived;
  pipe.arrived = 0;
  const HostState& reader_host = host(through.host[1 - direction]);
  if (reader_host.unplugged) return;
  credit(number, direction);
  if (bytes > 0) send_reset(number, static_cast<std::uint8_t>(1 - direction));
}

void SimNetwork::Core::arrive_dial(std::uint32_t number) {
  Connection& dialled = connections_[number];
  dialled.dialling = false;
  if (dialled.side[0] == nullptr) return leave(number, 1, false);
  const HostState& to = host(dialled.host[1]);
  if (to.unplugged) return;
  const auto answer = [&](EventKind kind) { push(arrival_of(dialled, 1, 0), kind, number, 1); };
  if (!to.exists) return answer(EventKind::unreachable);
  SimListener* listener = nullptr;
  if (to.io != nullptr && !to.refusing) {
    const auto found = to.io->listeners_.find(dialled.port);
    if (found != to.io->listeners_.end()) listener = found->second;
  }
  const double refuse_chance = options_.faults.refuse_chance;
  const bool refuse = refuse_chance > 0 && random_.chance(refuse_chance);
  if (listener == nullptr || refuse) return answer(EventKind::refuse);
  const auto peer_port = static_cast<std::uint16_t>(kFirstChosenPort + number % 16384);
  auto* accepted = new SimStream(*to.io, SimStream::State::open, Address::simulated(dialled.host[0], peer_port));
  to.io->add(*accepted);
  accepted->attach(number, 1);
  dialled.side[1] = accepted;
  listener->waiting_.push_back(accepted);
  to.io->enqueue(*listener);
  answer(EventKind::answer);
}

void SimNetwork::Core::heal() {
  blocked_.clear();
  // At once and in order, so that nothing overtakes them.
  const std::vector<Event> held = std::exchange(held_, {});
  for (const Event& event : held) execute(event);
}

// ---- a host ----

namespace {

SimHost::~SimHost() {
  die(SimDeath::reset);
  if (core_.host(number_).io == this) core_.host(number_).io = nullptr;
  for (SimItem* item : all_) delete item;
}

void SimHost::die(SimDeath death) {
  if (dead_) return;
  dead_ = true;
  listeners_.clear();
  for (SimItem* item : all_) {
    auto* stream = dynamic_cast<SimStream*>(item);
    if (stream == nullptr || stream->disposed_) continue;
    if (death == SimDeath::reset) {
      stream->leave(true);
    } else {
      stream->vanish();
    }
  }
  queue_.clear();
  queue_head_ = 0;
}

void SimHost::bury() {
  std::vector<SimItem*> items = std::exchange(all_, {});
  for (SimItem* item : items) {
    if (item->disposed_) item->gone();
    delete item;
  }
}

Result<Listener*> SimHost::listen(const Address& address, const SocketOptions&, ListenerEvents& events) {
  if (!address.is_simulated() || address.simulated_host() != number_) {
    return runtime_error("cannot listen on " + address.to_string() + ": not an address of simulated host " +
                         std::to_string(number_) + "; use Address::simulated");
  }
  std::uint16_t port = address.port();
  while (port == 0) {
    if (next_port_ == 0) next_port_ = kFirstChosenPort;
    if (!listeners_.contains(next_port_)) port = next_port_;
    ++next_port_;
  }
  const Address bound = Address::simulated(number_, port);
  if (listeners_.contains(port)) {
    return runtime_error("cannot listen on " + bound.to_string() + ": address in use; choose another port");
  }
  auto* listener = new SimListener(*this, bound, events);
  add(*listener);
  listeners_[port] = listener;
  return static_cast<Listener*>(listener);
}

Stream& SimHost::connect(const Address& address, const SocketOptions&, StreamEvents& events) {
  auto* stream = new SimStream(*this, SimStream::State::connecting, address);
  add(*stream);
  stream->set_events(events);
  if (address.is_simulated() && address.simulated_host() < kMaximumHosts && !dead_) {
    stream->attach(core_.dial(*stream, number_, address.simulated_host(), address.port()), 0);
  } else {
    stream->notice_broken(IoStatus::from_errno(ENETUNREACH));
  }
  return *stream;
}

void SimHost::run_once(TimePoint) {
  now_ = core_.now_;
  woken_ = false;
  if (dead_) return bury();
  if (core_.host(number_).frozen) return;
  for (std::size_t i = 0; queue_head_ < queue_.size() && i < kTurnItems; ++i) {
    SimItem& item = *queue_[queue_head_++];
    item.queued_ = false;
    if (!item.disposed_) {
      item.process();
    } else {
      remove(item);
      item.gone();
      delete &item;
    }
  }
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(queue_head_));
  queue_head_ = 0;
}

void SimHost::add(SimItem& item) {
  item.position_ = all_.size();
  all_.push_back(&item);
}

void SimHost::remove(SimItem& item) {
  all_.back()->position_ = item.position_;
  std::swap(all_[item.position_], all_.back());
  all_.pop_back();
}

void SimHost::enqueue(SimItem& item) {
  if (item.queued_ || dead_) return;
  item.queued_ = true;
  queue_.push_back(&item);
}

// ---- a listener ----

void SimListener::process() {
  for (std::size_t i = 0; i < waiting_.size() && !disposed_; ++i) {
    SimStream* const accepted = std::exchange(waiting_[i], nullptr);
    events_.on_accepted(*accepted);
    PAPILIO_ASSERT(accepted->has_events());
    host_.enqueue(*accepted);
  }
  if (!disposed_) waiting_.clear();
}

void SimListener::close() {
  if (disposed_) return;
  disposed_ = true;
  host_.listeners_.erase(address_.port());
  for (SimStream* stream : waiting_) {
    if (stream != nullptr) stream->abort();
  }
  waiting_.clear();
  host_.enqueue(*this);
}

// ---- a stream ----

Core& SimStream::core() const { return host_.core_; }

void SimStream::note(std::uint64_t kind, std::uint64_t value) const {
  core().note(Random::mix(std::uint64_t{host_.number_} << 32U | connection_) + (value << 3U) + kind);
}

void SimStream::notice() {
  if (has_events()) host_.enqueue(*this);
}

void SimStream::read(std::span<const ReadBuffer> buffers, std::size_t at_least) {
  PAPILIO_ASSERT(usable() && !reading_);
  PAPILIO_ASSERT_VALUES(buffers.size() <= read_into_.size(), buffers.size(), read_into_.size());
  std::copy(buffers.begin(), buffers.end(), read_into_.begin());
  read_first_ = read_bytes_ = 0;
  read_count_ = buffers.size();
  read_at_least_ = at_least;
  std::size_t total = 0;
  for (const ReadBuffer& buffer : buffers) total += buffer.size();
  PAPILIO_ASSERT_VALUES(at_least >= 1 && at_least <= total, at_least, total);
  reading_ = true;
  host_.enqueue(*this);
}

void SimStream::write(std::span<const WriteBuffer> buffers, WriteMode mode) {
  PAPILIO_ASSERT(usable() && !writing_ && !written_);
  PAPILIO_ASSERT_VALUES(buffers.size() <= write_from_.size(), buffers.size(), write_from_.size());
  std::copy(buffers.begin(), buffers.end(), write_from_.begin());
  write_first_ = 0;
  write_count_ = buffers.size();
  write_mode_ = mode;
  if (SimTamperer* const tamperer = core().host(host_.number_).tamperer) tamper(*tamperer);
  writing_ = true;
  if (broken_.code == IoCode::ok) try_write();
  host_.enqueue(*this);
}

void SimStream::tamper(SimTamperer& tamperer) {
  tampered_.clear();
  for (std::size_t i = 0; i < write_count_; ++i) {
    tampered_.insert(tampered_.end(), write_from_[i].begin(), write_from_[i].end());
  }
  tamperer.on_write(core().connection(connection_).host[1 - side_], tampered_);
  write_from_[0] = tampered_;
  write_count_ = 1;
  write_mode_ = WriteMode::copy;
}

void SimStream::leave(bool at_once) {
  if (disposed_) return;
  disposed_ = true;
  reading_ = writing_ = written_ = false;
  if (attached_) {
    if (state_ == State::connecting || (at_once && broken_.code == IoCode::ok)) {
      core().send_reset(connection_, side_);
    } else if (broken_.code == IoCode::ok) {
      core().send_end(connection_, side_);
    }
    core().leave(connection_, side_, at_once && !host_.is_dead());
  }
  host_.enqueue(*this);
}

void SimStream::vanish() {
  disposed_ = true;
  if (attached_) core().leave(connection_, side_, false);
}

StreamInfo SimStream::info() const {
  StreamInfo info;
  info.bytes_received = bytes_received_;
  info.bytes_sent = bytes_sent_;
  if (!attached_ || disposed_) return info;
  const Connection& through = core().connection(connection_);
  const LinkState path = core().link(through.host[0], through.host[1]);
  info.minimum_round_trip = 2 * path.latency;
  info.round_trip = 2 * path.latency + path.jitter;
  info.bytes_unacknowledged = through.pipe[side_].accepted - through.pipe[side_].credited;
  const std::uint64_t up = core().host(through.host[side_]).up_bytes_per_s;
  const std::uint64_t down = core().host(through.host[1 - side_]).down_bytes_per_s;
  info.delivery_rate_bytes_per_s = up == 0 || (down != 0 && down < up) ? down : up;
  return info;
}

void SimStream::process() {
  if (state_ == State::connecting) {
    if (broken_.code != IoCode::ok) return fail(broken_);
    if (!answered_) return;
    state_ = State::open;
    note(0, 0);
    events_->on_connected(*this);
  }
  if (usable() && written_) {
    written_ = false;
    note(1, 0);
    events_->on_written(*this);
  }
  if (usable() && reading_) try_read();
  if (usable() && writing_ && broken_.code == IoCode::ok) try_write();
  if (!usable()) return;
  const bool more_to_read = reading_ && (incoming().arrived > 0 || incoming().end_arrived);
  // What came in before a reset is still read, as a kernel lets it be.
  if (broken_.code != IoCode::ok && !more_to_read) return fail(broken_);
  if (written_ || more_to_read) host_.enqueue(*this);
}

void SimStream::gone() {
  if (!has_events()) return;  // never accepted: the listener closed first
  note(2, 0);
  events_->on_closed(*this);
}

void SimStream::try_read() {
  while (read_first_ < read_count_) {
    ReadBuffer& into = read_into_[read_first_];
    const std::size_t count = core().receive(connection_, side_, into);
    into = into.subspan(count);
    read_bytes_ += count;
    bytes_received_ += count;
    if (!into.empty()) break;
    ++read_first_;
  }
  if (read_bytes_ >= read_at_least_) {
    reading_ = false;
    note(3, read_bytes_);
    return events_->on_read(*this, read_bytes_);
  }
  if (incoming().arrived == 0 && incoming().end_arrived) fail({IoCode::closed_by_peer, 0});
}

void SimStream::try_write() {
  while (write_first_ < write_count_) {
    WriteBuffer& from = write_from_[write_first_];
    const bool is_last = write_first_ + 1 == write_count_;
    const std::size_t count = core().send(connection_, side_, from, is_last ? write_mode_ : WriteMode::copy);
    from = from.subspan(count);
    bytes_sent_ += count;
    if (!from.empty()) return;
    ++write_first_;
  }
  writing_ = false;
  written_ = true;
}

void SimStream::fail(IoStatus status) {
  reading_ = writing_ = written_ = false;
  state_ = State::failed;
  note(4, static_cast<std::uint64_t>(status.code));
  events_->on_failed(*this, status);
}

}  // namespace

// ---- the public face ----

SimNetwork::SimNetwork(std::uint64_t seed, const SimOptions& options) : core_(std::make_unique<Core>(seed, options)) {
  PAPILIO_ASSERT(options.buffer_bytes > 0 && options.largest_segment_bytes > 0);
}

SimNetwork::~SimNetwork() {
  for (const HostState& host : core_->hosts_) PAPILIO_ASSERT(host.io == nullptr);
}

std::unique_ptr<Io> SimNetwork::make_host(std::uint32_t host) {
  HostState& state = core_->host(host);
  PAPILIO_ASSERT_VALUES(state.io == nullptr, host, 0);
  state.exists = true;
  state.frozen = state.unplugged = false;
  auto io = std::make_unique<SimHost>(*core_, host);
  state.io = io.get();
  return io;
}

void SimNetwork::set_host_rates(std::uint32_t host, std::uint64_t up_bytes_per_s, std::uint64_t down_bytes_per_s) {
  core_->host(host).up_bytes_per_s = up_bytes_per_s;
  core_->host(host).down_bytes_per_s = down_bytes_per_s;
}

void SimNetwork::set_link(std::uint32_t one, std::uint32_t other, Duration latency, Duration jitter) {
  core_->links_[pair_of(one, other)] = {latency, jitter};
}

TimePoint SimNetwork::now() const { return core_->now_; }

TimePoint SimNetwork::next_event_time() const { return core_->events_.empty() ? kNever : core_->events_.front().time; }

void SimNetwork::advance_to(TimePoint time) {
  PAPILIO_ASSERT(time != kNever);
  std::vector<Event>& events = core_->events_;
  while (!events.empty() && events.front().time <= time) {
    std::pop_heap(events.begin(), events.end());
    const Event event = events.back();
    events.pop_back();
    core_->now_ = std::max(core_->now_, event.time);
    core_->execute(event);
  }
  core_->now_ = std::max(core_->now_, time);
}

bool SimNetwork::step() {
  const TimePoint next = next_event_time();
  if (next == kNever) return false;
  advance_to(next);
  return true;
}

bool SimNetwork::is_ready(std::uint32_t host) const {
  if (host >= core_->hosts_.size()) return false;
  const HostState& state = core_->hosts_[host];
  return state.io != nullptr && !state.frozen && state.io->is_ready();
}

bool SimNetwork::run_ready_hosts() {
  bool ran = false;
  for (std::uint32_t host = 0; host < core_->hosts_.size(); ++host) {
    if (!is_ready(host)) continue;
    core_->hosts_[host].io->run_once(core_->now_);
    ran = true;
  }
  return ran;
}

void SimNetwork::plan_fault(SimFault fault, std::uint32_t from, std::uint32_t to, std::uint64_t at_byte) {
  core_->planned_.push_back({fault, from, to, at_byte});
}

std::size_t SimNetwork::planned_faults(std::uint32_t from, std::uint32_t to) const {
  return static_cast<std::size_t>(
      std::count_if(core_->planned_.begin(), core_->planned_.end(),
                    [&](const PlannedFault& plan) { return plan.from == from && plan.to == to; }));
}

void SimNetwork::refuse_connections(std::uint32_t host, bool refuse) { core_->host(host).refusing = refuse; }

void SimNetwork::set_tamperer(std::uint32_t host, SimTamperer* tamperer) { core_->host(host).tamperer = tamperer; }

void SimNetwork::kill_host(std::uint32_t host, SimDeath death) {
  HostState& state = core_->host(host);
  if (state.io == nullptr) return;
  state.unplugged = death == SimDeath::silent;
  state.io->die(death);
  state.io = nullptr;
}

void SimNetwork::freeze_host(std::uint32_t host) { core_->host(host).frozen = true; }

void SimNetwork::thaw_host(std::uint32_t host) { core_->host(host).frozen = false; }

void SimNetwork::partition(std::span<const std::uint32_t> one, std::span<const std::uint32_t> other) {
  for (const std::uint32_t left : one) {
    for (const std::uint32_t right : other) core_->blocked_.insert(pair_of(left, right));
  }
}

void SimNetwork::heal() { core_->heal(); }

std::uint64_t SimNetwork::log_hash() const { return core_->log_; }

std::uint64_t SimNetwork::event_count() const { return core_->event_count_; }

}  // namespace papilio::transport
