// The conduct of others on disk, so that bans outlive the process: an SQLite file in the state directory that is whole
// after a kill at any moment, and that `papilio-node bans` may read and change while a node runs on it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/result.hpp"
#include "engine/base/time.hpp"
#include "engine/core/conduct.hpp"

struct sqlite3;

namespace papilio::node {

// One open file. Not for two threads at once. Every error names the file and what to do about it.
class BanStore {
 public:
  static constexpr const char* kFileName = "bans.sqlite";
  // How long another process that is writing is waited for.
  static constexpr Duration kPatience = std::chrono::seconds(1);

  // Opens the file in this directory, or makes it. A file that is damaged, of another program or of a later version is
  // an error, and left as it is.
  static Result<BanStore> open(const std::string& directory);
  // The same, but where there is no file, none is made.
  static Result<std::optional<BanStore>> open_existing(const std::string& directory);

  [[nodiscard]] const std::string& path() const { return path_; }

  // Everything written down. Rows that make no sense are left out and logged.
  Result<std::vector<core::ConductRecord>> load();
  // All of them or, with an error, none. On return they are on the disk.
  Status save(std::span<const core::ConductChange> changes);
  // Strikes out one peer, or everybody. How many there were.
  Result<std::uint64_t> clear(const std::optional<PeerId>& peer);
  // Another number after another process changed the file; own changes do not count.
  Result<std::int64_t> version();

 private:
  struct Close {
    void operator()(sqlite3* database) const;
  };

  explicit BanStore(std::string path) : path_(std::move(path)) {}
  Status prepare();
  Status append_to_journal();
  [[nodiscard]] Error error(const std::string& doing) const;
  Status execute(const char* sql, const std::string& doing);
  Result<std::int64_t> number(const char* sql);

  std::string path_;
  std::unique_ptr<sqlite3, Close> database_;
};

}  // namespace papilio::node
