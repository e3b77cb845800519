// How the engines of a scenario are set up, and what their trainers put in.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/node/mesh.hpp"
#include "engine/node/round_driver.hpp"
#include "tools/sim/scenario.hpp"

namespace papilio::sim {

[[nodiscard]] node::MeshConfig mesh_config(const Scenario& scenario, std::uint32_t host);
[[nodiscard]] node::RoundDriverConfig driver_config(const Scenario& scenario, std::uint32_t host);
// Of the host in the round, poison included.
[[nodiscard]] std::vector<float> draw_gradient(const Scenario& scenario, std::uint32_t host, std::size_t round);

}  // namespace papilio::sim
