// What encryption costs: handshakes, and bytes through TlsSession, each beside AES-128-GCM alone, which is the least
// that TLS can cost with this OpenSSL.
#include <openssl/evp.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "bench/suite.h"
#include "transport/tls.hpp"

namespace papilio::bench {
namespace {

using namespace transport;
using State = benchmark::State;

constexpr std::size_t kPieceBytes = 8 * kTlsRecordBytes;

// Two ends in one thread.
struct Pair {
  explicit Pair(const TlsContext& context) : near(context, TlsSide::dialler), far(context, TlsSide::acceptor) {}

  static void pass_on(TlsSession& from, TlsSession& to, std::vector<std::byte>& kept) {
    kept.swap(from.output());
    from.output().clear();
    if (!kept.empty()) to.give_input(kept);
  }
  void shake_hands() {
    for (int i = 0; i < 3; ++i) {
      near.shake_hands();
      pass_on(near, far, to_far);
      far.shake_hands();
      pass_on(far, near, to_near);
    }
    if (!near.is_established() || !far.is_established()) std::abort();
  }

  TlsSession near, far;
  std::vector<std::byte> to_far, to_near;
};

TlsContext make_context() { return TlsContext::create(Identity::from_seed({1})).value(); }

// Two ends that know each other, and a piece that the near one writes.
struct Talk {
  Talk() { pair.shake_hands(); }
  void write() {
    pair.near.output().clear();
    if (pair.near.write(plaintext) != TlsOutcome::done) std::abort();
  }

  TlsContext context = make_context();
  Pair pair{context};
  Bytes plaintext = Bytes(kPieceBytes, std::byte{3}), out = Bytes(kPieceBytes);
};

void handshake(State& state) {
  const TlsContext context = make_context();
  for (auto _ : state) Pair(context).shake_hands();
}

// The cipher of TlsContext, without records.
class Aes {
 public:
  explicit Aes(bool encrypts) : context_(EVP_CIPHER_CTX_new()), encrypts_(encrypts) {
    EVP_CipherInit_ex(context_, EVP_aes_128_gcm(), nullptr, kKey.data(), kKey.data(), encrypts ? 1 : 0);
  }
  Aes(const Aes&) = delete;
  Aes& operator=(const Aes&) = delete;
  ~Aes() { EVP_CIPHER_CTX_free(context_); }

  void run(std::span<const std::byte> from, std::span<std::byte> to) {
    int bytes = 0;
    for (std::size_t at = 0; at < from.size(); at += kTlsRecordBytes) {
      EVP_CipherInit_ex(context_, nullptr, nullptr, nullptr, kKey.data(), encrypts_ ? 1 : 0);
      EVP_CipherUpdate(context_, reinterpret_cast<unsigned char*>(to.data() + at), &bytes,
                       reinterpret_cast<const unsigned char*>(from.data() + at), static_cast<int>(kTlsRecordBytes));
    }
    benchmark::DoNotOptimize(to.data());
  }

 private:
  static constexpr std::array<unsigned char, 16> kKey{1, 2, 3};
  EVP_CIPHER_CTX* context_;
  bool encrypts_;
};

void encrypt(State& state) {
  Talk talk;
  Aes aes(true);
  run_in_turn(
      state, kPieceBytes, [&] { talk.write(); }, kPieceBytes, [&] { aes.run(talk.plaintext, talk.out); }, "of_aes");
}

void decrypt(State& state) {
  Talk talk;
  Aes aes(false);
  std::vector<double> rates, ratios;
  for (auto _ : state) {
    // Each record is good once: what is to be read is written anew, outside of what is timed.
    talk.write();
    Pair::pass_on(talk.pair.near, talk.pair.far, talk.pair.to_far);
    const double seconds = seconds_of(
        [&] {
          for (std::size_t at = 0, bytes = 0; at < talk.out.size(); at += bytes) {
            if (talk.pair.far.read(std::span(talk.out).subspan(at), bytes) != TlsOutcome::done) std::abort();
          }
        },
        1);
    const double of_aes = seconds_of([&] { aes.run(talk.plaintext, talk.out); }, 1);
    state.SetIterationTime(seconds);
    rates.push_back(kPieceBytes / seconds);
    ratios.push_back(of_aes / seconds);
  }
  state.counters["GB/s"] = median_of(rates) / 1e9;
  state.counters["of_aes"] = median_of(ratios);
}

}  // namespace

void register_tls_benchmarks() {
  benchmark::RegisterBenchmark("tls_handshake", handshake)->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark("tls_encrypt", encrypt)->UseManualTime();
  benchmark::RegisterBenchmark("tls_decrypt", decrypt)->UseManualTime();
}

}  // namespace papilio::bench
