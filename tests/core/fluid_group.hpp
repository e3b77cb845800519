// One round of a whole group as a fluid: bytes flow along every line at rates set by both ends, without protocol or
// packets, and every member judges the others with its own Lateness. Small and fast enough for thousands of rounds, and
// close enough to a butterfly all-reduce to have its dependencies: averages wait for contributions, so that one slow
// member makes all others look slow.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/random.hpp"
#include "engine/core/partition.hpp"
#include "engine/core/peer_timers.hpp"

namespace papilio::core {

enum class Fault : std::uint8_t {
  none,
  never_starts,
  frozen,         // says and reads nothing any more
  crawl,          // sends at 1 Mbit/s
  drip,           // sends one shard per second to each member
  slow_reducer,   // contributes as it should, but its averages come at a hundredth of its rate
  slow_receiver,  // reads at 1 Mbit/s
};

struct FluidMember {
  double announced_bytes_per_s = 0;  // each way; 0: says nothing
  double up_bytes_per_s = 0, down_bytes_per_s = 0;
  double starts_s = 0;
  // When its line stands still for a moment, and how long, each way.
  double up_stall_at_s = 1e9, up_stall_s = 0;
  double down_stall_at_s = 1e9, down_stall_s = 0;
  Fault fault = Fault::none;
  double fault_at_s = 0;
};

struct Finding {
  MemberIndex by = 0;
  LateMember late;
  double at_s = 0;
};

struct FluidConfig {
  std::uint64_t elements = 0;
  std::size_t chunk_bytes = std::size_t{256} << 10U;
  bool averages_first = false;
  double step_s = 0.025;
  double limit_s = 120;
  LatenessConfig lateness;
};

class FluidGroup {
 public:
  FluidGroup(const FluidConfig& config, std::vector<FluidMember> members, std::uint64_t seed)
      : config_(config), members_(std::move(members)), random_(seed) {
    const auto count = static_cast<std::uint32_t>(members_.size());
    std::vector<PlanMember> plan_members(count);
    for (MemberIndex i = 0; i < count; ++i) plan_members[i].rate = members_[i].announced_bytes_per_s;
    plan_ = PartitionPlan::make(config_.elements, plan_members, config_.chunk_bytes);
    lines_.resize(std::size_t{count} * count);
    through_.assign(count, false);
    next_pulse_s_.resize(count);
    jitter_.assign(count, 1);
    for (MemberIndex i = 0; i < count; ++i) next_pulse_s_[i] = members_[i].starts_s + 0.25 * random_.uniform();
    for (MemberIndex to = 0; to < count; ++to) set_up_receiver(to);
  }

  // Until every healthy member has what it waits for, or limit_s.
  void run() {
    while (!is_over() && now_s_ < config_.limit_s) {
      now_s_ += config_.step_s;
      draw_jitter();
      flow();
      for (MemberIndex i = 0; i < size(); ++i) pulse(i);
      for (MemberIndex i = 0; i < size(); ++i) settle(i);
      for (MemberIndex i = 0; i < size(); ++i) judge(i);
    }
  }

  [[nodiscard]] const std::vector<Finding>& findings() const { return findings_; }
  [[nodiscard]] double now_s() const { return now_s_; }
  [[nodiscard]] bool is_over() const {
    for (MemberIndex i = 0; i < size(); ++i) {
      if (members_[i].fault == Fault::none && !through_[i]) return false;
    }
    return true;
  }
  [[nodiscard]] const PartitionPlan& plan() const { return plan_; }

 private:
  struct Line {
    double contribution_left = 0, averages_left = 0;
    double contributed = 0, averages_sent = 0;
    double weight = 1;  // its share of a line that it shares with others
    double rate = 0;    // in this step
    double next_drip_s = 0;
    bool cut = false;  // closed: one end has given the other up
  };

  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(members_.size()); }
  [[nodiscard]] Line& line(MemberIndex from, MemberIndex to) { return lines_[std::size_t{from} * size() + to]; }
  [[nodiscard]] const Line& line(MemberIndex from, MemberIndex to) const {
    return lines_[std::size_t{from} * size() + to];
  }
  [[nodiscard]] TimePoint now() const { return TimePoint(from_seconds(1000 + now_s_)); }
  [[nodiscard]] double part_bytes(MemberIndex i) const { return static_cast<double>(plan_.part(i).size) * 4; }

