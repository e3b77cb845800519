// A gradient that lives in the memory of a device (a GPU), averaged there. The owner gives orders, one per chunk and
// step of a round, and is woken when some are done; nothing here blocks.
//
// A device may run out of memory or be lost in the middle of a round, and the round must go on. So the gradient has a
// host copy, in pinned memory: after every completed order it, with what is kept beside it for open chunks, is what the
// device holds. Whatever happens to the device, take_back() then leaves the host copy as it was after the last
// completed order of every chunk, and names the orders that the CPU has to carry out instead, whose payloads are still
// in the owner's slabs. Nothing is lost, and nobody outside needs to know how far a transfer had come.
//
// A device may also simply stop, without a word. One that completes nothing for as long as the owner has patience is as
// good as lost (deadline()); if it does not even stop when told to, it is left alone for ever, with all memory that it
// may still write to: the host copy then moves to memory that the device does not know.
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
#include "engine/base/time.hpp"
#include "kernels/codec.h"

namespace papilio::kernels {

struct ChunkOrder {
  enum class Kind : std::uint8_t {
    load,        // host copy = values: before the first order of another kind
    encode,      // out = encode(values): a contribution on its way out
    accumulate,  // values = (own_scale * values + weight * decode(in)) * inverse_total, if all of `in` is within limit
    finalise,    // values *= inverse_total; out = encode(values); values = decode(out)
    write,       // values = decode(in), if all of `in` is within limit: an average that came back
    upload,      // values = host copy, which its owner has changed: what was under way for the chunk counts no more
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

// Carries orders out: a GPU's streams, or a thread (kernels/host_device.h). All calls from the owner's thread; none but
// allocate_pinned() and drain() takes long, whatever the device does.
class Device {
 public:
  // An order with every address it needs. Those of one lane are carried out in the order in which they were given.
  struct Task {
    ChunkOrder order;
    float* mirror = nullptr;          // pinned: where the host's copy of the result goes; none: nowhere
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
  // Memory that the device reads and writes by itself; zero at first, and freed with the device. May wait for the
  // device, so not in the middle of a round if it can be helped.
  virtual Result<std::span<std::byte>> allocate_pinned(std::size_t bytes) = 0;
  // An error: the task will not be carried out, and neither will any later one.
  virtual Status submit(const Task& task) = 0;
  // What went wrong with tasks that were taken: from then on no status changes any more, and every task whose results
  // may have been overwritten by a later one's has its status.
  [[nodiscard]] virtual std::optional<Error> failure() const = 0;
  // Returns when no task is under way any more, carried out or not; false if some still are after so long. Only where
  // it has returned true may the device be destroyed.
  virtual bool drain(Duration limit) = 0;
  // Tasks that are submitted from now on come after the work that is in this stream of the device's (a cudaStream_t)
  // now. With nothing under way.
  virtual Status follow(void* stream) = 0;
  // Sets the status of every task whose results are there, even if the driver has not said so yet. A result that was
  // read before, and whose place belongs to another task only after one that has no status now, was read whole.
  virtual void notice() {}
  // After this the owner is not woken any more.
  virtual void silence() = 0;
  // What it is waiting for, in words for a person: one line.
  [[nodiscard]] virtual std::string state() const = 0;
};

class DeviceGradient {
 public:
  static constexpr Duration kPatience = std::chrono::seconds(1);
  // For the device to stop, once it is given up: a round waits meanwhile.
  static constexpr Duration kStopLimit = std::chrono::milliseconds(100);
  // `wake` was given to the device when it was made: it is called, from any thread, when there may be completions.
  // `patience`: for the next completion while orders are under way. It includes what the orders wait for by themselves,
  // such as the computation of the gradient.
  static Result<std::unique_ptr<DeviceGradient>> make(std::unique_ptr<Device> device, std::size_t elements,
                                                      Duration patience = kPatience);
  ~DeviceGradient();
  DeviceGradient(const DeviceGradient&) = delete;
  DeviceGradient& operator=(const DeviceGradient&) = delete;

  [[nodiscard]] std::size_t elements() const { return host_.size(); }
  // Pinned. A chunk of it changes only with the completion of an order for that chunk, except that a chunk with a
  // `write`, a `load` or its last sum under way may hold anything. The owner may change a chunk with none of these
  // under way, and has it uploaded right then.
  [[nodiscard]] std::span<float> host_copy() const { return host_; }
  [[nodiscard]] const Device* device() const { return device_.get(); }  // none once it had to be left alone

