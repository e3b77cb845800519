#include "engine/node/certificate.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

#include "engine/base/assert.hpp"
#include "statements_generated.h"
#include "transport/draft_file.hpp"
#include "transport/socket.hpp"
#include "transport/statement.hpp"
#include "transport/verified_table.hpp"

namespace papilio::node {
namespace {

using core::Qualification;
using core::WallTime;
using transport::Descriptor;

// The end of the year 9999: later dates have no text of the usual form.
constexpr std::uint64_t kLastSecond = 253'402'300'799;
constexpr auto kLongestNanoseconds = static_cast<std::uint64_t>(std::numeric_limits<Duration::rep>::max());
constexpr std::string_view kFileSuffix = ".certificate";
constexpr std::size_t kFileNameDigits = 16;

Error no_certificate(const std::string& why) { return usage_error("not a certificate: " + why); }

std::optional<Qualification> read_body(const wire::Certificate& table) {
  if (table.subject() == nullptr || table.judge() == nullptr) return std::nullopt;
  if (table.run_id() != nullptr && table.run_id()->size() > kMaximumRunIdBytes) return std::nullopt;
  for (const std::uint64_t time_ns : {table.round_trip_median_ns(), table.round_trip_p99_ns(), table.jitter_ns()}) {
    if (time_ns > kLongestNanoseconds) return std::nullopt;
  }
  if (table.issued_s() >= table.expires_s() || table.expires_s() > kLastSecond) return std::nullopt;
  return Qualification{.subject = std::bit_cast<PeerId>(*table.subject()),
                       .judge = std::bit_cast<PeerId>(*table.judge()),
                       .run_id = table.run_id() != nullptr ? table.run_id()->str() : std::string(),
                       .up_bps = table.up_bps(),
                       .down_bps = table.down_bps(),
                       .round_trip_median = Duration(static_cast<Duration::rep>(table.round_trip_median_ns())),
                       .round_trip_p99 = Duration(static_cast<Duration::rep>(table.round_trip_p99_ns())),
                       .jitter = Duration(static_cast<Duration::rep>(table.jitter_ns())),
                       .retransmits = table.retransmits(),
                       .issued = WallTime(std::chrono::seconds(table.issued_s())),
                       .expires = WallTime(std::chrono::seconds(table.expires_s())),
                       .up_at_once_bps = table.up_at_once_bps(),
                       .down_at_once_bps = table.down_at_once_bps()};
}

std::optional<Qualification> parse_body(std::span<const std::byte> body) {
  const transport::VerifiedTable<wire::Certificate> verified(body);
  return verified.get() != nullptr ? read_body(*verified.get()) : std::nullopt;
}

Error failed(const std::string& path, const std::string& doing) {
  return runtime_error("certificate: '" + path + "' cannot be " + doing + " (" + std::strerror(errno) +
                       "): name a directory that is yours, on a disk with room");
}

std::filesystem::path directory_of(const std::string& state_directory) {
  return std::filesystem::path(state_directory) / "certificates";
}

}  // namespace

std::vector<std::byte> sign_certificate(const transport::Identity& judge, const Qualification& figures) {
  PAPILIO_ASSERT(figures.judge == judge.id());
  flatbuffers::FlatBufferBuilder builder(512);
  const auto subject = std::bit_cast<wire::Named>(figures.subject);
  const auto signer = std::bit_cast<wire::Named>(figures.judge);
  const auto nanoseconds = [](Duration duration) { return static_cast<std::uint64_t>(duration.count()); };
  const auto seconds = [](WallTime time) { return static_cast<std::uint64_t>(time.time_since_epoch().count()); };
  const auto run_id = builder.CreateString(figures.run_id);
  builder.Finish(wire::CreateCertificate(builder, &subject, &signer, run_id, figures.up_bps, figures.down_bps,
                                         nanoseconds(figures.round_trip_median), nanoseconds(figures.round_trip_p99),
                                         nanoseconds(figures.jitter), figures.retransmits, seconds(figures.issued),
                                         seconds(figures.expires), figures.up_at_once_bps, figures.down_at_once_bps));
  const auto body = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
  PAPILIO_ASSERT(parse_body(body).has_value());
  return transport::encode(transport::make_statement(judge, kCertificateDomain, body));
}

Result<Qualification> read_certificate(std::span<const std::byte> bytes) {
  const std::optional<transport::Statement> statement = transport::parse_statement(bytes);
  if (!statement) return no_certificate("these bytes are no signed statement, or a damaged one");
  if (statement->domain != kCertificateDomain) {
    return no_certificate("a signed statement, but of another kind or version than '" +
                          std::string(kCertificateDomain) + "'");
  }
  if (!statement->is_genuine()) return no_certificate("the signature does not hold: it was changed or forged");
  std::optional<Qualification> figures = parse_body(statement->body);
  if (!figures) return no_certificate("its figures are malformed, although signed");
  if (figures->judge != statement->signer_id()) {
    return no_certificate("it names " + to_hex(figures->judge) + " as the judge, but " +
                          to_hex(statement->signer_id()) + " signed it");
  }
  return std::move(*figures);
}

std::string certificate_path(const std::string& state_directory, const PeerId& judge) {
  return (directory_of(state_directory) / (to_hex(judge, kFileNameDigits) + std::string(kFileSuffix))).string();
}

Status write_certificate(const std::string& path, std::span<const std::byte> bytes) {
  const std::filesystem::path directory = std::filesystem::absolute(path).parent_path();
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return failed(directory.string(), "created");
  const std::string draft = path + ".new";
  if (!transport::write_draft(draft, bytes, 0644)) return failed(path, "written");
  if (::rename(draft.c_str(), path.c_str()) != 0) {
    Error error = failed(path, "written");
    ::unlink(draft.c_str());
    return error;
  }
  const Descriptor folder(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid() || ::fsync(folder.get()) != 0) return failed(directory.string(), "written");
  return Done{};
}

Result<std::vector<std::byte>> load_certificate(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  std::vector<std::byte> bytes(transport::kMaximumStatementBytes + 1);
  const ssize_t got = file.valid() ? ::read(file.get(), bytes.data(), bytes.size()) : -1;
  if (got < 0) {
    return usage_error("certificate: '" + path + "' cannot be read (" + std::strerror(errno) +
                       "): name a file that papilio-qualify run wrote");
  }
  bytes.resize(static_cast<std::size_t>(got));
  if (bytes.size() > transport::kMaximumStatementBytes) {
    return usage_error("certificate: '" + path +
                       "' is longer than any certificate: name a file that "
                       "papilio-qualify run wrote");
  }
  return bytes;
}

std::vector<KeptCertificate> load_certificates(const std::string& state_directory,
                                               std::vector<std::string>& objections) {
  std::vector<KeptCertificate> kept;
  std::error_code error;
  std::vector<std::string> paths;
  for (std::filesystem::directory_iterator each(directory_of(state_directory), error), end; !error && each != end;
       each.increment(error)) {
    if (each->path().extension() == kFileSuffix) paths.push_back(each->path().string());
  }
  std::sort(paths.begin(), paths.end());  // a directory has no order of its own
  for (std::string& path : paths) {
    auto bytes = load_certificate(path);
    auto figures = bytes ? read_certificate(*bytes) : Result<Qualification>(bytes.error());
    if (!figures) {
      objections.push_back("'" + path + "': " + figures.error().message);
      continue;
    }
    kept.push_back({std::move(path), std::move(*bytes), std::move(*figures)});
  }
  std::stable_sort(kept.begin(), kept.end(), [](const KeptCertificate& one, const KeptCertificate& other) {
    return one.figures.expires > other.figures.expires;
  });
  return kept;
}

}  // namespace papilio::node
