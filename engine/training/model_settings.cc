#include <sys/stat.h>

#include <array>
#include <string_view>

#include "engine/training/learner.hpp"

namespace papilio::training {
namespace {

struct Preset {
  const char* name;
  std::uint32_t layers, width, heads, context;
};

// About 0.1, 1 and 10.7 million parameters with an alphabet of 90 symbols.
constexpr std::array<Preset, 3> kPresets = {{
    {"tiny", 2, 64, 4, 32},
    {"small", 4, 144, 4, 64},
    {"base", 6, 384, 6, 256},
}};

constexpr std::uint32_t kContextOfFiles = 64;

struct Limit {
  const char* key;
  std::uint32_t ModelSettings::*value;
  std::uint32_t maximum;
};
constexpr std::array<Limit, 4> kLimits = {{
    {"layers", &ModelSettings::layers, 256},
    {"width", &ModelSettings::width, 16384},
    {"heads", &ModelSettings::heads, 256},
    {"context", &ModelSettings::context, 65536},
}};

Result<ModelSettings> resolve_file(ModelSettings settings) {
  struct stat status {};
  if (::stat(settings.name.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return usage_error("--model: there is no file '" + settings.name +
                       "'; name a TorchScript file, or one of the presets tiny, small, base");
  }
  if (settings.layers != 0 || settings.width != 0 || settings.heads != 0) {
    return usage_error("layers, width and heads cannot be set for the TorchScript model " + settings.name +
                       ", which brings its own; leave them out");
  }
  if (settings.context == 0) settings.context = kContextOfFiles;
  return settings;
}

}  // namespace

Result<ModelSettings> resolve_model(ModelSettings settings) {
  for (const Limit& limit : kLimits) {
    const std::uint32_t value = settings.*limit.value;
    if (value > limit.maximum) {
      return usage_error("--" + std::string(limit.key) + ": '" + std::to_string(value) +
                         "' is out of range; choose 1 to " + std::to_string(limit.maximum));
    }
  }
  if (settings.name.ends_with(".pt")) return resolve_file(std::move(settings));

  const Preset* preset = nullptr;
  for (const Preset& candidate : kPresets) {
    if (settings.name == candidate.name) preset = &candidate;
  }
  if (preset == nullptr) {
    return usage_error("--model: there is no model named '" + settings.name +
                       "'; choose tiny, small or base, or a TorchScript file that ends in .pt");
  }
  if (settings.layers == 0) settings.layers = preset->layers;
  if (settings.width == 0) settings.width = preset->width;
  if (settings.heads == 0) settings.heads = preset->heads;
  if (settings.context == 0) settings.context = preset->context;
  if (settings.width % settings.heads != 0) {
    return usage_error("--heads: '" + std::to_string(settings.heads) + "' does not divide the width of " +
                       std::to_string(settings.width) + "; choose a divisor");
  }
  return settings;
}

}  // namespace papilio::training
