#include "engine/node/ban_store.hpp"

#include <spdlog/spdlog.h>
#include <sqlite3.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <utility>

namespace papilio::node {
namespace {

constexpr std::int64_t kApplicationId = 0x50504C42;  // "PPLB": that a file is ours, not somebody else's
constexpr std::int64_t kSchemaVersion = 2;
constexpr int kRetryMilliseconds = 5;
// Of times, in seconds since 1970: nothing that is added to one overflows.
constexpr std::int64_t kLatest = std::int64_t{1} << 40U;

constexpr const char* kSchema =
    "CREATE TABLE peers ("
    " peer BLOB PRIMARY KEY NOT NULL,"
    " acquainted INTEGER NOT NULL,"
    " strikes INTEGER NOT NULL,"
    " strikes_as_of INTEGER NOT NULL,"
    " times_banned INTEGER NOT NULL,"
    " repeats INTEGER NOT NULL,"
    " repeats_as_of INTEGER NOT NULL,"
    " good_rounds INTEGER NOT NULL,"
    " offence TEXT NOT NULL,"
    " evidence TEXT NOT NULL,"
    " offended_at INTEGER NOT NULL,"
    " banned_since INTEGER NOT NULL,"
    " banned_until INTEGER NOT NULL,"
    " requalify_since INTEGER"  // null: nothing of that kind is asked for
    ") WITHOUT ROWID;";

// Of version 1, which knew nothing of certificates: whoever's last offence was a ban for slowness.
constexpr const char* kFromVersion1 =
    "ALTER TABLE peers ADD COLUMN requalify_since INTEGER;"
    "UPDATE peers SET requalify_since = banned_since WHERE offence = 'slow' AND times_banned > 0;"
    "PRAGMA user_version = 2;";

constexpr const char* kInsert = "INSERT OR REPLACE INTO peers VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)";
constexpr const char* kDelete = "DELETE FROM peers WHERE peer = ?1";
constexpr const char* kSelect =
    "SELECT peer, acquainted, strikes, strikes_as_of, times_banned, repeats, repeats_as_of, good_rounds, offence,"
    " evidence, offended_at, banned_since, banned_until, requalify_since FROM peers";

struct Finalise {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, Finalise>;

// None where the database says no; its error is the database's.
Statement prepared(sqlite3* database, const char* sql) {
  sqlite3_stmt* statement = nullptr;
  sqlite3_prepare_v2(database, sql, -1, &statement, nullptr);
  return Statement(statement);
}

std::int64_t seconds_of(core::WallTime time) { return time.time_since_epoch().count(); }

void bind_peer(sqlite3_stmt* statement, const PeerId& peer) {
  sqlite3_bind_blob(statement, 1, peer.bytes.data(), static_cast<int>(peer.bytes.size()), SQLITE_TRANSIENT);
}

void bind(sqlite3_stmt* statement, const core::ConductRecord& record) {
  const auto text = [&](int index, std::string_view value) {
    sqlite3_bind_text(statement, index, value.data(), static_cast<int>(value.size()), SQLITE_TRANSIENT);
  };
  bind_peer(statement, record.peer);
  sqlite3_bind_int64(statement, 2, record.acquainted ? 1 : 0);
  sqlite3_bind_int64(statement, 3, record.strikes);
  sqlite3_bind_int64(statement, 4, seconds_of(record.strikes_as_of));
  sqlite3_bind_int64(statement, 5, record.times_banned);
  sqlite3_bind_int64(statement, 6, record.repeats);
  sqlite3_bind_int64(statement, 7, seconds_of(record.repeats_as_of));
  sqlite3_bind_int64(statement, 8, record.good_rounds);
  text(9, core::to_string(record.offence));
  text(10, record.evidence);
  sqlite3_bind_int64(statement, 11, seconds_of(record.offended_at));
  sqlite3_bind_int64(statement, 12, seconds_of(record.banned_since));
  sqlite3_bind_int64(statement, 13, seconds_of(record.banned_until));
  if (record.requalify_since) {
    sqlite3_bind_int64(statement, 14, seconds_of(*record.requalify_since));
  } else {
    sqlite3_bind_null(statement, 14);
  }
}

// A file is input like any other: somebody may have edited it.
std::optional<core::ConductRecord> record_of(sqlite3_stmt* row) {
  core::ConductRecord record;
  bool sound = true;
  const auto count = [&](int column) {
    const std::int64_t value = sqlite3_column_int64(row, column);
    sound = sound && value >= 0 && value <= UINT32_MAX;
    return static_cast<std::uint32_t>(value);
  };
  const auto time = [&](int column) {
    const std::int64_t value = sqlite3_column_int64(row, column);
    sound = sound && value >= 0 && value <= kLatest;
    return core::WallTime(std::chrono::seconds(value));
  };
  const auto text = [&](int column) {
    const auto* const bytes = reinterpret_cast<const char*>(sqlite3_column_text(row, column));
    return bytes == nullptr ? std::string() : std::string(bytes);
  };
  const void* const peer = sqlite3_column_blob(row, 0);
  if (peer == nullptr || sqlite3_column_bytes(row, 0) != static_cast<int>(record.peer.bytes.size())) return {};
  std::memcpy(record.peer.bytes.data(), peer, record.peer.bytes.size());
  record.acquainted = sqlite3_column_int64(row, 1) != 0;
  record.strikes = count(2);
  record.strikes_as_of = time(3);
  record.times_banned = count(4);
  record.repeats = count(5);
  record.repeats_as_of = time(6);
  record.good_rounds = count(7);
  const std::optional<core::Offence> offence = core::offence_of(text(8));
  record.evidence = text(9);
  record.offended_at = time(10);
  record.banned_since = time(11);
  record.banned_until = time(12);
  if (sqlite3_column_type(row, 13) != SQLITE_NULL) record.requalify_since = time(13);
  if (!sound || !offence || record.banned_until < record.banned_since) return {};
  record.offence = *offence;
  return record;
}

}  // namespace

void BanStore::Close::operator()(sqlite3* database) const { sqlite3_close_v2(database); }

Result<BanStore> BanStore::open(const std::string& directory) {
  BanStore store((std::filesystem::path(directory) / kFileName).string());
  sqlite3* database = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  const int code = sqlite3_open_v2(store.path_.c_str(), &database, flags, nullptr);
  store.database_.reset(database);
  if (code != SQLITE_OK) return store.error("opened");
  if (auto prepared = store.prepare(); !prepared) return prepared.error();
  return Result<BanStore>(std::move(store));
}

Result<std::optional<BanStore>> BanStore::open_existing(const std::string& directory) {
  std::error_code failed;
  if (!std::filesystem::exists(std::filesystem::path(directory) / kFileName, failed) && !failed) {
    return std::optional<BanStore>();
  }
  auto opened = open(directory);
  if (!opened) return opened.error();
  return std::optional<BanStore>(std::move(*opened));
}

Status BanStore::prepare() {
  sqlite3_extended_result_codes(database_.get(), 1);
  sqlite3_busy_timeout(database_.get(), static_cast<int>(to_milliseconds(kPatience)));
  // Nothing is changed before it is known to be ours. Within a transaction, because two may find it empty at once.
  if (auto begun = execute("BEGIN IMMEDIATE", "opened"); !begun) return begun;
  const auto tables = number("SELECT count(*) FROM sqlite_schema");
  if (!tables) return tables.error();
  const auto application = number("PRAGMA application_id");
  if (!application) return application.error();
  const auto version = number("PRAGMA user_version");
  if (!version) return version.error();
  if (*tables == 0 && *application == 0) {
    const std::string marks = "PRAGMA application_id = " + std::to_string(kApplicationId) +
                              "; PRAGMA user_version = " + std::to_string(kSchemaVersion) + ";";
    if (auto made = execute((kSchema + marks).c_str(), "made"); !made) return made;
  } else if (*application != kApplicationId) {
    return runtime_error("'" + path_ +
                         "' is a database, but not a list of bans: move it away, or name another state-dir");
  } else if (*version == 1) {
    if (auto changed = execute(kFromVersion1, "written"); !changed) return changed;
  } else if (*version != kSchemaVersion) {
    return runtime_error("'" + path_ + "' is a list of bans of version " + std::to_string(*version) +
                         ", this program reads version " + std::to_string(kSchemaVersion) +
                         ": use the program that wrote it, or move the file away and begin without bans");
  }
  if (auto committed = execute("COMMIT", "written"); !committed) return committed;
  // A journal that is appended to lets others read while one writes. FULL: what was committed survives a power cut,
  // too.
  if (auto set = append_to_journal(); !set) return set;
  const Statement check = prepared(database_.get(), "PRAGMA quick_check(1)");
  if (check == nullptr || sqlite3_step(check.get()) != SQLITE_ROW) return error("checked");
  const auto* const verdict = reinterpret_cast<const char*>(sqlite3_column_text(check.get(), 0));
  if (verdict == nullptr || std::string(verdict) != "ok") {
    return runtime_error("'" + path_ + "' is damaged (" + (verdict == nullptr ? "no answer" : verdict) +
                         "): move it away and begin without bans");
  }
  return Done{};
}

// Where several make the file at once, SQLite says that it is busy at once: for this it does not wait by itself.
Status BanStore::append_to_journal() {
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    Status set = execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;", "written");
    const bool is_busy = (sqlite3_errcode(database_.get()) & 0xff) == SQLITE_BUSY;
    if (set || !is_busy || std::chrono::steady_clock::now() >= give_up) return set;
    sqlite3_sleep(kRetryMilliseconds);
  }
}

// ---- reading and writing

Result<std::vector<core::ConductRecord>> BanStore::load() {
  const Statement select = prepared(database_.get(), kSelect);
  if (select == nullptr) return error("read");
  std::vector<core::ConductRecord> records;
  std::uint64_t senseless = 0;
  int code = SQLITE_ROW;
  while ((code = sqlite3_step(select.get())) == SQLITE_ROW) {
    if (auto record = record_of(select.get())) {
      records.push_back(std::move(*record));
    } else {
      senseless += 1;
    }
  }
  if (code != SQLITE_DONE) return error("read");
  if (senseless > 0) {
    spdlog::warn("'{}': {} rows make no sense and are left out; `bans clear` removes them with the others", path_,
                 senseless);
  }
  return records;
}

Status BanStore::save(std::span<const core::ConductChange> changes) {
  if (changes.empty()) return Done{};
  if (auto begun = execute("BEGIN IMMEDIATE", "written"); !begun) return begun;
  const auto write = [&]() -> Status {
    const Statement insert = prepared(database_.get(), kInsert);
    const Statement erase = prepared(database_.get(), kDelete);
    if (insert == nullptr || erase == nullptr) return error("written");
    for (const core::ConductChange& change : changes) {
      sqlite3_stmt* const statement = change.record ? insert.get() : erase.get();
      sqlite3_reset(statement);
      if (change.record) {
        bind(statement, *change.record);
      } else {
        bind_peer(statement, change.peer);
      }
      if (sqlite3_step(statement) != SQLITE_DONE) return error("written");
    }
    return Done{};
  };
  Status written = write();
  if (written) written = execute("COMMIT", "written");
  // Some errors end the transaction by themselves, others leave it to be ended.
  if (!written && sqlite3_get_autocommit(database_.get()) == 0) {
    sqlite3_exec(database_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
  return written;
}

Result<std::uint64_t> BanStore::clear(const std::optional<PeerId>& peer) {
  const Statement erase = prepared(database_.get(), peer ? kDelete : "DELETE FROM peers");
  if (erase == nullptr) return error("written");
  if (peer) bind_peer(erase.get(), *peer);
  if (sqlite3_step(erase.get()) != SQLITE_DONE) return error("written");
  return static_cast<std::uint64_t>(sqlite3_changes64(database_.get()));
}

Result<std::int64_t> BanStore::version() { return number("PRAGMA data_version"); }

// ---- SQLite

Status BanStore::execute(const char* sql, const std::string& doing) {
  if (sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK) return error(doing);
  return Done{};
}

Result<std::int64_t> BanStore::number(const char* sql) {
  const Statement statement = prepared(database_.get(), sql);
  if (statement == nullptr || sqlite3_step(statement.get()) != SQLITE_ROW) return error("read");
  return sqlite3_column_int64(statement.get(), 0);
}

Error BanStore::error(const std::string& doing) const {
  sqlite3* const database = database_.get();
  const int code = database == nullptr ? SQLITE_NOMEM : sqlite3_extended_errcode(database);
  const int system_error = database == nullptr ? 0 : sqlite3_system_errno(database);
  const std::string file = "'" + path_ + "' ";
  switch (code & 0xff) {
    case SQLITE_NOTADB:
      return runtime_error(file +
                           "is not a list of bans (nor a database at all): move it away, or name another "
                           "state-dir");
    case SQLITE_CORRUPT:
      return runtime_error(file + "is damaged (" + sqlite3_errmsg(database) + "): move it away and begin without bans");
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return runtime_error(file + "is being written by another process: end that one, or try again");
    default: break;
  }
  if (code == SQLITE_FULL || system_error == ENOSPC || system_error == EDQUOT) {
    return runtime_error(file + "cannot be " + doing + ", the disk is full: make room, or name another state-dir");
  }
  std::string why = sqlite3_errstr(code);
  if (system_error != 0) why += std::string(": ") + std::strerror(system_error);
  if ((code & 0xff) == SQLITE_IOERR) {
    return runtime_error(file + "cannot be " + doing + " (" + why +
                         "): the disk is full or failing; make room, or name another state-dir");
  }
  return runtime_error(file + "cannot be " + doing + " (" + why + "): name a state-dir that exists and is yours");
}

}  // namespace papilio::node
