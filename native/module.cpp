// The Python module ps.kernels._native: which dispatch target computes, and what each of its files binds.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bind.h"

#ifdef PS_X86
#include <cpuid.h>
#endif

namespace ps {

namespace {

#ifdef PS_X86
// Every CPU with AVX2 has it, but a hypervisor may hide it; not every compiler's __builtin_cpu_supports knows it.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

struct Target {
    const char* name;
    const Table* table;
    bool runs_here;
};

const Target* targets() {
#ifdef PS_X86
    __builtin_cpu_init();
    static const Target all[] = {
        {"avx512", &avx512_table,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_f16c()},
        {"avx2", &avx2_table, __builtin_cpu_supports("avx2") && has_f16c()},
        {"portable", &portable_table, true},
        {nullptr, nullptr, false},
    };
#else
    static const Target all[] = {{"portable", &portable_table, true}, {nullptr, nullptr, false}};
#endif
    return all;
}

const Target* in_use = nullptr;

std::vector<std::string> available() {
    std::vector<std::string> names;
    for (const Target* t = targets(); t->name; ++t)
        if (t->runs_here) names.emplace_back(t->name);
    return names;
}

void use(const std::string& name) {
    for (const Target* t = targets(); t->name; ++t)
        if (t->runs_here && name == t->name) {
            in_use = t;
            return;
        }
    throw nb::value_error(("dispatch target: expected one that this machine runs, got " + name).c_str());
}

}  // namespace

const Table& table() { return *in_use->table; }

}  // namespace ps

NB_MODULE(_native, m) {
    namespace nb = nanobind;
    nb::set_leak_warnings(false);
    m.doc() = "Native kernels. Each has a NumPy twin of the same name in ps.kernels, which defines its meaning.";
    ps::use(ps::available().front());
    m.def("available", &ps::available, "Names of the dispatch targets that this machine runs, the fastest first.");
    m.def("use", &ps::use, nb::arg("target"), "Makes all later calls run on this dispatch target.");
    m.def("in_use", [] { return ps::in_use->name; }, "Name of the dispatch target in use.");
    ps::bind_elementwise(m);
    ps::bind_codecs(m);
    ps::bind_sparse(m);
}
