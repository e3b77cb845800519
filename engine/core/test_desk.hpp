// Where candidates ask a judge for a test: who is tested next, who waits, who is told to come back later. A judge's
// line is worth protecting: a test fills it, so tests come one at a time, and nobody, by whatever names and from
// however many connections, gets more of them than the limits say. A pure state machine: the shell tells who asks, who
// left and what time it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "engine/base/ids.hpp"
#include "engine/base/time.hpp"
#include "engine/core/door.hpp"

namespace papilio::core {

struct TestDeskConfig {
  // Tests at the same time: two share the judge's line, and neither is told the truth.
  std::size_t at_once = 1;
  // Candidates that wait for their turn. Each costs one open connection.
  std::size_t waiting = 8;
  // Of the above and of those being tested, from one address.
  std::size_t per_address = 2;
  // Between the starts of two tests of one peer, and of as many tests as `per_address` from one address; at most an
  // hour.
  Duration every = std::chrono::minutes(1);
  // Tests in any hour, of all together. 360 of 10 s each fill an hour. Also bounds what is remembered.
  std::size_t per_hour = 240;
  // What one test takes at least, for the guess when the next one may begin: as long as the last one.
  Duration test_length = std::chrono::seconds(10);
};

class TestDesk {
 public:
  using Ticket = std::uint64_t;  // the shell's name for one candidate's request

  enum class Kind : std::uint8_t {
    queued,        // told its turn by poll_begin; `position` are ahead of it, the one being tested included
    busy,          // too many wait already
    too_often,     // tested a moment ago
    already_here,  // this peer waits or is being tested
  };
  struct Answer {
    Kind kind = Kind::busy;
    std::size_t position = 0;
    Duration retry_after{};  // for all but queued: when it makes sense to ask again
  };

  explicit TestDesk(const TestDeskConfig& config);

  Answer handle_request(TimePoint now, Ticket ticket, const PeerId& peer, const AddressBlock& address);
  // The candidate left, or its test is over. Unknown tickets are nobody's.
  void handle_gone(TimePoint now, Ticket ticket);
  // Whose test begins now; call until it says nothing.
  [[nodiscard]] std::optional<Ticket> poll_begin(TimePoint now);

  // How many are ahead, 0 for who is being tested or is not here.
  [[nodiscard]] std::size_t position_of(Ticket ticket) const;
  // Until that candidate's turn, as far as one can tell.
  [[nodiscard]] Duration wait_of(TimePoint now, Ticket ticket) const;
  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }
  [[nodiscard]] std::size_t being_tested() const { return tested_.size(); }
  [[nodiscard]] std::size_t remembered() const { return history_.size(); }

 private:
  struct Visitor {
    Ticket ticket = 0;
    PeerId peer;
    AddressBlock address;
    TimePoint began{};
  };
  struct Start {
    TimePoint time;
    PeerId peer;
    AddressBlock address;
  };

  void forget(TimePoint now);
  [[nodiscard]] std::optional<Duration> too_soon_by(TimePoint now, const PeerId& peer,
                                                    const AddressBlock& address) const;
  [[nodiscard]] Duration wait_for(TimePoint now, std::size_t ahead) const;

  TestDeskConfig config_;
  Duration test_length_;  // as guessed
  std::deque<Visitor> waiting_;
  std::vector<Visitor> tested_;
  std::deque<Start> history_;  // of the last hour, oldest first: at most per_hour
};

}  // namespace papilio::core
