// Encrypted connections: two ends over a network that delivers in pieces, damages, repeats and makes up bytes. Whatever
// it does, what one end reads is the beginning of what the other wrote, from the other's key, or nothing.
#include <array>
#include <cstring>

#include "tests/fuzz/draws.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/fuzz/randomness.hpp"
#include "tests/fuzz/script_io.hpp"
#include "transport/secure_io.hpp"

namespace papilio::fuzz {
namespace {

using namespace transport;

// One end, used for one input after the other: each leaves nothing open.
class End final : private StreamEvents, private ListenerEvents {
 public:
  explicit End(std::uint8_t number) : identity_(Identity::from_seed(SecretSeed{number})) {
    auto below = std::make_unique<ScriptIo>();
    below_ = below.get();
    io_ = make_secure_io(std::move(below), identity_).value();
  }

  void begin(const End& other) {
    other_ = &other;
    sent_.clear();
    received_.clear();
    is_connected_ = is_reading_ = is_writing_ = has_failed_ = false;
  }
  void dial() {
    stream_ = &io_->connect(Address::simulated(1, 1), {}, *this);
    line_ = below_->take_dialled().front();
    (*line_)->connect();
  }
  void accept() {
    Listener* const listener = io_->listen(Address::simulated(1, 1), {}, *this).value();
    line_ = below_->accept(Address::simulated(2, 1));
    is_connected_ = true;
    listener->close();
  }
  void turn() { io_->run_once(io_->now()); }
  void write(std::size_t bytes) {
    if (stream_ == nullptr || !is_connected_ || is_writing_ || has_failed_ || bytes == 0) return;
    is_writing_ = true;
    const std::size_t before = sent_.size();
    outgoing_.resize(bytes);
    for (std::size_t i = 0; i < bytes; ++i) outgoing_[i] = static_cast<std::byte>((before + i) * 7 / 3);
    sent_.insert(sent_.end(), outgoing_.begin(), outgoing_.end());
    const std::span<const std::byte> all(outgoing_);
    const std::array<WriteBuffer, 2> parts{all.first(bytes / 3), all.subspan(bytes / 3)};
    stream_->write(std::span(parts).subspan(bytes < 3 ? 1 : 0), WriteMode::copy);
  }
  void read(std::size_t bytes, std::size_t at_least) {
    if (stream_ == nullptr || !is_connected_ || is_reading_ || has_failed_) return;
    is_reading_ = true;
    incoming_.assign(bytes, std::byte{0});
    const std::span<std::byte> all(incoming_);
    const std::array<ReadBuffer, 2> parts{all.first(bytes / 2), all.subspan(bytes / 2)};
    stream_->read(std::span(parts).subspan(bytes < 2 ? 1 : 0), at_least);
  }
  void close() {
    if (stream_ != nullptr && !is_closing_) is_closing_ = true, stream_->close();
  }
  void abort() {
    if (stream_ != nullptr && !is_closing_) is_closing_ = true, stream_->abort();
  }
  void finish() {
    abort();
    turn();
    turn();
    FUZZ_CHECK(stream_ == nullptr && io_->open_handles() == 0);
    is_closing_ = false;
    line_.reset();
    below_->take_dialled();
  }
  // What lies below: null once it is closed.
  [[nodiscard]] ScriptStream* line() const { return line_ ? *line_ : nullptr; }
  [[nodiscard]] const Identity& identity() const { return identity_; }
  [[nodiscard]] const Bytes& received() const { return received_; }
  [[nodiscard]] const Bytes& sent() const { return sent_; }
  [[nodiscard]] bool has_failed() const { return has_failed_; }
  [[nodiscard]] bool is_connected() const { return stream_ != nullptr && stream_->peer_key() != nullptr; }

 private:
  void on_accepted(Stream& stream) override {
    stream_ = &stream;
    stream.set_events(*this);
  }
  void on_connected(Stream&) override {
    FUZZ_CHECK(!is_connected_ && !has_failed_);
    is_connected_ = true;
    check_key();
  }
  void on_read(Stream&, std::size_t bytes) override {
    FUZZ_CHECK(is_reading_ && !is_closing_ && bytes > 0 && bytes <= incoming_.size());
    is_reading_ = false;
    check_key();
    received_.insert(received_.end(), incoming_.begin(), incoming_.begin() + static_cast<std::ptrdiff_t>(bytes));
    FUZZ_CHECK(received_.size() <= other_->sent_.size());
    FUZZ_CHECK(std::equal(received_.begin(), received_.end(), other_->sent_.begin()));
  }
  void on_written(Stream&) override {
    FUZZ_CHECK(is_writing_ && !is_closing_);
    is_writing_ = false;
  }
  void on_failed(Stream&, IoStatus status) override {
    FUZZ_CHECK(!has_failed_ && !is_closing_ && !status.to_string().empty());
    has_failed_ = true;
    abort();
  }
  void on_closed(Stream&) override { stream_ = nullptr; }
  void check_key() const {
    FUZZ_CHECK(stream_->peer_key() != nullptr && *stream_->peer_key() == other_->identity_.public_key());
  }

