// Keeps what a node signs: one file per statement in a directory of the user's choice. Signing and writing happen on a
// thread of its own, so that the loop never waits for a disk, and a disk that fails costs evidence, never a round. A
// file is there whole or not at all, none is overwritten, and the oldest go when there are too many.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/base/result.hpp"
#include "transport/identity.hpp"

namespace papilio::node {

class EvidenceKeeper {
 public:
  // Statements that wait for the disk; more, and the oldest of them is lost.
  static constexpr std::size_t kMostWaiting = 64;

  // `directory` exists and can be written. `most` files are kept, those counted that are there already.
  EvidenceKeeper(std::string directory, std::size_t most, transport::Identity signer);
  EvidenceKeeper(const EvidenceKeeper&) = delete;
  EvidenceKeeper& operator=(const EvidenceKeeper&) = delete;
  // Writes what is left to write, if the disk lets it.
  ~EvidenceKeeper();

  // `name`: of the file, like "round-00000012-1f3a9c02.report" (or left-out-....roster, double-....proof): no other is
  // counted or removed. One that is taken gets a number behind it.
  void save(std::string name, std::string_view domain, std::vector<std::byte> body);
  // The last one could not be written.
  [[nodiscard]] bool is_failing() const { return is_failing_; }

  // Whether files can be kept there; the error says what to do.
  [[nodiscard]] static Status check_directory(const std::string& path);

 private:
  struct Waiting {
    std::string name;
    std::string domain;
    std::vector<std::byte> body;
  };

  void run();
  void find_files();
  [[nodiscard]] Status write(const Waiting& waiting);
  void remove_oldest();
  void note(const Status& status);

  const std::string directory_;
  const std::size_t most_;
  const transport::Identity signer_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::deque<Waiting> waiting_;
  std::size_t lost_ = 0;

  // The thread's own.
  std::deque<std::string> files_;  // names, oldest first
  std::atomic<bool> is_failing_{false};

  std::thread thread_;
};

}  // namespace papilio::node
