// The words for what happens in a round, as reports and logs have them.
#include "engine/core/round.hpp"

namespace papilio::core {

std::string_view to_string(CutOff reason) {
  switch (reason) {
    case CutOff::none: return "none";
    case CutOff::connection_lost: return "connection-lost";
    case CutOff::departed: return "departed";
    case CutOff::contributions_missing: return "contributions-missing";
    case CutOff::averages_missing: return "averages-missing";
    case CutOff::wrong_model: return "wrong-model";
    case CutOff::damaged_bytes: return "damaged-bytes";
    case CutOff::protocol: return "protocol";
    case CutOff::slow: return "slow";
    case CutOff::never_started: return "never-started";
    case CutOff::condemned: return "condemned";
    case CutOff::wrong_group: return "wrong-group";
    case CutOff::not_done: return "not-done";
    case CutOff::non_finite: return "non-finite";
    case CutOff::wild_norm: return "wild-norm";
  }
  return "unknown";
}

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::accept: return "accept";
    case Verdict::late: return "late";
    case Verdict::duplicate: return "duplicate";
    case Verdict::unasked: return "unasked";
    case Verdict::out_of_range: return "out-of-range";
    case Verdict::bad_size: return "bad-size";
    case Verdict::bad_weight: return "bad-weight";
    case Verdict::bad_coverage: return "bad-coverage";
  }
  return "unknown";
}

std::string_view to_string(Notice::Kind kind) {
  switch (kind) {
    case Notice::Kind::suspect: return "suspect";
    case Notice::Kind::takeover: return "takeover";
    case Notice::Kind::holdings: return "holdings";
    case Notice::Kind::wanted: return "wanted";
    case Notice::Kind::done: return "done";
    case Notice::Kind::cut_off: return "cut-off";
  }
  return "unknown";
}

}  // namespace papilio::core
