// Writes bans down without the loop ever waiting for a disk: a thread of its own takes changed records to the store,
// and looks once a second whether somebody else (`papilio-node bans clear`) struck any out. A store that fails costs
// the node's memory of bans after its end, never a round.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "engine/core/conduct.hpp"
#include "engine/node/ban_store.hpp"
#include "transport/io.hpp"

namespace papilio::node {

class BanKeeper {
 public:
  // Looks at the store this often, and tries again this long after it failed.
  static constexpr Duration kLook = std::chrono::seconds(1);
  static constexpr Duration kRetry = std::chrono::seconds(10);

  // `records`: what the store held when it was loaded. `io` is woken when take_cleared() has something.
  BanKeeper(BanStore store, const std::vector<core::ConductRecord>& records, transport::Io& io);
  BanKeeper(const BanKeeper&) = delete;
  BanKeeper& operator=(const BanKeeper&) = delete;
  // Writes what is left to write, if the store lets it.
  ~BanKeeper();

  void save(core::ConductChange change);
  // Peers that somebody else struck out since it was last asked.
  [[nodiscard]] std::vector<PeerId> take_cleared();
  // What is saved stays in memory for now.
  [[nodiscard]] bool is_failing() const { return is_failing_; }

 private:
  using Changes = std::map<PeerId, core::ConductChange>;  // the latest of each peer

  void run();
  Status write(const Changes& changes);
  Status look();
  void note(const Status& status);

  BanStore store_;
  transport::Io& io_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  Changes pending_;
  std::set<PeerId> cleared_;

  // The thread's own.
  std::set<PeerId> stored_;  // who is in the store as far as known
  std::optional<std::int64_t> version_;
  std::atomic<bool> is_failing_{false};  // written by the thread

  std::thread thread_;
};

}  // namespace papilio::node
