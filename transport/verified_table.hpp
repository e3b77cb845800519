// A FlatBuffers table out of bytes that others wrote and that may begin anywhere: copied to where its 64-bit fields are
// aligned, because FlatBuffers reads them where they lie, and verified before anything is read.
#pragma once

#include <flatbuffers/flatbuffers.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace papilio::transport {

template <typename Table>
class VerifiedTable {
 public:
  // `identifier`: the four letters that the bytes have to carry; null: none.
  explicit VerifiedTable(std::span<const std::byte> bytes, const char* identifier = nullptr)
      : aligned_((bytes.size() + sizeof(Block) - 1) / sizeof(Block)) {
    if (bytes.size() < 2 * sizeof(std::uint32_t)) return;
    std::memcpy(aligned_.data(), bytes.data(), bytes.size());
    const auto* const begin = reinterpret_cast<const std::uint8_t*>(aligned_.data());
    flatbuffers::Verifier verifier(begin, bytes.size());
    if (verifier.VerifyBuffer<Table>(identifier)) table_ = flatbuffers::GetRoot<Table>(begin);
  }

  VerifiedTable(const VerifiedTable&) = delete;  // what it reads lies in it
  VerifiedTable& operator=(const VerifiedTable&) = delete;

  // Null where the bytes are no such table. Lives as long as this.
  [[nodiscard]] const Table* get() const { return table_; }

 private:
  struct alignas(16) Block {
    std::byte bytes[16];
  };

  std::vector<Block> aligned_;
  const Table* table_ = nullptr;
};

}  // namespace papilio::transport
