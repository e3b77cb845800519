// The engine's public face: one Node is one peer of a run. It owns a loop thread with every socket, timer and core
// object; the trainer's thread meets it here only, hands over a flat gradient and gets it back averaged, with a report
// of what happened to every chunk and every peer.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/node/admission_config.hpp"
#include "engine/node/patience.hpp"

namespace papilio {

enum class Role : std::uint8_t {
  miner,      // contributes and reduces
  client,     // contributes and receives; its part is empty; needs no reachable address
  validator,  // judges: receives and checks, contributes nothing (not part of rounds yet)
};

struct NodeConfig {
  std::string run_id = "papilio";
  Fingerprint fingerprint;  // of the model and the run: model_fingerprint()
  Role role = Role::miner;
  std::string listen;                  // ADDRESS:PORT; empty for clients
  std::vector<std::string> peers;      // ADDRESS:PORT of the others, dialled until they answer
  std::uint32_t group_size = 0;        // members to wait for before the first round; 0 means 1 + peers
  std::uint64_t elements = 0;          // of the flat gradient, fp32
  std::uint64_t target_batch = 0;      // samples of the whole group that make one epoch
  std::string transport = "auto";      // auto, uring, uv
  std::string congestion_control;      // empty: cubic towards the local host, else the system's default
  std::uint64_t rate_bytes_per_s = 0;  // this node's qualified rate each way; 0: unknown, all alike
  std::size_t chunk_bytes = 0;         // 0: chosen from the gradient's size and the rates
  // Where this node keeps who it is and whom it banned; exists, and is this process's alone. Empty: every start is a
  // new peer, and bans end with the process.
  std::string state_dir;
  // Where signed reports of rounds are kept, and proof against others; exists. Empty: nowhere. Takes security.
  std::string evidence_dir;
  std::uint32_t evidence_files = 1000;                  // the oldest go when there are more
  std::uint32_t flows = 0;                              // connections per peer; 0: 1 on the local host, 4 elsewhere
  Duration round_timeout = std::chrono::seconds(30);    // from a round's start to its deadline
  Duration connect_timeout = std::chrono::seconds(10);  // one dial, one handshake
  Duration join_timeout = std::chrono::seconds(120);    // until group_size members are there
  // What becomes of contributions whose L2 norm is more than norm_limit (1 to 1e6) times the group's: off (they count
  // as they are), clip (they are scaled down to that), refuse (their sender is cut off).
  std::string norm_policy = "off";
  double norm_limit = 8;
  // For whom rounds wait and for how long.
  node::RoundPatience patience;
  // How long nodes wait for each other while they agree on who is in a round.
  node::RosterPatience roster;
  // Whom this node lets in, and how many strangers may stand at its door.
  node::AdmissionConfig admission;
  // What this node sends its shards in: fp32 (exact), bf16, fp16 or int8, each also with +zstd, or auto: whatever is
  // fastest on each link. It reads all of them. What rounding takes is added to the next round's gradient.
  std::string codec = "fp32";
};

// Where a gradient is that lives in the memory of an NVIDIA GPU.
struct DeviceSpan {
  float* data = nullptr;  // in the memory of the calling thread's current device
  std::uint64_t elements = 0;
  // The cudaStream_t whose work so far computes it; null: CUDA's default stream.
  void* stream = nullptr;
};

// What happened to one peer in one round.
struct PeerReport {
  PeerId peer;
  std::string address;
  Role role = Role::miner;
  double weight = 0;                        // as it announced it
  std::uint64_t contributions_in = 0;       // chunks of it that we reduced
  std::uint64_t averages_in = 0;            // chunks it reduced for us
  std::uint64_t contributions_clipped = 0;  // of contributions_in: scaled down by the norm policy
  std::uint64_t bytes_in = 0, bytes_out = 0;
  std::uint32_t shards_in_flight = 0;  // being sent at the moment of the report: 0 when a round is over
  bool cut_off = false;
  bool banned = false;   // by this node, when the round was over
  std::string reason;    // why it was cut off; empty otherwise
  std::string evidence;  // what its timers said, what it sent, or how its connection ended
  // Timers of this round; negative: not known.
  double round_trip_ms = -1, first_shard_ms = -1, longest_gap_ms = -1, rate_bytes_per_s = -1, lag_ms = -1,
         limit_ms = -1;
  std::uint32_t times_resumed = 0;      // its connection was lost and came back
  std::optional<std::uint64_t> digest;  // of its result, as it said; none: it did not get that far
};

struct RoundReport {
  RoundId round = 0;
  std::uint64_t epoch = 0;
  double seconds = 0;
  std::uint32_t members = 0;  // in the roster, this node included
  // Per chunk: the members whose gradients the average holds (bit i: members in the order of `peers`, self included),
  // or 0: the chunk is this node's local gradient.
  std::vector<Coverage> chunks;
  // Per chunk: its first element. A chunk ends where the next one begins, the last one where the gradient ends.
  std::vector<std::uint64_t> chunk_begins;
  // Per chunk: the member that averaged it, as a rule the one whose part it is; ~0 where local.
  std::vector<MemberIndex> reducers;
  double coverage = 0;  // mean over elements of contributors / members; a local chunk counts 0
  std::uint64_t local_chunks = 0;
  std::uint64_t bytes_sent = 0, bytes_received = 0;
  std::uint64_t digest = 0;   // of the values; equal for members that hold the same averages
  std::uint64_t samples = 0;  // sum of the members' weights, as far as known here
  std::vector<PeerReport> peers;
  // Where a gradient on a GPU went in and the GPU was given up (it was lost, it stopped, memory ran out, the round was
  // canceled): the result, in host memory, until the next all_reduce. What the GPU's memory holds then means nothing.
  // Empty otherwise: the result is where the gradient was.
  std::span<const float> host_values;
  // `error` is that the GPU could not be used: the same gradient in host memory may do.
  bool gpu_refused = false;
  bool left_out = false;  // the others began this round without this node: the gradient is its own
  bool canceled = false;
  std::string error;  // why the round could not run at all (then the gradient is untouched); empty otherwise
};

struct GroupProgress {
  std::uint64_t epoch = 0;          // the group's epoch: rounds completed
  std::uint64_t local_epoch = 0;    // rounds completed by this node
  std::uint64_t local_samples = 0;  // this node's samples towards the current epoch
  std::uint64_t group_samples = 0;  // all members' samples towards the current epoch
  std::uint64_t total_samples = 0;  // all members' samples since the start of the run, as far as known here
  std::uint32_t members = 0;        // peers that can be counted on for the next round, this node included
  bool round_open = false;          // the target is reached or a round was announced: call all_reduce now
  bool left = false;                // stop() was called
  std::uint32_t in_agreement = 0;   // members whose last reported model digest equals this node's, itself included
  bool in_sync = true;              // this node's model is that of most members (or nothing else is known yet)
  std::uint32_t out_of_sync = 0;    // members whose model is not that of most; without a majority: not this node's
  bool waits_for_state = false;     // the group is ahead: this node is in no round until it has the group's state
};

class Node {
 public:
  // Starts the loop thread, listens and dials. Errors name the key, the value and the remedy.
  static Result<std::unique_ptr<Node>> start(NodeConfig config);
  // Leaves: the others see a goodbye, not a fault. Blocks until the loop thread ended (bounded by 2 s).
  virtual ~Node() = default;

