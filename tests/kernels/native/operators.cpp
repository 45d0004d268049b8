// One device's code under the operators' own entries, as a library that tests load beside dmpo._C.
//
// DMPO_SOURCE is the file of csrc/, DMPO_SELECT its function, DMPO_LIBRARY the name under torch.ops. The operators are
// registered for CPU tensors whatever the source: the CUDA one then runs on cuda_on_cpu.h.
#include DMPO_SOURCE

#include "operators.h"

#define DMPO_REGISTER(library)                                       \
  STABLE_TORCH_LIBRARY(library, m) {                                 \
    m.def(dmpo::kRemaskSchema);                                      \
    m.def(dmpo::kRevokeSchema);                                      \
  }                                                                  \
  STABLE_TORCH_LIBRARY_IMPL(library, CPU, m) {                       \
    m.impl("remask_", TORCH_BOX(&dmpo::remask<dmpo::DMPO_SELECT>));  \
    m.impl("revoke_", TORCH_BOX(&dmpo::revoke<dmpo::DMPO_SELECT>));  \
  }

DMPO_REGISTER(DMPO_LIBRARY)
