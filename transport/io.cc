#include "transport/io.hpp"

#include <cerrno>
#include <system_error>

namespace papilio::transport {

namespace {

class NobodyListening final : public StreamEvents {
 public:
  void on_connected(Stream&) override {}
  void on_read(Stream&, std::size_t) override {}
  void on_written(Stream&) override {}
  void on_failed(Stream&, IoStatus) override {}
  void on_closed(Stream&) override {}
};

}  // namespace

void turn_away(Stream& accepted) {
  static NobodyListening nobody;
  accepted.set_events(nobody);
  accepted.abort();
}

std::string_view to_string(IoCode code) {
  switch (code) {
    case IoCode::ok: return "ok";
    case IoCode::closed_by_peer: return "closed by the peer";
    case IoCode::reset: return "connection reset";
    case IoCode::refused: return "connection refused";
    case IoCode::unreachable: return "unreachable";
    case IoCode::timed_out: return "timed out";
    case IoCode::out_of_resources: return "out of descriptors, memory or ports";
    case IoCode::not_secure: return "not secure";
    case IoCode::damaged: return "damaged";
    case IoCode::failed: return "failed";
  }
  return "unknown";
}

IoStatus IoStatus::from_errno(int error_number) {
  switch (error_number) {
    case 0: return {IoCode::ok, 0};
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case EPIPE: return {IoCode::reset, error_number};
    case ECONNREFUSED: return {IoCode::refused, error_number};
    case ENETUNREACH:
    case ENETDOWN:
    case EHOSTUNREACH:
    case EHOSTDOWN: return {IoCode::unreachable, error_number};
    case ETIMEDOUT: return {IoCode::timed_out, error_number};
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EAGAIN:
    // What connect says when every local port towards that address is taken.
    case EADDRNOTAVAIL: return {IoCode::out_of_resources, error_number};
    default: return {IoCode::failed, error_number};
  }
}

std::string IoStatus::to_string() const {
  std::string text(transport::to_string(code));
  if (error_number != 0) text += " (" + std::generic_category().message(error_number) + ")";
  if (!detail.empty()) text += ": " + std::string(detail);
  return text;
}

}  // namespace papilio::transport
