// The kernels for the dispatch target `avx512`; the build passes its instruction set.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "table.inc"

namespace ps {
const Table avx512_table = {elementwise<float>(), elementwise<double>(), CODECS};
}
