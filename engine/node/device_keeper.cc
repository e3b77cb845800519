#include "engine/node/device_keeper.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace papilio::node {

namespace {

// Not the loop's, which stands still between its turns.
TimePoint time_now() { return TimePoint(std::chrono::steady_clock::now().time_since_epoch()); }

}  // namespace

DeviceKeeper::DeviceKeeper(Maker maker, std::function<void()> wake, Patience patience)
    : maker_(std::move(maker)), wake_(std::move(wake)), patience_(patience) {}

Result<std::unique_ptr<kernels::DeviceGradient>> DeviceKeeper::make(const DeviceSpan& span) {
  auto device = maker_(span, [this] {
    {
      const std::lock_guard lock(mutex_);
      times_rung_ += 1;
    }
    rung_.notify_all();
    wake_();
  });
  if (!device) return device.error();
  return kernels::DeviceGradient::make(std::move(*device), span.elements, patience_.load);
}

Result<kernels::DeviceGradient*> DeviceKeeper::load(const DeviceSpan& span) {
  if (gradient_ != nullptr && (gradient_->failure() || span.data != span_.data || span.elements != span_.elements)) {
    gradient_.reset();
  }
  if (gradient_ == nullptr) {
    auto made = make(span);
    if (!made) return made.error();
    gradient_ = std::move(*made);
    span_ = span;
  } else if (auto followed = gradient_->follow(span.stream); !followed) {
    return followed.error();
  }
  gradient_->set_patience(patience_.load);
  constexpr std::size_t kPiece = std::size_t{1} << 20U;
  for (std::size_t begin = 0; begin < span.elements; begin += kPiece) {
    gradient_->submit(time_now(), {.kind = kernels::ChunkOrder::Kind::load,
                                   .begin = begin,
                                   .count = std::min<std::size_t>(kPiece, span.elements - begin)});
  }
  const Status loaded = wait_until_loaded();
  gradient_->set_patience(patience_.round);
  if (!loaded) {
    static_cast<void>(gradient_->take_back());
    gradient_.reset();
    return loaded.error();
  }
  return gradient_.get();
}

Status DeviceKeeper::wait_until_loaded() {
  while (true) {
    std::uint64_t rung = 0;
    {
      const std::lock_guard lock(mutex_);
      rung = times_rung_;
    }
    static_cast<void>(gradient_->take_completions(time_now()));
    if (gradient_->failure()) return *gradient_->failure();
    if (gradient_->in_flight() == 0) return Done{};
    std::unique_lock lock(mutex_);
    rung_.wait_for(lock, gradient_->deadline() - time_now(), [&] { return times_rung_ != rung; });
  }
}

}  // namespace papilio::node