  [[nodiscard]] virtual PeerId id() const = 0;
  [[nodiscard]] virtual std::string listen_address() const = 0;  // with the real port
  [[nodiscard]] virtual std::string transport() const = 0;       // which backend, and why

  // Blocks until group_size members are connected. Error after join_timeout, naming who is missing.
  virtual Status wait_for_group() = 0;

  // The trainer worked through `samples` more samples towards the current epoch. Cheap, any time.
  virtual void add_samples(std::uint64_t samples) = 0;
  [[nodiscard]] virtual GroupProgress progress() const = 0;
  // Whom this node refused since it started, by reason; reasons that never occurred are left out.
  [[nodiscard]] virtual std::vector<node::RefusalCount> refusals() const = 0;
  // Blocks until progress().round_open or progress().left, or until the timeout; for trainers that have nothing else to
  // do.
  virtual GroupProgress wait_for_round(Duration timeout) = 0;

  // Averages `gradient` (config.elements floats, host memory, page-aligned memory is fastest) over the group, in place,
  // weighted by `weight` (positive, finite: the samples behind this gradient). The gradient belongs to the engine until
  // the future is ready, which is at the round's deadline at the latest. Every chunk is then either the average over
  // the members listed in the report or this node's own values, bit for bit. One round at a time.
  // A gradient with a NaN, an infinity or a value too large to be averaged is refused at once: report.error names the
  // first such element and its value, and the gradient is untouched. This is looked up on the calling thread (one pass
  // at the speed of memory).
  virtual std::future<RoundReport> all_reduce(std::span<float> gradient, double weight) = 0;

  // The same for a gradient on a GPU: it is averaged there, and goes to and from the network through pinned host memory
  // of the same size, which this node keeps for the next round. Blocks until the gradient is computed and there; what
  // hinders that is a report.error that says what, and the gradient is untouched: without a GPU, in a build without
  // CUDA, where its memory is full. From then on a GPU that fails costs no round: see RoundReport::host_values.
  virtual std::future<RoundReport> all_reduce(const DeviceSpan& gradient, double weight) = 0;

  // Ends the round in flight: what is averaged stays averaged, the rest stays local; report.canceled is set.
  virtual void cancel() = 0;

  // The digest of this node's model after its optimiser step, told to the others so that divergence is noticed.
  virtual void report_model_digest(std::uint64_t epoch, std::uint64_t digest) = 0;

  // The trainer holds the group's state as it is after `epoch` rounds (a checkpoint, a copy from another member): this
  // node takes part from there, where progress().waits_for_state kept it out. Between rounds; an epoch that is not
  // later than progress().local_epoch changes nothing.
  virtual void adopt_epoch(std::uint64_t epoch) = 0;

  // Asks for a clean departure (signal handlers call it through request_stop): rounds are canceled, a goodbye is sent.
  virtual void stop() = 0;
};

// Hash of parameter names, shapes and dtypes and the run id; order matters.
struct ParameterShape {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string dtype = "float32";
};
Fingerprint model_fingerprint(std::string_view run_id, std::span<const ParameterShape> parameters);

}  // namespace papilio
