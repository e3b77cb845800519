// What one node keeps between two runs lies in one directory that is its alone: who it is, and whom it has banned. A
// second process that is pointed at the same directory would be a second peer of the same name; it is refused.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "engine/base/result.hpp"
#include "transport/identity.hpp"

namespace papilio::node {

class StateDirectory {
 public:
  // Takes the directory, which has to exist, for this process until the object or the process is gone; reads the node's
  // key, or makes one (transport/identity.hpp).
  static Result<StateDirectory> open(const std::string& path);

  StateDirectory(StateDirectory&& other) noexcept
      : path_(std::move(other.path_)), identity_(std::move(other.identity_)), lock_(std::exchange(other.lock_, -1)) {}
  StateDirectory& operator=(StateDirectory&&) = delete;
  StateDirectory(const StateDirectory&) = delete;
  StateDirectory& operator=(const StateDirectory&) = delete;
  ~StateDirectory();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const transport::Identity& identity() const { return *identity_; }

 private:
  explicit StateDirectory(std::string path) : path_(std::move(path)) {}
  Status lock();
  Status load_identity();

  std::string path_;
  std::optional<transport::Identity> identity_;
  int lock_ = -1;  // a descriptor; the system lets go of the lock with it
};

// Where a node's key is in its state directory.
[[nodiscard]] std::string identity_path(const std::string& directory);

}  // namespace papilio::node
