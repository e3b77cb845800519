// What a node keeps on disk: bans that are there after a kill at any moment, files that are not what they should be,
// directories that cannot be used, two processes on one directory, and a store that fails while the node runs.
#include "engine/node/ban_store.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>

#include "engine/base/random.hpp"
#include "engine/node/ban_keeper.hpp"
#include "engine/node/engine.hpp"
#include "engine/node/node.hpp"
#include "engine/node/state_directory.hpp"
#include "transport/io.hpp"

namespace papilio::node {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr core::WallTime kNow{seconds(1'800'000'000)};
constexpr Duration kBound = seconds(60);

PeerId peer(std::uint64_t number) {
  PeerId id;
  for (std::size_t i = 0; i < 8; ++i) id.bytes[i] = static_cast<std::uint8_t>(number >> (8 * i));
  return id;
}

core::ConductRecord banned(std::uint64_t number) {
  core::ConductRecord record;
  record.peer = peer(number);
  record.acquainted = number % 2 == 0;
  record.strikes = 3;
  record.strikes_as_of = kNow - seconds(7);
  record.times_banned = 4;
  record.repeats = 2;
  record.repeats_as_of = kNow + minutes(2);
  record.good_rounds = 9;
  record.offence = core::Offence::wild_norm;
  record.evidence = "norm 4e9, the group's median is 2; it's 'quoted' and \"so\"";
  record.offended_at = kNow;
  record.banned_since = kNow;
  record.banned_until = kNow + minutes(2);
  if (number % 3 == 0) record.requalify_since = kNow - minutes(5);
  return record;
}
core::ConductChange change(std::uint64_t number) { return {.peer = peer(number), .record = banned(number)}; }
core::ConductChange removal(std::uint64_t number) { return {.peer = peer(number), .record = std::nullopt}; }

class Directory : public testing::Test {
 protected:
  Directory() {
    std::string name = testing::TempDir() + "papilio-state-XXXXXX";
    PAPILIO_ASSERT(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Directory() override { std::filesystem::remove_all(path_); }

  [[nodiscard]] BanStore open() const {
    auto store = BanStore::open(path_);
    EXPECT_TRUE(store.ok()) << store.error().message;
    return std::move(store).value();
  }
  [[nodiscard]] std::string file() const { return path_ + "/" + BanStore::kFileName; }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }
  [[nodiscard]] static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void execute(const std::string& sql) const {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(file().c_str(), &database), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(database);
    sqlite3_close(database);
  }
  // The message names the file, what is wrong and the remedy.
  void expect_refused(const std::vector<std::string>& parts) const {
    const auto store = BanStore::open(path_);
    ASSERT_FALSE(store.ok());
    for (const std::string& part : parts) {
      EXPECT_NE(store.error().message.find(part), std::string::npos) << store.error().message;
    }
  }

  std::string path_;
};

using BanStoreTest = Directory;

std::set<PeerId> peers_in(BanStore& store) {
  auto records = store.load();
  EXPECT_TRUE(records.ok()) << records.error().message;
  std::set<PeerId> peers;
  for (const auto& record : *records) peers.insert(record.peer);
  return peers;
}

TEST_F(BanStoreTest, WhatIsSavedIsLoadedByTheNextProcess) {
  {
    BanStore store = open();
    EXPECT_TRUE(store.load()->empty());
    ASSERT_TRUE(store.save(std::vector{change(1), change(2), change(3)}).ok());
    ASSERT_TRUE(store.save(std::vector{removal(3), removal(99)}).ok());
    ASSERT_TRUE(store.save({}).ok());
  }
  BanStore store = open();
  auto records = store.load();
  ASSERT_TRUE(records.ok());
  ASSERT_EQ(records->size(), 2U);
  EXPECT_EQ((*records)[0], banned(1));
  EXPECT_EQ((*records)[1], banned(2));
}

TEST_F(BanStoreTest, WhatIsNotThereIsNotMadeByLooking) {
  auto none = BanStore::open_existing(path_);
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
  EXPECT_TRUE(std::filesystem::is_empty(path_));
  { const BanStore made = open(); }
  EXPECT_TRUE(BanStore::open_existing(path_)->has_value());
}

TEST_F(BanStoreTest, OnePeerOrAllAreCleared) {
  BanStore store = open();
  ASSERT_TRUE(store.save(std::vector{change(1), change(2), change(3)}).ok());
  EXPECT_EQ(*store.clear(peer(2)), 1U);
  EXPECT_EQ(*store.clear(peer(2)), 0U);
  EXPECT_EQ(peers_in(store), (std::set{peer(1), peer(3)}));
  EXPECT_EQ(*store.clear(std::nullopt), 2U);
  EXPECT_TRUE(store.load()->empty());
}

TEST_F(BanStoreTest, ChangesByOthersAreNoticedAndOwnOnesAreNot) {
  BanStore one = open(), other = open();
  const std::int64_t before = *one.version();
  ASSERT_TRUE(one.save(std::vector{change(1)}).ok());
  EXPECT_EQ(*one.version(), before);
  EXPECT_EQ(*other.clear(std::nullopt), 1U);
  EXPECT_NE(*one.version(), before);
  EXPECT_TRUE(one.load()->empty());
}

TEST_F(BanStoreTest, AWriterThatDoesNotEndIsNotWaitedForForEver) {
  BanStore store = open();
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(file().c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  const Status saved = store.save(std::vector{change(1)});
  ASSERT_FALSE(saved.ok());
  EXPECT_NE(saved.error().message.find("another process"), std::string::npos) << saved.error().message;
  EXPECT_TRUE(store.load().ok()) << "who only reads does not wait";
  sqlite3_close(other);
  EXPECT_TRUE(store.save(std::vector{change(1)}).ok());
}

// ---- files that are not what they should be

TEST_F(BanStoreTest, AnEmptyFileIsABeginning) {
  write(BanStore::kFileName, "");
  BanStore store = open();
  EXPECT_TRUE(store.save(std::vector{change(1)}).ok());
}

TEST_F(BanStoreTest, AForeignFileIsRefusedAndLeftAsItIs) {
  const std::string text(5000, 'x');
  write(BanStore::kFileName, text);
  expect_refused({file(), "not a list of bans", "move it away"});
  EXPECT_EQ(read(file()), text);
}

TEST_F(BanStoreTest, AForeignDatabaseIsRefusedAndLeftAsItIs) {
  execute("CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('soup')");
  const std::string before = read(file());
  expect_refused({file(), "not a list of bans", "move it away"});
  EXPECT_EQ(read(file()), before);
}

TEST_F(BanStoreTest, ALaterVersionIsRefused) {
  { const BanStore made = open(); }
  execute("PRAGMA user_version = 7");
  expect_refused({file(), "version 7", "use the program that wrote it"});
}

TEST_F(BanStoreTest, AnEarlierVersionIsReadAndBroughtUpToDate) {
  execute(
      "CREATE TABLE peers (peer BLOB PRIMARY KEY NOT NULL, acquainted INTEGER NOT NULL, strikes INTEGER NOT NULL,"
      " strikes_as_of INTEGER NOT NULL, times_banned INTEGER NOT NULL, repeats INTEGER NOT NULL,"
      " repeats_as_of INTEGER NOT NULL, good_rounds INTEGER NOT NULL, offence TEXT NOT NULL, evidence TEXT NOT NULL,"
      " offended_at INTEGER NOT NULL, banned_since INTEGER NOT NULL, banned_until INTEGER NOT NULL) WITHOUT ROWID;"
      "PRAGMA application_id = 0x50504C42; PRAGMA user_version = 1;"
      "INSERT INTO peers VALUES (zeroblob(32), 1, 0, 100, 1, 1, 220, 3, 'slow', 'it froze', 100, 100, 220);"
      "INSERT INTO peers VALUES (x'01' || zeroblob(31), 0, 2, 100, 0, 0, 100, 0, 'missing', '', 100, 0, 0);");
  for (int i = 0; i < 2; ++i) {  // as it is brought up to date, and as it was
    BanStore store = open();
    auto records = store.load();
    ASSERT_TRUE(records.ok());
    ASSERT_EQ(records->size(), 2U);
    const bool slow_first = records->front().offence == core::Offence::slow;
    const core::ConductRecord& slow = (*records)[slow_first ? 0 : 1];
    const core::ConductRecord& missing = (*records)[slow_first ? 1 : 0];
    EXPECT_EQ(slow.evidence, "it froze");
    EXPECT_EQ(slow.requalify_since, core::WallTime(seconds(100)));
    EXPECT_EQ(missing.strikes, 2U);
    EXPECT_EQ(missing.requalify_since, std::nullopt);
  }
}

TEST_F(BanStoreTest, DamageIsAClearErrorOrDoesNoHarm) {
  {
    BanStore store = open();
    std::vector<core::ConductChange> many;
    for (std::uint64_t i = 0; i < 500; ++i) many.push_back(change(i));
    ASSERT_TRUE(store.save(many).ok());
  }
  const std::string whole = read(file());
  ASSERT_GT(whole.size(), 50'000U);
  Random random(4);
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    std::string damaged = whole;
    if (i % 3 == 0) {
      damaged.resize(random.next() % whole.size());
    } else {
      const std::size_t at = random.next() % whole.size();
      for (std::size_t k = at; k < std::min(at + 64, whole.size()); ++k) damaged[k] = static_cast<char>(random.next());
    }
    write(BanStore::kFileName, damaged);
    std::filesystem::remove(file() + "-wal");
    std::filesystem::remove(file() + "-shm");
    auto store = BanStore::open(path_);
    if (!store) {
      refused += 1;
      EXPECT_NE(store.error().message.find(file()), std::string::npos) << store.error().message;
      continue;
    }
    const auto records = store->load();
    if (records) {
      EXPECT_LE(records->size(), 500U);
    } else {
      refused += 1;
    }
  }
  EXPECT_GT(refused, 50);
}

TEST_F(BanStoreTest, RowsThatMakeNoSenseAreLeftOut) {
  {
    BanStore store = open();
    std::vector<core::ConductChange> many;
    for (std::uint64_t i = 1; i <= 6; ++i) many.push_back(change(i));
    ASSERT_TRUE(store.save(many).ok());
  }
  const auto row = [](int number) { return " WHERE substr(peer, 1, 1) = x'0" + std::to_string(number) + "';"; };
  execute("UPDATE peers SET offence = 'bad hair'" + row(1) + "UPDATE peers SET strikes = -1" + row(2) +
          "UPDATE peers SET banned_until = 9223372036854775807" + row(3) + "UPDATE peers SET peer = x'0a0b'" + row(4) +
          "UPDATE peers SET banned_until = 'tomorrow'" + row(5));
  BanStore store = open();
  EXPECT_EQ(peers_in(store), std::set{peer(6)});
}

TEST_F(BanStoreTest, ADirectoryThatCannotBeUsedIsNamed) {
  const auto missing = BanStore::open(path_ + "/not-there");
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find(path_ + "/not-there/bans.sqlite"), std::string::npos);
  EXPECT_NE(missing.error().message.find("name a state-dir that exists and is yours"), std::string::npos);
  write("a-file", "");
  EXPECT_FALSE(BanStore::open(path_ + "/a-file").ok());
  std::filesystem::create_directory(file());
  expect_refused({file()});
}

// ---- processes that end in the middle

// In a child process: whatever it does, it ends with the code that `work` returns. Threads are nobody's here.
pid_t fork_child(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  return child;
}
int exit_code_of(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(BanStoreTest, AFullDiskIsAClearErrorAndHarmsNothing) {
  {
    BanStore store = open();
    ASSERT_TRUE(store.save(std::vector{change(1)}).ok());
  }
  // A limit on the size of files is the one full disk that every user can have.
  const pid_t child = fork_child([this] {
    auto store = BanStore::open(path_);
    if (!store) return 1;
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 20'000, .rlim_max = 20'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    for (std::uint64_t i = 2; i < 500; ++i) {
      const Status saved = store->save(std::vector{change(i)});
      if (saved) continue;
      const std::string& message = saved.error().message;
      const bool is_clear = message.find(file()) != std::string::npos && message.find("full") != std::string::npos;
      if (!is_clear) ::write(STDERR_FILENO, message.data(), message.size());
      return is_clear && store->load().ok() ? 0 : 3;
    }
    return 4;
  });
  EXPECT_EQ(exit_code_of(child), 0);
  BanStore store = open();
  EXPECT_EQ(peers_in(store).count(peer(1)), 1U);
  EXPECT_TRUE(store.save(std::vector{change(1000)}).ok());
}

// The child bans one after the other and tells the number of each that save() said is on the disk; it is killed at a
// moment that nobody chose.
TEST_F(BanStoreTest, EveryBanThatWasCommittedSurvivesAKillAtAnyMoment) {
  Random random(1);
  std::set<PeerId> committed;
  std::uint64_t next = 1;
  for (int repetition = 0; repetition < 100; ++repetition) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
    const pid_t child = fork_child([&] {
      auto store = BanStore::open(path_);
      if (!store) return 1;
      for (std::uint64_t number = next;; ++number) {
        // Now and then more than one at once, and somebody forgiven (nobody of those who are looked for).
        std::vector<core::ConductChange> changes = {change(number), change(number + (1U << 30U)),
                                                    removal(number + (1U << 30U) - 3)};
        if (!store->save(changes)) return 2;
        if (::write(pipe[1], &number, sizeof(number)) != sizeof(number)) return 3;
      }
    });
    ::close(pipe[1]);
    // Until some are told, and then for as long as it takes to draw some numbers: anywhere between two commits.
    const std::uint64_t wanted = 1 + random.next() % 30;
    std::uint64_t number = 0;
    for (std::uint64_t i = 0; i < wanted; ++i) {
      ASSERT_EQ(::read(pipe[0], &number, sizeof(number)), static_cast<ssize_t>(sizeof(number)));
      committed.insert(peer(number));
    }
    std::uint64_t drawn = 0;
    for (std::uint64_t i = random.next() % 1'000'000; i > 0; --i) drawn ^= random.next();
    EXPECT_NE(drawn, 1U);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    while (::read(pipe[0], &number, sizeof(number)) == sizeof(number)) committed.insert(peer(number));
    ::close(pipe[0]);
    EXPECT_EQ(exit_code_of(child), -1);
    next = number + 1;

    BanStore store = open();
    const std::set<PeerId> there = peers_in(store);
    EXPECT_TRUE(std::includes(there.begin(), there.end(), committed.begin(), committed.end()));
    const auto records = store.load();
    for (const auto& record : *records) EXPECT_EQ(record.evidence, banned(0).evidence);
  }
  EXPECT_GT(committed.size(), 100U);
}

TEST_F(BanStoreTest, TwoThatMakeTheFileAtOnceBothUseIt) {
  for (int repetition = 0; repetition < 20; ++repetition) {
    std::vector<pid_t> children;
    for (std::uint64_t each = 0; each < 4; ++each) {
      children.push_back(fork_child([this, each] {
        auto store = BanStore::open(path_);
        const Status saved = store ? store->save(std::vector{change(each)}) : Status(store.error());
        if (!saved) std::fprintf(stderr, "%s\n", saved.error().message.c_str());
        return saved ? 0 : 1;
      }));
    }
    for (const pid_t child : children) EXPECT_EQ(exit_code_of(child), 0);
    BanStore store = open();
    EXPECT_EQ(peers_in(store).size(), 4U);
    for (const char* const suffix : {"", "-wal", "-shm"}) std::filesystem::remove(file() + suffix);
  }
}

// ---- who the node is

using StateDirectoryTest = Directory;

TEST_F(StateDirectoryTest, TheIdentityStays) {
  PeerId id;
  {
    auto directory = StateDirectory::open(path_);
    ASSERT_TRUE(directory.ok()) << directory.error().message;
    id = directory->identity().id();
  }
  EXPECT_NE(id, PeerId{});
  EXPECT_EQ(StateDirectory::open(path_)->identity().id(), id);
}

TEST_F(StateDirectoryTest, TwoNodesOnOneDirectoryAreRefused) {
  auto first = StateDirectory::open(path_);
  ASSERT_TRUE(first.ok());
  const auto second = StateDirectory::open(path_);
  ASSERT_FALSE(second.ok());
  for (const std::string& part :
       {path_, std::string("in use by another node"), std::to_string(::getpid()), std::string("another directory")}) {
    EXPECT_NE(second.error().message.find(part), std::string::npos) << second.error().message;
  }
  // The lock is gone with its holder, however that ended.
  const StateDirectory moved = std::move(*first);
  EXPECT_FALSE(StateDirectory::open(path_).ok());
}

TEST_F(StateDirectoryTest, ADeadProcessHoldsNoLock) {
  const pid_t child = fork_child([this] {
    const auto directory = StateDirectory::open(path_);
    std::raise(SIGKILL);
    return directory ? 0 : 1;
  });
  EXPECT_EQ(exit_code_of(child), -1);
  EXPECT_TRUE(StateDirectory::open(path_).ok());
}

TEST_F(StateDirectoryTest, WhatNoNodeWroteIsNamedAndKept) {
  write("identity.pem", "half of a");
  std::filesystem::permissions(identity_path(path_), std::filesystem::perms(0600));
  const auto directory = StateDirectory::open(path_);
  ASSERT_FALSE(directory.ok());
  EXPECT_NE(directory.error().message.find("state-dir: key file '" + path_ + "/identity.pem'"), std::string::npos);
  EXPECT_EQ(read(identity_path(path_)), "half of a");
}

TEST_F(StateDirectoryTest, ADirectoryThatIsNoneIsNamed) {
  write("a-file", "");
  for (const std::string& path : {path_ + "/not-there", path_ + "/a-file"}) {
    const auto directory = StateDirectory::open(path);
    ASSERT_FALSE(directory.ok());
    EXPECT_NE(directory.error().message.find("'" + path + "' is not a directory"), std::string::npos);
  }
}

// ---- the thread that writes

class BanKeeperTest : public Directory {
 protected:
  BanKeeperTest() : io_(transport::make_io(transport::IoBackend::uv, nullptr).value()) {}

  [[nodiscard]] bool run_until(const std::function<bool()>& predicate) {
    const TimePoint bound = io_->now() + kBound;
    while (!predicate()) {
      if (io_->now() > bound) return false;
      io_->run_once(io_->now() + milliseconds(10));
    }
    return true;
  }

  std::unique_ptr<transport::Io> io_;
};

TEST_F(BanKeeperTest, WritesWhatItIsGivenAndTellsWhatOthersCleared) {
  BanKeeper keeper(open(), {}, *io_);
  BanStore other = open();
  for (std::uint64_t i = 0; i < 200; ++i) keeper.save(change(i));
  keeper.save(removal(7));
  ASSERT_TRUE(run_until([&] { return peers_in(other).size() == 199; }));
  EXPECT_TRUE(keeper.take_cleared().empty());
  EXPECT_EQ(*other.clear(peer(11)), 1U);
  std::vector<PeerId> cleared;
  ASSERT_TRUE(run_until([&] {
    cleared = keeper.take_cleared();
    return !cleared.empty();
  }));
  EXPECT_EQ(cleared, std::vector{peer(11)});
  EXPECT_EQ(*other.clear(std::nullopt), 198U);
  std::size_t count = 0;
  ASSERT_TRUE(run_until([&] { return (count += keeper.take_cleared().size()) == 198; }));
}

TEST_F(BanKeeperTest, WritesTheLastOnesBeforeItGoes) {
  for (std::uint64_t i = 0; i < 50; ++i) {
    BanKeeper keeper(open(), {}, *io_);
    keeper.save(change(i));
  }
  BanStore store = open();
  EXPECT_EQ(peers_in(store).size(), 50U);
}

TEST_F(BanKeeperTest, AStoreThatFailsLosesNothingThatItTakesLater) {
  sqlite3* other = nullptr;
  BanStore store = open();
  ASSERT_EQ(sqlite3_open(file().c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  {
    BanKeeper keeper(std::move(store), {}, *io_);
    keeper.save(change(1));
    ASSERT_TRUE(run_until([&] { return keeper.is_failing(); }));
    keeper.save(change(2));
    ASSERT_EQ(sqlite3_exec(other, "ROLLBACK", nullptr, nullptr, nullptr), SQLITE_OK);
  }
  sqlite3_close(other);
  BanStore after = open();
  EXPECT_EQ(peers_in(after), (std::set{peer(1), peer(2)}));
}

// ---- a whole node

class NodeBansTest : public BanKeeperTest, private EngineEvents {
 protected:
  NodeBansTest() {
    config_.listen = "127.0.0.1:0";
    config_.transport = "uv";
    config_.state_dir = path_;
    config_.admission.security = Security::none;  // the offender has any id it likes
  }
  ~NodeBansTest() override { end_engine(); }

  void start_engine(const std::string& address) {
    MeshConfig mesh;
    mesh.self = self_;
    mesh.run_id = config_.run_id;
    mesh.elements = config_.elements;
    mesh.redial_banned = milliseconds(20);
    mesh.peers.push_back(transport::Address::parse(address).value());
    EngineEvents& events = *this;
    engine_ = std::make_unique<Engine>(*io_, mesh, RoundDriverConfig{.self = mesh.self}, events);
    ASSERT_TRUE(engine_->start().ok());
  }
  void end_engine() {
    if (engine_) engine_->leave("the test is over", seconds(5));
    engine_.reset();
  }
  [[nodiscard]] bool turn_until(const std::function<bool()>& predicate) {
    const TimePoint bound = io_->now() + kBound;
    while (!predicate()) {
      if (io_->now() > bound) return false;
      engine_->turn(io_->now() + milliseconds(10));
    }
    return true;
  }
  [[nodiscard]] bool is_linked() { return !engine_->mesh().peers().empty(); }
  [[nodiscard]] bool is_refused() {
    const auto bans = engine_->mesh().bans();
    return bans.size() == 1 && bans[0].find("refuses this node: banned until 2") != std::string::npos &&
           bans[0].find("(protocol: a second hello)") != std::string::npos;
  }

  void on_peer_joined(Peer&) override {}
  void on_peer_left(Peer&, PeerLeft, const std::string&) override {}
  void on_control(Peer&, const transport::Header&) override {}
  void on_round_over(RoundReport) override {}
  void on_refused(const transport::Address&, const std::string&) override {}
  // What no correct peer sends.
  void offend() {
    Mesh& mesh = engine_->mesh();
    mesh.send_control(*mesh.peers()[0], transport::Hello{.peer = self_, .run_id = config_.run_id, .flows = 1});
  }

  NodeConfig config_;
  PeerId self_ = peer(77);
  std::unique_ptr<Engine> engine_;
};

TEST_F(NodeBansTest, AnOffenderIsDroppedRefusedRememberedAndForgiven) {
  PeerId id;
  {
    auto node = Node::start(config_);
    ASSERT_TRUE(node.ok()) << node.error().message;
    id = (*node)->id();
    start_engine((*node)->listen_address());
    ASSERT_TRUE(turn_until([&] { return is_linked(); }));
    offend();
    ASSERT_TRUE(turn_until([&] { return is_refused(); }));
    end_engine();
  }
  // The next process on this directory is the same peer, and has not forgotten.
  auto node = Node::start(config_);
  ASSERT_TRUE(node.ok()) << node.error().message;
  EXPECT_EQ((*node)->id(), id);
  start_engine((*node)->listen_address());
  ASSERT_TRUE(turn_until([&] { return is_refused(); }));
  BanStore store = open();
  ASSERT_EQ(store.load()->size(), 1U);
  EXPECT_EQ(store.load()->front().times_banned, 1U) << "knocking is no offence";
  EXPECT_EQ(*store.clear(peer(77)), 1U);
  ASSERT_TRUE(turn_until([&] { return is_linked(); }));
  EXPECT_TRUE(store.load()->empty());
  end_engine();
}

TEST_F(NodeBansTest, ANodeDoesNotStartOnWhatItCannotUse) {
  auto first = Node::start(config_);
  ASSERT_TRUE(first.ok());
  const auto second = Node::start(config_);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("in use by another node"), std::string::npos);
  first->reset();
  write(BanStore::kFileName, std::string(5000, 'x'));
  const auto third = Node::start(config_);
  ASSERT_FALSE(third.ok());
  EXPECT_NE(third.error().message.find(file()), std::string::npos);
}

TEST_F(NodeBansTest, WithoutADirectoryEveryStartIsANewPeer) {
  config_.state_dir.clear();
  auto one = Node::start(config_), other = Node::start(config_);
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_NE((*one)->id(), (*other)->id());
}

}  // namespace
}  // namespace papilio::node
