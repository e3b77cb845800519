// What one node keeps between two runs lies in one directory that is its alone: who it is, and whom it has banned. A
// second process that is pointed at the same directory would be a second peer of the same name; it is refused.
#pragma once

#include <string>
#include <utility>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"

namespace papilio::node {

class StateDirectory {
 public:
  // Takes the directory, which has to exist, for this process until the object or the process is gone; reads the node's
  // id, or draws one and writes it down (64 hexadecimal digits, for its owner's eyes only, whole or not at all).
  static Result<StateDirectory> open(const std::string& path);

  StateDirectory(StateDirectory&& other) noexcept
      : path_(std::move(other.path_)), id_(other.id_), lock_(std::exchange(other.lock_, -1)) {}
  StateDirectory& operator=(StateDirectory&&) = delete;
  StateDirectory(const StateDirectory&) = delete;
  StateDirectory& operator=(const StateDirectory&) = delete;
  ~StateDirectory();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const PeerId& id() const { return id_; }

 private:
  explicit StateDirectory(std::string path) : path_(std::move(path)) {}
  Status lock();
  Status read_or_draw_id();

  std::string path_;
  PeerId id_;
  int lock_ = -1;  // a descriptor; the system lets go of the lock with it
};

// 32 bytes of the system's randomness.
Result<PeerId> random_peer_id();

}  // namespace papilio::node
