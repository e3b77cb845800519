#include "engine/node/ban_keeper.hpp"

#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace papilio::node {

BanKeeper::BanKeeper(BanStore store, const std::vector<core::ConductRecord>& records, transport::Io& io)
    : store_(std::move(store)), io_(io) {
  for (const core::ConductRecord& record : records) stored_.insert(record.peer);
  // What is struck out between load() and this line shows as a difference to stored_ at the first look.
  thread_ = std::thread([this] { run(); });
}

BanKeeper::~BanKeeper() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void BanKeeper::save(core::ConductChange change) {
  {
    const std::lock_guard lock(mutex_);
    cleared_.erase(change.peer);  // it has offended anew since
    pending_.insert_or_assign(change.peer, std::move(change));
  }
  changed_.notify_one();
}

std::vector<PeerId> BanKeeper::take_cleared() {
  const std::lock_guard lock(mutex_);
  std::vector<PeerId> cleared(cleared_.begin(), cleared_.end());
  cleared_.clear();
  return cleared;
}

void BanKeeper::run() {
  pthread_setname_np(pthread_self(), "papilio-bans");
  note(look());
  for (;;) {
    Changes changes;
    bool last = false;
    {
      std::unique_lock lock(mutex_);
      // A failing store is left alone for a while, whatever there is to write.
      const auto wanted = [&] { return stop_ || (!pending_.empty() && !is_failing_); };
      changed_.wait_for(lock, is_failing_ ? kRetry : kLook, wanted);
      changes = std::exchange(pending_, {});
      last = stop_;
    }
    Status status = write(changes);
    if (status && !last) status = look();
    note(status);
    if (last) return;
  }
}

Status BanKeeper::write(const Changes& changes) {
  std::vector<core::ConductChange> list;
  list.reserve(changes.size());
  for (const auto& [peer, change] : changes) list.push_back(change);
  Status written = store_.save(list);
  if (!written) {
    const std::lock_guard lock(mutex_);
    for (core::ConductChange& change : list) {
      // Unless there is something newer. Nobody has to be struck out who never was written down.
      if (change.record || stored_.count(change.peer) > 0) pending_.try_emplace(change.peer, std::move(change));
    }
    return written;
  }
  for (const core::ConductChange& change : list) {
    if (change.record) {
      stored_.insert(change.peer);
    } else {
      stored_.erase(change.peer);
    }
  }
  return Done{};
}

Status BanKeeper::look() {
  const auto version = store_.version();
  if (!version) return version.error();
  if (version_ == *version) return Done{};
  const auto records = store_.load();
  if (!records) return records.error();
  version_ = *version;
  std::set<PeerId> present;
  for (const core::ConductRecord& record : *records) present.insert(record.peer);
  std::vector<PeerId> gone;
  std::set_difference(stored_.begin(), stored_.end(), present.begin(), present.end(), std::back_inserter(gone));
  stored_ = std::move(present);
  if (gone.empty()) return Done{};
  {
    const std::lock_guard lock(mutex_);
    for (const PeerId& peer : gone) {
      if (pending_.count(peer) == 0) cleared_.insert(peer);
    }
  }
  io_.wake();
  return Done{};
}

void BanKeeper::note(const Status& status) {
  if (!status && !is_failing_) {
    spdlog::error("bans are kept in memory only for now, and are lost with the process: {}", status.error().message);
  } else if (status && is_failing_) {
    spdlog::info("'{}': bans are written down again", store_.path());
  }
  is_failing_ = !status;
}

}  // namespace papilio::node