  void set_up_receiver(MemberIndex to) {
    const TimePoint start(from_seconds(1000 + members_[to].starts_s));
    lateness_.emplace_back(config_.lateness, size(), to, start);
    for (MemberIndex from = 0; from < size(); ++from) {
      Line& each = line(from, to);
      if (from != to) {
        each.contribution_left = part_bytes(to);
        each.averages_left = part_bytes(from);
        each.weight = 0.7 + 0.7 * random_.uniform();
        each.next_drip_s = members_[from].starts_s;
      }
      lateness_[to].expect(from, static_cast<std::uint64_t>(each.contribution_left),
                           static_cast<std::uint64_t>(each.averages_left), members_[from].announced_bytes_per_s);
    }
  }

  [[nodiscard]] bool has_fault(MemberIndex i, Fault fault) const {
    return members_[i].fault == fault && now_s_ >= members_[i].fault_at_s;
  }
  [[nodiscard]] bool runs(MemberIndex i) const {
    return now_s_ >= members_[i].starts_s && !has_fault(i, Fault::frozen) && members_[i].fault != Fault::never_starts;
  }
  [[nodiscard]] bool up_stands(MemberIndex i) const {
    return now_s_ >= members_[i].up_stall_at_s && now_s_ < members_[i].up_stall_at_s + members_[i].up_stall_s;
  }
  [[nodiscard]] bool down_stands(MemberIndex i) const {
    return now_s_ >= members_[i].down_stall_at_s && now_s_ < members_[i].down_stall_at_s + members_[i].down_stall_s;
  }

  void draw_jitter() {
    if (now_s_ < next_jitter_s_) return;
    next_jitter_s_ = now_s_ + 0.2;
    for (double& each : jitter_) each = 0.7 + 0.5 * random_.uniform();
  }

  // Averages that the reducer can have finished, in whole chunks: as far as its slowest live contributor is.
  [[nodiscard]] double reduced_bytes(MemberIndex reducer) const {
    double least = part_bytes(reducer);
    for (MemberIndex i = 0; i < size(); ++i) {
      if (i != reducer && !line(i, reducer).cut) least = std::min(least, line(i, reducer).contributed);
    }
    if (least >= part_bytes(reducer) - 0.5) return part_bytes(reducer);
    const auto chunk = static_cast<double>(config_.chunk_bytes);
    return std::floor(least / chunk) * chunk;
  }

  void flow() {
    std::vector<double> up(size()), down(size()), reduced(size());
    for (MemberIndex i = 0; i < size(); ++i) {
      const bool open = runs(i);
      up[i] = open && !up_stands(i) ? members_[i].up_bytes_per_s * jitter_[i] : 0;
      if (has_fault(i, Fault::crawl)) up[i] = std::min(up[i], 125e3);
      down[i] = open && !down_stands(i) ? members_[i].down_bytes_per_s * jitter_[i] : 0;
      if (has_fault(i, Fault::slow_receiver)) down[i] = std::min(down[i], 125e3);
      reduced[i] = reduced_bytes(i);
    }
    share_out(std::move(up), std::move(down), reduced);
    for (MemberIndex from = 0; from < size(); ++from) {
      for (MemberIndex to = 0; to < size(); ++to) {
        if (line(from, to).rate > 0) move(from, to, line(from, to).rate * config_.step_s, reduced[from]);
      }
    }
  }

  // Both ends share what they have by weight; what one end cannot use is shared out again.
  void share_out(std::vector<double> up, std::vector<double> down, const std::vector<double>& reduced) {
    for (Line& each : lines_) each.rate = 0;
    for (int pass = 0; pass < 3; ++pass) {
      std::vector<double> up_weight(size()), down_weight(size());
      for_open_lines(up, down, reduced, [&](MemberIndex from, MemberIndex to, Line& each) {
        up_weight[from] += each.weight;
        down_weight[to] += each.weight;
      });
      std::vector<double> up_left = up, down_left = down;
      for_open_lines(up, down, reduced, [&](MemberIndex from, MemberIndex to, Line& each) {
        const double extra =
            std::min(up[from] * each.weight / up_weight[from], down[to] * each.weight / down_weight[to]);
        each.rate += extra;
        up_left[from] -= extra;
        down_left[to] -= extra;
      });
      up = std::move(up_left);
      down = std::move(down_left);
    }
  }

