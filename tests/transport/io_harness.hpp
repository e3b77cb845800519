// What the conformance suite needs to run one backend: a place to listen, somebody to dial it, and a way to let time
// pass until something is true. A backend that joins the list in io_harness.cc runs the whole suite.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "transport/io.hpp"

namespace papilio::transport {

class Harness {
 public:
  virtual ~Harness() = default;
  // Both may be the same Io.
  virtual Io& server() = 0;
  virtual Io& client() = 0;
  // Where the server can listen, port to be chosen.
  virtual Address listen_address() = 0;
  // An address of the server's where nobody listens.
  virtual Address silent_address() = 0;
  // Turns the loops until the predicate holds; false after a generous bound.
  [[nodiscard]] virtual bool run_until(const std::function<bool()>& predicate) = 0;
  // Lets a few turns pass in which everything that is going to happen by itself does happen.
  virtual void settle() = 0;
  // Real sockets, real threads, descriptors that can leak.
  [[nodiscard]] virtual bool is_real() const = 0;

  [[nodiscard]] std::size_t open_handles() {
    return server().open_handles() + (&server() == &client() ? 0 : client().open_handles());
  }
};

struct HarnessFactory {
  std::string name;
  std::unique_ptr<Harness> (*make)();
};
// How GoogleTest shows the parameter.
inline void PrintTo(const HarnessFactory& factory, std::ostream* out) { *out << factory.name; }

// Every backend that can run on this machine.
std::vector<HarnessFactory> harness_factories();

}  // namespace papilio::transport
