// Registers dmpo's operators with torch; the Python module is only the shell that loads them.
#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include "entries.h"

#ifndef DMPO_WITH_CUDA
#define DMPO_WITH_CUDA 0
#endif
#ifndef DMPO_CUDA_REASON
#define DMPO_CUDA_REASON "built outside setup.py"
#endif

TORCH_LIBRARY(dmpo, m) {
  m.def(dmpo::kRemaskSchema);
  m.def(dmpo::kRevokeSchema);
}

TORCH_LIBRARY_IMPL(dmpo, CPU, m) {
  m.impl("remask_", &dmpo::remask<dmpo::select_cpu>);
  m.impl("revoke_", &dmpo::revoke<dmpo::select_cpu>);
}

#if DMPO_WITH_CUDA
TORCH_LIBRARY_IMPL(dmpo, CUDA, m) {
  m.impl("remask_", &dmpo::remask<dmpo::select_cuda>);
  m.impl("revoke_", &dmpo::revoke<dmpo::select_cuda>);
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