  // Memory for so many chunks that are open at once, of so many elements each, as far as it is not there yet; with
  // nothing under way. No memory is sought later: a chunk that finds none is a failure.
  Status reserve(std::size_t chunks, std::size_t elements);
  void set_patience(Duration patience) { patience_ = patience; }
  // As Device::follow().
  Status follow(void* stream);
  // More orders than the device should have at a time wait here. After a failure all are kept, and handed back by
  // take_back().
  void submit(TimePoint now, const ChunkOrder& order);
  // In the order of submission for each chunk. Called when the owner was woken, and at deadline().
  [[nodiscard]] std::vector<ChunkCompletion> take_completions(TimePoint now);
  // When the device counts as lost if it has completed nothing by then; kNever while it has nothing to do. Long past
  // where a completion waits to be taken, of which nobody rings.
  [[nodiscard]] TimePoint deadline() const;
  // Orders that are not completed.
  [[nodiscard]] std::size_t in_flight() const { return in_flight_.size() + waiting_.size(); }
  [[nodiscard]] const std::optional<Error>& failure() const { return failure_; }
  // What is under way, in words for a person.
  [[nodiscard]] std::string state() const;

  struct TakenBack {
    std::vector<ChunkOrder> orders;
    // False: the device would not stop. It may read from `in` and write to `out` of these orders whenever it likes, as
    // long as the process lives: nothing else may be kept there, and the orders need other places for their results.
    bool stopped = true;
  };
  // After a failure, or to be done with the device: waits for it to stop, puts the host copy in order, and returns the
  // orders that were not carried out, in the order in which they were given. Completions that were not taken yet come
  // with the next take_completions(), and so do the tags of orders that nobody has to carry out any more: uploads, and
  // what was under way when one was given. From here on the host copy, maybe at another address, is the gradient.
  [[nodiscard]] TakenBack take_back() { return take_back(kStopLimit); }
  // `limit`: for the device to stop.
  [[nodiscard]] TakenBack take_back(Duration limit);

 private:
  // A chunk whose sum is not final: no order's result goes where that of the one before went, so that one of them is
  // always whole. The last one's goes straight to the gradient's host copy.
  struct OpenChunk {
    std::span<float> place[2];
    std::size_t count = 0;
    std::size_t under_way = 0;  // orders that change the chunk
    float* newest = nullptr;    // where the result of the order that was given last goes
    float* whole = nullptr;     // that of the order that was completed last; none: the host copy is as it was
    std::size_t uploads = 0;    // under way: the host copy is the owner's until then
  };
  struct Running {
    ChunkOrder order;
    std::uint32_t* status = nullptr;
    std::size_t lane = 0;
    float* mirror = nullptr;
    bool counts = false;  // in its open chunk's under_way
  };

  DeviceGradient(std::unique_ptr<Device> device, Duration patience);
  [[nodiscard]] TimePoint lost_at() const;
  [[nodiscard]] std::optional<Error> try_submit(const ChunkOrder& order);
  Result<OpenChunk*> open_chunk(const ChunkOrder& order);
  std::optional<std::span<float>> take_place(std::size_t elements);
  static void bring_home(const OpenChunk& open, float* home);
  void replace(std::size_t begin);
  void close(std::unordered_map<std::size_t, OpenChunk>::iterator open);
  std::uint32_t* take_status();
  [[nodiscard]] std::size_t lane_of(std::size_t begin);
  void submit_waiting();
  void collect();
  void flee();
  void complete(const Running& running, std::uint32_t status);

  std::unique_ptr<Device> device_;
  Duration patience_;
  TimePoint last_progress_{};
  std::span<float> host_;
  std::vector<float> refuge_;  // what host_ is once a device had to be left alone
  std::deque<Running> in_flight_;
  std::vector<ChunkCompletion> completions_;
  std::deque<ChunkOrder> waiting_;
  std::optional<Error> failure_;
  std::unordered_map<std::size_t, OpenChunk> open_;                                    // by the chunk's begin
  std::unordered_map<std::size_t, std::pair<std::size_t, std::size_t>> lanes_in_use_;  // begin: lane, orders in flight
  std::size_t next_lane_ = 0;
  std::vector<std::span<float>> free_places_;
  std::vector<std::uint32_t*> free_status_;
};

}  // namespace papilio::kernels
