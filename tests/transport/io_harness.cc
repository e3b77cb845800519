#include "tests/transport/io_harness.hpp"

#include <algorithm>

#include "transport/socket.hpp"
#include "transport/uring_io.hpp"
#include "transport/uv_io.hpp"

namespace papilio::transport {

namespace {

constexpr auto kBound = std::chrono::seconds(60);

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

}  // namespace

std::vector<HarnessFactory> harness_factories() {
  std::vector<HarnessFactory> factories;
  factories.push_back({"uv", [] { return std::unique_ptr<Harness>(new RealHarness(make_uv_io().value())); }});
  // Not every kernel and sandbox lets io_uring run.
  if (make_uring_io().ok()) {
    factories.push_back({"uring", [] { return std::unique_ptr<Harness>(new RealHarness(make_uring_io().value())); }});
  }
  return factories;
}

}  // namespace papilio::transport
