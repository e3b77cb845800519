// The simulated network: the same Io that the real backends offer, over a clock that only moves when it is told to and
// a network that misbehaves on command or at random. One seed is one run: whatever the hosts above it do, as long as
// they do it deterministically, the bytes arrive at the same times in the same pieces. One thread runs everything.
//
// A driver turns it like this:
//   for (;;) {
//     while (some host h has network.is_ready(h)) run that host's turn (its Io's run_once, in a fixed order of hosts);
//     network.advance_to(min(network.next_event_time(), the hosts' next deadlines));
//   }
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/base/time.hpp"
#include "transport/io.hpp"

namespace papilio::transport {

// What may befall each direction of each new connection, with these probabilities, at a byte drawn uniformly from the
// first `within_bytes`.
struct SimFaultProfile {
  double reset_chance = 0;
  double corrupt_chance = 0;
  double truncate_chance = 0;
  double refuse_chance = 0;  // per connection, when it is dialled
  std::uint64_t within_bytes = std::uint64_t{1} << 20U;
};

struct SimOptions {
  Duration latency = std::chrono::milliseconds(1);   // one way
  Duration jitter = std::chrono::microseconds(200);  // added to each segment, uniform in [0, jitter]
  // Of each host, shared by its connections; 0 is unlimited. set_host_rates changes one.
  std::uint64_t up_bytes_per_s = 0;
  std::uint64_t down_bytes_per_s = 0;
  // Per direction of a connection: written by one side and not yet read by the other. A writer beyond that waits.
  std::size_t buffer_bytes = std::size_t{512} << 10U;
  // Bytes travel in segments: up to this size, or with this chance of a random size down to one byte.
  std::size_t largest_segment_bytes = std::size_t{64} << 10U;
  double odd_segment_chance = 0.25;
  SimFaultProfile faults;
};

// Where a planned fault strikes, counted in bytes of one direction of one connection.
enum class SimFault : std::uint8_t {
  reset,     // both sides lose the connection; the bytes before arrive
  corrupt,   // that byte arrives changed
  truncate,  // end of stream in place of that byte and all after it; the writer is not told
};

enum class SimDeath : std::uint8_t {
  reset,   // the process ended: its peers see resets
  silent,  // power or cable gone: its peers see nothing, ever
};

// Stands between a host and the network, for hosts that do not send what their engine says: sees every write of the
// host's streams, and decides what is sent in its place.
class SimTamperer {
 public:
  // `bytes`: one write towards the other host; of a Flow, one whole frame. What is left there is sent: it may be
  // changed, longer, or nothing at all. The writer is told that all it wrote was taken.
  virtual void on_write(std::uint32_t to, std::vector<std::byte>& bytes) = 0;

 protected:
  ~SimTamperer() = default;
};

class SimNetwork {
 public:
  explicit SimNetwork(std::uint64_t seed, const SimOptions& options = {});
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;
  // Every Io of make_host has to be gone.
  ~SimNetwork();

  // A host's Io; host numbers are best small. Again after the host's Io was destroyed or killed: a restart. Addresses
  // are Address::simulated(host, port).
  std::unique_ptr<Io> make_host(std::uint32_t host);
  // Bytes per second, 0 is unlimited.
  void set_host_rates(std::uint32_t host, std::uint64_t up_bytes_per_s, std::uint64_t down_bytes_per_s);
  // Both ways between the two.
  void set_link(std::uint32_t one, std::uint32_t other, Duration latency, Duration jitter);

  [[nodiscard]] TimePoint now() const;
  // kNever: nothing is under way.
  [[nodiscard]] TimePoint next_event_time() const;
  // Everything up to and at `time` happens, in order; then it is `time`. The hosts hear of it in their run_once.
  void advance_to(TimePoint time);
  // On to the next event's time; false if there is none.
  bool step();
  // run_once of that host would deliver something now.
  [[nodiscard]] bool is_ready(std::uint32_t host) const;
  // Turns every ready host once, in order of their numbers; false if none was ready.
  bool run_ready_hosts();

  // Faults on command.
  // Strikes the first connection between the two that sends that many bytes in the direction `from` to `to`.
  void plan_fault(SimFault fault, std::uint32_t from, std::uint32_t to, std::uint64_t at_byte);
  // Planned faults in that direction that have not struck yet.
  [[nodiscard]] std::size_t planned_faults(std::uint32_t from, std::uint32_t to) const;
  // New connections to the host are refused (or no longer).
  void refuse_connections(std::uint32_t host, bool refuse);
  // From now on all that the host writes goes through the tamperer, which outlives the host; null: through none.
  void set_tamperer(std::uint32_t host, SimTamperer* tamperer);
  // The host's Io delivers nothing any more but, in one last run_once, its streams' on_closed, so that their owner can
  // let go of everything; destroy it then. make_host starts the host anew.
  void kill_host(std::uint32_t host, SimDeath death);
  // A frozen host runs nothing, but its kernel still takes bytes, until its buffers are full.
  void freeze_host(std::uint32_t host);
  void thaw_host(std::uint32_t host);
  // Nothing passes between the two sets until heal; then what was held back arrives, in order, as TCP would resend it.
  void partition(std::span<const std::uint32_t> one, std::span<const std::uint32_t> other);
  void heal();

  // Over everything that happened and every callback, with its time: two runs are the same if and (nearly) only if
  // these are.
  [[nodiscard]] std::uint64_t log_hash() const;
  [[nodiscard]] std::uint64_t event_count() const;

  class Core;

 private:
  std::unique_ptr<Core> core_;
};

}  // namespace papilio::transport
