// A flow that reads any bytes in pieces of any size, under an owner that takes, discards or holds payloads as it
// pleases. It ends in order: everything closed, every slab back.
#include "tests/fuzz/frames.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/fuzz/script_io.hpp"
#include "transport/flow.hpp"

namespace papilio::fuzz {
namespace {

using namespace transport;

constexpr std::size_t kSlabs = 2;

SlabPool& pool() {
  static SlabPool pool = SlabPool::make(kMaximumPayloadBytes, kSlabs).value();
  return pool;
}

// Its decisions come from the input; payloads are bounded by what the input can hold.
class Owner final : public FlowEvents {
 public:
  explicit Owner(Draws& draws) : flow(*this), draws_(draws) {}

  void on_flow_connected(Flow&) override {}
  PayloadDecision on_payload_header(Flow&, const Header& header, std::size_t payload_bytes) override {
    FUZZ_CHECK(std::holds_alternative<Contribution>(header) || std::holds_alternative<Average>(header) ||
               std::holds_alternative<TestData>(header));
    FUZZ_CHECK(payload_bytes > 0 && payload_bytes <= kMaximumPayloadBytes);
    switch (draws_.below(8)) {
      case 0: return {.verdict = PayloadVerdict::hold, .slab = {}};
      case 1: return {.verdict = PayloadVerdict::discard, .slab = {}};
      case 2: flow.abort(); return {};
      default: break;
    }
    Slab slab = pool().take();
    if (!slab) return {.verdict = PayloadVerdict::hold, .slab = {}};
    return {.verdict = PayloadVerdict::accept, .slab = std::move(slab)};
  }
  void on_frame(Flow&, const Header&, Slab slab, std::size_t payload_bytes) override {
    FUZZ_CHECK(!is_closed && (payload_bytes > 0) == static_cast<bool>(slab));
    frames += 1;
    switch (draws_.below(16)) {
      case 0: flow.abort(); break;
      case 1: flow.close_after_sending(); break;
      case 2: kept = std::move(slab); break;
      case 3: flow.send_control(Ready{1}); break;
      case 4: kept.release(); break;
      default: break;
    }
  }
  bool next_frame(Flow&, OutgoingFrame& frame) override {
    if (to_send == 0) return false;
    to_send -= 1;
    encode_frame_header(Contribution{.round = 1}, sizeof(payload), frame.header);
    frame.payload = payload;
    frame.tag = ++tag;
    return true;
  }
  void on_frame_sent(Flow&, std::uint64_t sent) override { FUZZ_CHECK(sent == tag); }
  void on_flow_failed(Flow&, const FlowFailure& failure) override {
    FUZZ_CHECK(!is_closed && !has_failed && !failure.to_string().empty());
    has_failed = true;
  }
  void on_flow_closed(Flow&) override {
    FUZZ_CHECK(!is_closed);
    is_closed = true;
  }

  bool is_closed = false, has_failed = false;
  std::uint64_t frames = 0, tag = 0;
  std::uint32_t to_send = 0;
  Slab kept;
  std::array<std::byte, 100> payload{};
  Flow flow;

 private:
  Draws& draws_;
};

// The whole headers among the rest of the input, made sound; payloads stay as they are.
Bytes repaired(std::span<const std::byte> input) {
  Bytes bytes(input.begin(), input.end());
  for (std::size_t at = 0; at + kFrameHeadBytes <= bytes.size();) {
    std::uint16_t words = 0;
    std::uint32_t payload = 0;
    std::memcpy(&words, &bytes[at + 6], sizeof(words));
    std::memcpy(&payload, &bytes[at + 8], sizeof(payload));
    const std::size_t header = std::max(kFrameHeadBytes, std::size_t{words} * 8);
    if (header > bytes.size() - at || header > kMaximumHeaderBytes) break;
    make_sound(std::span(bytes).subspan(at, header));
    at += header + payload;
  }
  return bytes;
}

void run(Draws& draws) {
  ScriptIo io;
  Owner owner(draws);
  ScriptIo::Handle other;
  const bool is_dialled = draws.chance();
  struct Accept final : ListenerEvents {
    explicit Accept(Flow& flow) : flow_(flow) {}
    void on_accepted(Stream& stream) override { flow_.adopt(stream); }
    Flow& flow_;
  } accept(owner.flow);
  const Address here = Address::simulated(1, 1);
  Listener* const listener = io.listen(here, {}, accept).value();
  if (is_dialled) {
    owner.flow.dial(io, here, {});
    other = io.take_dialled().front();
    (*other)->connect();
  } else {
    other = io.accept(here);
  }
  // First the choices, so that the bytes of frames stay together: sizes of the pieces, then decisions, then frames.
  const bool is_repaired = draws.chance();
  owner.to_send = draws.below(4);
  Draws choices(draws.take(draws.byte()));
  const std::span<const std::byte> rest = draws.rest();
  draws = choices;
  const Bytes bytes = is_repaired ? repaired(rest) : Bytes(rest.begin(), rest.end());
  for (std::size_t at = 0; at < bytes.size() && *other != nullptr;) {
    const std::size_t size =
        std::min<std::size_t>(draws.is_empty() ? 128 : 1 + draws.number() % 5000, bytes.size() - at);
    (*other)->feed(std::span(bytes).subspan(at, size));
    (*other)->set_takes_bytes(draws.byte() < 0xc0);
    at += size;
    io.run_once(io.now());
    if (owner.flow.holds() && draws.chance()) owner.flow.resume();
    if (draws.byte() > 0xf8) owner.flow.wake_sender();
    FUZZ_CHECK(owner.flow.payload_received() <= at);
  }
  if (*other != nullptr) {
    if (draws.chance()) (*other)->end(IoCode::closed_by_peer);
    io.run_once(io.now());
  }
  owner.flow.abort();
  listener->close();
  io.run_once(io.now());
  FUZZ_CHECK(owner.is_closed && io.open_handles() == 0);
  owner.kept.release();
  FUZZ_CHECK(pool().available() == pool().capacity());
}

}  // namespace

std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  Bytes together;
  for (const HeaderBytes& header : sample_headers()) {
    Bytes seed = {std::byte{0}, std::byte{1}, std::byte{0}, std::byte{4},
                  std::byte{9}, std::byte{9}, std::byte{9}, std::byte{9}};
    seed.insert(seed.end(), header.begin(), header.end());
    seed.resize(seed.size() + 64);
    all.push_back(seed);
    together.insert(together.end(), header.begin(), header.end());
    if (parse_frame_head(header).payload_bytes > 0) together.resize(together.size() + 64);
  }
  for (const int start : {0, 1}) {
    Bytes seed = {static_cast<std::byte>(start), std::byte{0}, std::byte{2}, std::byte{0}};
    seed.insert(seed.end(), together.begin(), together.end());
    all.push_back(std::move(seed));
  }
  return all;
}

}  // namespace papilio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  papilio::fuzz::Draws draws(std::as_bytes(std::span(data, size)));
  papilio::fuzz::run(draws);
  return 0;
}