  template <typename Action>
  void for_open_lines(const std::vector<double>& up, const std::vector<double>& down,
                      const std::vector<double>& reduced, Action action) {
    for (MemberIndex from = 0; from < size(); ++from) {
      if (up[from] < 1) continue;
      for (MemberIndex to = 0; to < size(); ++to) {
        Line& each = line(from, to);
        if (from == to || down[to] < 1 || each.cut) continue;
        const bool has_average = each.averages_left > 0 && reduced[from] > each.averages_sent;
        if (each.contribution_left > 0 || has_average) action(from, to, each);
      }
    }
  }

  void move(MemberIndex from, MemberIndex to, double bytes, double reduced) {
    Line& each = line(from, to);
    if (has_fault(from, Fault::drip)) {
      bytes = now_s_ >= each.next_drip_s ? static_cast<double>(config_.chunk_bytes) : 0;
      if (bytes > 0) each.next_drip_s = now_s_ + 1;
    }
    double moved = 0;
    const auto contribute = [&] {
      const double part = std::min(bytes - moved, each.contribution_left);
      each.contribution_left -= part;
      if (each.contribution_left < 0.5) each.contribution_left = 0;
      each.contributed += part;
      moved += part;
    };
    const auto average = [&] {
      const double slowdown = has_fault(from, Fault::slow_reducer) ? 0.01 : 1;
      const double part = std::min((bytes - moved) * slowdown, std::max(0.0, reduced - each.averages_sent));
      each.averages_sent += part;
      each.averages_left -= part;
      if (each.averages_left < 0.5) each.averages_left = 0;
      moved += part;
    };
    if (config_.averages_first) average();
    contribute();
    if (!config_.averages_first) average();
    lateness_[to].handle_bytes(from, now(), static_cast<std::uint64_t>(moved));
  }

  void pulse(MemberIndex from) {
    if (!runs(from) || up_stands(from) || now_s_ < next_pulse_s_[from]) return;
    next_pulse_s_[from] = now_s_ + 0.25;
    Coverage waiting_for = 0;
    for (MemberIndex i = 0; i < size(); ++i) {
      if (i != from && !line(i, from).cut && line(i, from).contribution_left > 0) waiting_for |= coverage_of(i);
    }
    for (MemberIndex to = 0; to < size(); ++to) {
      if (to == from || !runs(to) || down_stands(to) || line(from, to).cut) continue;
      lateness_[to].handle_heard(from, now());
      lateness_[to].handle_waiting(from, waiting_for);
    }
  }

  // What everybody owes `to` by now, and whether `to` is through.
  void settle(MemberIndex to) {
    bool through = runs(to);
    for (MemberIndex from = 0; from < size(); ++from) {
      const Line& each = line(from, to);
      if (from == to || each.cut) continue;
      if (each.contribution_left > 0) {
        lateness_[to].set_owes(from, Owes::contributions, now());
      } else if (each.averages_left > 0) {
        lateness_[to].set_owes(from, Owes::averages_only, now());
      } else {
        lateness_[to].set_owes(from, through_[from] ? Owes::nothing : Owes::done, now());
      }
      through = through && each.contribution_left + each.averages_left <= 0;
    }
    through_[to] = through_[to] || through;
  }

  void judge(MemberIndex by) {
    if (!runs(by) || now() < lateness_[by].next_tick()) return;
    for (const LateMember& late : lateness_[by].judge(now())) {
      findings_.push_back({by, late, now_s_});
      // The connection is closed: gone for both.
      line(late.member, by).cut = line(by, late.member).cut = true;
      lateness_[by].handle_gone(late.member);
      lateness_[late.member].handle_gone(by);
    }
  }

  FluidConfig config_;
  std::vector<FluidMember> members_;
  Random random_;
  PartitionPlan plan_;
  std::vector<Line> lines_;
  std::vector<Lateness> lateness_;
  std::vector<bool> through_;
  std::vector<double> next_pulse_s_, jitter_;
  std::vector<Finding> findings_;
  double now_s_ = 0;
  double next_jitter_s_ = 0;
};

}  // namespace papilio::core
