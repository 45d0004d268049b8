// Registers dmpo's operators with torch; the Python module only loads them.
//
// The sources in csrc/ use only libtorch's stable interface and Python's limited interface, so one build serves every
// torch from TORCH_TARGET_VERSION on and every Python from 3.10 on.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/version.h>

#include "operators.h"

#ifndef DMPO_WITH_CUDA
#define DMPO_WITH_CUDA 0
#endif
#ifndef DMPO_CUDA_REASON
#define DMPO_CUDA_REASON "built outside setup.py"
#endif
#ifndef DMPO_OLDEST_TORCH
#define DMPO_OLDEST_TORCH TORCH_VERSION
#endif

STABLE_TORCH_LIBRARY(dmpo, m) {
  m.def(dmpo::kRemaskSchema);
  m.def(dmpo::kRevokeSchema);
}

STABLE_TORCH_LIBRARY_IMPL(dmpo, CPU, m) {
  m.impl("remask_", TORCH_BOX(&dmpo::remask<dmpo::select_cpu>));
  m.impl("revoke_", TORCH_BOX(&dmpo::revoke<dmpo::select_cpu>));
}

#if DMPO_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(dmpo, CUDA, m) {
  m.impl("remask_", TORCH_BOX(&dmpo::remask<dmpo::select_cuda>));
  m.impl("revoke_", TORCH_BOX(&dmpo::revoke<dmpo::select_cuda>));
}
#endif

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue(
      "{s:O,s:s,s:s,s:s}", "cuda", DMPO_WITH_CUDA ? Py_True : Py_False, "reason", DMPO_CUDA_REASON, "torch",
      TORCH_VERSION, "oldest_torch", DMPO_OLDEST_TORCH);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS,
     "What this build holds: cuda (bool), reason (why or why not), torch (the version whose headers were used), "
     "oldest_torch (the first that it serves)."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_C", "dmpo's C++/CUDA operators; importing it registers torch.ops.dmpo", -1, methods,
    nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  return PyModule_Create(&module_definition);
}
