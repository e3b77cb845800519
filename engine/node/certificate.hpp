// A judge's certificate as bytes and as a file. What it says is core::Qualification; here is how that is signed,
// checked and kept. Whether the judge is to be believed, and whether the certificate has expired, is for those who know
// whom they trust and what time it is.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.hpp"
#include "engine/core/qualification.hpp"
#include "transport/identity.hpp"

namespace papilio::node {

inline constexpr std::string_view kCertificateDomain = "papilio certificate 1";
// Of the name of a run in a certificate.
inline constexpr std::size_t kMaximumRunIdBytes = 256;

// A statement of the judge's with these figures. `figures.judge` has to be the judge, and what it says has to pass
// read_certificate: anything else is a bug of ours and aborts.
[[nodiscard]] std::vector<std::byte> sign_certificate(const transport::Identity& judge,
                                                      const core::Qualification& figures);

// Any bytes. What they say, if they are a certificate that its judge really signed; or what is wrong with them. Says
// nothing about trust and nothing about time.
[[nodiscard]] Result<core::Qualification> read_certificate(std::span<const std::byte> bytes);

// One file per judge in a node's state directory; a new certificate takes the place of that judge's older one, and is
// there whole or not at all.
[[nodiscard]] std::string certificate_path(const std::string& state_directory, const PeerId& judge);
[[nodiscard]] Status write_certificate(const std::string& path, std::span<const std::byte> bytes);
// The bytes of one file, not looked into, except for their number.
[[nodiscard]] Result<std::vector<std::byte>> load_certificate(const std::string& path);

struct KeptCertificate {
  std::string path;
  std::vector<std::byte> bytes;
  core::Qualification figures;
};
// All that are kept in a state directory and genuine, the one that expires last first. What is there and is not a
// certificate is left where it is and named in `objections`.
[[nodiscard]] std::vector<KeptCertificate> load_certificates(const std::string& state_directory,
                                                             std::vector<std::string>& objections);

}  // namespace papilio::node
