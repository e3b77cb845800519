#include "transport/frame.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engine/base/assert.hpp"
#include "frames_generated.h"
#include "transport/test_tables.hpp"
#include "transport/tls.hpp"

namespace papilio::transport {

static_assert(std::endian::native == std::endian::little,
              "the preamble is written in host order, which must be little");
static_assert(kMaximumHeaderBytes % 8 == 0 && kMaximumHeaderBytes <= 65536);
static_assert(sizeof(wire::PeerId) == sizeof(PeerId));
static_assert(sizeof(wire::Key) == sizeof(PublicKey) && sizeof(wire::Seal) == sizeof(Signature));
// The largest header is that of a signed commit: 1 KiB for all that is not per member.
static_assert(kPreambleBytes + 1024 + kMaximumMembers * (sizeof(wire::Member) + sizeof(wire::Consent)) <=
              kMaximumHeaderBytes);

namespace {

constexpr std::uint32_t kMagic = 0x314c5050;  // "PPL1"

struct Preamble {
  std::uint32_t magic;
  std::uint8_t type;
  std::uint8_t version;
  std::uint16_t header_words;  // header bytes / 8: 64 KiB itself must be expressible
  std::uint32_t payload_bytes;
  std::uint32_t checksum;
};
static_assert(sizeof(Preamble) == kPreambleBytes);

std::uint32_t header_checksum(std::span<const std::byte> bytes) {
  constexpr std::size_t kBeforeChecksum = offsetof(Preamble, checksum);
  std::uint64_t before[2] = {};
  std::memcpy(before, bytes.data(), kBeforeChecksum);
  const std::uint64_t seed = before[0] ^ (before[1] * 0x9e3779b97f4a7c15U);
  return static_cast<std::uint32_t>(
      XXH3_64bits_withSeed(bytes.data() + kPreambleBytes, bytes.size() - kPreambleBytes, seed));
}

using tables::build;
using tables::Builder;
using tables::create_cut_text;
using tables::from_wire;
using tables::is_aligned;
using tables::read;
using tables::text_of;
using tables::to_wire;
using tables::too_long;

void build(Builder& builder, const Hello& hello) {
  const auto run_id = builder.CreateString(hello.run_id);
  const auto listen = builder.CreateString(hello.listen);
  const auto software = builder.CreateString(hello.software);
  const wire::PeerId peer = to_wire(hello.peer);
  const wire::Fingerprint fingerprint(hello.fingerprint.low, hello.fingerprint.high);
  PAPILIO_ASSERT_VALUES(hello.certificates.size() <= kMaximumCertificates, hello.certificates.size(),
                        kMaximumCertificates);
  std::vector<flatbuffers::Offset<wire::Blob>> certificates;
  for (const std::vector<std::byte>& each : hello.certificates) {
    const auto bytes = builder.CreateVector(reinterpret_cast<const std::uint8_t*>(each.data()), each.size());
    certificates.push_back(wire::CreateBlob(builder, bytes));
  }
  const auto all_certificates = builder.CreateVector(certificates);
  builder.Finish(wire::CreateHello(builder, &peer, &fingerprint, run_id, static_cast<wire::Role>(hello.role),
                                   hello.session, hello.flow, hello.flows, listen, hello.rate_bytes_per_s,
                                   hello.elements, software, all_certificates));
}

void build(Builder& builder, const Refusal& refusal) {
  const auto detail = create_cut_text(builder, refusal.detail);
  const wire::PeerId peer = to_wire(refusal.peer);
  builder.Finish(wire::CreateRefusal(builder, static_cast<wire::RefusalReason>(refusal.reason), detail, &peer));
}

void build(Builder& builder, const Goodbye& goodbye) {
  builder.Finish(wire::CreateGoodbye(builder, create_cut_text(builder, goodbye.reason)));
}

void build(Builder& builder, const Progress& progress) {
  std::vector<wire::PeerId> banned;
  banned.reserve(progress.banned.size());
  for (const PeerId& peer : progress.banned) banned.push_back(to_wire(peer));
  const auto wire_banned = banned.empty() ? 0 : builder.CreateVectorOfStructs(banned);
  builder.Finish(wire::CreateProgress(builder, progress.epoch, progress.samples, progress.total_samples,
                                      progress.digest_epoch, progress.model_digest, wire_banned));
}

auto create_members(Builder& builder, const std::vector<RosterMember>& members) {
  std::vector<wire::Member> wire_members;
  wire_members.reserve(members.size());
  for (const RosterMember& member : members) {
    wire_members.emplace_back(to_wire(member.peer), member.rate_bytes_per_s, member.reduces);
  }
  return builder.CreateVectorOfStructs(wire_members);
}

void build(Builder& builder, const Propose& propose) {
  const auto members = create_members(builder, propose.members);
  const wire::PeerId proposer = to_wire(propose.proposer);
  builder.Finish(wire::CreatePropose(builder, propose.round, propose.epoch, members, propose.chunk_bytes,
                                     propose.timeout_ms, propose.attempt, &proposer, propose.instance));
}

void build(Builder& builder, const Contribution& contribution) {
  builder.Finish(wire::CreateContribution(builder, contribution.round, contribution.checksum, contribution.chunk,
                                          contribution.weight, static_cast<wire::Codec>(contribution.codec),
                                          contribution.model, contribution.group,
                                          static_cast<wire::Compression>(contribution.compression)));
}

void build(Builder& builder, const Average& average) {
  builder.Finish(wire::CreateAverage(builder, average.round, average.checksum, average.coverage, average.chunk,
                                     average.total_weight, static_cast<wire::Codec>(average.codec), average.model,
                                     average.group, average.reducer,
                                     static_cast<wire::Compression>(average.compression)));
}

void build(Builder& builder, const Done& done) { builder.Finish(wire::CreateDone(builder, done.round, done.digest)); }

void build(Builder& builder, const Suspect& suspect) {
  builder.Finish(wire::CreateSuspect(builder, suspect.round, suspect.member, suspect.withdrawn));
}

void build(Builder& builder, const Takeover& takeover) {
  builder.Finish(wire::CreateTakeover(builder, takeover.round, takeover.part, takeover.distance));
}

void build(Builder& builder, const Holdings& holdings) {
  const auto held = builder.CreateVector(holdings.held);
  const auto spent = builder.CreateVector(holdings.spent);
  builder.Finish(wire::CreateHoldings(builder, holdings.round, holdings.part, holdings.distance, held, spent));
}

void build(Builder& builder, const Wanted& wanted) {
  const auto contributions = builder.CreateVector(wanted.contributions);
  const auto averages = builder.CreateVector(wanted.averages);
  builder.Finish(wire::CreateWanted(builder, wanted.round, wanted.part, contributions, averages));
}

void build(Builder& builder, const Resume& resume) {
  builder.Finish(wire::CreateResume(builder, resume.round, resume.group));
}

void build(Builder& builder, const Pulse& pulse) {
  builder.Finish(wire::CreatePulse(builder, pulse.round, pulse.waiting_for));
}

void build(Builder& builder, const Ack& ack) {
  const wire::PeerId proposer = to_wire(ack.proposer);
  const wire::PeerId promised_proposer = to_wire(ack.promised_proposer);
  const wire::Consent consent = ack.consent ? std::bit_cast<wire::Consent>(*ack.consent) : wire::Consent();
  builder.Finish(wire::CreateAck(builder, ack.round, ack.attempt, &proposer,
                                 static_cast<wire::RosterAnswer>(ack.answer), ack.promised_attempt, &promised_proposer,
                                 ack.epoch, ack.consent ? &consent : nullptr));
}

void build(Builder& builder, const Commit& commit) {
  const Propose& proposal = commit.proposal;
  const auto members = create_members(builder, proposal.members);
  const wire::PeerId proposer = to_wire(proposal.proposer);
  const bool is_signed = !commit.consents.empty();
  std::vector<wire::Consent> consents;
  for (const Consent& consent : commit.consents) consents.push_back(std::bit_cast<wire::Consent>(consent));
  const auto wire_consents = is_signed ? builder.CreateVectorOfStructs(consents) : 0;
  wire::Seal seal;
  std::memcpy(&seal, commit.seal.data(), sizeof(seal));
  builder.Finish(wire::CreateCommit(builder, proposal.round, proposal.epoch, members, proposal.chunk_bytes,
                                    proposal.timeout_ms, proposal.attempt, &proposer, commit.mask, proposal.instance,
                                    wire_consents, is_signed ? &seal : nullptr));
}

void build(Builder& builder, const Ready& ready) { builder.Finish(wire::CreateReady(builder, ready.flows)); }

template <typename Table>
const Table* verified_root(std::span<const std::byte> table) {
  const auto* data = reinterpret_cast<const std::uint8_t*>(table.data());
  flatbuffers::Verifier verifier(data, table.size());
  return verifier.VerifyBuffer<Table>(nullptr) ? flatbuffers::GetRoot<Table>(data) : nullptr;
}

// False: too many, or too long.
bool read(const flatbuffers::Vector<flatbuffers::Offset<wire::Blob>>& blobs,
          std::vector<std::vector<std::byte>>& certificates) {
  if (blobs.size() > kMaximumCertificates) return false;
  for (const wire::Blob* const blob : blobs) {
    if (blob->bytes() == nullptr || blob->bytes()->size() > kMaximumCertificateBytes) return false;
    const auto bytes = std::as_bytes(std::span(blob->bytes()->data(), blob->bytes()->size()));
    certificates.emplace_back(bytes.begin(), bytes.end());
  }
  return true;
}

bool read(const wire::Hello& table, Header& header) {
  if (table.peer() == nullptr || table.fingerprint() == nullptr) return false;
  if (too_long(table.run_id()) || too_long(table.listen()) || too_long(table.software())) return false;
  if (table.flows() < 1 || table.flows() > kMaximumFlows || table.flow() >= table.flows()) return false;
  if (table.role() > wire::Role::MAX) return false;
  std::vector<std::vector<std::byte>> certificates;
  if (table.certificates() != nullptr && !read(*table.certificates(), certificates)) return false;
  header = Hello{.peer = from_wire(*table.peer()),
                 .fingerprint = {table.fingerprint()->low(), table.fingerprint()->high()},
                 .run_id = text_of(table.run_id()),
                 .role = static_cast<WireRole>(table.role()),
                 .session = table.session(),
                 .flow = table.flow(),
                 .flows = table.flows(),
                 .listen = text_of(table.listen()),
                 .rate_bytes_per_s = table.rate_bytes_per_s(),
                 .elements = table.elements(),
                 .software = text_of(table.software()),
                 .certificates = std::move(certificates)};
  return true;
}

bool read(const wire::Refusal& table, Header& header) {
  if (too_long(table.detail())) return false;
  const auto reason = static_cast<std::uint8_t>(table.reason());
  const bool known = reason <= static_cast<std::uint8_t>(RefusalReason::not_qualified);
  header = Refusal{.reason = known ? static_cast<RefusalReason>(reason) : RefusalReason::unspecified,
                   .detail = text_of(table.detail()),
                   .peer = table.peer() != nullptr ? from_wire(*table.peer()) : PeerId{}};
  return true;
}

bool read(const wire::Goodbye& table, Header& header) {
  if (too_long(table.reason())) return false;
  header = Goodbye{text_of(table.reason())};
  return true;
}

bool read(const wire::Progress& table, Header& header) {
  Progress progress{.epoch = table.epoch(),
                    .samples = table.samples(),
                    .total_samples = table.total_samples(),
                    .digest_epoch = table.digest_epoch(),
                    .model_digest = table.model_digest()};
  if (table.banned() != nullptr) {
    if (table.banned()->size() > kMaximumMembers) return false;
    for (const wire::PeerId* peer : *table.banned()) progress.banned.push_back(from_wire(*peer));
  }
  header = std::move(progress);
  return true;
}

// Propose and Commit say the same about the roster.
template <typename Table>
bool read_proposal(const Table& table, Propose& proposal) {
  if (table.members() == nullptr || table.members()->size() < 1 || table.members()->size() > kMaximumMembers ||
      !is_aligned(table.members())) {
    return false;
  }
  if (!std::has_single_bit(table.chunk_bytes()) || table.chunk_bytes() < kMinimumChunkBytes ||
      table.chunk_bytes() > kMaximumChunkBytes || table.timeout_ms() == 0 || table.proposer() == nullptr) {
    return false;
  }
  proposal = Propose{.round = table.round(),
                     .epoch = table.epoch(),
                     .members = {},
                     .chunk_bytes = table.chunk_bytes(),
                     .timeout_ms = table.timeout_ms(),
                     .attempt = table.attempt(),
                     .proposer = from_wire(*table.proposer()),
                     .instance = table.instance()};
  for (const wire::Member* member : *table.members()) {
    proposal.members.push_back({from_wire(member->peer()), member->rate_bytes_per_s(), member->reduces()});
  }
  return true;
}

bool read(const wire::Propose& table, Header& header) {
  Propose proposal;
  if (!read_proposal(table, proposal)) return false;
  header = std::move(proposal);
  return true;
}

bool read(const wire::Commit& table, Header& header) {
  Commit commit{.proposal = {}, .mask = table.mask()};
  if (!read_proposal(table, commit.proposal)) return false;
  if (table.consents() != nullptr) {
    if (table.consents()->size() > kMaximumMembers || table.seal() == nullptr) return false;
    for (const wire::Consent* consent : *table.consents()) commit.consents.push_back(std::bit_cast<Consent>(*consent));
    std::memcpy(commit.seal.data(), table.seal(), commit.seal.size());
  }
  header = std::move(commit);
  return true;
}

bool read(const wire::Ack& table, Header& header) {
  if (table.proposer() == nullptr || table.promised_proposer() == nullptr) return false;
  if (table.answer() > wire::RosterAnswer::MAX) return false;
  header = Ack{
      .round = table.round(),
      .attempt = table.attempt(),
      .proposer = from_wire(*table.proposer()),
      .answer = static_cast<RosterAnswer>(table.answer()),
      .promised_attempt = table.promised_attempt(),
      .promised_proposer = from_wire(*table.promised_proposer()),
      .epoch = table.epoch(),
      .consent = table.consent() != nullptr ? std::optional(std::bit_cast<Consent>(*table.consent())) : std::nullopt};
  return true;
}

bool read(const wire::Contribution& table, Header& header) {
  if (table.codec() > wire::Codec::MAX || table.compression() > wire::Compression::MAX) return false;
  header = Contribution{.round = table.round(),
                        .checksum = table.checksum(),
                        .chunk = table.chunk(),
                        .weight = table.weight(),
                        .codec = static_cast<Codec>(table.codec()),
                        .model = table.model(),
                        .group = table.group(),
                        .compression = static_cast<Compression>(table.compression())};
  return true;
}

bool read(const wire::Average& table, Header& header) {
  if (table.codec() > wire::Codec::MAX || table.compression() > wire::Compression::MAX) return false;
  header = Average{.round = table.round(),
                   .checksum = table.checksum(),
                   .coverage = table.coverage(),
                   .chunk = table.chunk(),
                   .total_weight = table.total_weight(),
                   .codec = static_cast<Codec>(table.codec()),
                   .model = table.model(),
                   .group = table.group(),
                   .reducer = table.reducer(),
                   .compression = static_cast<Compression>(table.compression())};
  return true;
}

bool read(const wire::Done& table, Header& header) {
  header = Done{.round = table.round(), .digest = table.digest()};
  return true;
}

bool read(const wire::Suspect& table, Header& header) {
  if (table.member() >= kMaximumMembers) return false;
  header = Suspect{.round = table.round(), .member = table.member(), .withdrawn = table.withdrawn()};
  return true;
}

bool read(const wire::Takeover& table, Header& header) {
  if (table.part() >= kMaximumMembers || table.distance() < 1 || table.distance() >= kMaximumMembers) return false;
  header = Takeover{.round = table.round(), .part = table.part(), .distance = table.distance()};
  return true;
}

Bits bits_of(const flatbuffers::Vector<std::uint64_t>* words) {
  return words == nullptr ? Bits() : Bits(words->begin(), words->end());
}

bool read(const wire::Holdings& table, Header& header) {
  if (table.part() >= kMaximumMembers || table.distance() < 1 || table.distance() >= kMaximumMembers) return false;
  if (!is_aligned(table.held()) || !is_aligned(table.spent())) return false;
  header = Holdings{.round = table.round(),
                    .part = table.part(),
                    .distance = table.distance(),
                    .held = bits_of(table.held()),
                    .spent = bits_of(table.spent())};
  return true;
}

bool read(const wire::Wanted& table, Header& header) {
  if (table.part() >= kMaximumMembers || !is_aligned(table.contributions()) || !is_aligned(table.averages())) {
    return false;
  }
  header = Wanted{.round = table.round(),
                  .part = table.part(),
                  .contributions = bits_of(table.contributions()),
                  .averages = bits_of(table.averages())};
  return true;
}

bool read(const wire::Resume& table, Header& header) {
  header = Resume{.round = table.round(), .group = table.group()};
  return true;
}

bool read(const wire::Pulse& table, Header& header) {
  header = Pulse{.round = table.round(), .waiting_for = table.waiting_for()};
  return true;
}

bool read(const wire::Ready& table, Header& header) {
  header = Ready{table.flows()};
  return true;
}

template <typename Table>
bool verify_and_read(std::span<const std::byte> bytes, Header& header) {
  const Table* table = verified_root<Table>(bytes);
  return table != nullptr && read(*table, header);
}

bool read_table(FrameType type, std::span<const std::byte> table, Header& header) {
  switch (type) {
    case FrameType::hello: return verify_and_read<wire::Hello>(table, header);
    case FrameType::refusal: return verify_and_read<wire::Refusal>(table, header);
    case FrameType::goodbye: return verify_and_read<wire::Goodbye>(table, header);
    case FrameType::progress: return verify_and_read<wire::Progress>(table, header);
    case FrameType::propose: return verify_and_read<wire::Propose>(table, header);
    case FrameType::contribution: return verify_and_read<wire::Contribution>(table, header);
    case FrameType::average: return verify_and_read<wire::Average>(table, header);
    case FrameType::done: return verify_and_read<wire::Done>(table, header);
    case FrameType::ready: return verify_and_read<wire::Ready>(table, header);
    case FrameType::suspect: return verify_and_read<wire::Suspect>(table, header);
    case FrameType::takeover: return verify_and_read<wire::Takeover>(table, header);
    case FrameType::holdings: return verify_and_read<wire::Holdings>(table, header);
    case FrameType::wanted: return verify_and_read<wire::Wanted>(table, header);
    case FrameType::resume: return verify_and_read<wire::Resume>(table, header);
    case FrameType::pulse: return verify_and_read<wire::Pulse>(table, header);
    case FrameType::ack: return verify_and_read<wire::Ack>(table, header);
    case FrameType::commit: return verify_and_read<wire::Commit>(table, header);
    case FrameType::test_request: return verify_and_read<wire::TestRequest>(table, header);
    case FrameType::test_wait: return verify_and_read<wire::TestWait>(table, header);
    case FrameType::test_phase: return verify_and_read<wire::TestPhase>(table, header);
    case FrameType::test_data: return verify_and_read<wire::TestData>(table, header);
    case FrameType::test_receipts: return verify_and_read<wire::TestReceipts>(table, header);
    case FrameType::test_ping: return verify_and_read<wire::TestPing>(table, header);
    case FrameType::test_tally: return verify_and_read<wire::TestTally>(table, header);
    case FrameType::test_verdict: return verify_and_read<wire::TestVerdict>(table, header);
  }
  return false;
}

}  // namespace

std::string_view to_string(RefusalReason reason) {
  switch (reason) {
    case RefusalReason::unspecified: return "unspecified";
    case RefusalReason::protocol_version: return "protocol-version";
    case RefusalReason::wrong_run: return "wrong-run";
    case RefusalReason::wrong_model: return "wrong-model";
    case RefusalReason::same_peer: return "same-peer";
    case RefusalReason::too_many: return "too-many";
    case RefusalReason::banned: return "banned";
    case RefusalReason::busy: return "busy";
    case RefusalReason::security: return "security";
    case RefusalReason::wrong_identity: return "wrong-identity";
    case RefusalReason::not_allowed: return "not-allowed";
    case RefusalReason::not_qualified: return "not-qualified";
  }
  return "unspecified";
}

std::string_view to_string(FrameFault fault) {
  switch (fault) {
    case FrameFault::none: return "none";
    case FrameFault::not_papilio: return "not the Papilio protocol";
    case FrameFault::encrypted: return "TLS, and this node takes none: one of the two was started with --security none";
    case FrameFault::protocol_version: return "unknown protocol version";
    case FrameFault::unknown_type: return "unknown frame type";
    case FrameFault::bad_length: return "frame length out of bounds";
    case FrameFault::bad_checksum: return "damaged frame header";
    case FrameFault::bad_table: return "malformed frame header";
  }
  return "unknown";
}

FrameType type_of(const Header& header) { return static_cast<FrameType>(header.index() + 1); }

bool is_of_test(const Header& header) {
  return type_of(header) >= FrameType::test_request && type_of(header) <= FrameType::test_verdict;
}

void encode_frame_header(const Header& header, std::size_t payload_bytes, HeaderBytes& out) {
  PAPILIO_ASSERT_VALUES(payload_bytes <= kMaximumPayloadBytes, payload_bytes, kMaximumPayloadBytes);
  thread_local Builder builder(1024);  // one per loop thread: no allocation per frame
  builder.Clear();
  std::visit([](const auto& table) { build(builder, table); }, header);

  const std::size_t needed_bytes = kPreambleBytes + builder.GetSize();
  const std::size_t header_bytes = std::max(kFrameHeadBytes, (needed_bytes + 7) / 8 * 8);
  PAPILIO_ASSERT_VALUES(header_bytes <= kMaximumHeaderBytes, header_bytes, kMaximumHeaderBytes);
  out.assign(header_bytes, std::byte{0});
  std::memcpy(out.data() + kPreambleBytes, builder.GetBufferPointer(), builder.GetSize());

  Preamble preamble{.magic = kMagic,
                    .type = static_cast<std::uint8_t>(type_of(header)),
                    .version = kProtocolVersion,
                    .header_words = static_cast<std::uint16_t>(header_bytes / 8),
                    .payload_bytes = static_cast<std::uint32_t>(payload_bytes),
                    .checksum = 0};
  std::memcpy(out.data(), &preamble, sizeof(preamble));
  seal_frame_header(out);
}

void seal_frame_header(std::span<std::byte> header) {
  const std::uint32_t checksum = header_checksum(header);
  std::memcpy(header.data() + offsetof(Preamble, checksum), &checksum, sizeof(checksum));
}

FrameSizes parse_frame_head(std::span<const std::byte> head) {
  PAPILIO_ASSERT_VALUES(head.size() >= kPreambleBytes, head.size(), kPreambleBytes);
  Preamble preamble;
  std::memcpy(&preamble, head.data(), sizeof(preamble));
  FrameSizes sizes;
  if (preamble.magic != kMagic) {
    sizes.fault = looks_like_tls(head) ? FrameFault::encrypted : FrameFault::not_papilio;
  } else if (preamble.version != kProtocolVersion) {
    sizes.fault = FrameFault::protocol_version;
  } else if (preamble.type < 1 || preamble.type > std::variant_size_v<Header>) {
    sizes.fault = FrameFault::unknown_type;
  } else {
    sizes.type = static_cast<FrameType>(preamble.type);
    sizes.header_bytes = std::size_t{preamble.header_words} * 8;
    sizes.payload_bytes = preamble.payload_bytes;
    const bool carries_payload =
        sizes.type == FrameType::contribution || sizes.type == FrameType::average || sizes.type == FrameType::test_data;
    const bool payload_fits = carries_payload ? sizes.payload_bytes > 0 && sizes.payload_bytes <= kMaximumPayloadBytes
                                              : sizes.payload_bytes == 0;
    if (sizes.header_bytes < kFrameHeadBytes || sizes.header_bytes > kMaximumHeaderBytes || !payload_fits) {
      sizes.fault = FrameFault::bad_length;
    }
  }
  return sizes;
}

ParsedHeader parse_frame_header(std::span<const std::byte> bytes) {
  ParsedHeader parsed;
  const FrameSizes sizes = parse_frame_head(bytes);
  if (sizes.fault != FrameFault::none) {
    parsed.fault = sizes.fault;
    return parsed;
  }
  PAPILIO_ASSERT_VALUES(bytes.size() == sizes.header_bytes, bytes.size(), sizes.header_bytes);
  Preamble preamble;
  std::memcpy(&preamble, bytes.data(), sizeof(preamble));
  if (preamble.checksum != header_checksum(bytes)) {
    parsed.fault = FrameFault::bad_checksum;
  } else if (!read_table(sizes.type, bytes.subspan(kPreambleBytes), parsed.header)) {
    parsed.fault = FrameFault::bad_table;
  }
  return parsed;
}

}  // namespace papilio::transport
