// The judge of a qualification test: takes candidates at a listening socket, tests one after the other, and signs what
// it measured. It never dials anybody, and sends test data only to who has proved to hold the key of its id, asked for
// them and acknowledges them, so that it cannot be turned against a third party. What counts and what does not is
// core::LineTest's, whose turn it is core::TestDesk's business; here bytes are moved. docs/qualification.md.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/core/door.hpp"
#include "engine/core/line_test.hpp"
#include "engine/core/qualification.hpp"
#include "engine/core/test_desk.hpp"
#include "engine/node/log_limit.hpp"
#include "transport/flow.hpp"
#include "transport/identity.hpp"
#include "transport/slab_pool.hpp"
#include "transport/test_filler.hpp"

namespace papilio::node {

struct JudgeConfig {
  transport::Address listen;
  transport::SocketOptions socket;
  // Who signs. None: figures are told, but nothing is signed.
  const transport::Identity* identity = nullptr;
  // Only candidates for this run, and certificates for it alone; empty: for the run that the candidate names.
  std::string run_id;
  // Below this nothing is signed. By default every figure is: each run compares with its own minimum.
  core::LineRequirement minimum{.up_bps = 0, .down_bps = 0, .round_trip = Duration::max()};
  std::chrono::seconds valid_for = std::chrono::hours(24 * 7);
  core::TestDeskConfig desk;
  core::LineTestConfig test;
  // Of each frame of test data. Short, because what counts is counted in whole frames; long enough that frames cost
  // nothing.
  std::size_t payload_bytes = std::size_t{32} << 10U;
  // What a test takes is the candidate's wish within these.
  Duration shortest_test = std::chrono::milliseconds(1500), longest_test = std::chrono::seconds(60);
  // For the first frame of a connection, and for all data flows once a test begins.
  Duration patience = std::chrono::seconds(5);
  // A judge tests one candidate at a time, which has 17 connections at most, and lets a few wait: far smaller crowds
  // than a node's. Half of its connections at most are such that have asked for nothing yet.
  core::DoorConfig door = {
      .elsewhere = {.connections = 40, .handshakes = 20, .attempts_at_once = 80, .attempts_per_s = 4},
      .local_host = {.connections = 80, .handshakes = 40, .attempts_at_once = 1024, .attempts_per_s = 256},
      .connections_in_total = 128,
      .handshakes_in_total = 64};
  // For dates in certificates.
  std::function<core::WallTime()> wall_now;
};

// How one test ended, for logs and tests.
struct TestOutcome {
  PeerId candidate;
  std::string address;
  transport::TestVerdict verdict;
};

class Judge final : private transport::FlowEvents, private transport::ListenerEvents {
 public:
  Judge(transport::Io& io, JudgeConfig config);
  Judge(const Judge&) = delete;
  Judge& operator=(const Judge&) = delete;
  // After leave().
  ~Judge();

  Status start();
  [[nodiscard]] transport::Address listen_address() const { return listener_->address(); }

  // One turn: waits for events until `until` or the judge's own next deadline, handles them and the time.
  void turn(TimePoint until);
  [[nodiscard]] TimePoint next_deadline() const;
  void handle_time(TimePoint now);

  // Takes nobody any more and tells those that are here; done when is_closed().
  void leave(const std::string& reason);
  [[nodiscard]] bool is_closed() const { return listener_ == nullptr && guests_.empty(); }
  void abort_all();

  // Since the last call, in the order in which they ended.
  [[nodiscard]] std::vector<TestOutcome> take_outcomes() { return std::exchange(outcomes_, {}); }
  [[nodiscard]] std::size_t connections() const { return guests_.size(); }
  [[nodiscard]] const core::TestDesk& desk() const { return desk_; }

 private:
  struct Session;
  enum class Stage : std::uint8_t { awaiting_request, queued, control, data, closing };
  // One connection.
  struct Guest {
    explicit Guest(transport::FlowEvents& events) : flow(events) {}
    transport::Flow flow;
    std::list<Guest>::iterator position;
    std::string address;
    core::AddressBlock block;
    core::Visit visit = 0;
    Stage stage = Stage::awaiting_request;
    TimePoint deadline = kNever;
    core::TestDesk::Ticket ticket = 0;
    PeerId peer;
    transport::TestRequest request;
    Session* session = nullptr;
    std::size_t told_position = 0;
    // Of a data flow:
    std::size_t index = 0;
    std::uint64_t up_sequence = 0;
    std::vector<std::byte> payload;
  };
  // One test under way.
  struct Session {
    Session(const transport::FillerKey& for_up, const transport::FillerKey& for_down)
        : up_key(for_up), up(for_up), down(for_down) {}
    std::list<Session>::iterator position;
    std::uint64_t number = 0;
    Guest* control = nullptr;
    std::vector<Guest*> flows;  // null until joined
    transport::FillerKey up_key;
    transport::TestFiller up, down;
    TimePoint join_by, ends;
    std::optional<core::LineTest> test;  // once all have joined
    TimePoint next_tally, last_tally;
    std::uint64_t tallied_up = 0, tallied_down = 0;
  };

  void on_accepted(transport::Stream& stream) override;
  void on_flow_connected(transport::Flow&) override {}
  transport::PayloadDecision on_payload_header(transport::Flow& flow, const transport::Header& header,
                                               std::size_t payload_bytes) override;
  void on_frame(transport::Flow& flow, const transport::Header& header, transport::Slab payload,
                std::size_t payload_bytes) override;
  bool next_frame(transport::Flow& flow, transport::OutgoingFrame& frame) override;
  void on_frame_sent(transport::Flow& flow, std::uint64_t tag) override;
  void on_flow_failed(transport::Flow& flow, const transport::FlowFailure& failure) override;
  void on_flow_closed(transport::Flow& flow) override;

  void handle_request(Guest& guest, const transport::TestRequest& request);
  void handle_join(Guest& guest, const transport::TestRequest& request);
  void handle_data(Guest& guest, std::span<const std::byte> payload);
  void handle_receipts(Session& session, const transport::TestReceipts& receipts);
  void begin_tests();
  void begin_test(Guest& guest);
  void begin_measuring(Session& session);
  void carry_on(Session& session);
  void say_phase(Session& session, const core::LineTest::Step& step);
  void say_tally(Session& session, TimePoint now);
  void wake_senders(Session& session);
  void fail(Session& session, const std::string& why);
  void conclude(Session& session, transport::TestVerdict verdict);
  [[nodiscard]] transport::TestVerdict verdict_of(Session& session) const;
  void certify(Session& session, transport::TestVerdict& verdict) const;
  void tell_waiting(Guest& guest, TimePoint now);
  void refuse(Guest& guest, const transport::TestWait& wait);
  void violate(Guest& guest, const std::string& what);
  void dismiss(Guest& guest);
  void leave_desk(Guest& guest);
  [[nodiscard]] bool may_say(std::string_view kind) { return log_limit_.admit(io_.now(), kind); }

  transport::Io& io_;
  JudgeConfig config_;
  core::TestDesk desk_;
  core::Door door_;
  transport::Listener* listener_ = nullptr;
  std::optional<transport::SlabPool> slabs_;
  std::list<Guest> guests_;
  std::list<Session> sessions_;
  core::TestDesk::Ticket next_ticket_ = 1;
  std::vector<std::byte> expected_;  // what a frame that came up is compared with
  LogLimit log_limit_;
  std::vector<TestOutcome> outcomes_;
};

}  // namespace papilio::node
