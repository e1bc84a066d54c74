// The kernels for the dispatch target `avx512`; the build passes its instruction set.
#include "table.h"

#include "elementwise.inc"

namespace ps {
const Table avx512_table = {elementwise<float>(), elementwise<double>()};
}
