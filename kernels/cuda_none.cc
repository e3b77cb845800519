// kernels/cuda.h in a build without CUDA: says so, whatever is asked.
#include "kernels/cuda.h"
#include "kernels/cuda_launch.h"

namespace papilio::kernels::cuda {

const Availability& availability() {
  static const Availability answer{.usable = false, .text = "no GPU: built without CUDA (-Dcuda=enabled needs nvcc)"};
  return answer;
}

namespace {
Error none() { return runtime_error(availability().text); }
constexpr int kNotBuilt = 35;  // what CUDA says where there is no driver
}  // namespace

Result<Memory> Memory::allocate(Place, std::size_t) { return none(); }
Memory::~Memory() = default;
Status register_pinned(std::span<std::byte>) { return none(); }
void unregister_pinned(std::span<std::byte>) {}
Result<std::unique_ptr<Device>> make_device(float*, std::size_t, DeviceConfig, std::function<void()>) { return none(); }
Result<Stream> make_stream() { return none(); }
void destroy_stream(Stream) {}
Status wait_for(Stream) { return none(); }
Status copy(void*, const void*, std::size_t) { return none(); }
Status copy_later(void*, const void*, std::size_t, Stream) { return none(); }
Status fill_later(void*, int, std::size_t, Stream) { return none(); }
std::string error_text(int) { return availability().text; }
void forget_error() {}
Stopwatch::Stopwatch() = default;
Stopwatch::~Stopwatch() = default;
void Stopwatch::start(Stream) {}
double Stopwatch::stop(Stream) { return -1; }

int launch_check(Codec, const Batch<ReduceTask>&, Stream) { return kNotBuilt; }
int launch_reduce(Codec, const Batch<ReduceTask>&, Stream) { return kNotBuilt; }
int launch_encode(Codec, const Batch<EncodeTask>&, Stream) { return kNotBuilt; }
int launch_norm(const float*, std::size_t, NormResult*, Scratch*, NormResult*, Stream) { return kNotBuilt; }

}  // namespace papilio::kernels::cuda
