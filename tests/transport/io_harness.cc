#include "tests/transport/io_harness.hpp"

#include <algorithm>

#include "transport/secure_io.hpp"
#include "transport/sim_io.hpp"
#include "transport/socket.hpp"
#include "transport/uring_io.hpp"
#include "transport/uv_io.hpp"

namespace papilio::transport {

namespace {

constexpr auto kBound = std::chrono::seconds(60);

std::unique_ptr<Io> secured(std::unique_ptr<Io> io, std::uint8_t seed) {
  // Keys change every few records instead of every few million: the one as well as the other is nobody's business
  // above.
  return make_secure_io(std::move(io), Identity::from_seed({seed}), {.records_per_key = 5}).value();
}

// Both ends in one loop, over loopback.
class RealHarness final : public Harness {
 public:
  explicit RealHarness(std::unique_ptr<Io> io) : io_(std::move(io)) {}

  Io& server() override { return *io_; }
  Io& client() override { return *io_; }
  Address listen_address() override { return Address::parse("127.0.0.1:0").value(); }
  Address silent_address() override {
    Address bound;
    // Taken and given back at once: nobody listens there now.
    PAPILIO_ASSERT(open_listening_socket(listen_address(), {}, bound).ok());
    return bound;
  }
  bool run_until(const std::function<bool()>& predicate) override {
    const TimePoint bound = io_->now() + kBound;
    while (!predicate()) {
      if (io_->now() > bound) return false;
      io_->run_once(bound);
    }
    return true;
  }
  void settle() override {
    const TimePoint end = io_->now() + std::chrono::milliseconds(30);
    while (io_->now() < end) io_->run_once(end);
  }
  [[nodiscard]] bool is_real() const override { return true; }

 private:
  std::unique_ptr<Io> io_;
};

// Two hosts of a simulated network.
class SimHarness final : public Harness {
 public:
  SimHarness(std::uint64_t seed, const SimOptions& options, bool secure = false)
      : network_(seed, options), server_(network_.make_host(1)), client_(network_.make_host(2)) {
    if (!secure) return;
    server_ = secured(std::move(server_), 1);
    client_ = secured(std::move(client_), 2);
  }

  Io& server() override { return *server_; }
  Io& client() override { return *client_; }
  Address listen_address() override { return Address::simulated(1, 0); }
  Address silent_address() override { return Address::simulated(1, 9); }
  bool run_until(const std::function<bool()>& predicate) override {
    const TimePoint bound = network_.now() + kBound;
    while (!predicate()) {
      if (run_ready_hosts()) continue;
      if (network_.now() > bound || !network_.step()) return false;
    }
    return true;
  }
  void settle() override {
    while (run_ready_hosts() || network_.step()) {
    }
  }
  [[nodiscard]] bool is_real() const override { return false; }

 private:
  bool run_ready_hosts() {
    bool ran = false;
    for (const auto& [host, io] : {std::pair(1U, server_.get()), std::pair(2U, client_.get())}) {
      if (!network_.is_ready(host)) continue;
      io->run_once(network_.now());
      ran = true;
    }
    return ran;
  }

  SimNetwork network_;
  std::unique_ptr<Io> server_, client_;
};

// Slow, jittery, in small pieces, with little room.
SimOptions harsh_options() {
  SimOptions options;
  options.jitter = std::chrono::milliseconds(5);
  options.up_bytes_per_s = std::uint64_t{64} << 20U;
  options.down_bytes_per_s = std::uint64_t{48} << 20U;
  options.buffer_bytes = 40000;
  options.largest_segment_bytes = 3000;
  options.odd_segment_chance = 0.9;
  return options;
}

}  // namespace

std::vector<HarnessFactory> harness_factories() {
  std::vector<HarnessFactory> factories;
  factories.push_back({"uv", [] { return std::unique_ptr<Harness>(new RealHarness(make_uv_io().value())); }});
  factories.push_back({"sim", [] { return std::unique_ptr<Harness>(new SimHarness(1, {})); }});
  factories.push_back({"sim_harsh", [] { return std::unique_ptr<Harness>(new SimHarness(2, harsh_options())); }});
  factories.push_back(
      {"tls_over_uv", [] { return std::unique_ptr<Harness>(new RealHarness(secured(make_uv_io().value(), 1))); }});
  factories.push_back({"tls_over_sim", [] { return std::unique_ptr<Harness>(new SimHarness(1, {}, true)); }});
  factories.push_back(
      {"tls_over_sim_harsh", [] { return std::unique_ptr<Harness>(new SimHarness(2, harsh_options(), true)); }});
  // Not every kernel and sandbox lets io_uring run.
  if (make_uring_io().ok()) {
    factories.push_back({"uring", [] { return std::unique_ptr<Harness>(new RealHarness(make_uring_io().value())); }});
    factories.push_back({"tls_over_uring", [] {
                           return std::unique_ptr<Harness>(new RealHarness(secured(make_uring_io().value(), 1)));
                         }});
  }
  return factories;
}

}  // namespace papilio::transport
