// Registers dmpo's operators with torch; the Python module is only the shell that loads them.
#include <ATen/core/Tensor.h>
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include <optional>

#ifndef DMPO_WITH_CUDA
#define DMPO_WITH_CUDA 0
#endif
#ifndef DMPO_CUDA_REASON
#define DMPO_CUDA_REASON "built outside setup.py"
#endif

namespace dmpo {

using Remask = at::Tensor(
    at::Tensor&,
    const at::Tensor&,
    const at::Tensor&,
    int64_t,
    std::optional<int64_t>,
    const std::optional<at::Tensor>&,
    std::optional<double>,
    std::optional<double>);
Remask remask_cpu;
Remask remask_cuda;

}  // namespace dmpo

TORCH_LIBRARY(dmpo, m) {
  m.def(
      "remask_(Tensor(a!) tokens, Tensor candidates, Tensor confidence, int mask_id, *, SymInt? count=None, "
      "Tensor? counts=None, float? threshold=None, float? factor=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(dmpo, CPU, m) {
  m.impl("remask_", &dmpo::remask_cpu);
}

#if DMPO_WITH_CUDA
TORCH_LIBRARY_IMPL(dmpo, CUDA, m) {
  m.impl("remask_", &dmpo::remask_cuda);
}
#endif

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "dmpo's C++/CUDA operators; importing it registers torch.ops.dmpo";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["cuda"] = bool(DMPO_WITH_CUDA);
        info["reason"] = DMPO_CUDA_REASON;
        info["torch"] = TORCH_VERSION;
        return info;
      },
      "What this build holds: cuda (bool), reason (why or why not), torch (the version built against).");
}