  Identity identity_;
  ScriptIo* below_ = nullptr;
  std::unique_ptr<Io> io_;
  const End* other_ = nullptr;
  Stream* stream_ = nullptr;
  ScriptIo::Handle line_;
  Bytes sent_, received_, outgoing_, incoming_;
  bool is_connected_ = false, is_reading_ = false, is_writing_ = false, has_failed_ = false, is_closing_ = false;
};

class Net {
 public:
  Net(Draws& draws, std::array<End*, 2> ends) : draws_(draws), ends_(ends) {}

  void run() {
    if (draws_.chance()) shake_hands();
    while (!draws_.is_empty()) {
      step();
      for (End* const end : ends_) end->turn();
    }
    for (int i = 0; i < 4; ++i) {
      for (const std::size_t from : {0U, 1U}) {
        ends_[from]->read(1000, 1);
        carry(from, under_way_[from].size() + (std::size_t{1} << 20U));
      }
    }
    if (is_harmed_) return;
    for (const std::size_t from : {0U, 1U}) FUZZ_CHECK(!ends_[from]->has_failed());
  }

 private:
  void shake_hands() {
    for (int i = 0; i < 3; ++i) {
      carry(0, std::size_t{1} << 20U);
      carry(1, std::size_t{1} << 20U);
    }
    FUZZ_CHECK(ends_[0]->is_connected() && ends_[1]->is_connected());
  }
  void step() {
    const std::size_t from = draws_.below(2);
    End& end = *ends_[from];
    Bytes& under_way = under_way_[from];
    switch (draws_.below(12)) {
      case 0: return end.write(draws_.number() % 40'000);
      case 1: {
        const std::size_t bytes = 1 + draws_.number() % 40'000;
        return end.read(bytes, draws_.chance() ? bytes : 1);
      }
      case 2: return carry(from, draws_.byte());
      case 3:
      case 4: return carry(from, std::size_t{1} << 20U);
      case 5: {  // damaged
        collect(from);
        if (under_way.empty()) return;
        const std::uint64_t at = draws_.number();
        const auto flip = static_cast<std::byte>(draws_.byte());
        under_way[at % under_way.size()] ^= flip;
        is_harmed_ |= flip != std::byte{0};
        return;
      }
      case 6: {  // lost, or twice
        collect(from);
        const std::size_t count = std::min<std::size_t>(draws_.byte(), under_way.size());
        is_harmed_ |= count > 0;
        const auto end_of = under_way.begin() + static_cast<std::ptrdiff_t>(count);
        const Bytes begin(under_way.begin(), end_of);
        if (draws_.chance()) {
          under_way.erase(under_way.begin(), end_of);
        } else {
          under_way.insert(under_way.begin(), begin.begin(), begin.end());
        }
        return;
      }
      case 7: {  // made up
        collect(from);
        const auto bytes = draws_.take(draws_.byte());
        under_way.insert(under_way.end(), bytes.begin(), bytes.end());
        is_harmed_ |= !bytes.empty();
        return;
      }
      case 8:
        is_harmed_ = true;
        if (ScriptStream* const line = end.line()) line->end(static_cast<IoCode>(1 + draws_.below(6)));
        return;
      case 9:
        if (ScriptStream* const line = end.line()) line->set_takes_bytes(draws_.byte() < 0xc0);
        return;
      case 10: is_harmed_ = true; return draws_.chance() ? end.close() : end.abort();
      default: return;
    }
  }
  void collect(std::size_t from) {
    ends_[from]->turn();
    ScriptStream* const line = ends_[from]->line();
    if (line == nullptr) return;
    const Bytes written = line->take_written();
    under_way_[from].insert(under_way_[from].end(), written.begin(), written.end());
  }
  void carry(std::size_t from, std::size_t most) {
    collect(from);
    Bytes& under_way = under_way_[from];
    const std::size_t count = std::min(most, under_way.size());
    if (ScriptStream* const line = ends_[1 - from]->line()) line->feed(std::span(under_way).first(count));
    under_way.erase(under_way.begin(), under_way.begin() + static_cast<std::ptrdiff_t>(count));
    ends_[1 - from]->turn();
  }

  Draws& draws_;
  std::array<End*, 2> ends_;
  std::array<Bytes, 2> under_way_;
  bool is_harmed_ = false;
};

}  // namespace

std::vector<Bytes> seeds() {
  return {
      bytes_of({1, 0, 0, 200, 1, 1, 100, 0, 0, 4, 1, 0, 100, 0, 1, 90, 1, 1, 3}),  // both write and read
      bytes_of({1, 0, 0, 200, 0, 5, 9, 4, 1, 1, 50, 0, 0, 3}),                     // a damaged record
      bytes_of({0, 0, 2, 100, 0, 2, 100, 1, 2, 200, 0, 6, 3, 0, 0, 4, 1, 4}),      // a handshake in pieces, with a gap
      bytes_of({0, 0, 7, 8, 22, 3, 1, 0, 4, 1, 0, 0, 0, 3, 1, 10, 0}),             // something like a hello
  };
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace papilio::fuzz;
  repeat_randomness();
  static End dialler(1), acceptor(2);
  Draws draws(std::as_bytes(std::span(data, size)));
  dialler.begin(acceptor);
  acceptor.begin(dialler);
  dialler.dial();
  acceptor.accept();
  Net(draws, {&dialler, &acceptor}).run();
  dialler.finish();
  acceptor.finish();
  return 0;
}
