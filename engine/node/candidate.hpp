// The candidate of a qualification test: dials a judge, waits for its turn, sends and receives what the judge asks for,
// and keeps what the judge says in the end. It decides nothing: its own figures would be worth nothing.
// docs/qualification.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/core/qualification.hpp"
#include "transport/flow.hpp"
#include "transport/slab_pool.hpp"
#include "transport/test_filler.hpp"

namespace papilio::node {

struct CandidateConfig {
  transport::Address judge;
  transport::SocketOptions socket;
  PeerId self;  // where connections are encrypted: the id of their key
  std::string run_id;
  std::uint16_t flows = 4;
  // For everything but waiting for one's turn: from the dial to the verdict. Who still has no verdict `patience` later
  // has a judge that comes to no end.
  Duration duration = std::chrono::seconds(10);
  // Until the judge answers at all, and between two words of his later.
  Duration patience = std::chrono::seconds(6);
  Duration patience_in_queue = std::chrono::minutes(5);
};

class CandidateEvents {
 public:
  virtual void on_waiting(const transport::TestWait& wait) = 0;
  virtual void on_phase(const transport::TestPhase& phase) = 0;
  virtual void on_tally(const transport::TestTally& tally) = 0;

 protected:
  ~CandidateEvents() = default;
};

struct CandidateResult {
  // Why there is no verdict. Empty: there is one.
  std::string failure;
  // The judge's refusal, if it was one.
  std::optional<transport::TestWait> refusal;
  transport::TestVerdict verdict;
  // What the verdict's certificate says, if there is one; it has been checked against the verdict.
  std::optional<core::Qualification> certificate;
  // Whose verdict; proven by its key, or nobody.
  std::optional<PeerId> judge;
  // Of this host's kernel, of what went up.
  std::uint64_t retransmits_up = 0;
  Duration took{};  // without the wait for its turn
};

class Candidate final : private transport::FlowEvents {
 public:
  // `events` may be null.
  Candidate(transport::Io& io, CandidateConfig config, CandidateEvents* events);
  Candidate(const Candidate&) = delete;
  Candidate& operator=(const Candidate&) = delete;
  // When is_closed().
  ~Candidate();

  void start();
  // Whether there is a result; connections may still be closing.
  [[nodiscard]] bool is_done() const { return done_; }
  [[nodiscard]] const CandidateResult& result() const { return result_; }
  [[nodiscard]] bool is_closed() const { return connections_.empty(); }

  // One turn: waits for events until `until` or its own next deadline, handles them and the time.
  void turn(TimePoint until);
  [[nodiscard]] TimePoint next_deadline() const { return deadline_; }
  void handle_time(TimePoint now);
  // Ends it now.
  void cancel(const std::string& why);

 private:
  struct Connection {
    explicit Connection(transport::FlowEvents& events) : flow(events) {}
    transport::Flow flow;
    std::list<Connection>::iterator position;
    std::uint16_t number = 0;  // 0: control
    std::uint64_t up_sequence = 0, down_sequence = 0;
    std::vector<std::byte> payload;
    [[nodiscard]] std::uint32_t index() const { return number - 1U; }
  };

  void on_flow_connected(transport::Flow& flow) override;
  transport::PayloadDecision on_payload_header(transport::Flow& flow, const transport::Header& header,
                                               std::size_t payload_bytes) override;
  void on_frame(transport::Flow& flow, const transport::Header& header, transport::Slab payload,
                std::size_t payload_bytes) override;
  bool next_frame(transport::Flow& flow, transport::OutgoingFrame& frame) override;
  void on_frame_sent(transport::Flow&, std::uint64_t) override {}
  void on_flow_failed(transport::Flow& flow, const transport::FlowFailure& failure) override;
  void on_flow_closed(transport::Flow& flow) override;

  void dial(std::uint16_t number);
  void handle_wait(const transport::TestWait& wait);
  void handle_phase(const transport::TestPhase& phase);
  void join(const transport::TestPhase& phase);
  void handle_verdict(const transport::TestVerdict& verdict);
  [[nodiscard]] std::string objection_to_certificate(const transport::TestVerdict& verdict);
  void flush_receipts();
  void heard();
  [[nodiscard]] TimePoint over_by() const;
  void finish(std::string failure);

  transport::Io& io_;
  CandidateConfig config_;
  CandidateEvents* events_;
  std::list<Connection> connections_;
  Connection* control_ = nullptr;
  std::optional<transport::SlabPool> slabs_;
  std::optional<transport::TestFiller> up_;
  transport::TestPhase phase_;
  bool joined_ = false;
  std::vector<transport::TestReceipt> receipts_;  // not sent yet
  TimePoint started_, deadline_ = kNever, queued_until_ = kNever;
  Duration before_queue_{};
  bool done_ = false;
  std::string lost_;  // how the first data flow ended that did
  CandidateResult result_;
};

}  // namespace papilio::node
