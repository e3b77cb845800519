// A gradient that lives in the memory of a device (a GPU), averaged there. The owner gives orders, one per chunk and
// step of a round, and is woken when some are done; nothing here blocks.
//
// A device may run out of memory or be lost in the middle of a round, and the round must go on. So the gradient has a
// host copy, in pinned memory: after every completed order it, with what is kept beside it for open chunks, is what the
// device holds. Whatever happens to the device, take_back() then leaves the host copy as it was after the last
// completed order of every chunk, and names the orders that the CPU has to carry out instead, whose payloads are still
// in the owner's slabs. Nothing is lost, and nobody outside needs to know how far a transfer had come.
//
// What that costs: as many bytes back from the device as go there, in the other direction of a full-duplex bus, at many
// times the speed of a network; pinned memory for the gradient, and for two chunks per chunk that is open at its
// reducer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/base/result.hpp"
#include "kernels/codec.h"

namespace papilio::kernels {

struct ChunkOrder {
  enum class Kind : std::uint8_t {
    load,        // host copy = values: before the first order of another kind
    encode,      // out = encode(values): a contribution on its way out
    accumulate,  // values = (own_scale * values + weight * decode(in)) * inverse_total, if all of `in` is within limit
    finalise,    // values *= inverse_total; out = encode(values); values = decode(out)
    write,       // values = decode(in), if all of `in` is within limit: an average that came back
  };
  Kind kind = Kind::load;
  std::uint64_t tag = 0;  // comes back with the completion
  std::size_t begin = 0;  // of the gradient, in elements; one chunk is always named by the same range
  std::size_t count = 0;
  Codec codec = Codec::fp32;
  std::span<const std::byte> in;  // pinned or not; stays as it is until the completion
  std::span<std::byte> out;       // likewise; may be empty for fp32, whose bytes are the host copy
  float own_scale = 1;
  float weight = 1;
  float inverse_total = 1;
  float limit = 0;
  // The last accumulate of its chunk, as finalise always is: the host copy then holds the result.
  bool last = false;
};

struct ChunkCompletion {
  std::uint64_t tag = 0;
  NumberFault fault = NumberFault::none;  // of the payload; then nothing has changed
};

// Carries orders out: a GPU's streams, or a thread (kernels/host_device.h). All calls from the owner's thread.
class Device {
 public:
  // An order with every address it needs. Those of one lane are carried out in the order in which they were given.
  struct Task {
    ChunkOrder order;
    float* mirror = nullptr;          // pinned: where the host's copy of the result goes; none for encode
    std::uint32_t* status = nullptr;  // pinned: kTaskDone plus the fault, once everything is there
    std::size_t lane = 0;
  };
  static constexpr std::uint32_t kTaskDone = 0x80000000U;

  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  [[nodiscard]] virtual std::string describe() const = 0;
  [[nodiscard]] virtual std::size_t lanes() const = 0;
  // Memory that the device reads and writes by itself; zero at first, and freed with the device.
  virtual Result<std::span<std::byte>> allocate_pinned(std::size_t bytes) = 0;
  // An error: the task will not be carried out, and neither will any later one.
  virtual Status submit(const Task& task) = 0;
  // What went wrong with tasks that were taken: from then on no status changes any more.
  [[nodiscard]] virtual std::optional<Error> failure() const = 0;
  // Returns when no task is under way any more, carried out or not.
  virtual void drain() = 0;
};

class DeviceGradient {
 public:
  // `wake` was given to the device when it was made: it is called, from any thread, when there may be completions.
  static Result<std::unique_ptr<DeviceGradient>> make(std::unique_ptr<Device> device, std::size_t elements);
  ~DeviceGradient();
  DeviceGradient(const DeviceGradient&) = delete;
  DeviceGradient& operator=(const DeviceGradient&) = delete;

  [[nodiscard]] std::size_t elements() const { return host_.size(); }
  // Pinned. A chunk of it changes only with the completion of an order for that chunk, except that a chunk with a
  // `write` or `load` under way may hold anything.
  [[nodiscard]] std::span<float> host_copy() const { return host_; }
  [[nodiscard]] const Device& device() const { return *device_; }

  // After a failure orders are kept, and handed back by take_back().
  void submit(const ChunkOrder& order);
  // In the order of submission for each chunk.
  [[nodiscard]] std::vector<ChunkCompletion> take_completions();
  [[nodiscard]] std::size_t in_flight() const { return in_flight_.size(); }
  [[nodiscard]] const std::optional<Error>& failure() const { return failure_; }

  // After a failure, or to be done with the device: waits for it to stop, puts the host copy in order, and returns the
  // orders that were not carried out, in the order in which they were given. Completions that were not taken yet come
  // with the next take_completions(). From here on the host copy is the gradient.
  [[nodiscard]] std::vector<ChunkOrder> take_back();

 private:
  // A chunk whose sum is not final: its host copy alternates between two places, so that one of them is always whole.
  struct OpenChunk {
    std::span<float> place[2];
    std::size_t count = 0;
    std::uint32_t submitted = 0;
    std::uint32_t completed = 0;
  };
  struct Running {
    ChunkOrder order;
    std::uint32_t* status = nullptr;
    std::size_t lane = 0;
    bool sums = false;  // of an open chunk
  };

  explicit DeviceGradient(std::unique_ptr<Device> device);
  [[nodiscard]] std::optional<Error> try_submit(const ChunkOrder& order);
  Result<OpenChunk*> open_chunk(const ChunkOrder& order);
  Result<std::uint32_t*> take_status();
  [[nodiscard]] std::size_t lane_of(std::size_t begin);
  void collect();
  void complete(const Running& running, std::uint32_t status);

  std::unique_ptr<Device> device_;
  std::span<float> host_;
  std::deque<Running> in_flight_;
  std::vector<ChunkCompletion> completions_;
  std::vector<ChunkOrder> not_submitted_;
  std::optional<Error> failure_;
  std::unordered_map<std::size_t, OpenChunk> open_;                                    // by the chunk's begin
  std::unordered_map<std::size_t, std::pair<std::size_t, std::size_t>> lanes_in_use_;  // begin: lane, orders in flight
  std::size_t next_lane_ = 0;
  std::vector<std::span<float>> free_places_;
  std::vector<std::uint32_t*> free_status_;
};

}  // namespace papilio::kernels
