// The mesh's arithmetic; what it does with peers is in engine_test.cc.
#include "engine/node/mesh.hpp"

#include <gtest/gtest.h>

namespace papilio::node {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(SendBuffer, IsTwiceBandwidthTimesDelayWithinLimits) {
  EXPECT_EQ(send_buffer_bytes(8e6, milliseconds(40)), 640'000U);
  EXPECT_EQ(send_buffer_bytes(25e6, microseconds(300)), 65536U) << "a near host: the least";
  EXPECT_EQ(send_buffer_bytes(0, milliseconds(40)), 65536U) << "nothing delivered yet";
  EXPECT_EQ(send_buffer_bytes(819'200, milliseconds(40)), 65536U) << "just at the least";
  EXPECT_EQ(send_buffer_bytes(819'250, milliseconds(40)), 65540U) << "just above it";
  EXPECT_EQ(send_buffer_bytes(1e10, milliseconds(200)), 16'777'216U) << "the most";
}

TEST(SocketOptions, TheLocalHostHasFixedBuffersAndCubic) {
  const transport::SocketOptions local = default_socket_options(true, "");
  EXPECT_EQ(local.congestion_control, "cubic");
  EXPECT_GT(local.send_buffer_bytes, 0U);
  EXPECT_EQ(default_socket_options(true, "reno").congestion_control, "reno");
  const transport::SocketOptions remote = default_socket_options(false, "");
  EXPECT_EQ(remote.congestion_control, "") << "the system's choice";
  EXPECT_EQ(remote.send_buffer_bytes, 0U) << "measured while it runs";
}

}  // namespace
}  // namespace papilio::node
