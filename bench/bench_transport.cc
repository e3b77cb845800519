// Slabs, frame headers, and turns of the loop: what the engine pays per frame beside the kernels. Both ends of each
// connection are on one thread and one loop here, so that figures are CPU time, not the wake-up of another CPU.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/suite.h"
#include "transport/flow.hpp"
#include "transport/frame.hpp"
#include "transport/io.hpp"
#include "transport/slab_pool.hpp"

namespace papilio::bench {
namespace {

using namespace transport;
using State = benchmark::State;

template <typename T>
T take(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "papilio-bench: %s\n", result.error().message.c_str());
    std::exit(3);
  }
  return std::move(result).value();
}

void slab(State& state) {
  SlabPool pool = take(SlabPool::make(std::size_t{512} << 10U, 16));
  for (auto _ : state) {
    Slab slab = pool.take();
    benchmark::DoNotOptimize(slab.bytes().data());
  }
}

Header contribution() { return Contribution{.round = 7, .checksum = 0x0123456789abcdefU, .chunk = 11, .weight = 32}; }

void encode_header(State& state) {
  HeaderBytes bytes;
  for (auto _ : state) {
    encode_frame_header(contribution(), 4096, bytes);
    benchmark::DoNotOptimize(bytes.data());
  }
}

void parse_header(State& state) {
  HeaderBytes bytes;
  encode_frame_header(contribution(), 4096, bytes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(parse_frame_head(std::span(bytes).first(kFrameHeadBytes)).fault);
    benchmark::DoNotOptimize(parse_frame_header(bytes).fault);
  }
}

// A turn in which nothing waits: what looking costs.
void empty_turn(State& state, IoBackend backend) {
  const std::unique_ptr<Io> io = take(make_io(backend, nullptr));
  for (auto _ : state) io->run_once(io->now());
}

void woken_turn(State& state, IoBackend backend) {
  const std::unique_ptr<Io> io = take(make_io(backend, nullptr));
  for (auto _ : state) {
    io->wake();
    io->run_once(kNever);
  }
}

// Two ends of a connection over loopback. `Ends` accepts and owns what a benchmark measures.
Address loopback() { return take(Address::parse("127.0.0.1:0")); }

// 64 bytes, back and forth.
class PingPong final : private StreamEvents, private ListenerEvents {
 public:
  explicit PingPong(Io& io) : io_(io) {
    Listener* listener = take(io.listen(loopback(), {}, *this));
    dialled_ = &io.connect(listener->address(), {}, *this);
    while (accepted_ == nullptr || !connected_) io.run_once(kNever);
    listener->close();
    for (Stream* stream : {dialled_, accepted_}) post_read(*stream);
  }
  ~PingPong() {
    for (Stream* stream : {dialled_, accepted_}) stream->abort();
    while (io_.open_handles() > 0) io_.run_once(kNever);
  }
  void round_trip() {
    const std::uint64_t before = back_;
    send(*dialled_);
    while (back_ == before) io_.run_once(kNever);
  }

 private:
  using Message = std::vector<std::byte>;

  void on_accepted(Stream& stream) override {
    accepted_ = &stream;
    stream.set_events(*this);
  }
  void on_connected(Stream&) override { connected_ = true; }
  void on_read(Stream& stream, std::size_t) override {
    post_read(stream);
    if (&stream == accepted_) {
      send(stream);
    } else {
      back_ += 1;
    }
  }
  void on_written(Stream&) override {}
  void on_failed(Stream&, IoStatus status) override {
    std::fprintf(stderr, "papilio-bench: loopback: %s\n", status.to_string().c_str());
    std::exit(3);
  }
  void on_closed(Stream&) override {}

  void post_read(Stream& stream) {
    const ReadBuffer buffer(&stream == dialled_ ? to_dialled_ : to_accepted_);
    stream.read({&buffer, 1}, buffer.size());
  }
  void send(Stream& stream) {
    const WriteBuffer buffer(message_);
    stream.write({&buffer, 1}, WriteMode::copy);
  }

  Io& io_;
  Stream* dialled_ = nullptr;
  Stream* accepted_ = nullptr;
  bool connected_ = false;
  std::uint64_t back_ = 0;
  Message message_ = Message(64), to_dialled_ = Message(64), to_accepted_ = Message(64);
};

