// x
#include "bench/suite.h"
namespace papilio::bench {
void register_transport_benchmarks() {}
}  // namespace papilio::bench
