#include "engine/node/evidence_keeper.hpp"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "transport/draft_file.hpp"
#include "transport/statement.hpp"

namespace papilio::node {
namespace {

struct Kind {
  std::string_view beginning, ending;
};
constexpr Kind kKinds[] = {{"round-", ".report"}, {"left-out-", ".roster"}, {"double-", ".proof"}};
constexpr int kMostOfOneName = 10'000;

// Of the names that nodes give: only those are ever removed, whatever else the user keeps there.
bool is_evidence(std::string_view name) {
  return std::any_of(std::begin(kKinds), std::end(kKinds), [&](const Kind& kind) {
    if (name.size() <= kind.beginning.size() + kind.ending.size()) return false;
    if (!name.starts_with(kind.beginning) || !name.ends_with(kind.ending)) return false;
    name.remove_prefix(kind.beginning.size());
    name.remove_suffix(kind.ending.size());
    return name.find_first_not_of("0123456789abcdef-") == std::string_view::npos;  // round, id, number
  });
}

// The same name with a number before its ending; 1 is the name itself.
std::string numbered(const std::string& name, int number) {
  if (number == 1) return name;
  const std::filesystem::path path(name);
  return path.stem().string() + "-" + std::to_string(number) + path.extension().string();
}

Error failed(const std::string& path) {
  return runtime_error("'" + path + "' cannot be written (" + std::strerror(errno) +
                       "): see to the disk's room and to who owns the directory");
}

}  // namespace

Status EvidenceKeeper::check_directory(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    return usage_error("evidence-dir: '" + path + "' is not a directory; create it, or name another");
  }
  if (::access(path.c_str(), W_OK | X_OK) == 0) return Done{};
  return usage_error("evidence-dir: '" + path + "' cannot be written (" + std::strerror(errno) +
                     "); name a directory that is yours");
}

EvidenceKeeper::EvidenceKeeper(std::string directory, std::size_t most, transport::Identity signer)
    : directory_(std::move(directory)), most_(most), signer_(std::move(signer)) {
  thread_ = std::thread([this] { run(); });
}

EvidenceKeeper::~EvidenceKeeper() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void EvidenceKeeper::save(std::string name, std::string_view domain, std::vector<std::byte> body) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() == kMostWaiting) {
      waiting_.pop_front();
      lost_ += 1;
    }
    waiting_.push_back({std::move(name), std::string(domain), std::move(body)});
  }
  changed_.notify_one();
}

void EvidenceKeeper::run() {
  pthread_setname_np(pthread_self(), "papilio-proof");
  find_files();
  for (;;) {
    std::deque<Waiting> batch;
    std::size_t lost = 0;
    bool last = false;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
      batch = std::exchange(waiting_, {});
      lost = std::exchange(lost_, 0);
      last = stop_;
    }
    if (lost > 0) spdlog::warn("'{}' takes too long: {} statements were not kept", directory_, lost);
    for (const Waiting& each : batch) note(write(each));
    remove_oldest();
    if (last) return;
  }
}

void EvidenceKeeper::find_files() {
  std::vector<std::pair<std::filesystem::file_time_type, std::string>> found;
  std::error_code ended;
  for (std::filesystem::directory_iterator each(directory_, ended), end; !ended && each != end; each.increment(ended)) {
    std::error_code ignored;
    std::string name = each->path().filename().string();
    if (is_evidence(name)) found.emplace_back(each->last_write_time(ignored), std::move(name));
  }
  std::sort(found.begin(), found.end());
  for (auto& [when, name] : found) files_.push_back(std::move(name));
}

Status EvidenceKeeper::write(const Waiting& waiting) {
  const std::vector<std::byte> bytes =
      transport::encode(transport::make_statement(signer_, waiting.domain, waiting.body));
  const std::filesystem::path folder(directory_);
  // Other nodes may write here, too, and so may this one's last life, which is about to end.
  const std::string draft =
      (folder / (".evidence-" + to_hex(signer_.id()) + "-" + std::to_string(::getpid()) + ".new")).string();
  if (!transport::write_draft(draft, bytes, 0644)) return failed((folder / waiting.name).string());
  Status status = Done{};
  for (int number = 1; number <= kMostOfOneName; ++number) {
    const std::string name = numbered(waiting.name, number);
    if (::link(draft.c_str(), (folder / name).c_str()) == 0) {
      files_.push_back(name);
      break;
    }
    if (errno == EEXIST && number < kMostOfOneName) continue;  // of the same round in another life
    status = failed((folder / name).string());
    break;
  }
  ::unlink(draft.c_str());
  return status;
}

void EvidenceKeeper::remove_oldest() {
  while (files_.size() > most_) {
    ::unlink((std::filesystem::path(directory_) / files_.front()).c_str());
    files_.pop_front();
  }
}

void EvidenceKeeper::note(const Status& status) {
  if (!status && !is_failing_) {
    spdlog::error("evidence of rounds is not kept for now: {}", status.error().message);
  } else if (status && is_failing_) {
    spdlog::info("'{}': evidence of rounds is kept again", directory_);
  }
  is_failing_ = !status;
}

}  // namespace papilio::node