void ping_pong(State& state, IoBackend backend) {
  const std::unique_ptr<Io> io = take(make_io(backend, nullptr));
  PingPong both(*io);
  for (auto _ : state) both.round_trip();
}

// Contributions of one chunk each, from a flow into slabs behind another.
class Stream512 final : private FlowEvents, private ListenerEvents {
 public:
  explicit Stream512(Io& io, WriteMode mode)
      : io_(io), mode_(mode), pool_(take(SlabPool::make(kBytes, 2))), payload_(kBytes, std::byte{1}) {
    Listener* listener = take(io.listen(loopback(), {}, *this));
    sender_.dial(io, listener->address(), {});
    while (!connected_ || !accepted_) io.run_once(kNever);
    listener->close();
  }
  ~Stream512() {
    sender_.abort();
    receiver_.abort();
    while (io_.open_handles() > 0) io_.run_once(kNever);
  }
  void one_frame() {
    const std::uint64_t before = received_;
    offered_ += 1;
    sender_.wake_sender();
    while (received_ == before) io_.run_once(kNever);
  }
  static constexpr std::size_t kBytes = std::size_t{512} << 10U;

 private:
  void on_accepted(Stream& stream) override {
    accepted_ = true;
    receiver_.adopt(stream);
  }
  void on_flow_connected(Flow& flow) override {
    if (&flow == &sender_) connected_ = true;
  }
  PayloadDecision on_payload_header(Flow&, const Header&, std::size_t) override {
    return {.verdict = PayloadVerdict::accept, .slab = pool_.take()};
  }
  void on_frame(Flow&, const Header&, Slab payload, std::size_t) override {
    benchmark::DoNotOptimize(payload.bytes().data());
    received_ += 1;
  }
  bool next_frame(Flow&, OutgoingFrame& frame) override {
    if (offered_ == 0) return false;
    offered_ -= 1;
    encode_frame_header(contribution(), kBytes, frame.header);
    frame.payload = payload_;
    frame.mode = mode_;
    return true;
  }
  void on_frame_sent(Flow&, std::uint64_t) override {}
  void on_flow_failed(Flow&, const FlowFailure& failure) override {
    std::fprintf(stderr, "papilio-bench: loopback: %s\n", failure.to_string().c_str());
    std::exit(3);
  }
  void on_flow_closed(Flow&) override {}

  Io& io_;
  WriteMode mode_;
  SlabPool pool_;
  Bytes payload_;
  Flow sender_{*this}, receiver_{*this};
  bool connected_ = false, accepted_ = false;
  std::uint64_t offered_ = 0, received_ = 0;
};

void stream_chunks(State& state, IoBackend backend, WriteMode mode) {
  const std::unique_ptr<Io> io = take(make_io(backend, nullptr));
  Stream512 both(*io, mode);
  run_against_memcpy(state, 2.0 * Stream512::kBytes, [&] { both.one_frame(); });
}

}  // namespace

void register_transport_benchmarks() {
  benchmark::RegisterBenchmark("slab_take_and_release", slab);
  benchmark::RegisterBenchmark("encode_frame_header", encode_header);
  benchmark::RegisterBenchmark("parse_frame_header", parse_header);
  std::vector<std::pair<std::string, IoBackend>> backends = {{"uv", IoBackend::uv}};
  if (make_io(IoBackend::uring, nullptr)) backends.insert(backends.begin(), {"uring", IoBackend::uring});
  for (const auto& [name, backend] : backends) {
    const auto add = [&, which = backend](const std::string& what, auto body) {
      return benchmark::RegisterBenchmark((what + "/" + name).c_str(),
                                          [which, body](State& state) { body(state, which); });
    };
    add("empty_turn", empty_turn);
    add("woken_turn", woken_turn);
    add("ping_pong", ping_pong);
    for (const WriteMode mode : {WriteMode::copy, WriteMode::borrow}) {
      add(mode == WriteMode::copy ? "stream_chunks/copy" : "stream_chunks/borrow", [mode](State& state,
                                                                                          IoBackend which) {
        stream_chunks(state, which, mode);
      })->UseManualTime();
    }
  }
}

}  // namespace papilio::bench
