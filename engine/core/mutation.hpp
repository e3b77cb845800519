// Deliberate faults, so that a test can show that the simulator finds them: a checker that never fails proves nothing.
// Only a test program compiled with PAPILIO_MUTATIONS has them; everywhere else mutated() is the constant false and
// the compiler drops what depends on it.
#pragma once

#include <cstdint>

namespace papilio::core {

enum class Mutation : std::uint8_t {
  none,
  wrong_denominator,          // divides by the number of contributors instead of the sum of their weights
  doubled_contribution,       // counts a contribution twice
  counted_late_contribution,  // goes on adding to a chunk that is final
  counted_cut_off_member,     // lists a member that was cut off among the contributors
  forgotten_deadline,         // waits for averages for ever
  impatient_successor,        // averages anew before it knows what others hold
  silent_loss,                // tells nobody that it has lost a reducer
  unchecked_numbers,          // adds NaN and infinity up like any other number
  lost_chunk,                 // never sends the last contribution to a part
  skipped_checksum,           // takes payloads as they come
  written_before_check,       // writes an average over the local values before it is checked
  unwritten_average,          // reports an average that it did not write
  mixed_rounds,               // takes a shard of another round for one of this
  early_release,              // ends a round while others still read its memory
};

#ifdef PAPILIO_MUTATIONS
extern Mutation active_mutation;
[[nodiscard]] inline bool mutated(Mutation mutation) { return active_mutation == mutation; }
#else
[[nodiscard]] constexpr bool mutated(Mutation) { return false; }
#endif

}  // namespace papilio::core
